use std::io::Write;
use std::sync::Arc;

use super::*;
use crate::fixtures::{TensorType, TinyModel};
use crate::spec::Tied;

mod golden;
#[cfg(feature = "cuda")]
mod gpu;
mod invariance;
mod prefix;
mod refusals;

/// Opens a model file made up in memory.
fn model(bytes: &[u8]) -> Arc<ModelFile> {
    Arc::new(try_model(bytes).expect("a good file"))
}

fn try_model(bytes: &[u8]) -> Result<ModelFile, EngineError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    // The open file outlives its name, as a mapped model outlives a deleted one.
    ModelFile::open(file.path())
}

fn options(path: ComputePath) -> ShardOptions {
    ShardOptions {
        path,
        ..ShardOptions::new(64, 1)
    }
}

fn shard(file: &Arc<ModelFile>, layers: Range<u32>, options: &ShardOptions) -> Shard {
    Shard::load(file, layers, options, &mut |_| {}).expect("loads")
}

const PATHS: [ComputePath; 2] = [ComputePath::Portable, ComputePath::Auto];

/// Runs spans of one sequence each through consecutive shards.
struct Pipeline {
    shards: Vec<Shard>,
    slots: Vec<Vec<SlotId>>,
}

/// A span by sequence number, before it has a slot.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    sequence: usize,
    position: u32,
    tokens: &'a [u32],
}

impl Pipeline {
    /// Shards that end at each of `cuts`, with `sequences` sequences open.
    fn new(
        file: &Arc<ModelFile>,
        cuts: &[u32],
        options: &ShardOptions,
        sequences: usize,
    ) -> Pipeline {
        let mut first = 0;
        let mut shards = Vec::new();
        let mut slots = Vec::new();
        for &end in cuts {
            let mut shard = shard(file, first..end, options);
            slots.push(
                (0..sequences)
                    .map(|_| shard.open(options.context).unwrap())
                    .collect(),
            );
            shards.push(shard);
            first = end;
        }
        Pipeline { shards, slots }
    }

    /// All logits of one batch.
    fn run(&mut self, parts: &[Part<'_>]) -> Vec<f32> {
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let width = self.shards[0].spec().width;
        let mut hidden = Vec::new();
        for (shard, slots) in self.shards.iter_mut().zip(&self.slots) {
            let spans: Vec<BatchSpan> = parts
                .iter()
                .map(|part| BatchSpan {
                    slot: slots[part.sequence],
                    position: part.position,
                    rows: part.tokens.len() as u32,
                    logits: LogitRows::All,
                })
                .collect();
            let mut rest: &[f32] = &hidden;
            let mut slices = Vec::new();
            if shard.layers().start > 0 {
                for part in parts {
                    let (mine, others) = rest.split_at(part.tokens.len() * width);
                    slices.push(mine);
                    rest = others;
                }
            }
            let input = match shard.layers().start {
                0 => Input::Tokens(&tokens),
                _ => Input::Hidden(&slices),
            };
            let batch = Batch {
                input,
                spans: &spans,
            };
            match shard.forward(&batch).expect("a good batch") {
                Output::Logits(logits) => return logits,
                Output::Hidden(rows) => hidden = rows,
            }
        }
        panic!("the last shard gives logits");
    }
}

fn tokens(count: usize, seed: u64, vocabulary: usize) -> Vec<u32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 33) % vocabulary as u64) as u32
        })
        .collect()
}
