//! The layers loaded on this node and the sequences in them: what a pass is computed with.
//!
//! Computes on the thread that it is called on, which may take seconds.

use std::collections::BTreeMap;

use cairn_engine::kernel::PAGE_POSITIONS;
use cairn_engine::{
    Batch, BatchSpan, EngineError, Input as Rows, LogitRows, Output, SamplerParams, Shard, SlotId,
    sample,
};
use cairn_machine::shard::{PAGE_ROWS, Pass, PassItem, PassOutput};
use cairn_wire::data::{Ask, Prefix, SampledToken, Sampling};
use cairn_wire::id::{PlanId, SequenceId};

use crate::library::chain;

const _: () = assert!(
    PAGE_ROWS as usize == PAGE_POSITIONS,
    "the machine counts the pages that the engine shares"
);

/// All of this node.
#[derive(Default)]
pub(crate) struct Stages(BTreeMap<PlanId, Stage>);

struct Stage {
    shard: Box<Shard>,
    sequences: BTreeMap<SequenceId, Held>,
}

struct Held {
    slot: SlotId,
    sampling: Sampling,
    /// The tokens of all rows so far: penalties look back at them.
    history: Vec<u32>,
}

/// Room that a sequence asks for.
pub(crate) struct Opening {
    pub(crate) sequence: SequenceId,
    pub(crate) rows_max: u32,
    pub(crate) sampling: Sampling,
    pub(crate) prefix: Option<Prefix>,
}

impl Stages {
    /// Loaded layers, ready to serve.
    pub(crate) fn install(&mut self, plan: PlanId, shard: Box<Shard>) {
        let sequences = BTreeMap::new();
        self.0.insert(plan, Stage { shard, sequences });
    }

    /// Frees everything of a plan.
    pub(crate) fn remove(&mut self, plan: PlanId) {
        self.0.remove(&plan);
    }

    /// Makes room for a sequence.
    pub(crate) fn open(&mut self, plan: PlanId, opening: Opening) {
        let sequence = opening.sequence;
        if let Some(stage) = self.0.get_mut(&plan)
            && let Err(error) = stage.open(opening)
        {
            // Its first pass will say that the sequence is not there.
            tracing::warn!(%sequence, %error, "no room for a sequence");
        }
    }

    /// Keeps a sequence's rows; it gets no more.
    pub(crate) fn retain(&mut self, plan: PlanId, sequence: SequenceId) {
        if let Some(stage) = self.0.get_mut(&plan)
            && let Some(held) = stage.sequences.get(&sequence)
        {
            stage.shard.retain(held.slot);
        }
    }

    /// Frees a sequence's room.
    pub(crate) fn close(&mut self, plan: PlanId, sequence: SequenceId) {
        if let Some(stage) = self.0.get_mut(&plan)
            && let Some(held) = stage.sequences.remove(&sequence)
        {
            stage.shard.close(held.slot);
        }
    }

    /// Wakes the threads that will compute a pass of this plan.
    pub(crate) fn rouse(&self, plan: PlanId) {
        if let Some(stage) = self.0.get(&plan) {
            stage.shard.rouse();
        }
    }

    /// Computes.
    ///
    /// # Errors
    /// What keeps it from that, in words.
    pub(crate) fn forward(&mut self, pass: &Pass) -> Result<PassOutput, String> {
        let stage = self.0.get_mut(&pass.plan);
        let stage = stage.ok_or("the layers of the plan are not loaded")?;
        stage.forward(pass).map_err(|error| match error {
            PassError::Closed(sequence) => format!("sequence {sequence} has no room here"),
            PassError::Engine(error) => chain(&error),
        })
    }

    /// Bytes that keys and values take.
    pub(crate) fn kv_bytes(&self) -> u64 {
        self.0.values().map(|stage| stage.shard.kv_bytes()).sum()
    }
}

enum PassError {
    Closed(SequenceId),
    Engine(EngineError),
}

