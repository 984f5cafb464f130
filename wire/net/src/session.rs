//! One connection's life after the transport: handshake, then frames both ways.
//!
//! One task. Its four loops are polled in place, so a frame goes from the queue to
//! the stream and from the stream to the sink without another wake-up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::codec::Plane;
use cairn_wire::data::Credit;
use cairn_wire::hello::{Hello, Message, Party, Purpose, transcript};
use cairn_wire::id::{BootId, NodeId};
use cairn_wire::stream::{FrameReader, FrameWriter, ReadError};
use cairn_wire::{DataFrame, Encoded, hello};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use hmac::{Hmac, KeyInit, Mac};
use libp2p::swarm::Stream;
use sha2::Sha256;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::config::{Secret, random};
use crate::event::{Cause, Event, Origin, Refusal};
use crate::link::{CONTROL_IN_FLIGHT_MAX, ControlGuard, Link, Outbox};
use crate::roster::{ConnectionNumber, Established};
use crate::shared::Shared;
use crate::streams::Pair;

/// From the transport's handshake to the end of ours.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a refused peer has to read why.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// What every session of a host says of it and checks against.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) version: u32,
    pub(crate) boot: BootId,
    pub(crate) cluster: [u8; 32],
    pub(crate) software: String,
    pub(crate) secret: Secret,
}

impl Credentials {
    fn hello(&self) -> io::Result<Hello> {
        Ok(Hello {
            version: self.version,
            boot: self.boot,
            nonce: random()?,
            cluster: self.cluster,
            software: self.software.clone(),
        })
    }
}

/// A connection whose two streams are open.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) connection: ConnectionNumber,
    pub(crate) peer: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) origin: Origin,
}

/// Why a handshake came to nothing.
#[derive(Debug)]
enum Broken {
    /// With a name, to be reported.
    Refused(Refusal),
    /// The peer ended it without a word.
    HungUp,
    /// In favour of another attempt at the same pair: nothing to report.
    Yielded,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        if is_hang_up(&error) {
            return Broken::HungUp;
        }
        Broken::Refused(Refusal::NotCairn {
            detail: error.to_string(),
        })
    }
}

/// The other end's words, checked.
struct Agreed {
    theirs: Hello,
    ours: Hello,
}

impl Session {
    /// Runs the session to its end, which it reports.
    pub(crate) async fn run(self, pair: Pair) {
        let (stop, mut stopped) = oneshot::channel();
        let Pair {
            mut control,
            mut data,
        } = pair;
        let handshake = tokio::time::timeout(
            HANDSHAKE_TIMEOUT,
            self.handshake(stop, &mut control, &mut data),
        );
        let outcome = tokio::select! {
            biased;
            _ = &mut stopped => Err(Broken::Yielded),
            outcome = handshake => outcome.unwrap_or(Err(Broken::Refused(Refusal::Silent))),
        };
        let outcome = outcome.map_err(|broken| self.settle(broken));
        let cause = match outcome {
            Ok((link, outbox)) => {
                tokio::select! {
                    biased;
                    cause = &mut stopped => cause.unwrap_or(Cause::Replaced),
                    cause = self.serve(&link, outbox, control, data) => cause,
                }
            }
            Err(broken) => {
                if let Broken::Refused(reason) = broken {
                    self.shared.emit(Event::Refused {
                        peer: Some(self.peer),
                        address: self.address,
                        reason,
                    });
                    // Unread bytes would turn the close into a reset, which may
                    // overtake the refusal.
                    drop(tokio::time::timeout(LINGER_TIMEOUT, linger(&mut control)).await);
                }
                return;
            }
        };
        let was_link = self.shared.roster().forget(self.peer, self.connection);
        if was_link {
            self.shared.emit(Event::Disconnected {
                peer: self.peer,
                cause,
            });
        }
    }

    /// Ends this attempt in the roster and tells a peer that gave it up, for
    /// another attempt at the same pair, from one that broke off.
    fn settle(&self, broken: Broken) -> Broken {
        let mut roster = self.shared.roster();
        roster.forget(self.peer, self.connection);
        match broken {
            Broken::HungUp if roster.knows(&self.peer) => Broken::Yielded,
            Broken::HungUp => Broken::Refused(Refusal::NotCairn {
                detail: "it hung up during the handshake".to_owned(),
            }),
            broken @ (Broken::Refused(_) | Broken::Yielded) => broken,
        }
    }

    async fn handshake(
        &self,
        stop: oneshot::Sender<Cause>,
        control: &mut Stream,
        data: &mut Stream,
    ) -> Result<(Arc<Link>, Outbox), Broken> {
        match self.origin {
            Origin::Dialled => self.handshake_dialled(stop, control, data).await,
            Origin::Accepted => self.handshake_accepted(stop, control, data).await,
        }
    }

