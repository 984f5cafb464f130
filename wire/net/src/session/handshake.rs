//! The handshake: both ends prove the cluster's secret before anything else is served.
//!
//! `docs/wire.md` has its messages; the roster decides between simultaneous attempts.

use std::io;
use std::sync::Arc;

use cairn_wire::hello::{self, Hello, Message, Party, Purpose, transcript};
use cairn_wire::id::BootId;
use hmac::{Hmac, KeyInit, Mac};
use libp2p::swarm::Stream;
use sha2::Sha256;
use tokio::sync::oneshot;

use super::{Session, is_hang_up};
use crate::config::{Secret, random};
use crate::event::{Cause, Event, Origin, Refusal};
use crate::link::{Link, Outbox};
use crate::roster::Established;

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

/// Why a handshake came to nothing.
#[derive(Debug)]
pub(super) enum Broken {
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
    /// Ends with the link, which stands by then, or with why there is none.
    pub(super) async fn handshake(
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
}
