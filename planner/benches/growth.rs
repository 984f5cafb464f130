//! How planning time and the proven gap grow with the cluster, up to 2,000 devices.
//!
//! Prints the gap beside the times, because a fast plan of unknown worth is no plan.
#![expect(clippy::print_stdout, reason = "a bench talks to a person")]

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use cairn_planner::{
    Detail, Device, DeviceId, LayerCost, Link, Model, Objective, Part, Request, plan,
};

/// What differs between the devices of a cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Layers and links alike, every device different.
    Alike,
    /// Layers of two sizes, as in Q4_K_M; links alike.
    Layers,
    /// Layers alike; every link different.
    Links,
    /// Layers of two sizes; every link different.
    Both,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alike => "alike, alike",
            Self::Layers => "two sizes, alike",
            Self::Links => "alike, random",
            Self::Both => "two sizes, random",
        })
    }
}

/// Devices, layers, how many clusters, and how often each is planned for; the median of
/// one cluster's times is its time.
const SIZES: [(u64, u64, u64, usize); 6] = [
    (4, 32, 9, 5),
    (16, 80, 9, 5),
    (50, 126, 5, 1),
    (100, 126, 5, 1),
    (500, 126, 3, 1),
    (2000, 126, 1, 1),
];

fn main() {
    // Cargo asks for the tests of a bench, and there are none.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!(
        "| devices × layers | layers, links | objective | median | worst | gap, worst | stages |"
    );
    println!("|---|---|---|--:|--:|--:|--:|");
    // Numbers of devices, if only some are wanted.
    let wanted: Vec<u64> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let sizes = SIZES.iter().copied();
    for size in sizes.filter(|size| wanted.is_empty() || wanted.contains(&size.0)) {
        for kind in [Kind::Alike, Kind::Layers, Kind::Links, Kind::Both] {
            for objective in [Objective::Latency, Objective::Throughput] {
                row(size, kind, objective);
            }
        }
    }
}

fn row(
    (devices, layers, clusters, rounds): (u64, u64, u64, usize),
    kind: Kind,
    objective: Objective,
) {
    let mut millis = Vec::new();
    let mut gap = 0;
    let mut stages = Vec::new();
    for seed in 0..clusters {
        let request = request(devices, layers, (kind, objective), seed);
        let mut times = Vec::new();
        for _ in 0..rounds {
            let since = Instant::now();
            let found = plan(black_box(&request)).expect("the cluster is large enough");
            times.push(since.elapsed().as_secs_f64() * 1e3);
            gap = gap.max(found.proof.gap_permille());
            stages.push(found.stages.len());
        }
        millis.push(median(times));
    }
    stages.sort_unstable();
    let worst = millis.iter().copied().fold(0.0, f64::max);
    println!(
        "| {devices} × {layers} | {kind} | {objective:?} | {:.1} ms | {worst:.1} ms | {}.{} % | {} |",
        median(millis),
        gap / 10,
        gap % 10,
        stages[stages.len() / 2],
    );
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[expect(clippy::too_many_lines, reason = "one table of figures")]
/// A seeded cluster with about twice the memory that the model needs.
fn request(devices: u64, layers: u64, (kind, objective): (Kind, Objective), seed: u64) -> Request {
    let mut dice = Dice(devices * 31 + layers + seed * 7919);
    let eighth = layers / 8;
    let layer = |layer: u64| LayerCost {
        weight_bytes: match kind {
            // The larger type in the first and last eighth and in every third between.
            Kind::Layers | Kind::Both
                if layer < eighth || layer >= layers - eighth || (layer - eighth) % 3 == 2 =>
            {
                560_000_000
            }
            Kind::Layers | Kind::Alike | Kind::Links | Kind::Both => 490_000_000,
        },
        macs_per_row: 860_000_000,
        kv_bytes_per_token: 4096,
        ..LayerCost::default()
    };
    let model = Model {
        layers: (0..layers).map(layer).collect(),
        embedding: Part {
            weight_bytes: 600_000_000,
            ..Part::default()
        },
        head: Part {
            weight_bytes: 600_000_000,
            decode_bytes: 600_000_000,
            macs_per_row: 1_000_000_000,
        },
        tied_bytes: 0,
        hidden_bytes_per_row: 16_384,
    };
    let share = layers * 520_000_000 / devices + 900_000_000;
    let mut machine = || {
        let speed = dice.between(20, 400);
        let macs = speed * dice.between(5, 60);
        (share * dice.between(10, 30) / 10, speed, macs)
    };
    let kinds: Vec<_> = (0..devices).map(|_| machine()).collect();
    let devices: Vec<Device> = (0..devices as u32)
        .map(|index| {
            let (memory_bytes, speed, macs) = kinds[index as usize];
            Device {
                id: DeviceId::from_index(index),
                name: format!("d{index}"),
                memory_bytes,
                decode_bytes_per_second: speed * 1_000_000_000,
                prefill_macs_per_second: macs * 1_000_000_000,
                detail: Detail::default(),
            }
        })
        .collect();
    let mut links = Vec::new();
    if matches!(kind, Kind::Links | Kind::Both) {
        for from in &devices {
            for to in devices.iter().take_while(|to| to.id < from.id) {
                links.push(Link {
                    from: from.id,
                    to: to.id,
                    round_trip_micros: dice.between(100, 5000),
                    bytes_per_second: dice.between(10, 1000) * 1_000_000,
                });
            }
        }
    }
    Request {
        links,
        objective,
        sequences: match objective {
            Objective::Latency => 1,
            Objective::Throughput => 8,
        },
        context_tokens: 1024,
        ..Request::new(model, devices)
    }
}

/// A small seeded generator (splitmix64).
struct Dice(u64);

impl Dice {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (mixed ^ (mixed >> 31)) % (high - low + 1)
    }
}
