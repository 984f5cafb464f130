//! Streams on a connection: Yamux, polled once where the general wrapper polls twice.
//!
//! A connection asks its multiplexer whenever anything happens on it: for progress, and
//! then for new streams. Yamux makes progress on either question, and each time goes
//! through clock, socket, queues and the channel's buffers. Here the second question is
//! answered by what the first one found. It is Yamux on the wire, for either end.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::iter::{Once, once};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

/// Bytes of a frame that travel in one piece, each of which is encrypted and written by
/// itself. A row of 4096 elements and its header just fit, which do not fit Yamux's own
/// 16 KiB. Larger pieces make large frames slower: while one is decrypted, the next
/// should be under way.
const PIECE_BYTES: usize = 20 << 10;

/// How connections are to be multiplexed.
#[derive(Clone, Debug)]
pub(crate) struct Multiplexer {
    config: Config,
}

impl Multiplexer {
    /// A peer may have `streams_max` streams open; another one ends the connection.
    pub(crate) fn new(streams_max: usize) -> Self {
        let mut config = Config::default();
        config
            .set_max_num_streams(streams_max)
            .set_split_send_size(PIECE_BYTES);
        Self { config }
    }
}

impl UpgradeInfo for Multiplexer {
    type Info = &'static str;
    type InfoIter = Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Multiplexer
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Multiplexed<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_inbound(self, channel: C, _: Self::Info) -> Self::Future {
        ready(Ok(Multiplexed::new(channel, self.config, Mode::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Multiplexer
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Multiplexed<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_outbound(self, channel: C, _: Self::Info) -> Self::Future {
        ready(Ok(Multiplexed::new(channel, self.config, Mode::Client)))
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Multiplexed<C> {
    yamux: Connection<C>,
    /// Opened by the peer and not yet asked for; no more than it may have open.
    opened: VecDeque<Stream>,
    /// Who asked in vain.
    asked: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Multiplexed<C> {
    fn new(channel: C, config: Config, mode: Mode) -> Self {
        Self {
            yamux: Connection::new(channel, config, mode),
            opened: VecDeque::new(),
            asked: None,
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Multiplexed<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.opened.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        match &mut self.asked {
            Some(asked) => asked.clone_from(context.waker()),
            asked @ None => *asked = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        self.yamux.poll_new_outbound(context)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        self.yamux.poll_close(context)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        loop {
            match self.yamux.poll_next_inbound(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(stream))) => {
                    self.opened.push_back(stream);
                    if let Some(asked) = self.asked.take() {
                        asked.wake();
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Err(ConnectionError::Closed)),
            }
        }
    }
}
