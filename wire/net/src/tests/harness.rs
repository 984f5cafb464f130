//! A host whose events can be awaited. Every wait has a deadline and says what it saw.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use cairn_wire::control::{Control, LogsWanted};
use cairn_wire::data::{Ask, DType, Rows, Span};
use cairn_wire::hello::PROTOCOL_VERSION;
use cairn_wire::id::{BootId, NodeId, PlanId, SequenceId, Term};
use cairn_wire::{DataFrame, RowsFrame};

use crate::{Cause, Config, Event, Identity, Mdns, Net, Refusal, Secret, Thread, start_version};

/// Far above what anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Node {
    pub(super) net: Net,
    pub(super) events: Receiver<Event>,
}

/// The `number`-th node's configuration: listens on loopback, looks for nobody.
pub(super) fn config(number: u8) -> Config {
    Config {
        identity: Identity::from_seed([number; 32]),
        boot: BootId(u64::from(number)),
        cluster: "test".to_owned(),
        secret: Secret::from_bytes(*b"a secret of the tests"),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        mdns: Mdns::Off,
        version: format!("0.0.{number}"),
    }
}

pub(super) fn node(number: u8) -> Node {
    Node::start(config(number))
}

/// Two linked nodes; the one with the lower id first.
pub(super) fn pair() -> (Node, Node) {
    let (mut a, mut b) = (node(1), node(2));
    if b.id() < a.id() {
        std::mem::swap(&mut a, &mut b);
    }
    a.link(&b);
    (a, b)
}

pub(super) fn message(number: u64) -> Control {
    Control::LogsWanted(LogsWanted {
        after: number,
        for_millis: 0,
    })
}

/// One row of `width` elements, all `value`.
pub(super) fn rows(width: u32, value: f32) -> DataFrame {
    let node = NodeId([7; 32]);
    let rows = Rows {
        plan: PlanId {
            term: Term {
                number: 1,
                leader: node,
            },
            epoch: 1,
        },
        stage: 1,
        dtype: DType::F32,
        width,
        spans: vec![Span {
            sequence: SequenceId {
                driver: node,
                number: 1,
            },
            position: 0,
            rows: 1,
            ask: Ask::Token,
        }],
        tokens: vec![1],
    };
    DataFrame::Rows(RowsFrame::build(&rows, &vec![value; width as usize]))
}

impl Node {
    pub(super) fn start(config: Config) -> Self {
        Self::start_version(config, PROTOCOL_VERSION)
    }

    pub(super) fn start_version(config: Config, version: u32) -> Self {
        let (sender, events): (Sender<Event>, _) = channel();
        let sink = Arc::new(move |event| {
            // The test may be over.
            sender.send(event).ok();
        });
        let thread = Thread::start(|| ()).expect("a thread");
        let net = start_version(thread, config, sink, version);
        let net = net.expect("loopback can be listened on");
        Self { net, events }
    }

    pub(super) fn id(&self) -> NodeId {
        self.net.id()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.net.listening()[0]
    }

    pub(super) fn dial(&self, other: &Node) {
        self.net.dial(other.address(), Some(other.id()));
    }

    /// Dials `other` and waits until both ends are linked.
    pub(super) fn link(&self, other: &Node) {
        self.dial(other);
        self.connected(other.id());
        other.connected(self.id());
    }

    /// Waits for the event that `pick` takes; others are passed over.
    pub(super) fn wait<T>(&self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => {
                    seen.push(format!("{event:?}"));
                    if let Some(picked) = pick(event) {
                        return picked;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{} waited for {what}, saw {seen:#?}", self.id())
                }
            }
        }
    }

    pub(super) fn connected(&self, other: NodeId) -> BootId {
        self.wait("Connected", |event| match event {
            Event::Connected { peer, boot, .. } if peer == other => Some(boot),
            _ => None,
        })
    }

    pub(super) fn disconnected(&self, other: NodeId) -> Cause {
        self.wait("Disconnected", |event| match event {
            Event::Disconnected { peer, cause } if peer == other => Some(cause),
            _ => None,
        })
    }

    pub(super) fn refused(&self) -> Refusal {
        self.wait("Refused", |event| match event {
            Event::Refused { reason, .. } => Some(reason),
            _ => None,
        })
    }

    pub(super) fn control(&self) -> Control {
        self.wait("Control", |event| match event {
            Event::Control { message, .. } => Some(message),
            _ => None,
        })
    }
}
