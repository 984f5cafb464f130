//! One hop's software cost: a frame there and one of its size back, engine left out.
//!
//! Against plain TCP in the same run, interleaved, because only the ratio means
//! anything on a machine that does other things too.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cairn_net::{Config, Event, Identity, Mdns, Net, Secret, start};
use cairn_wire::data::{Ask, DType, Rows, Span};
use cairn_wire::id::{BootId, NodeId, PlanId, SequenceId, Term};
use cairn_wire::{DataFrame, RowsFrame};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PAYLOADS_KIB: [usize; 3] = [1, 16, 256];

/// Two hosts on loopback. Both answer on their network threads, as the TCP pair
/// answers on its own: what other threads do with a frame is the engine's part.
struct Hop {
    near: Arc<OnceLock<Net>>,
    _far: Arc<OnceLock<Net>>,
    far: NodeId,
    job: Arc<Mutex<Option<Job>>>,
    done: Receiver<Vec<Duration>>,
}

/// Round trips that the near end still has to make.
struct Job {
    rows: Rows,
    payload: Vec<f32>,
    begun: Instant,
    took: Vec<Duration>,
    count: usize,
}

impl Job {
    fn frame(&self) -> DataFrame {
        DataFrame::Rows(RowsFrame::build(&self.rows, &self.payload))
    }
}

impl Hop {
    fn new() -> Self {
        let (near, far): (Arc<OnceLock<Net>>, Arc<OnceLock<Net>>) = Default::default();
        let job: Arc<Mutex<Option<Job>>> = Arc::default();
        let (sender, done): (Sender<Vec<Duration>>, _) = channel();
        let (linked, is_linked) = channel();
        let (own, own_job) = (Arc::clone(&near), Arc::clone(&job));
        let near_net = host(1, move |event| match event {
            Event::Connected { .. } => linked.send(()).expect("the bench waits for it"),
            Event::Data { peer, frame, .. } => {
                let net = own.get().expect("set before anybody dials");
                if let Some(took) = step(net, peer, &frame, &mut own_job.lock().expect("no panic"))
                {
                    sender.send(took).expect("the bench waits for it");
                }
            }
            _ => {}
        });
        let echo = Arc::clone(&far);
        let far_net = host(2, move |event| {
            if let Event::Data { peer, frame, .. } = event {
                let net = echo.get().expect("set before anybody dials");
                net.offer(peer, frame).expect("one frame is under way");
            }
        });
        let (id, address) = (far_net.id(), far_net.listening()[0]);
        assert!(near.set(near_net).is_ok() && far.set(far_net).is_ok());
        near.get().expect("just set").dial(address, Some(id));
        is_linked.recv().expect("the two link");
        Self {
            near,
            _far: far,
            far: id,
            job,
            done,
        }
    }

    /// The times of `count` round trips, one after the other.
    fn round_trips(&self, rows: &Rows, payload: &[f32], count: usize) -> Vec<Duration> {
        let job = Job {
            rows: rows.clone(),
            payload: payload.to_vec(),
            begun: Instant::now(),
            took: Vec::with_capacity(count),
            // The first wakes the network thread from here and is not counted.
            count: count + 1,
        };
        let frame = job.frame();
        *self.job.lock().expect("no panic") = Some(job);
        let near = self.near.get().expect("set in new()");
        near.offer(self.far, frame).expect("a window is free");
        let mut took = self.done.recv().expect("the far end answers");
        took.remove(0);
        took
    }
}

/// Takes a frame that came back, and sends the next or hands in the times.
fn step(
    net: &Net,
    peer: NodeId,
    frame: &DataFrame,
    job: &mut Option<Job>,
) -> Option<Vec<Duration>> {
    let running = job.as_mut().expect("frames come back to a job");
    let DataFrame::Rows(rows) = frame else {
        panic!("rows came back as something else");
    };
    assert_eq!(rows.payload().len(), running.payload.len());
    running.took.push(running.begun.elapsed());
    if running.took.len() == running.count {
        return job.take().map(|job| job.took);
    }
    running.begun = Instant::now();
    net.offer(peer, running.frame()).expect("a window is free");
    None
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

    fn round_trips(&mut self, buffer: &mut [u8], count: usize) -> io::Result<Vec<Duration>> {
        self.runtime.block_on(async {
            let mut took = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                self.stream.write_all(buffer).await?;
                self.stream.read_exact(buffer).await?;
                took.push(begun.elapsed());
            }
            Ok(took)
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
            bencher.iter_custom(|count| {
                let count = usize::try_from(count).expect("a bench size");
                let took = tcp.round_trips(&mut buffer, count).expect("loopback");
                took.iter().sum()
            });
        });
        group.bench_function(BenchmarkId::new("cairn", kib), |bencher| {
            bencher.iter_custom(|count| {
                let count = usize::try_from(count).expect("a bench size");
                hop.round_trips(&rows, &payload, count).iter().sum()
            });
        });
        group.finish();
    }
}

/// The figure that counts: both in turns, some round trips each, and their medians.
#[expect(clippy::print_stdout, reason = "the result of the bench")]
fn interleaved(
    kib: usize,
    hop: &Hop,
    rows: &Rows,
    payload: &[f32],
    tcp: &mut Tcp,
    buffer: &mut [u8],
) {
    const TURNS: usize = 60;
    const ROUND_TRIPS: usize = 50;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        times[0].extend(tcp.round_trips(buffer, ROUND_TRIPS).expect("loopback"));
        times[1].extend(hop.round_trips(rows, payload, ROUND_TRIPS));
    }
    let [tcp, cairn] = times.map(|mut times| {
        times.sort();
        (times[times.len() / 2], times[0])
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

criterion_group!(benches, hop);
criterion_main!(benches);
