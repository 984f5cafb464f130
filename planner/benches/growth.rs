//! How planning time and the proven gap grow with the cluster, up to 2,000 devices.
//!
//! Prints the gap beside the times, because a fast plan of unknown worth is no plan.
#![expect(clippy::print_stdout, reason = "a bench talks to a person")]

use std::hint::black_box;
use std::time::Duration;

use cairn_planner::{Device, DeviceId, LayerCost, Link, Model, Objective, Part, Request, plan};
use criterion::{Criterion, criterion_group, criterion_main};

/// What differs between the devices of a cluster.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Layers and links alike, every device different.
    Alike,
    /// Layers of two sizes, as in Q4_K_M; links alike, eight kinds of device.
    Layers,
    /// Layers alike; every link different.
    Links,
}

fn growth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    println!("devices x layers, kind, objective: gap in thousandths, stages used");
    for (devices, layers) in [(4, 32), (16, 80), (100, 126), (500, 126), (2000, 126)] {
        for kind in [Kind::Alike, Kind::Layers, Kind::Links] {
            for objective in [Objective::Latency, Objective::Throughput] {
                let request = request(devices, layers, kind, objective);
                let found = plan(&request).expect("the cluster is large enough");
                let name = format!("{devices}x{layers} {kind:?} {objective:?}");
                println!(
                    "{name}: gap {}, {} stages",
                    found.proof.gap_permille(),
                    found.stages.len()
                );
                group.bench_function(name, |bencher| {
                    bencher.iter(|| plan(black_box(&request)));
                });
            }
        }
    }
    group.finish();
}

#[expect(clippy::too_many_lines, reason = "one table of figures")]
/// A seeded cluster with about twice the memory that the model needs.
fn request(devices: u64, layers: u64, kind: Kind, objective: Objective) -> Request {
    let mut dice = Dice(devices * 31 + layers);
    let layer = |layer: u64| LayerCost {
        weight_bytes: match kind {
            Kind::Layers if layer % 3 == 2 => 550_000_000,
            Kind::Layers | Kind::Alike | Kind::Links => 490_000_000,
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
    let share = layers * 510_000_000 / devices + 900_000_000;
    let mut machine = || {
        let speed = dice.between(20, 400);
        let macs = speed * dice.between(5, 60);
        (share * dice.between(10, 30) / 10, speed, macs)
    };
    let kinds: Vec<_> = (0..devices).map(|_| machine()).collect();
    let devices: Vec<Device> = (0..devices as u32)
        .map(|index| {
            let kinds = match kind {
                Kind::Layers => &kinds[..kinds.len().min(8)],
                Kind::Alike | Kind::Links => &kinds[..],
            };
            let (memory_bytes, speed, macs) = kinds[index as usize % kinds.len()];
            Device {
                id: DeviceId::from_index(index),
                name: format!("d{index}"),
                memory_bytes,
                decode_bytes_per_second: speed * 1_000_000_000,
                prefill_macs_per_second: macs * 1_000_000_000,
            }
        })
        .collect();
    let mut links = Vec::new();
    if let Kind::Links = kind {
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
        driver: Some(devices[0].id),
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

criterion_group!(benches, growth);
criterion_main!(benches);
