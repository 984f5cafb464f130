//! One hop's software cost: a frame there and one of its size back, engine left out.
//!
//! Against plain TCP in the same run, interleaved, because only the ratio means
//! anything on a machine that does other things too. Every contender carries the bytes
//! of the same frame.

mod cairn;
mod noise;
mod tcp;

use std::time::Duration;

use cairn_wire::RowsFrame;
use cairn_wire::data::{Ask, DType, Rows, Span};
use cairn_wire::id::{NodeId, PlanId, SequenceId, Term};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// Payloads, and how many round trips each contender makes in one turn.
const PAYLOADS: [(usize, usize); 3] = [(1, 50), (16, 50), (256, 10)];
/// Turns that each contender has.
const TURNS: usize = 80;

/// One who can say how long a frame's way there and back took.
trait Contender {
    /// The times of `count` round trips, one after the other.
    fn round_trips(&mut self, count: usize) -> Vec<Duration>;
}

/// A row as wide as the payload is to be, for one sequence.
fn rows(kib: usize) -> (Rows, Vec<f32>) {
    let payload = vec![0.5_f32; kib * 256];
    let node = NodeId([7; 32]);
    let rows = Rows {
        plan: PlanId {
            term: Term {
                number: 1,
                leader: node,
            },
            epoch: 1,
        },
        stage: 1,
        dtype: DType::F32,
        width: u32::try_from(payload.len()).expect("a bench size"),
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
    };
    (rows, payload)
}

/// Plain TCP first: the others are measured by it.
fn contenders(kib: usize) -> Vec<(&'static str, Box<dyn Contender>)> {
    let (rows, payload) = rows(kib);
    let bytes = RowsFrame::build(&rows, &payload).bytes().len();
    vec![
        (
            "tcp",
            Box::new(tcp::Direct::new(bytes).expect("loopback")) as Box<dyn Contender>,
        ),
        (
            "tcp, callers",
            Box::new(tcp::Callers::new(bytes).expect("loopback")),
        ),
        (
            "noise",
            Box::new(noise::Direct::new(bytes).expect("loopback")),
        ),
        ("cairn, callers", Box::new(cairn::Callers::new(kib))),
        ("cairn, threads", Box::new(cairn::Threads::new(kib))),
    ]
}

fn hop(criterion: &mut Criterion) {
    for (kib, count) in PAYLOADS {
        let mut contenders = contenders(kib);
        interleaved(kib, count, &mut contenders);

        let mut group = criterion.benchmark_group("hop");
        for (name, contender) in &mut contenders {
            group.bench_function(BenchmarkId::new(*name, kib), |bencher| {
                bencher.iter_custom(|count| {
                    let count = usize::try_from(count).expect("a bench size");
                    contender.round_trips(count).iter().sum()
                });
            });
        }
        group.finish();
    }
}

/// The figures that count: everybody in turns, and their medians.
#[expect(clippy::print_stdout, reason = "the result of the bench")]
fn interleaved(kib: usize, count: usize, contenders: &mut [(&'static str, Box<dyn Contender>)]) {
    let mut times = vec![Vec::new(); contenders.len()];
    for _ in 0..TURNS {
        for ((_, contender), times) in contenders.iter_mut().zip(&mut times) {
            times.extend(contender.round_trips(count));
        }
    }
    let mut plain = None;
    for ((name, _), mut times) in contenders.iter().zip(times) {
        times.sort();
        let median = times[times.len() / 2].as_secs_f64();
        println!(
            "{kib:>4} KiB  {name:<14}  median {:>8.1} µs  min {:>8.1} µs  {:>5.2} times tcp",
            median * 1e6,
            times[0].as_secs_f64() * 1e6,
            median / *plain.get_or_insert(median),
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = hop
}
criterion_main!(benches);
