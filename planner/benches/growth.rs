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

/// What the layers of a model weigh.
#[derive(Clone, Copy, PartialEq)]
enum Layers {
    Alike,
    /// As in Q4_K_M.
    TwoSizes,
}

/// How far the links of a cluster differ.
#[derive(Clone, Copy, PartialEq)]
enum Wires {
    Alike,
    /// One switch, measured pair by pair: a tenth up or down.
    Near,
    Random,
}

/// How many times the memory that the model needs a cluster has, about.
#[derive(Clone, Copy, PartialEq)]
enum Room {
    /// Twice.
    Ample,
    /// One and a half times.
    Tight,
    /// 1.2 times: most devices are used, and nearly full.
    Full,
}

/// How far the devices of a cluster differ.
#[derive(Clone, Copy, PartialEq)]
enum Devices {
    AllUnlike,
    /// Four of each of four.
    FourKinds,
}

/// What clusters of a row have in common.
#[derive(Clone, Copy)]
struct Class {
    layers: Layers,
    wires: Wires,
    room: Room,
    devices: Devices,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = match self.layers {
            Layers::Alike => "alike",
            Layers::TwoSizes => "two sizes",
        };
        let wires = match self.wires {
            Wires::Alike => "alike",
            Wires::Near => "near",
            Wires::Random => "random",
        };
        let room = match self.room {
            Room::Ample => "",
            Room::Tight => ", tight",
            Room::Full => ", full",
        };
        let devices = match self.devices {
            Devices::AllUnlike => "",
            Devices::FourKinds => ", four kinds",
        };
        write!(f, "{layers}, {wires}{room}{devices}")
    }
}

/// Devices, layers, how many clusters, and how often each is planned for; the median of
/// one cluster's times is its time.
#[derive(Clone, Copy)]
struct Size {
    devices: u64,
    layers: u64,
    clusters: usize,
    rounds: usize,
}

const fn size(devices: u64, layers: u64, clusters: usize, rounds: usize) -> Size {
    Size {
        devices,
        layers,
        clusters,
        rounds,
    }
}

const SIZES: [Size; 6] = [
    size(4, 32, 9, 5),
    size(16, 80, 9, 5),
    size(50, 126, 5, 1),
    size(100, 126, 5, 1),
    size(500, 126, 3, 1),
    size(2000, 126, 1, 1),
];
/// For clusters that are harder than others of their size.
const HARD: Size = size(16, 80, 16, 3);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |word: &str| arguments.iter().any(|argument| argument == word);
    // Cargo asks for the tests of a bench, and there are none.
    if asked("--test") {
        return;
    }
    println!(
        "| devices × layers | layers, links | objective | median | worst | gap, worst | stages |"
    );
    println!("|---|---|---|--:|--:|--:|--:|");
    if asked("hard") {
        for objective in [Objective::Latency, Objective::Throughput] {
            hard_classes().for_each(|class| row(HARD, class, objective));
        }
        return;
    }
    // Numbers of devices, if only some are wanted.
    let wanted: Vec<u64> = arguments
        .iter()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let sizes = SIZES.iter().copied();
    for size in sizes.filter(|size| wanted.is_empty() || wanted.contains(&size.devices)) {
        for wires in [Wires::Alike, Wires::Random] {
            for layers in [Layers::Alike, Layers::TwoSizes] {
                let class = Class {
                    layers,
                    wires,
                    room: Room::Ample,
                    devices: Devices::AllUnlike,
                };
                row(size, class, Objective::Latency);
                row(size, class, Objective::Throughput);
            }
        }
    }
}

/// Little memory, repeated devices, or both. Where layers and links are alike, nothing is hard.
fn hard_classes() -> impl Iterator<Item = Class> {
    let costs = [
        (Layers::TwoSizes, Wires::Alike),
        (Layers::Alike, Wires::Near),
        (Layers::TwoSizes, Wires::Near),
        (Layers::Alike, Wires::Random),
        (Layers::TwoSizes, Wires::Random),
    ];
    let clusters = [
        (Room::Tight, Devices::AllUnlike),
        (Room::Full, Devices::AllUnlike),
        (Room::Ample, Devices::FourKinds),
        (Room::Tight, Devices::FourKinds),
        (Room::Full, Devices::FourKinds),
    ];
    costs.into_iter().flat_map(move |(layers, wires)| {
        clusters.into_iter().map(move |(room, devices)| Class {
            layers,
            wires,
            room,
            devices,
        })
    })
}

