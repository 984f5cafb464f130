//! Plain TCP, nodelay, whole frames.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::Contender;

/// Two threads, each with a runtime of its own, which wait for nothing but the socket:
/// the quickest that two tokio programs can be.
pub(crate) struct Direct {
    runtime: Runtime,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Direct {
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let (runtime, stream) = connect(move |runtime, mut stream| {
            runtime.block_on(async {
                let mut buffer = vec![0; bytes];
                while stream.read_exact(&mut buffer).await.is_ok() {
                    stream.write_all(&buffer).await.expect("loopback");
                }
            });
        })?;
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
                let read = self.stream.read_exact(&mut self.buffer).await;
                read.expect("loopback");
                took.push(begun.elapsed());
            }
            took
        })
    }
}

/// The shape of a program that computes on one thread and has the network on another:
/// frames go through a queue each way.
pub(crate) struct Callers {
    caller: Caller,
    buffer: Option<Vec<u8>>,
}

struct Caller {
    to_write: UnboundedSender<Vec<u8>>,
    read: Receiver<Vec<u8>>,
}

impl Callers {
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let (runtime, stream) = connect(move |runtime, stream| {
            let Caller { to_write, read } = caller(runtime, stream, bytes);
            while let Ok(frame) = read.recv() {
                to_write.send(frame).expect("the network thread runs");
            }
        })?;
        Ok(Self {
            caller: caller(runtime, stream, bytes),
            buffer: Some(vec![0; bytes]),
        })
    }
}

impl Contender for Callers {
    fn round_trips(&mut self, count: usize) -> Vec<Duration> {
        (0..count)
            .map(|_| {
                let frame = self.buffer.take().expect("put back below");
                let begun = Instant::now();
                let sent = self.caller.to_write.send(frame);
                sent.expect("the network thread runs");
                let frame = self.caller.read.recv().expect("the far end answers");
                let took = begun.elapsed();
                self.buffer = Some(frame);
                took
            })
            .collect()
    }
}

/// Leaves `stream` to a thread of its own.
fn caller(runtime: Runtime, stream: TcpStream, bytes: usize) -> Caller {
    let (to_write, mut to_be_written) = unbounded_channel::<Vec<u8>>();
    let (has_read, read) = channel();
    std::thread::spawn(move || {
        let (mut reader, mut writer) = stream.into_split();
        let reading = async move {
            loop {
                let mut frame = vec![0; bytes];
                let whole = reader.read_exact(&mut frame).await.is_ok();
                if !whole || has_read.send(frame).is_err() {
                    return;
                }
            }
        };
        let writing = async move {
            while let Some(frame) = to_be_written.recv().await {
                writer.write_all(&frame).await.expect("loopback");
            }
        };
        runtime.block_on(async {
            tokio::join!(reading, writing);
        });
    });
    Caller { to_write, read }
}

/// The near end of a connection whose far end `serve` has on another thread.
pub(crate) fn connect(
    serve: impl FnOnce(Runtime, TcpStream) + Send + 'static,
) -> io::Result<(Runtime, TcpStream)> {
    let (near, far) = (runtime()?, runtime()?);
    let listener = far.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let (stream, _) = far.block_on(listener.accept()).expect("loopback");
        stream.set_nodelay(true).expect("a socket option");
        serve(far, stream);
    });
    let stream = near.block_on(TcpStream::connect(address))?;
    stream.set_nodelay(true)?;
    Ok((near, stream))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
