//! The encrypted channel, which turns away a dialler with this node's own identity.
//!
//! The swarm turns it away too, but the dialler is quicker to hang up, and then all
//! that the accepting end would see is a broken pipe. Nothing of the channel is changed.

use std::error::Error;
use std::io;
use std::pin::Pin;

use futures::future::{Future, FutureExt};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::noise;

/// [`noise::Config`] with that one more check.
#[derive(Clone)]
pub(crate) struct Channel {
    inner: noise::Config,
    own: PeerId,
}

/// The other end holds this node's own key.
#[derive(Debug, thiserror::Error)]
#[error("another live node has the same identity")]
struct OwnIdentity;

/// Whether a connection failed for that reason, asked of each link of an error's chain.
pub(crate) fn is_own_identity(cause: &(dyn Error + 'static)) -> bool {
    match cause.downcast_ref() {
        Some(noise::Error::Io(error)) => error.get_ref().is_some_and(|e| e.is::<OwnIdentity>()),
        Some(_) | None => false,
    }
}

impl Channel {
    pub(crate) fn new(keypair: &Keypair) -> Result<Self, noise::Error> {
        Ok(Self {
            inner: noise::Config::new(keypair)?,
            own: keypair.public().to_peer_id(),
        })
    }
}

impl UpgradeInfo for Channel {
    type Info = <noise::Config as UpgradeInfo>::Info;
    type InfoIter = <noise::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.inner.protocol_info()
    }
}

type Upgrading<S> =
    Pin<Box<dyn Future<Output = Result<(PeerId, noise::Output<S>), noise::Error>> + Send>>;

impl<S> InboundConnectionUpgrade<S> for Channel
where
    S: Send + 'static,
    noise::Config: InboundConnectionUpgrade<
            S,
            Output = (PeerId, noise::Output<S>),
            Error = noise::Error,
            Future: Send,
        >,
{
    type Output = (PeerId, noise::Output<S>);
    type Error = noise::Error;
    type Future = Upgrading<S>;

    fn upgrade_inbound(self, stream: S, info: Self::Info) -> Self::Future {
        let own = self.own;
        self.inner
            .upgrade_inbound(stream, info)
            .map(move |upgraded| match upgraded {
                Ok((peer, _)) if peer == own => {
                    Err(noise::Error::Io(io::Error::other(OwnIdentity)))
                }
                upgraded => upgraded,
            })
            .boxed()
    }
}

impl<S> OutboundConnectionUpgrade<S> for Channel
where
    noise::Config: OutboundConnectionUpgrade<S>,
{
    type Output = <noise::Config as OutboundConnectionUpgrade<S>>::Output;
    type Error = <noise::Config as OutboundConnectionUpgrade<S>>::Error;
    type Future = <noise::Config as OutboundConnectionUpgrade<S>>::Future;

    fn upgrade_outbound(self, stream: S, info: Self::Info) -> Self::Future {
        self.inner.upgrade_outbound(stream, info)
    }
}
