//! Every strategy on thirty realistic clusters: the optimal one is never worse, and the
//! table in the docs says by how much it is better.
//!
//! `UPDATE_DOCS=1 cargo test -p cairn-planner --test corpus` rewrites the table.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use cairn_planner::{
    LayerCost, Model, NoPlan, Objective, Part, Plan, Request, Strategy, WhatIf, plan,
};

const CLUSTERS: usize = 30;
const STREAMS: u32 = 8;

/// A model of the corpus in a four-bit quantisation: two thirds of the layers at 4.6
/// bits a weight, the first and last eighth and every third between at 5.3, the way that
/// llama.cpp's Q4_K_M spreads its larger types.
struct Shape {
    name: &'static str,
    layers: u64,
    hidden: u64,
    /// Weights of one layer, of which `active` are read for a row.
    weights: u64,
    active: u64,
    key_value_width: u64,
    vocabulary: u64,
}

const SHAPES: [Shape; 8] = [
    shape("llama-3.1-8b", 32, 4096, 218, 218, 1024, 128_256),
    shape("qwen2.5-14b", 48, 5120, 275, 275, 1024, 152_064),
    shape("qwen2.5-32b", 64, 5120, 488, 488, 1024, 152_064),
    shape("llama-3.3-70b", 80, 8192, 856, 856, 1024, 128_256),
    shape("llama-3.1-405b", 126, 16384, 3188, 3188, 1024, 128_256),
    shape("qwen3-30b-a3b", 48, 2048, 623, 57, 512, 151_936),
    shape("mixtral-8x22b", 56, 6144, 2504, 692, 1024, 32_768),
    shape("smollm2-135m", 30, 576, 4, 4, 192, 49_152),
];

const fn shape(
    name: &'static str,
    layers: u64,
    hidden: u64,
    million_weights: u64,
    million_active: u64,
    key_value_width: u64,
    vocabulary: u64,
) -> Shape {
    Shape {
        name,
        layers,
        hidden,
        weights: million_weights * 1_000_000,
        active: million_active * 1_000_000,
        key_value_width,
        vocabulary,
    }
}

impl Shape {
    fn model(&self) -> Model {
        let eighth = self.layers / 8;
        let layers = (0..self.layers).map(|layer| {
            let end = layer < eighth || layer >= self.layers - eighth;
            let tenth_bits = if end || (layer - eighth) % 3 == 2 {
                53
            } else {
                46
            };
            LayerCost {
                weight_bytes: self.weights * tenth_bits / 80,
                macs_per_row: self.active,
                kv_bytes_per_token: 2 * 2 * self.key_value_width,
                active_bytes: Some(self.active * tenth_bits / 80),
                attention_macs_per_token: 2 * self.hidden,
            }
        });
        let table = self.vocabulary * self.hidden;
        Model {
            layers: layers.collect(),
            embedding: Part {
                weight_bytes: table * 45 / 80,
                decode_bytes: self.hidden,
                macs_per_row: 0,
            },
            head: Part {
                weight_bytes: table * 66 / 80,
                decode_bytes: table * 66 / 80,
                macs_per_row: table,
            },
            tied_bytes: 0,
            hidden_bytes_per_row: 2 * self.hidden,
        }
    }
}

struct Cluster {
    name: String,
    shape: &'static Shape,
    file: WhatIf,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn clusters() -> Vec<Cluster> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join("corpus"))
        .expect("the corpus is beside the crate")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    paths.sort();
    let clusters: Vec<Cluster> = paths.iter().map(|path| cluster(path)).collect();
    assert_eq!(clusters.len(), CLUSTERS);
    clusters
}

fn cluster(path: &Path) -> Cluster {
    let text = std::fs::read_to_string(path).expect("readable");
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("# Model: "))
        .expect("every file names a model");
    Cluster {
        name: path
            .file_stem()
            .expect("a file")
            .to_string_lossy()
            .into_owned(),
        shape: SHAPES
            .iter()
            .find(|shape| shape.name == model)
            .expect("a known model"),
        file: WhatIf::parse(&text).expect("no mistakes"),
    }
}