    async fn handshake_dialled(
        &self,
        stop: oneshot::Sender<Cause>,
        control: &mut Stream,
        data: &mut Stream,
    ) -> Result<(Arc<Link>, Outbox), Broken> {
        self.shared
            .roster()
            .begin_dialled(self.peer, self.connection, stop)
            .map_err(|_| Broken::Yielded)?;
        let ours = self.credentials.hello()?;
        Message::Hello(ours.clone()).write(control).await?;
        let theirs = self.expect_hello(control).await?;
        let agreed = self.agree(control, ours, theirs).await?;
        Message::Proof(self.mac(Purpose::Dialer, &agreed))
            .write(control)
            .await?;
        let proof = match Message::read(control).await? {
            Message::Proof(mac) => mac,
            other => return Err(self.unexpected(&other, agreed.theirs.version)),
        };
        self.verify(control, Purpose::Acceptor, &agreed, &proof)
            .await?;
        Message::Bind(self.mac(Purpose::Data, &agreed))
            .write(data)
            .await?;
        match Message::read(control).await? {
            Message::Ready => self.establish(&agreed),
            other => Err(self.unexpected(&other, agreed.theirs.version)),
        }
    }

    async fn handshake_accepted(
        &self,
        stop: oneshot::Sender<Cause>,
        control: &mut Stream,
        data: &mut Stream,
    ) -> Result<(Arc<Link>, Outbox), Broken> {
        let theirs = match self.expect_hello(control).await {
            // A dialler that finds itself linked by then says nothing at all.
            Err(Broken::HungUp) => return Err(Broken::Yielded),
            theirs => theirs?,
        };
        let ours = self.credentials.hello()?;
        Message::Hello(ours.clone()).write(control).await?;
        let agreed = self.agree(control, ours, theirs).await?;
        let admitted = self.shared.roster().begin_accepted(
            self.peer,
            agreed.theirs.boot,
            self.connection,
            stop,
        );
        if let Err(refusal) = admitted {
            return Err(self.refuse(control, refusal, agreed.theirs.version).await);
        }
        let proof = match Message::read(control).await? {
            Message::Proof(mac) => mac,
            other => return Err(self.unexpected(&other, agreed.theirs.version)),
        };
        self.verify(control, Purpose::Dialer, &agreed, &proof)
            .await?;
        Message::Proof(self.mac(Purpose::Acceptor, &agreed))
            .write(control)
            .await?;
        let bind = match self.first_of(control, data, agreed.theirs.version).await? {
            Message::Bind(mac) => mac,
            other => return Err(self.unexpected(&other, agreed.theirs.version)),
        };
        self.verify(control, Purpose::Data, &agreed, &bind).await?;
        // Ready goes out before the link stands here: whoever is told of the link
        // may send at once, and the peer must have heard this first.
        Message::Ready.write(control).await?;
        self.establish(&agreed)
    }

    /// The data stream's first message, or the refusal that comes in its place.
    async fn first_of(
        &self,
        control: &mut Stream,
        data: &mut Stream,
        theirs: u32,
    ) -> Result<Message, Broken> {
        tokio::select! {
            biased;
            message = Message::read(control) => Err(self.unexpected(&message?, theirs)),
            message = Message::read(data) => Ok(message?),
        }
    }

    async fn expect_hello(&self, control: &mut Stream) -> Result<Hello, Broken> {
        match Message::read(control).await? {
            Message::Hello(hello) => Ok(hello),
            other => Err(self.unexpected(&other, self.credentials.version)),
        }
    }

    async fn agree(
        &self,
        control: &mut Stream,
        ours: Hello,
        theirs: Hello,
    ) -> Result<Agreed, Broken> {
        let refusal = if theirs.version != ours.version {
            Some(hello::Refusal::WrongVersion)
        } else if theirs.cluster != ours.cluster {
            Some(hello::Refusal::WrongCluster)
        } else {
            None
        };
        match refusal {
            Some(refusal) => Err(self.refuse(control, refusal, theirs.version).await),
            None => Ok(Agreed { theirs, ours }),
        }
    }

    async fn verify(
        &self,
        control: &mut Stream,
        purpose: Purpose,
        agreed: &Agreed,
        proof: &hello::Mac,
    ) -> Result<(), Broken> {
        // Constant time, by the hash's own comparison.
        if self.keyed(purpose, agreed).verify_slice(proof).is_ok() {
            return Ok(());
        }
        let refusal = hello::Refusal::WrongSecret;
        Err(self.refuse(control, refusal, agreed.theirs.version).await)
    }

    /// Tells the peer why. It may be gone, which changes nothing.
    async fn refuse(&self, control: &mut Stream, refusal: hello::Refusal, theirs: u32) -> Broken {
        drop(Message::Refuse(refusal).write(control).await);
        Broken::Refused(Refusal::from_wire(
            refusal,
            self.credentials.version,
            theirs,
        ))
    }

