//! Runs layers of a model and times them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Workload;
use super::fit::{Amounts, Timings};
use crate::device::Device;
use crate::error::EngineError;
use crate::file::{LayerCosts, ModelFile};
use crate::kernel::bind_caller;
use crate::sample::{SamplerParams, sample};
use crate::shard::{
    Batch, BatchSpan, Input, LogitRows, Output, Shard, ShardOptions, SlotId, Threads,
};
use crate::stopwatch::{Clock, Stopwatch};

/// Rows are run one after the other for so long, and at least twice; the mean counts.
/// Short against what a system lets another program run for, so that a median over
/// several finds one that nobody disturbed.
const WINDOW: Duration = Duration::from_millis(20);
/// The same for the last layer and the head.
const WINDOW_SHORT: Duration = Duration::from_millis(4);
/// Between two rows. In service other stages have the row for some milliseconds: threads sleep
/// and cores rest meanwhile, and what comes next takes a quarter longer than without a pause.
/// A GPU has most often the whole model, and so no pause: it is measured without.
const PAUSE: Duration = Duration::from_millis(4);
/// A window is over when so many times as much has passed, pauses included: rows of small models
/// take no time beside them.
const WINDOWS_PASSED: u32 = 3;
/// Rows that a window may append late in a sequence.
const WINDOW_ROWS_MAX: usize = 64;

/// A sequence and the rows that it has before and after each timing.
#[derive(Clone, Copy)]
struct Place {
    slot: SlotId,
    rows: usize,
}

/// Two shards of one model: some layers, and the last layer with the head.
pub(super) struct Bench {
    body: Runner,
    tail: Runner,
    layers: Range<u32>,
    chunk_rows: usize,
    cached_rows: usize,
}

/// A shard and rows to run through it.
struct Runner {
    shard: Shard,
    clock: Clock,
    /// Before each row.
    pause: Duration,
    /// Time of the passes that were timed, and what of it this thread ran.
    passed: Duration,
    ran: Duration,
    capacity: usize,
    tokens: Vec<u32>,
    hidden: Vec<f32>,
}

impl Bench {
    pub(super) fn load(
        file: &Arc<ModelFile>,
        layers: Range<u32>,
        options: &ShardOptions,
        workload: &Workload,
    ) -> Result<Bench, EngineError> {
        let spec = file.spec();
        let chunk_rows = workload.chunk_rows.clamp(1, (spec.context_max / 4).max(1));
        let room = spec
            .context_max
            .saturating_sub(chunk_rows.max(WINDOW_ROWS_MAX));
        let cached_rows = workload.cached_rows.min(room).max(1);
        let capacity = (cached_rows + chunk_rows.max(WINDOW_ROWS_MAX)).min(spec.context_max);
        let options = ShardOptions {
            context: capacity,
            ..options.clone()
        };
        let rows = chunk_rows.max(1);
        let load = |layers| Runner::load(file, layers, &options, rows, workload.clock);
        let body = load(layers.clone())?;
        let tail = load(spec.layers - 1..spec.layers)?;
        // After the pools are made: threads inherit what this one is bound to.
        if options.binding == Threads::Pinned {
            bind_caller();
        }
        Ok(Bench {
            body,
            tail,
            layers,
            chunk_rows,
            cached_rows,
        })
    }

    /// What one run of everything amounts to.
    pub(super) fn amounts(&self, costs: &LayerCosts) -> Amounts {
        let layers = &costs.layers[self.layers.start as usize..self.layers.end as usize];
        let sum = |of: &dyn Fn(&crate::file::LayerCost) -> u64| -> f64 {
            layers.iter().map(of).sum::<u64>() as f64
        };
        Amounts {
            layers: layers.len() as f64,
            weight_bytes: sum(&|layer| layer.weight_bytes),
            weight_macs: sum(&|layer| layer.macs_per_row),
            cache_bytes: sum(&|layer| layer.kv_bytes_per_token),
            attention_macs: sum(&|layer| layer.attention_macs_per_row),
            head_bytes: costs.head_bytes as f64,
            chunk_rows: self.chunk_rows as f64,
            cached_rows: self.cached_rows as f64,
        }
    }

    /// Times everything in turns, so that a slow moment of the machine meets all alike.
    pub(super) fn run(&mut self, rounds: usize) -> Result<Timings, EngineError> {
        let mut taken: [Vec<f64>; 5] = Default::default();
        let (early, late) = (self.body.open(0)?, self.body.open(self.cached_rows)?);
        let alone = self.tail.open(0)?;
        // A model of a single layer has its head in the body, and the layer would leave out
        // what no row needs.
        let logits = match self.layers.end == self.tail.shard.layers().end {
            true => LogitRows::All,
            false => LogitRows::None,
        };
        for round in 0..=rounds {
            if round == 1 {
                for one in [&mut self.body, &mut self.tail] {
                    (one.passed, one.ran) = (Duration::ZERO, Duration::ZERO);
                }
            }
            let found = [
                self.body.rows(early, WINDOW, logits)?,
                self.body.rows(late, WINDOW, logits)?,
                self.tail.rows(alone, WINDOW_SHORT, LogitRows::Last)?,
                self.body.chunk(early, self.chunk_rows, logits)?,
                self.body.chunk(late, self.chunk_rows, logits)?,
            ];
            // The first finds cold caches, sleeping threads and pages never touched.
            if round > 0 || rounds == 0 {
                taken
                    .iter_mut()
                    .zip(found)
                    .for_each(|(all, one)| all.push(one));
            }
        }
        let sum = |of: fn(&Runner) -> Duration| (of(&self.body) + of(&self.tail)).as_secs_f64();
        let [passed, ran] = [sum(|one| one.passed), sum(|one| one.ran)];
        let [early, late, last, chunk_early, chunk_late] =
            taken.each_mut().map(|times| median(times));
        Ok(Timings {
            early,
            late,
            last,
            chunk_early,
            chunk_late,
            spread_permille: spread_permille(&taken[1]),
            // A share: clocks may differ a little.
            busy_permille: (ran / passed.max(1e-9) * 1e3).min(1e3) as u32,
        })
    }
}