fn request(cluster: &Cluster, objective: Objective) -> Request {
    Request {
        links: cluster.file.links.clone(),
        driver: Some(cluster.file.devices[0].id),
        objective,
        sequences: match objective {
            Objective::Latency => 1,
            Objective::Throughput => STREAMS,
        },
        context_tokens: match objective {
            Objective::Latency => 4096,
            Objective::Throughput => 1024,
        },
        ..Request::new(cluster.shape.model(), cluster.file.devices.clone())
    }
}

/// The optimal plan, and the four others where they exist.
fn plans(request: &Request) -> (Plan, [Option<Plan>; 4]) {
    let by = |strategy| {
        plan(&Request {
            strategy,
            ..request.clone()
        })
    };
    let others = [
        Strategy::Uniform,
        Strategy::Memory,
        Strategy::Compute,
        Strategy::Balanced,
    ];
    let others = others.map(|strategy| match by(strategy) {
        Ok(plan) => Some(plan),
        Err(NoPlan::MemoryShort { .. }) => None,
        Err(other) => panic!("{other}"),
    });
    (by(Strategy::Optimal).expect("the corpus fits"), others)
}

#[test]
fn optimal_is_proven_and_never_worse() {
    for cluster in clusters() {
        for objective in [Objective::Latency, Objective::Throughput] {
            let (best, others) = plans(&request(&cluster, objective));
            let name = &cluster.name;
            assert!(
                best.proof.is_exact(),
                "{name} {objective:?}: {:?}",
                best.proof
            );
            for other in others.iter().flatten() {
                assert!(
                    best.proof.objective_nanos <= other.proof.objective_nanos,
                    "{name} {objective:?}"
                );
            }
        }
    }
}

const BEGIN: &str = "<!-- corpus: written by planner/tests/corpus.rs -->\n";
const END: &str = "<!-- corpus: end -->";

#[test]
fn the_table_in_the_docs_is_current() {
    let path = root().join("../docs/planner.md");
    let docs = std::fs::read_to_string(&path).expect("the docs have a page on the planner");
    let (before, rest) = docs.split_once(BEGIN).expect("the page has the table");
    let (table, after) = rest.split_once(END).expect("the table ends");
    let current = table_of(&clusters());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let docs = format!("{before}{BEGIN}{current}{END}{after}");
        std::fs::write(&path, docs).expect("writable");
    } else {
        assert!(
            table == current,
            "run with UPDATE_DOCS=1 and read the change"
        );
    }
}

fn table_of(clusters: &[Cluster]) -> String {
    let mut table = String::from(
        "| cluster | model | used | one stream | uniform | memory | compute | balanced \
         | 8 streams | uniform | memory | compute | balanced |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for cluster in clusters {
        let (one, others_one) = plans(&request(cluster, Objective::Latency));
        let (many, others_many) = plans(&request(cluster, Objective::Throughput));
        write!(
            table,
            "| {} | {} | {} of {} | {:.1} |",
            cluster.name,
            cluster.shape.name,
            one.stages.len(),
            cluster.file.devices.len(),
            one.forecast.tokens_per_second
        )
        .expect("a string takes it");
        gains(&mut table, &one, &others_one);
        write!(
            table,
            " {:.1} |",
            f64::from(STREAMS) * 1e9 / many.proof.objective_nanos as f64
        )
        .expect("a string takes it");
        gains(&mut table, &many, &others_many);
        table.push('\n');
    }
    table
}

fn gains(table: &mut String, best: &Plan, others: &[Option<Plan>; 4]) {
    for other in others {
        let written = match other {
            Some(other) => write!(
                table,
                " {:.2}× |",
                other.proof.objective_nanos as f64 / best.proof.objective_nanos as f64
            ),
            None => write!(table, " — |"),
        };
        written.expect("a string takes it");
    }
}