impl From<EngineError> for PassError {
    fn from(error: EngineError) -> Self {
        PassError::Engine(error)
    }
}

impl Stage {
    fn open(&mut self, opening: Opening) -> Result<(), EngineError> {
        let Opening {
            sequence,
            rows_max,
            sampling,
            prefix,
        } = opening;
        let capacity = rows_max as usize;
        let earlier = prefix.and_then(|prefix| {
            let held = self.sequences.get(&prefix.sequence)?;
            Some((held, prefix.rows as usize))
        });
        // Should the earlier one be gone, the first pass finds a gap and says so.
        let (slot, history) = match earlier {
            None => (self.shard.open(capacity)?, Vec::new()),
            Some((held, rows)) => (
                self.shard.fork(held.slot, rows, capacity)?,
                held.history[..rows].to_vec(),
            ),
        };
        let held = Held {
            slot,
            sampling,
            history,
        };
        self.sequences.insert(sequence, held);
        Ok(())
    }

    fn forward(&mut self, pass: &Pass) -> Result<PassOutput, PassError> {
        let mut spans = Vec::with_capacity(pass.items.len());
        for item in &pass.items {
            let sequence = item.span.sequence;
            let held = self.sequences.get_mut(&sequence);
            let held = held.ok_or(PassError::Closed(sequence))?;
            spans.push(batch_span(item, held.slot));
        }
        let output = self.compute(pass, &spans)?;
        for item in &pass.items {
            let held = self.sequences.get_mut(&item.span.sequence);
            held.expect("found above").history.extend(item.tokens());
        }
        Ok(match output {
            Output::Hidden(hidden) => PassOutput {
                width: u32::try_from(self.shard.spec().width).expect("a width fits"),
                hidden,
                sampled: Vec::new(),
            },
            Output::Logits(mut logits) => PassOutput {
                width: 0,
                hidden: Vec::new(),
                sampled: self.sample(pass, &mut logits),
            },
        })
    }

    fn compute(&mut self, pass: &Pass, spans: &[BatchSpan]) -> Result<Output, EngineError> {
        if self.shard.layers().start == 0 {
            let tokens: Vec<u32> = pass.items.iter().flat_map(PassItem::tokens).collect();
            let input = Rows::Tokens(&tokens);
            self.shard.forward(&Batch { input, spans })
        } else {
            let rows: Vec<&[f32]> = pass.items.iter().map(PassItem::hidden).collect();
            let input = Rows::Hidden(&rows);
            self.shard.forward(&Batch { input, spans })
        }
    }

    /// One token for each item that asked, from its row of `logits` (rows, vocabulary).
    fn sample(&self, pass: &Pass, logits: &mut [f32]) -> Vec<SampledToken> {
        let asking = pass.items.iter().filter(|item| item.span.ask == Ask::Token);
        let rows = logits.chunks_mut(self.shard.spec().vocabulary);
        let mut tokens = Vec::new();
        for (item, row) in asking.zip(rows) {
            let span = item.span;
            let held = &self.sequences[&span.sequence];
            let position = span.position + span.rows;
            let params = sampler(&held.sampling);
            let sampled = sample(row, &params, position, &held.history);
            tokens.push(SampledToken {
                sequence: span.sequence,
                position,
                token: sampled.token,
                logprob: sampled.logprob,
            });
        }
        tokens
    }
}

fn batch_span(item: &PassItem, slot: SlotId) -> BatchSpan {
    BatchSpan {
        slot,
        position: item.span.position,
        rows: item.span.rows,
        logits: match item.span.ask {
            Ask::Nothing => LogitRows::None,
            Ask::Token => LogitRows::Last,
        },
    }
}

fn sampler(sampling: &Sampling) -> SamplerParams {
    SamplerParams {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        repetition_window: sampling.repetition_window as usize,
        seed: sampling.seed,
    }
}
