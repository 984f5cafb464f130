//! A model whose every number is a hash, so that any row computed twice, skipped or out of
//! order ends in another token. Has the engine's order of things and none of its arithmetic.

use std::collections::BTreeMap;
use std::ops::Range;

use cairn_machine::placement::ModelFacts;
use cairn_machine::shard::{Pass, PassOutput};
use cairn_planner::{LayerCost, Model, Part};
use cairn_wire::control::{ModelRef, Plan};
use cairn_wire::data::{Ask, Prefix, SampledToken};
use cairn_wire::id::{PlanId, SequenceId};

use crate::rng::mix;

/// Decoder layers of the model.
pub const LAYERS: u32 = 12;
/// Weights of a layer.
pub const LAYER_BYTES: u64 = 1 << 20;
/// Tokens that it knows.
const VOCABULARY: u64 = 1_000;
/// A hidden row is one word, carried as four numbers that every float holds exactly.
const WIDTH: u32 = 4;

/// What the model's file would say.
pub fn facts() -> ModelFacts {
    let layer = LayerCost {
        weight_bytes: LAYER_BYTES,
        macs_per_row: 1 << 20,
        kv_bytes_per_token: 64,
        ..LayerCost::default()
    };
    ModelFacts {
        model: ModelRef {
            name: "hash".into(),
            sha256: [7; 32],
            file_bytes: 12 << 20,
            layers: LAYERS,
        },
        costs: Model {
            layers: vec![layer; LAYERS as usize],
            embedding: Part::default(),
            head: Part::default(),
            tied_bytes: 0,
            hidden_bytes_per_row: u64::from(WIDTH) * 4,
        },
        context_max: 256,
    }
}

/// The answer that one node with all layers would give.
pub fn oracle(prompt: &[u32], tokens_max: usize) -> Vec<u32> {
    let mut caches = vec![0; LAYERS as usize];
    let mut tokens = prompt.to_vec();
    let mut next = 0;
    while tokens.len() < prompt.len() + tokens_max {
        while next < tokens.len() {
            let hidden = run(&mut caches, 0, embed(tokens[next]));
            next += 1;
            if next == tokens.len() {
                tokens.push(pick(hidden));
                break;
            }
        }
    }
    tokens.split_off(prompt.len())
}

/// The layers that one node has loaded, by plan.
#[derive(Debug, Default)]
pub struct Engine {
    loaded: BTreeMap<PlanId, Loaded>,
}

#[derive(Debug)]
struct Loaded {
    layers: Range<u32>,
    sequences_max: usize,
    slots: BTreeMap<SequenceId, Slot>,
}

#[derive(Debug)]
struct Slot {
    rows_max: u32,
    /// The layers' caches before each row, and after the last.
    caches: Vec<Vec<u64>>,
    ended: bool,
}

impl Engine {
    /// Takes the layers of a stage in.
    pub fn install(&mut self, plan: &Plan, stage: u16) {
        let stage = &plan.stages[usize::from(stage)];
        self.loaded.insert(
            plan.id,
            Loaded {
                layers: stage.first..stage.end,
                sequences_max: plan.sequences as usize,
                slots: BTreeMap::new(),
            },
        );
    }

    /// Frees the layers of a plan.
    pub fn drop_layers(&mut self, plan: PlanId) {
        self.loaded.remove(&plan);
    }

    /// The plans whose layers are in memory.
    pub fn plans(&self) -> impl Iterator<Item = PlanId> {
        self.loaded.keys().copied()
    }

    /// Whether a layer is in memory for any plan.
    pub fn has(&self, layer: u32) -> bool {
        self.loaded
            .values()
            .any(|loaded| loaded.layers.contains(&layer))
    }

    /// How many layers of a plan are in memory.
    pub fn layers(&self, plan: PlanId) -> u32 {
        let loaded = self.loaded.get(&plan);
        loaded.map_or(0, |loaded| loaded.layers.end - loaded.layers.start)
    }

