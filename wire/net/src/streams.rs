//! Two streams per connection, one a plane, opened by whoever dialled.
//!
//! A behaviour of our own rather than the general stream behaviour: that one picks
//! a connection at random where a peer has two, which is what simultaneous dials
//! give, and drops inbound streams when nobody listens at that moment.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter::Cloned;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound,
    FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, Stream,
    StreamProtocol, SubstreamProtocol, THandler, THandlerInEvent, ToSwarm,
};

/// The numbers are the handshake's, which never changes; what follows it is versioned inside.
const CONTROL: StreamProtocol = StreamProtocol::new("/cairn/control/1");
const DATA: StreamProtocol = StreamProtocol::new("/cairn/data/1");

const EITHER: &[StreamProtocol] = &[CONTROL, DATA];
const ONLY_CONTROL: &[StreamProtocol] = &[CONTROL];
const ONLY_DATA: &[StreamProtocol] = &[DATA];

/// Both streams of a connection.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) control: Stream,
    pub(crate) data: Stream,
}

/// What became of a connection's streams.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Both are open.
    Pair(Box<Pair>),
    /// The peer does not want them, or wants more than two.
    Failed(String),
}

/// [`Opened`] for one connection.
#[derive(Debug)]
pub(crate) struct OpenedOn {
    pub(crate) connection: ConnectionId,
    pub(crate) opened: Opened,
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    opened: VecDeque<OpenedOn>,
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = OpenedOn;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(VecDeque::new()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(VecDeque::from([ONLY_CONTROL, ONLY_DATA])))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, connection: ConnectionId, opened: Opened) {
        self.opened.push_back(OpenedOn { connection, opened });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<OpenedOn, THandlerInEvent<Self>>> {
        // The swarm polls again after every handler event, so no waker is kept.
        match self.opened.pop_front() {
            Some(opened) => Poll::Ready(ToSwarm::GenerateEvent(opened)),
            None => Poll::Pending,
        }
    }
}

/// Collects the two streams of one connection.
#[derive(Debug)]
pub(crate) struct Handler {
    /// Still to be asked for; empty where the peer dialled.
    wanted: VecDeque<&'static [StreamProtocol]>,
    control: Option<Stream>,
    data: Option<Stream>,
    report: Option<Opened>,
    reported: bool,
}

impl Handler {
    fn new(wanted: VecDeque<&'static [StreamProtocol]>) -> Self {
        Self {
            wanted,
            control: None,
            data: None,
            report: None,
            reported: false,
        }
    }

    fn take(&mut self, stream: Stream, protocol: &StreamProtocol) {
        let place = if *protocol == CONTROL {
            &mut self.control
        } else {
            &mut self.data
        };
        if self.reported || place.is_some() {
            self.fail("a third stream".to_owned());
            return;
        }
        *place = Some(stream);
        match (self.control.take(), self.data.take()) {
            (Some(control), Some(data)) => {
                self.report(Opened::Pair(Box::new(Pair { control, data })));
            }
            (control, data) => (self.control, self.data) = (control, data),
        }
    }

    fn fail(&mut self, detail: String) {
        self.report(Opened::Failed(detail));
    }

    fn report(&mut self, opened: Opened) {
        self.reported = true;
        self.report = Some(opened);
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Opened;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade(EITHER), ())
    }

    /// Sessions end by decision, never because a link was quiet for a while.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, (), Opened>> {
        // The connection polls again after every event that it delivers here.
        if let Some(opened) = self.report.take() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(opened));
        }
        match self.wanted.pop_front() {
            Some(protocol) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Upgrade(protocol), ()),
            }),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            })
            | ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, protocol),
                ..
            }) => self.take(stream, &protocol),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.fail(error.to_string());
            }
            // Changes of address and of what the peer supports decide nothing here.
            _ => {}
        }
    }
}

/// Accepts a protocol by name and leaves the stream alone. A connection asks for its
/// names whenever it is polled, so they are not collected anew.
#[derive(Debug)]
pub(crate) struct Upgrade(&'static [StreamProtocol]);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = Cloned<std::slice::Iter<'static, StreamProtocol>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().cloned()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
