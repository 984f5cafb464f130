use cairn_planner::*;
use std::time::Instant;
struct Dice(u64);
impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn between(&mut self, a: u64, b: u64) -> u64 {
        a + self.next() % (b - a + 1)
    }
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let only = args.get(1).cloned();
    for (n, l) in [
        (4usize, 32usize),
        (8, 32),
        (16, 80),
        (32, 80),
        (100, 126),
        (300, 126),
        (2000, 126),
    ] {
        for lay in ["alike", "q4km"] {
            for links in ["alike", "sites", "random"] {
                for kinds in [4u64, 1000] {
                    for tight in [12u64, 25, 60] {
                        for obj in [Objective::Latency, Objective::Throughput] {
                            let name =
                                format!("{n}x{l} {lay} {links} kinds={kinds} room={tight} {obj:?}");
                            if let Some(o) = &only {
                                if !name.contains(o.as_str()) {
                                    continue;
                                }
                            }
                            let (mut worst, mut exact, mut maxgap, mut sum) = (0f64, 0, 0, 0f64);
                            let reps = 5;
                            for seed in 0..reps {
                                let mut d = Dice(seed * 77 + 13 + n as u64);
                                for _ in 0..9 {
                                    d.next();
                                }
                                let layers: Vec<LayerCost> = (0..l)
                                    .map(|i| {
                                        let big = lay == "q4km"
                                            && (i < l / 8
                                                || i >= 7 * l / 8
                                                || (i - l / 8) % 3 == 2);
                                        let w = if big { 550_000_000 } else { 490_000_000 };
                                        LayerCost {
                                            weight_bytes: w,
                                            macs_per_row: 860_000_000,
                                            kv_bytes_per_token: 4096,
                                            ..Default::default()
                                        }
                                    })
                                    .collect();
                                let total: u64 = layers.iter().map(|x| x.weight_bytes).sum::<u64>()
                                    + l as u64 * 4096 * 4096;
                                let share = total / n as u64 * tight / 10 + 800_000_000;
                                let pal: Vec<(u64, u64, u64)> = (0..kinds.min(n as u64))
                                    .map(|_| {
                                        let s = d.between(20, 400);
                                        (
                                            share * d.between(5, 20) / 10,
                                            s * 1_000_000_000,
                                            s * d.between(5, 60) * 1_000_000_000,
                                        )
                                    })
                                    .collect();
                                let devices: Vec<Device> = (0..n)
                                    .map(|i| {
                                        let (m, s, p) = pal[i % pal.len()];
                                        Device {
                                            id: DeviceId::from_index(i as u32),
                                            name: format!("d{i}"),
                                            memory_bytes: m,
                                            decode_bytes_per_second: s,
                                            prefill_macs_per_second: p,
                                        }
                                    })
                                    .collect();
                                let mut lk = vec![];
                                if links != "alike" {
                                    for i in 0..n {
                                        for j in 0..i {
                                            let (r, b) = if links == "random" {
                                                (
                                                    d.between(100, 5000),
                                                    d.between(10, 1000) * 1_000_000,
                                                )
                                            } else {
                                                if i % 3 == j % 3 {
                                                    (300, 117_000_000)
                                                } else {
                                                    (15_000, 10_000_000)
                                                }
                                            };
                                            lk.push(Link {
                                                from: devices[i].id,
                                                to: devices[j].id,
                                                round_trip_micros: r,
                                                bytes_per_second: b,
                                            });
                                        }
                                    }
                                }
                                let mut r = Request::new(
                                    Model {
                                        layers,
                                        embedding: Part {
                                            weight_bytes: 600_000_000,
                                            ..Default::default()
                                        },
                                        head: Part {
                                            weight_bytes: 600_000_000,
                                            decode_bytes: 600_000_000,
                                            macs_per_row: 1_000_000_000,
                                        },
                                        tied_bytes: 0,
                                        hidden_bytes_per_row: 16384,
                                    },
                                    devices,
                                );
                                r.links = lk;
                                r.objective = obj;
                                r.sequences = if obj == Objective::Latency { 1 } else { 8 };
                                if obj == Objective::Throughput {
                                    r.context_tokens = 512;
                                }
                                r.driver = Some(r.devices[0].id);
                                let t = Instant::now();
                                let p = plan(&r);
                                let e = t.elapsed().as_secs_f64() * 1e3;
                                sum += e;
                                worst = worst.max(e);
                                match p {
                                    Ok(p) => {
                                        if p.proof.is_exact() {
                                            exact += 1;
                                        }
                                        maxgap = maxgap.max(p.proof.gap_permille());
                                    }
                                    Err(e) => {
                                        let _=e;
                                    }
                                }
                            }
                            println!(
                                "{name}: worst {worst:.1} ms mean {:.1} exact {exact}/{reps} maxgap {maxgap} permille",
                                sum / reps as f64
                            );
                        }
                    }
                }
            }
        }
    }
}