    /// Makes room for a sequence, which may start with the rows of another.
    ///
    /// # Panics
    /// When it has room already, nobody has, or the other has fewer rows.
    pub fn open(
        &mut self,
        plan: PlanId,
        sequence: SequenceId,
        rows_max: u32,
        prefix: Option<Prefix>,
    ) {
        let Some(loaded) = self.loaded.get_mut(&plan) else {
            return;
        };
        let caches = match prefix {
            None => vec![vec![0; loaded.layers.len()]],
            Some(prefix) => {
                let from = loaded.slots.get(&prefix.sequence).expect("it is kept");
                from.caches[..=prefix.rows as usize].to_vec()
            }
        };
        let ended = false;
        let slot = Slot {
            rows_max,
            caches,
            ended,
        };
        let old = loaded.slots.insert(sequence, slot);
        assert!(old.is_none(), "sequence {sequence} opened twice");
        let held = loaded.slots.values().filter(|slot| !slot.ended).count();
        assert!(held <= loaded.sequences_max, "{held} sequences on a stage");
    }

    /// Takes note that a sequence has ended; its rows stay.
    pub fn retain(&mut self, plan: PlanId, sequence: SequenceId) {
        let loaded = self.loaded.get_mut(&plan);
        if let Some(slot) = loaded.and_then(|loaded| loaded.slots.get_mut(&sequence)) {
            slot.ended = true;
        }
    }

    /// Frees a sequence's room.
    pub fn close(&mut self, plan: PlanId, sequence: SequenceId) {
        if let Some(loaded) = self.loaded.get_mut(&plan) {
            loaded.slots.remove(&sequence);
        }
    }

    /// Computes a pass.
    ///
    /// # Errors
    /// Layers or sequences that are not here.
    ///
    /// # Panics
    /// When a row comes twice or leaves a gap: stages must have seen to that.
    pub fn forward(&mut self, pass: &Pass) -> Result<PassOutput, String> {
        let loaded = self.loaded.get_mut(&pass.plan).ok_or("layers not loaded")?;
        let mut output = PassOutput {
            width: WIDTH,
            ..PassOutput::default()
        };
        for item in &pass.items {
            let span = item.span;
            let slot = loaded.slots.get_mut(&span.sequence).ok_or("no slot")?;
            let rows = slot.caches.len() - 1;
            assert_eq!(span.position as usize, rows, "a row twice, or a gap");
            let end = span.position + span.rows;
            assert!(end <= slot.rows_max, "more rows than opened for");
            let mut last = 0;
            for row in item.offset..item.offset + span.rows {
                let input = if loaded.layers.start == 0 {
                    let token = item.frame.tokens().nth(row as usize);
                    embed(token.expect("the stage checked the frame"))
                } else {
                    word(item.frame.payload(), row)
                };
                let mut caches = slot.caches.last().expect("starts with one").clone();
                last = run(&mut caches, loaded.layers.start, input);
                slot.caches.push(caches);
                if loaded.layers.end < LAYERS {
                    output.hidden.extend(floats(last));
                }
            }
            if loaded.layers.end == LAYERS && span.ask == Ask::Token {
                output.sampled.push(SampledToken {
                    sequence: span.sequence,
                    position: span.position + span.rows,
                    token: pick(last),
                    logprob: -1.0,
                });
            }
        }
        Ok(output)
    }
}

fn embed(token: u32) -> u64 {
    mix(u64::from(token) + 1)
}

/// One row through consecutive layers. Each mixes in all rows that it has seen before, as
/// attention does.
fn run(caches: &mut [u64], first: u32, input: u64) -> u64 {
    let mut hidden = input;
    for (layer, cache) in (u64::from(first)..).zip(caches) {
        let seen = *cache;
        *cache = mix(seen ^ hidden);
        hidden = mix(hidden ^ mix(layer) ^ seen);
    }
    hidden
}

fn pick(hidden: u64) -> u32 {
    u32::try_from(hidden % VOCABULARY).expect("a token id is small")
}

fn floats(word: u64) -> [f32; 4] {
    [0, 16, 32, 48].map(|shift| f32::from((word >> shift) as u16))
}

fn word(payload: &[f32], row: u32) -> u64 {
    let start = row as usize * WIDTH as usize;
    let numbers = &payload[start..start + WIDTH as usize];
    numbers
        .iter()
        .rev()
        .fold(0, |word, number| (word << 16) | *number as u64)
}
