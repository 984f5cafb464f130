//! What an established session carries: frames both ways on both planes.
//!
//! Four loops are polled in place by the session's task, so that a frame goes from the
//! stream to the sink, or from a queue to the stream, without another wake-up.

use std::sync::Arc;

use cairn_wire::codec::Plane;
use cairn_wire::data::Credit;
use cairn_wire::id::NodeId;
use cairn_wire::stream::{FrameReader, FrameWriter, ReadError};
use cairn_wire::{DataFrame, Encoded};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};

use super::is_hang_up;
use crate::event::{Cause, Event};
use crate::link::{CONTROL_IN_FLIGHT_MAX, ControlGuard, Link, Outbox};
use crate::shared::Shared;
use crate::streams::Pair;

/// One session's, once its link stands.
pub(super) struct Traffic<'a> {
    pub(super) shared: &'a Shared,
    pub(super) peer: NodeId,
    pub(super) link: Arc<Link>,
}

impl Traffic<'_> {
    /// Carries frames until something ends. No loop is ever cancelled and resumed.
    pub(super) async fn run(&self, outbox: Outbox, pair: Pair) -> Cause {
        let (control_in, control_out) = pair.control.split();
        let (data_in, data_out) = pair.data.split();
        let control_in = FrameReader::new(control_in, Plane::Control);
        let control_out = FrameWriter::new(control_out);
        let data_in = FrameReader::new(data_in, Plane::Data);
        let data_out = FrameWriter::new(data_out);

        tokio::select! {
            biased;
            cause = self.read_data(data_in) => cause,
            cause = self.read_control(control_in) => cause,
            cause = self.write_control(control_out, outbox.control) => cause,
            cause = self.write_data(data_out, outbox.data) => cause,
        }
    }

    async fn read_control<R: AsyncRead + Unpin>(&self, mut stream: FrameReader<R>) -> Cause {
        let in_flight = Arc::new(Semaphore::new(CONTROL_IN_FLIGHT_MAX));
        loop {
            let permit = Arc::clone(&in_flight)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let message = match stream.control().await {
                Ok(message) => message,
                Err(error) => return ended(error),
            };
            self.link.speed.note(stream.take_transfer());
            self.shared.emit(Event::Control {
                peer: self.peer,
                message,
                guard: ControlGuard { _permit: permit },
            });
        }
    }

    async fn write_control<W: AsyncWrite + Unpin>(
        &self,
        mut stream: FrameWriter<W>,
        mut outbox: mpsc::Receiver<Encoded>,
    ) -> Cause {
        while let Some(message) = outbox.recv().await {
            if self.link.control_wanted() {
                self.ready();
            }
            if let Err(error) = stream.write(message.bytes()).await {
                return ended(ReadError::Io(error));
            }
        }
        Cause::Replaced
    }

    async fn read_data<R: AsyncRead + Unpin>(&self, mut stream: FrameReader<R>) -> Cause {
        loop {
            let frame = match stream.data().await {
                Ok(frame) => frame,
                Err(error) => return ended(error),
            };
            self.link.speed.note(stream.take_transfer());
            if let DataFrame::Credit(Credit { frames }) = frame {
                match self.link.allowance.grant(frames) {
                    Ok(true) => self.ready(),
                    Ok(false) => {}
                    Err(violation) => return Cause::Violation(violation),
                }
                continue;
            }
            match self.link.grants.charge() {
                Ok(guard) => self.shared.emit(Event::Data {
                    peer: self.peer,
                    frame,
                    guard,
                }),
                Err(violation) => return Cause::Violation(violation),
            }
        }
    }

    async fn write_data<W: AsyncWrite + Unpin>(
        &self,
        mut stream: FrameWriter<W>,
        mut outbox: mpsc::Receiver<Encoded>,
    ) -> Cause {
        loop {
            let frame = tokio::select! {
                biased;
                () = self.link.grants.due() => {
                    let Some(frames) = self.link.grants.take() else {
                        continue;
                    };
                    DataFrame::Credit(Credit { frames })
                        .encode()
                        .expect("a grant is within the window")
                }
                frame = outbox.recv() => match frame {
                    Some(frame) => frame,
                    None => return Cause::Replaced,
                },
            };
            if let Err(error) = stream.write(frame.bytes()).await {
                return ended(ReadError::Io(error));
            }
        }
    }

    fn ready(&self) {
        self.shared.emit(Event::LinkReady { peer: self.peer });
    }
}

fn ended(error: ReadError) -> Cause {
    match error {
        ReadError::Violation(violation) => Cause::Violation(violation),
        ReadError::Closed => Cause::There,
        ReadError::Io(error) if is_hang_up(&error) => Cause::There,
        ReadError::Io(error) => Cause::Broken(error.to_string()),
    }
}
