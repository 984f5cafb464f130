//! The encrypted channel straight on TCP: what encryption alone costs, and so the least
//! that a hop can.

use std::io;
use std::time::{Duration, Instant};

use futures::io::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::noise::{Config, Output};
use libp2p::tcp::tokio::TcpStream;
use tokio::runtime::Runtime;

use crate::{Contender, tcp};

const NAME: &str = "/noise";

/// As [`tcp::Direct`].
pub(crate) struct Direct {
    runtime: Runtime,
    stream: Output<TcpStream>,
    buffer: Vec<u8>,
}

impl Direct {
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let (runtime, stream) = tcp::connect(move |runtime, stream| {
            runtime.block_on(async {
                let upgrade = config(1).upgrade_inbound(TcpStream(stream), NAME);
                let (_, mut stream) = upgrade.await.expect("both ends are ours");
                let mut buffer = vec![0; bytes];
                while stream.read_exact(&mut buffer).await.is_ok() {
                    stream.write_all(&buffer).await.expect("loopback");
                    stream.flush().await.expect("loopback");
                }
            });
        })?;
        let upgrade = config(2).upgrade_outbound(TcpStream(stream), NAME);
        let (_, stream) = runtime.block_on(upgrade).map_err(io::Error::other)?;
        Ok(Self {
            runtime,
            stream,
            buffer: vec![0; bytes],
        })
    }
}

impl Contender for Direct {
    fn round_trips(&mut self, count: usize) -> Vec<Duration> {
        self.runtime.block_on(async {
            let mut took = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                self.stream.write_all(&self.buffer).await.expect("loopback");
                self.stream.flush().await.expect("loopback");
                let read = self.stream.read_exact(&mut self.buffer).await;
                read.expect("loopback");
                took.push(begun.elapsed());
            }
            took
        })
    }
}

fn config(seed: u8) -> Config {
    let key = Keypair::ed25519_from_bytes([seed; 32]).expect("any 32 bytes are a seed");
    Config::new(&key).expect("a key of that kind")
}
