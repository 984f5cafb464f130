//! One sequence through consecutive stages, each with its own open file, as on separate nodes.
//!
//! Checks nothing about the stages: tests build broken chains with it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cairn_engine::{
    Batch, BatchSpan, CacheFormat, Input, LogitRows, ModelFile, Output, Shard, ShardOptions, SlotId,
};

/// Rows that a sequence may have.
const CONTEXT: usize = 4352;

pub(crate) struct Chain {
    stages: Vec<(Shard, SlotId)>,
    position: u32,
}

impl Chain {
    /// All layers in one stage.
    pub(crate) fn whole(path: &Path, cache: CacheFormat) -> Chain {
        Chain::load(path, &[0..super::LAYERS], cache)
    }

    /// A stage for each of these ranges of layers.
    pub(crate) fn load(path: &Path, stages: &[Range<u32>], cache: CacheFormat) -> Chain {
        let stage = |layers: &Range<u32>| {
            // Shards of one open file share layers that both have; nodes cannot.
            let file = Arc::new(ModelFile::open(path).expect("a readable model"));
            let options = ShardOptions {
                cache,
                // Tests run beside each other, and threads do not change a bit.
                ..ShardOptions::new(CONTEXT, 1)
            };
            let mut shard =
                Shard::load(&file, layers.clone(), &options, &mut |_| {}).expect("a stage loads");
            let slot = shard.open(CONTEXT).expect("a sequence opens");
            (shard, slot)
        };
        Chain {
            stages: stages.iter().map(stage).collect(),
            position: 0,
        }
    }

    /// Appends tokens to the sequence; the logits of the `wanted` rows.
    pub(crate) fn advance(&mut self, tokens: &[u32], wanted: LogitRows) -> Vec<f32> {
        let rows = u32::try_from(tokens.len()).expect("a short text");
        let mut hidden = Vec::new();
        for (shard, slot) in &mut self.stages {
            let slices = [&hidden[..]];
            let input = match shard.layers().start {
                0 => Input::Tokens(tokens),
                _ => Input::Hidden(&slices),
            };
            let spans = [BatchSpan {
                slot: *slot,
                position: self.position,
                rows,
                logits: wanted,
            }];
            let batch = Batch {
                input,
                spans: &spans,
            };
            match shard.forward(&batch).expect("a good batch") {
                Output::Hidden(rows) => hidden = rows,
                Output::Logits(logits) => {
                    self.position += rows;
                    return logits;
                }
            }
        }
        panic!("the last stage gives logits");
    }
}
