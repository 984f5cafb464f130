//! One hop's software cost: a frame there and one of its size back, engine left out.
//!
//! Against plain TCP in the same run, interleaved, because only the ratio means
//! anything on a machine that does other things too.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cairn_net::{Config, Event, Identity, Mdns, Net, Secret, start};
use cairn_wire::data::{Ask, DType, Rows, Span};
use cairn_wire::id::{BootId, NodeId, PlanId, SequenceId, Term};
use cairn_wire::{DataFrame, RowsFrame};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PAYLOADS_KIB: [usize; 3] = [1, 16, 256];

/// Two hosts on loopback; the second sends every frame back from its network thread.
struct Hop {
    near: Net,
    far: NodeId,
    back: Receiver<DataFrame>,
    _far: Arc<std::sync::OnceLock<Net>>,
}

impl Hop {
    fn new() -> Self {
        let far: Arc<std::sync::OnceLock<Net>> = Arc::default();
        let (sender, back): (Sender<DataFrame>, _) = channel();
        let (linked, is_linked) = channel();
        let near = host(1, move |event| match event {
            Event::Connected { .. } => linked.send(()).expect("the bench waits for it"),
            Event::Data { frame, .. } => sender.send(frame).expect("the bench waits for it"),
            _ => {}
        });
        let echo = Arc::clone(&far);
        let net = host(2, move |event| {
            if let Event::Data { peer, frame, .. } = event {
                let net = echo.get().expect("set before anybody dials");
                net.offer(peer, frame).expect("one frame is under way");
            }
        });
        let (id, address) = (net.id(), net.listening()[0]);
        far.set(net).expect("set once");
        near.dial(address, Some(id));
        is_linked.recv().expect("the two link");
        Self {
            near,
            far: id,
            back,
            _far: far,
        }
    }

    /// The caller's own thread sends and waits, as an engine's would.
    fn round_trip(&self, rows: &Rows, payload: &[f32]) {
        let frame = DataFrame::Rows(RowsFrame::build(rows, payload));
        self.near.offer(self.far, frame).expect("a window is free");
        let DataFrame::Rows(rows) = self.back.recv().expect("the far end answers") else {
            panic!("rows came back as something else");
        };
        assert_eq!(rows.payload().len(), payload.len());
    }
}

fn host(number: u8, sink: impl Fn(Event) + Send + Sync + 'static) -> Net {
    let config = Config {
        identity: Identity::from_seed([number; 32]),
        boot: BootId(1),
        cluster: "bench".to_owned(),
        secret: Secret::from_bytes(*b"bench"),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        mdns: Mdns::Off,
        version: "bench".to_owned(),
    };
    start(config, Arc::new(sink)).expect("loopback can be listened on")
}

/// Plain TCP between two threads with a runtime each, nodelay, whole frames of the same size.
struct Tcp {
    runtime: tokio::runtime::Runtime,
    stream: TcpStream,
}

impl Tcp {
    fn new(bytes: usize) -> io::Result<Self> {
        let runtime = single()?;
        let far = single()?;
        let listener = far.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            far.block_on(async {
                let (mut stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let mut buffer = vec![0; bytes];
                loop {
                    stream.read_exact(&mut buffer).await?;
                    stream.write_all(&buffer).await?;
                }
                #[expect(unreachable_code, reason = "names the block's error type")]
                io::Result::Ok(())
            })
        });
        let stream = runtime.block_on(TcpStream::connect(address))?;
        stream.set_nodelay(true)?;
        Ok(Self { runtime, stream })
    }

    fn round_trip(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.runtime.block_on(async {
            self.stream.write_all(buffer).await?;
            self.stream.read_exact(buffer).await?;
            Ok(())
        })
    }
}

fn single() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn rows(width: usize) -> Rows {
    let node = NodeId([7; 32]);
    Rows {
        plan: PlanId {
            term: Term {
                number: 1,
                leader: node,
            },
            epoch: 1,
        },
        stage: 1,
        dtype: DType::F32,
        width: u32::try_from(width).expect("a bench size"),
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
    }
}

fn hop(criterion: &mut Criterion) {
    let hop = Hop::new();
    for kib in PAYLOADS_KIB {
        let payload = vec![0.5_f32; kib * 256];
        let rows = rows(payload.len());
        let bytes = RowsFrame::build(&rows, &payload).bytes().len();
        let mut tcp = Tcp::new(bytes).expect("loopback");
        let mut buffer = vec![0; bytes];
        interleaved(kib, &hop, &rows, &payload, &mut tcp, &mut buffer);

        let mut group = criterion.benchmark_group("hop");
        group.bench_function(BenchmarkId::new("tcp", kib), |bencher| {
            bencher.iter(|| tcp.round_trip(&mut buffer).expect("loopback"));
        });
        group.bench_function(BenchmarkId::new("cairn", kib), |bencher| {
            bencher.iter(|| hop.round_trip(&rows, &payload));
        });
        group.finish();
    }
}

/// The figure that counts: both in turns, round trip by round trip, and their medians.
fn interleaved(
    kib: usize,
    hop: &Hop,
    rows: &Rows,
    payload: &[f32],
    tcp: &mut Tcp,
    buffer: &mut [u8],
) {
    const WARM_UP: usize = 200;
    const ROUNDS: usize = 2000;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..WARM_UP + ROUNDS {
        let took = [
            timed(|| tcp.round_trip(buffer).expect("loopback")),
            timed(|| hop.round_trip(rows, payload)),
        ];
        if round >= WARM_UP {
            for (times, took) in times.iter_mut().zip(took) {
                times.push(took);
            }
        }
    }
    let [tcp, cairn] = times.map(|mut times| {
        times.sort();
        (times[ROUNDS / 2], times[0])
    });
    println!(
        "{kib:>4} KiB: tcp {:.1?} (min {:.1?}), cairn {:.1?} (min {:.1?}), median ratio {:.2}",
        tcp.0,
        tcp.1,
        cairn.0,
        cairn.1,
        cairn.0.as_secs_f64() / tcp.0.as_secs_f64(),
    );
}

fn timed(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

criterion_group!(benches, hop);
criterion_main!(benches);
