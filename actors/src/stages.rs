//! The layers loaded on this node and the sequences in them: what a pass is computed with.
//!
//! Computes on the thread that it is called on; if that takes long, another thread serves the
//! runtime of that one meanwhile.

use std::collections::BTreeMap;
use std::time::Instant;

use cairn_engine::kernel::PAGE_POSITIONS;
use cairn_engine::{
    Batch, BatchSpan, Draw, EngineError, Input as Rows, LogitRows, Output, Sampled, SamplerParams,
    Shard, SlotId,
};
use cairn_machine::shard::{PAGE_ROWS, Pass, PassItem, PassOutput};
use cairn_wire::data::{Ask, Prefix, SampledToken, Sampling, Span};
use cairn_wire::id::{PlanId, SequenceId};

use crate::library::chain;
use crate::pace::{self, Pace};

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
    pace: Pace,
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
        let stage = Stage {
            shard,
            sequences: BTreeMap::new(),
            pace: Pace::default(),
        };
        self.0.insert(plan, stage);
    }

    /// Frees everything of a plan.
    pub(crate) fn remove(&mut self, plan: PlanId) {
        // Memory of the size of a model is given back.
        pace::run(false, || self.0.remove(&plan));
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

    /// Computes. Sequences that cannot be computed together are computed one by one, so that
    /// one at fault takes no other with it.
    ///
    /// # Errors
    /// What keeps it from computing any, in words.
    pub(crate) fn forward(&mut self, pass: &Pass) -> Result<PassOutput, String> {
        let stage = self.0.get_mut(&pass.plan);
        let stage = stage.ok_or("the layers of the plan are not loaded")?;
        let rows = pass.rows();
        let began = Instant::now();
        let is_brief = stage.pace.is_brief(rows);
        let result = pace::run(is_brief, || stage.forward_all(&pass.items));
        // What refuses its rows is soon done and tells nothing.
        if let Ok(output) = &result
            && output.failed.is_empty()
        {
            stage.pace.took(rows, began.elapsed());
        }
        result
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

impl PassError {
    fn words(&self) -> String {
        match self {
            PassError::Closed(sequence) => format!("sequence {sequence} has no room here"),
            PassError::Engine(error) => chain(error),
        }
    }
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

    fn forward_all(&mut self, items: &[PassItem]) -> Result<PassOutput, String> {
        match self.forward(items) {
            Ok(output) => Ok(output),
            // An error leaves all sequences as they were.
            Err(_) if items.len() > 1 => Ok(self.forward_each(items)),
            Err(error) => Err(error.words()),
        }
    }

    /// Each item by itself. The same rows give the same bits, whatever goes with them.
    fn forward_each(&mut self, items: &[PassItem]) -> PassOutput {
        let mut all = PassOutput::default();
        for item in items {
            match self.forward(std::slice::from_ref(item)) {
                Ok(one) => {
                    all.width = one.width;
                    all.hidden.extend(one.hidden);
                    all.sampled.extend(one.sampled);
                }
                Err(error) => all.failed.push((item.span.sequence, error.words())),
            }
        }
        all
    }

    fn forward(&mut self, items: &[PassItem]) -> Result<PassOutput, PassError> {
        let mut spans = Vec::with_capacity(items.len());
        for item in items {
            let sequence = item.span.sequence;
            let held = self.sequences.get_mut(&sequence);
            let held = held.ok_or(PassError::Closed(sequence))?;
            spans.push(batch_span(item, held.slot));
        }
        let output = self.compute(items, &spans)?;
        for item in items {
            let held = self.sequences.get_mut(&item.span.sequence);
            held.expect("found above").history.extend(item.tokens());
        }
        Ok(match output {
            Output::Hidden(hidden) => PassOutput {
                width: u32::try_from(self.shard.spec().width).expect("a width fits"),
                hidden,
                ..PassOutput::default()
            },
            Output::Logits(logits) => PassOutput {
                sampled: self.sample(items, logits),
                ..PassOutput::default()
            },
        })
    }

    fn compute(&mut self, items: &[PassItem], spans: &[BatchSpan]) -> Result<Output, EngineError> {
        if self.shard.layers().start == 0 {
            let tokens: Vec<u32> = items.iter().flat_map(PassItem::tokens).collect();
            let input = Rows::Tokens(&tokens);
            self.shard.forward(&Batch { input, spans })
        } else {
            let rows: Vec<&[f32]> = items.iter().map(PassItem::hidden).collect();
            let input = Rows::Hidden(&rows);
            self.shard.forward(&Batch { input, spans })
        }
    }

    /// One token for each item that asked, from its row of `logits` (rows, vocabulary).
    fn sample(&mut self, items: &[PassItem], logits: Vec<f32>) -> Vec<SampledToken> {
        let asking = items.iter().filter(|item| item.span.ask == Ask::Token);
        let spans: Vec<Span> = asking.map(|item| item.span).collect();
        let sequences = &self.sequences;
        let draw = |span: &Span| {
            let held = &sequences[&span.sequence];
            Draw {
                params: sampler(&held.sampling),
                position: span.position + span.rows,
                history: &held.history,
            }
        };
        let draws: Vec<Draw<'_>> = spans.iter().map(draw).collect();
        let sampled = self.shard.sample_each(logits, &draws);
        let token = |((span, draw), sampled): ((&Span, &Draw<'_>), Sampled)| SampledToken {
            sequence: span.sequence,
            position: draw.position,
            token: sampled.token,
            logprob: sampled.logprob,
        };
        spans.iter().zip(&draws).zip(sampled).map(token).collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_engine::fixtures::tiny_gguf;
    use cairn_engine::{ModelFile, ShardOptions};
    use cairn_machine::Tick;
    use cairn_wire::data::{DType, Rows as RowsHeader, Span};
    use cairn_wire::frame::RowsFrame;
    use cairn_wire::id::{NodeId, Term};

    use super::*;

    const PLAN: PlanId = PlanId {
        term: Term {
            number: 1,
            leader: NodeId([1; 32]),
        },
        epoch: 1,
    };

    fn sequence(number: u64) -> SequenceId {
        SequenceId {
            driver: NodeId([1; 32]),
            number,
        }
    }

    /// A whole tiny model, with sequences 1 to 3 open.
    fn stages(directory: &tempfile::TempDir) -> Stages {
        let path = directory.path().join("tiny.gguf");
        std::fs::write(&path, tiny_gguf(2)).expect("a file");
        let file = Arc::new(ModelFile::open(&path).expect("a model"));
        let options = ShardOptions::new(64, 1);
        let shard = Shard::load(&file, 0..2, &options, &mut |_| {}).expect("loads");
        let mut stages = Stages::default();
        stages.install(PLAN, Box::new(shard));
        for number in 1..=3 {
            let opening = Opening {
                sequence: sequence(number),
                rows_max: 32,
                sampling: Sampling::GREEDY,
                prefix: None,
            };
            stages.open(PLAN, opening);
        }
        stages
    }

    /// A pass with these tokens of each sequence, at the start.
    fn pass(rows: &[(u64, &[u32])]) -> Pass {
        let item = |(number, tokens): &(u64, &[u32])| {
            let span = Span {
                sequence: sequence(*number),
                position: 0,
                rows: u32::try_from(tokens.len()).expect("few"),
                ask: Ask::Token,
            };
            let header = RowsHeader {
                plan: PLAN,
                stage: 0,
                dtype: DType::F32,
                width: 0,
                spans: vec![span],
                tokens: tokens.to_vec(),
            };
            PassItem {
                span,
                frame: RowsFrame::build(&header, &[]),
                offset: 0,
                arrived: Tick(0),
            }
        };
        Pass {
            plan: PLAN,
            items: rows.iter().map(item).collect(),
            waited_millis: 0,
        }
    }

    #[test]
    fn a_sequence_at_fault_takes_no_other_with_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let fair = stages(&directory).forward(&pass(&[(1, &[5, 6, 7]), (3, &[8, 9])]));
        let fair = fair.expect("computed");
        assert_eq!(fair.sampled.len(), 2);
        assert_eq!(fair.failed, []);
        // A token that no vocabulary has, and a sequence that was never opened.
        for stranger in [(2, &[5, u32::MAX][..]), (4, &[5][..])] {
            let rows = [(1, &[5, 6, 7][..]), stranger, (3, &[8, 9])];
            let output = stages(&directory).forward(&pass(&rows)).expect("computed");
            assert_eq!(output.sampled, fair.sampled, "bit for bit");
            let failed: Vec<SequenceId> = output.failed.iter().map(|(id, _)| *id).collect();
            assert_eq!(failed, [sequence(stranger.0)]);
        }
        let mut alone = stages(&directory);
        assert!(alone.forward(&pass(&[(2, &[u32::MAX])])).is_err());
        assert!(!alone.0[&PLAN].pace.is_brief(1), "nothing was computed");
    }
}