fn row(size: Size, class: Class, objective: Objective) {
    let mut millis = Vec::new();
    let mut gap = 0;
    let mut stages = Vec::new();
    for seed in 0.. {
        let request = request(size, class, objective, seed);
        let mut times = Vec::new();
        for _ in 0..size.rounds {
            let since = Instant::now();
            // Of those with little memory some have too little.
            let Ok(found) = plan(black_box(&request)) else {
                break;
            };
            times.push(since.elapsed().as_secs_f64() * 1e3);
            gap = gap.max(found.proof.gap_permille());
            stages.push(found.stages.len());
        }
        if !times.is_empty() {
            millis.push(median(times));
        }
        if millis.len() == size.clusters {
            break;
        }
    }
    stages.sort_unstable();
    let worst = millis.iter().copied().fold(0.0, f64::max);
    println!(
        "| {} × {} | {class} | {objective:?} | {:.1} ms | {worst:.1} ms | {}.{} % | {} |",
        size.devices,
        size.layers,
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

/// A seeded cluster and what is asked of it.
fn request(size: Size, class: Class, objective: Objective, seed: u64) -> Request {
    let mut dice = Dice(size.devices * 31 + size.layers + seed * 7919);
    let devices = devices(size, class, &mut dice);
    Request {
        links: links(&devices, class.wires, &mut dice),
        objective,
        sequences: match objective {
            Objective::Latency => 1,
            Objective::Throughput => 8,
        },
        context_tokens: 1024,
        ..Request::new(model(size.layers, class.layers), devices)
    }
}

/// About 70 billion weights of four bits, where there are 80 layers.
fn model(count: u64, layers: Layers) -> Model {
    let eighth = count / 8;
    let layer = |layer: u64| LayerCost {
        weight_bytes: match layers {
            // The larger type in the first and last eighth and in every third between.
            Layers::TwoSizes
                if layer < eighth || layer >= count - eighth || (layer - eighth) % 3 == 2 =>
            {
                560_000_000
            }
            Layers::TwoSizes | Layers::Alike => 490_000_000,
        },
        macs_per_row: 860_000_000,
        kv_bytes_per_token: 4096,
        ..LayerCost::default()
    };
    Model {
        layers: (0..count).map(layer).collect(),
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
    }
}

fn devices(size: Size, class: Class, dice: &mut Dice) -> Vec<Device> {
    let share = size.layers * 520_000_000 / size.devices + 900_000_000;
    let (least, most) = match class.room {
        Room::Ample => (10, 30),
        Room::Tight => (8, 22),
        Room::Full => (8, 16),
    };
    let unlike = match class.devices {
        Devices::AllUnlike => size.devices,
        Devices::FourKinds => 4,
    };
    let machines: Vec<(u64, u64, u64)> = (0..unlike)
        .map(|_| {
            let speed = dice.between(20, 400);
            let macs = speed * dice.between(5, 60);
            (share * dice.between(least, most) / 10, speed, macs)
        })
        .collect();
    let machines = machines.into_iter().cycle().zip(0..size.devices as u32);
    machines
        .map(|((memory_bytes, speed, macs), index)| Device {
            id: DeviceId::from_index(index),
            name: format!("d{index}"),
            memory_bytes,
            decode_bytes_per_second: speed * 1_000_000_000,
            prefill_macs_per_second: macs * 1_000_000_000,
            detail: Detail::default(),
        })
        .collect()
}

fn links(devices: &[Device], wires: Wires, dice: &mut Dice) -> Vec<Link> {
    let (trip, speed) = match wires {
        Wires::Alike => return Vec::new(),
        Wires::Near => (270..=330, 105..=118),
        Wires::Random => (100..=5000, 10..=1000),
    };
    let mut links = Vec::new();
    for from in devices {
        for to in devices.iter().take_while(|to| to.id < from.id) {
            links.push(Link {
                from: from.id,
                to: to.id,
                round_trip_micros: dice.between(*trip.start(), *trip.end()),
                bytes_per_second: dice.between(*speed.start(), *speed.end()) * 1_000_000,
            });
        }
    }
    links
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