    fn unexpected(&self, message: &Message, theirs: u32) -> Broken {
        Broken::Refused(match message {
            Message::Refuse(refusal) => {
                Refusal::from_wire(*refusal, self.credentials.version, theirs)
            }
            Message::Hello(_) | Message::Proof(_) | Message::Ready | Message::Bind(_) => {
                Refusal::NotCairn {
                    detail: "a handshake message out of turn".to_owned(),
                }
            }
        })
    }

    fn mac(&self, purpose: Purpose, agreed: &Agreed) -> hello::Mac {
        self.keyed(purpose, agreed).finalize().into_bytes().into()
    }

    fn keyed(&self, purpose: Purpose, agreed: &Agreed) -> Hmac<Sha256> {
        let here = Party {
            node: self.shared.own(),
            hello: &agreed.ours,
        };
        let there = Party {
            node: self.peer,
            hello: &agreed.theirs,
        };
        let (dialer, acceptor) = match self.origin {
            Origin::Dialled => (here, there),
            Origin::Accepted => (there, here),
        };
        Hmac::<Sha256>::new_from_slice(self.credentials.secret.bytes())
            .expect("a key of any length will do")
            .chain_update(transcript(purpose, dialer, acceptor))
    }

    fn establish(&self, agreed: &Agreed) -> Result<(Arc<Link>, Outbox), Broken> {
        let (link, outbox) = Link::new();
        let established = self.shared.roster().establish(
            self.peer,
            self.connection,
            agreed.theirs.boot,
            Arc::clone(&link),
        );
        if established.map_err(|_| Broken::Yielded)? == Established::Replaced {
            self.shared.emit(Event::Disconnected {
                peer: self.peer,
                cause: Cause::Replaced,
            });
        }
        self.shared.emit(Event::Connected {
            peer: self.peer,
            boot: agreed.theirs.boot,
            address: self.address,
            origin: self.origin,
            version: agreed.theirs.software.clone(),
        });
        Ok((link, outbox))
    }

    /// Carries frames until something ends. No loop is ever cancelled and resumed.
    async fn serve(&self, link: &Link, outbox: Outbox, control: Stream, data: Stream) -> Cause {
        let (control_in, control_out) = control.split();
        let (data_in, data_out) = data.split();
        let control_in = FrameReader::new(control_in, Plane::Control);
        let data_in = FrameReader::new(data_in, Plane::Data);
        tokio::select! {
            biased;
            cause = self.read_data(link, data_in) => cause,
            cause = self.read_control(control_in) => cause,
            cause = self.write_control(link, FrameWriter::new(control_out), outbox.control) => cause,
            cause = self.write_data(link, FrameWriter::new(data_out), outbox.data) => cause,
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
            self.shared.emit(Event::Control {
                peer: self.peer,
                message,
                guard: ControlGuard { _permit: permit },
            });
        }
    }

    async fn write_control<W: AsyncWrite + Unpin>(
        &self,
        link: &Link,
        mut stream: FrameWriter<W>,
        mut outbox: mpsc::Receiver<Encoded>,
    ) -> Cause {
        while let Some(message) = outbox.recv().await {
            if link.control_wanted() {
                self.ready();
            }
            if let Err(error) = stream.write(message.bytes()).await {
                return ended(ReadError::Io(error));
            }
        }
        Cause::Replaced
    }

    async fn read_data<R: AsyncRead + Unpin>(
        &self,
        link: &Link,
        mut stream: FrameReader<R>,
    ) -> Cause {
        loop {
            let frame = match stream.data().await {
                Ok(frame) => frame,
                Err(error) => return ended(error),
            };
            if let DataFrame::Credit(Credit { frames }) = frame {
                match link.allowance.grant(frames) {
                    Ok(true) => self.ready(),
                    Ok(false) => {}
                    Err(violation) => return Cause::Violation(violation),
                }
                continue;
            }
            match link.grants.charge() {
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
        link: &Link,
        mut stream: FrameWriter<W>,
        mut outbox: mpsc::Receiver<Encoded>,
    ) -> Cause {
        loop {
            let frame = tokio::select! {
                biased;
                () = link.grants.due() => {
                    let Some(frames) = link.grants.take() else {
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

/// Ends our half of a stream and waits for the peer's end.
async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.close().await?;
    let mut ignored = [0; 256];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

fn ended(error: ReadError) -> Cause {
    match error {
        ReadError::Violation(violation) => Cause::Violation(violation),
        ReadError::Closed => Cause::There,
        ReadError::Io(error) if is_hang_up(&error) => Cause::There,
        ReadError::Io(error) => Cause::Broken(error.to_string()),
    }
}

/// A process that dies resets its connections or ends them: both are the peer's doing.
fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::WriteZero
    )
}
