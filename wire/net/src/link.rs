//! One session as seen by whoever sends: two bounded queues and what may enter them.
//!
//! Never waits: a full link says so, and says again when it has room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_wire::control::Control;
use cairn_wire::limits::CREDIT_WINDOW_FRAMES;
use cairn_wire::{DataFrame, Encoded};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::credit::{Allowance, Grants};
use crate::event::{Refused, Returned};
use crate::speed::Speed;

/// Control messages waiting to be written. Full: the caller hears `Full` and decides
/// what a message that it could not send was worth.
const CONTROL_QUEUE_MESSAGES: usize = 256;

/// Control messages handed to the sink and not yet dealt with. Past it, the stream is
/// not read, and the peer's own queue fills.
pub(crate) const CONTROL_IN_FLIGHT_MAX: usize = 128;

/// Held while a control message is being dealt with.
#[derive(Debug)]
pub struct ControlGuard {
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// The sending side of a session, shared by all who send.
#[derive(Debug)]
pub(crate) struct Link {
    control: mpsc::Sender<Encoded>,
    /// Somebody was told that the control queue is full.
    control_wanted: AtomicBool,
    data: mpsc::Sender<Encoded>,
    pub(crate) allowance: Allowance,
    pub(crate) grants: Arc<Grants>,
    pub(crate) speed: Speed,
}

/// Where a session takes from what a [`Link`] was given.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) control: mpsc::Receiver<Encoded>,
    pub(crate) data: mpsc::Receiver<Encoded>,
}

impl Link {
    pub(crate) fn new() -> (Arc<Self>, Outbox) {
        let (control, control_outbox) = mpsc::channel(CONTROL_QUEUE_MESSAGES);
        // A frame enters with a credit, so this cannot fill.
        let (data, data_outbox) = mpsc::channel(CREDIT_WINDOW_FRAMES as usize);
        let link = Self {
            control,
            control_wanted: AtomicBool::new(false),
            data,
            allowance: Allowance::new(),
            grants: Grants::new(),
            speed: Speed::default(),
        };
        let outbox = Outbox {
            control: control_outbox,
            data: data_outbox,
        };
        (Arc::new(link), outbox)
    }

    pub(crate) fn offer_control(&self, message: &Control) -> Result<(), Refused> {
        let encoded = message.encode()?;
        self.control.try_send(encoded).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.control_wanted.store(true, Ordering::SeqCst);
                Refused::Full
            }
            mpsc::error::TrySendError::Closed(_) => Refused::NoLink,
        })
    }

    /// Whether somebody waits for room in the control queue; asked after making some.
    pub(crate) fn control_wanted(&self) -> bool {
        self.control_wanted.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn offer(&self, frame: DataFrame) -> Result<(), Box<Returned>> {
        let returned = |frame, why| Err(Box::new(Returned { frame, why }));
        let encoded = match frame.encode() {
            Ok(encoded) => encoded,
            Err(violation) => return returned(frame, Refused::Invalid(violation)),
        };
        if !self.allowance.spend() {
            return returned(frame, Refused::Full);
        }
        match self.data.try_send(encoded) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => returned(frame, Refused::NoLink),
            Err(mpsc::error::TrySendError::Full(_)) => {
                unreachable!("the queue holds a window, and every frame in it has a credit")
            }
        }
    }

    /// Queues whatever it is given: the peer that the protocol must survive.
    #[cfg(test)]
    pub(crate) fn force_data(&self, frame: Encoded) -> Result<(), Refused> {
        self.data.try_send(frame).map_err(|_| Refused::Full)
    }
}
