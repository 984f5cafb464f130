//! The engine's own thread: everything that computes, in the order it was ordered.
//!
//! Never a tokio worker: a pass may take seconds, a heartbeat must not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

use cairn_engine::kernel::{PAGE_POSITIONS, bind_caller};
use cairn_engine::{
    Batch, BatchSpan, EngineError, Input as Rows, LogitRows, Output, SamplerParams, Shard, SlotId,
    Threads, sample,
};
use cairn_machine::shard::{Input, PAGE_ROWS, Pass, PassItem, PassOutput};
use cairn_wire::data::{Ask, Prefix, SampledToken, Sampling};
use cairn_wire::id::{PlanId, SequenceId};

use crate::gauges::PassStart;
use crate::library::chain;
use crate::wiring::Wiring;

const _: () = assert!(
    PAGE_ROWS as usize == PAGE_POSITIONS,
    "the machine counts the pages that the engine shares"
);

/// Orders for the engine's thread. The machine has one pass under way at most, so the queue is short.
pub(crate) enum Job {
    /// Loaded layers, ready to serve.
    Install { plan: PlanId, shard: Box<Shard> },
    /// Free everything of a plan.
    Drop { plan: PlanId },
    /// Make room for a sequence.
    Open {
        plan: PlanId,
        sequence: SequenceId,
        rows_max: u32,
        sampling: Sampling,
        prefix: Option<Prefix>,
    },
    /// Keep a sequence's rows; it gets no more.
    Retain { plan: PlanId, sequence: SequenceId },
    /// Free a sequence's room.
    Close { plan: PlanId, sequence: SequenceId },
    /// Compute.
    Forward(Pass),
}

/// The way to the engine's thread; it ends with the last clone.
#[derive(Clone)]
pub(crate) struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(wiring: Arc<Wiring>, binding: Threads) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("cairn-engine".to_owned())
            .spawn(move || {
                if binding == Threads::Pinned {
                    bind_caller();
                }
                Engine::new(wiring).run(&queue);
            })?;
        Ok(Self { jobs })
    }

    pub(crate) fn order(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            // The thread has panicked and said so; the node is on its way down.
            tracing::debug!("the engine's thread is gone");
        }
    }
}

struct Engine {
    wiring: Arc<Wiring>,
    stages: BTreeMap<PlanId, Stage>,
}

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

impl Engine {
    fn new(wiring: Arc<Wiring>) -> Self {
        Self {
            wiring,
            stages: BTreeMap::new(),
        }
    }

    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        // A panic in the engine must not leave a node that looks alive.
        let wiring = Arc::clone(&self.wiring);
        let work = std::panic::AssertUnwindSafe(|| {
            while let Ok(job) = queue.recv() {
                self.take(job);
            }
        });
        if std::panic::catch_unwind(work).is_err() {
            wiring.fail("the engine's thread panicked".to_owned());
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Install { plan, shard } => {
                let sequences = BTreeMap::new();
                self.stages.insert(plan, Stage { shard, sequences });
            }
            Job::Drop { plan } => {
                drop(self.stages.remove(&plan));
                self.wiring.gauges.dropped(plan);
            }
            Job::Open {
                plan,
                sequence,
                rows_max,
                sampling,
                prefix,
            } => {
                if let Some(stage) = self.stages.get_mut(&plan)
                    && let Err(error) = stage.open(sequence, rows_max, sampling, prefix)
                {
                    // Its first pass will say that the sequence is not there.
                    tracing::warn!(%sequence, %error, "no room for a sequence");
                }
            }
            Job::Retain { plan, sequence } => {
                if let Some(stage) = self.stages.get_mut(&plan)
                    && let Some(held) = stage.sequences.get(&sequence)
                {
                    stage.shard.retain(held.slot);
                }
            }
            Job::Close { plan, sequence } => {
                if let Some(stage) = self.stages.get_mut(&plan)
                    && let Some(held) = stage.sequences.remove(&sequence)
                {
                    stage.shard.close(held.slot);
                }
            }
            Job::Forward(pass) => {
                let plan = pass.plan;
                let start = PassStart::from(&pass);
                let started = Instant::now();
                let result = self.forward(pass);
                self.wiring.gauges.forward(start, started.elapsed());
                self.wiring.to_shard(Input::PassDone { plan, result });
            }
        }
        self.tell_memory();
    }

    fn forward(&mut self, pass: Pass) -> Result<PassOutput, String> {
        let stage = self
            .stages
            .get_mut(&pass.plan)
            .ok_or("the layers of the plan are not loaded")?;
        stage.forward(&pass).map_err(|error| match error {
            PassError::Closed(sequence) => format!("sequence {sequence} has no room here"),
            PassError::Engine(error) => chain(&error),
        })
    }

    fn tell_memory(&self) {
        let kv_bytes = |stage: &Stage| stage.shard.kv_bytes();
        let kv = self.stages.values().map(kv_bytes).sum();
        self.wiring.gauges.kv_bytes.store(kv, Ordering::Relaxed);
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
    fn open(
        &mut self,
        sequence: SequenceId,
        rows_max: u32,
        sampling: Sampling,
        prefix: Option<Prefix>,
    ) -> Result<(), EngineError> {
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