impl Runner {
    fn load(
        file: &Arc<ModelFile>,
        layers: Range<u32>,
        options: &ShardOptions,
        rows: usize,
        clock: Clock,
    ) -> Result<Runner, EngineError> {
        let shard = Shard::load(file, layers, options, &mut |_| {})?;
        let spec = file.spec();
        let (vocabulary, width) = (spec.vocabulary, spec.width);
        // Any tokens and any rows of ordinary size do: no path depends on values.
        let tokens = (0..rows).map(|row| (row * 7919 % vocabulary) as u32);
        let hidden = (0..rows * width).map(|element| (element % 13) as f32 * 0.1 - 0.6);
        Ok(Runner {
            tokens: tokens.collect(),
            hidden: hidden.collect(),
            shard,
            clock,
            pause: match options.device {
                Device::Cpu => PAUSE,
                Device::Auto | Device::Cuda(_) | Device::Metal(_) => Duration::ZERO,
            },
            passed: Duration::ZERO,
            ran: Duration::ZERO,
            capacity: options.context,
        })
    }

    /// Opens a sequence of `rows` rows.
    fn open(&mut self, rows: usize) -> Result<Place, EngineError> {
        let slot = self.shard.open(self.capacity)?;
        let mut filled = 0;
        while filled < rows {
            let chunk = self.tokens.len().min(rows - filled);
            self.pass(slot, filled, chunk, LogitRows::None)?;
            filled += chunk;
        }
        Ok(Place { slot, rows })
    }

    /// Mean seconds of one row.
    fn rows(&mut self, at: Place, window: Duration, logits: LogitRows) -> Result<f64, EngineError> {
        let (mut taken, mut count) = (Duration::ZERO, 0);
        let all = Stopwatch::start(Clock::Wall);
        let is_over = |taken| taken >= window || all.elapsed() >= window * WINDOWS_PASSED;
        while count < WINDOW_ROWS_MAX && (count < 2 || !is_over(taken)) {
            std::thread::sleep(self.pause);
            taken += self.timed(at.slot, at.rows + count, 1, logits)?;
            count += 1;
        }
        self.shard.truncate(at.slot, at.rows);
        Ok(taken.as_secs_f64() / count as f64)
    }

    /// Seconds of a chunk.
    fn chunk(&mut self, at: Place, rows: usize, logits: LogitRows) -> Result<f64, EngineError> {
        let taken = self.timed(at.slot, at.rows, rows, logits)?;
        self.shard.truncate(at.slot, at.rows);
        Ok(taken.as_secs_f64())
    }

    fn timed(
        &mut self,
        slot: SlotId,
        position: usize,
        rows: usize,
        logits: LogitRows,
    ) -> Result<Duration, EngineError> {
        // A pool's watch waits before it tells, so it comes last.
        let watches = [Clock::Wall, Clock::Thread, self.clock].map(Stopwatch::start);
        self.pass(slot, position, rows, logits)?;
        let [passed, ran, taken] = watches.map(|watch| watch.elapsed());
        self.passed += passed;
        self.ran += ran;
        Ok(taken)
    }

    /// One pass as the engine's thread runs it, a greedy sample included where logits are
    /// wanted.
    fn pass(
        &mut self,
        slot: SlotId,
        position: usize,
        rows: usize,
        logits: LogitRows,
    ) -> Result<(), EngineError> {
        let span = BatchSpan {
            slot,
            position: position as u32,
            rows: rows as u32,
            logits,
        };
        let width = self.shard.spec().width;
        let hidden: [&[f32]; 1] = [&self.hidden[..rows * width]];
        let input = match self.shard.layers().start {
            0 => Input::Tokens(&self.tokens[..rows]),
            _ => Input::Hidden(&hidden),
        };
        let spans = [span];
        let output = self.shard.forward(&Batch {
            input,
            spans: &spans,
        })?;
        if let Output::Logits(mut logits) = output
            && !logits.is_empty()
        {
            std::hint::black_box(sample(&mut logits, &SamplerParams::greedy(), 0, &[]));
        }
        Ok(())
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The middle half of sorted times, in thousandths of the median.
fn spread_permille(sorted: &[f64]) -> u32 {
    let at = |quarter: usize| sorted[(sorted.len() - 1) * quarter / 4];
    let spread = (at(3) - at(1)) / at(2).max(1e-12) * 1e3;
    // A share of a time: small, never negative.
    spread.min(1e6) as u32
}
