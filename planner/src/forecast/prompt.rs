//! A prompt's way through the stages: its chunks follow each other, stages of one machine share
//! its cores, and some may not use them all the time.

use std::collections::{BTreeMap, VecDeque};

use super::quota::Quota;
use crate::cost::{Costs, Cut, NEVER};
use crate::device::Sharing;

/// A stage works as fast as its device's figures say.
const FULL_PERMILLE: u64 = 1000;

/// The time until the driver has the first token: the chunks pass the stages, the head runs on
/// the last row, and the token goes home.
pub(super) fn first_token_nanos(costs: &Costs<'_>, cuts: &[Cut]) -> u64 {
    let (Some((first, _)), Some((last, _))) = (cuts.first(), cuts.last()) else {
        return 0;
    };
    let computed = Prompt::new(costs, cuts).passed_nanos();
    computed + costs.head_nanos(*last) + costs.leave_nanos(*last, *first)
}

/// A prompt under way.
struct Prompt<'a> {
    costs: &'a Costs<'a>,
    cuts: &'a [Cut],
    /// When the first stage has the first chunk.
    begin: u64,
    /// Rows of each chunk and of those before it.
    chunks: Vec<(u64, u64)>,
    stages: Vec<Stage>,
    /// Places of stages that share the cores of one machine.
    machines: Vec<Vec<usize>>,
}

/// A stage works on one chunk at a time, in order.
struct Stage {
    /// When each chunk arrives that has not left it; the first is in work or awaited.
    arrivals: VecDeque<u64>,
    /// Chunks that have left it.
    passed: usize,
    /// What the chunk in work still takes if nothing holds the stage up.
    remaining: Option<u64>,
    /// Where its time on the cores is limited.
    quota: Option<Quota>,
}

impl<'a> Prompt<'a> {
    fn new(costs: &'a Costs<'a>, cuts: &'a [Cut]) -> Self {
        let rows = u64::from(costs.request.prompt_tokens);
        let chunk = u64::from(costs.request.prefill_chunk_rows).max(1);
        let chunks = (0..rows.div_ceil(chunk)).map(|number| {
            let cached = number * chunk;
            (chunk.min(rows - cached), cached)
        });
        let chunks: Vec<(u64, u64)> = chunks.collect();
        let begin = costs.enter_nanos(cuts[0].0);
        let stage = |(device, layers): &Cut| {
            let nanos =
                |(rows, cached): &(u64, u64)| costs.prefill_nanos(*device, layers, *rows, *cached);
            let sharing = costs.devices[*device].detail.sharing;
            let limited = sharing.filter(|one| u64::from(one.burst_permille) > FULL_PERMILLE);
            Stage {
                arrivals: VecDeque::new(),
                passed: 0,
                remaining: None,
                quota: limited.map(|one| {
                    let work = chunks.iter().map(nanos).fold(0, u64::saturating_add);
                    Quota::rested(begin, one.burst_permille.into(), work)
                }),
            }
        };
        let mut stages: Vec<Stage> = cuts.iter().map(stage).collect();
        stages[0].arrivals = chunks.iter().map(|_| begin).collect();
        let mut machines: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (place, (device, _)) in cuts.iter().enumerate() {
            if let Some(sharing) = costs.devices[*device].detail.sharing {
                machines.entry(sharing.host).or_default().push(place);
            }
        }
        Self {
            costs,
            cuts,
            begin,
            chunks,
            stages,
            machines: machines.into_values().collect(),
        }
    }

    /// When the last stage is done with the last chunk. Goes from one moment at which a chunk
    /// arrives or is done, or a stage is stopped or let go, to the next; in between each stage
    /// keeps its pace.
    fn passed_nanos(mut self) -> u64 {
        let mut now = self.begin;
        loop {
            self.begin_chunks(now);
            let paces = self.paces();
            let events = self.stages.iter().zip(&paces);
            let events = events.filter_map(|(stage, pace)| stage.next_event(now, *pace));
            let Some(next) = events.min() else {
                return now;
            };
            if next >= NEVER {
                return NEVER;
            }
            for (place, pace) in paces.into_iter().enumerate() {
                self.work(place, now, next, pace);
            }
            now = next;
        }
    }

    /// Whoever has nothing in work takes what has arrived.
    fn begin_chunks(&mut self, now: u64) {
        for (stage, (device, layers)) in self.stages.iter_mut().zip(self.cuts) {
            let has_arrived = stage.arrivals.front().is_some_and(|at| *at <= now);
            if stage.remaining.is_none() && has_arrived {
                let (rows, cached) = self.chunks[stage.passed];
                let nanos = self.costs.prefill_nanos(*device, layers, rows, cached);
                stage.remaining = Some(nanos);
            }
        }
    }

    /// Lets a stage work from one moment to the next, and hand on what is done then.
    fn work(&mut self, place: usize, now: u64, next: u64, pace: u64) {
        let stage = &mut self.stages[place];
        let done = match stage.remaining {
            Some(remaining) => remaining.min(scaled(next - now, pace, FULL_PERMILLE)),
            None => 0,
        };
        if let Some(quota) = &mut stage.quota {
            quota.pass(next, done);
        }
        let Some(remaining) = stage.remaining else {
            return;
        };
        if remaining > done {
            stage.remaining = Some(remaining - done);
            return;
        }
        let (rows, _) = self.chunks[stage.passed];
        stage.remaining = None;
        stage.arrivals.pop_front();
        stage.passed += 1;
        if let Some((to, _)) = self.cuts.get(place + 1) {
            let way = self.costs.links.rows_nanos(self.cuts[place].0, *to, rows);
            let arrives = next.saturating_add(way);
            self.stages[place + 1].arrivals.push_back(arrives);
        }
    }

    /// How fast each stage works now, in thousandths of its figures: a machine deals its cores
    /// out alike to the threads of those that work and may.
    fn paces(&self) -> Vec<u64> {
        let paces = self.stages.iter().map(Stage::pace_max);
        let mut paces: Vec<u64> = paces.collect();
        for places in &self.machines {
            let sharing = |place: usize| self.costs.devices[self.cuts[place].0].detail.sharing;
            let works =
                |place: &&usize| self.stages[**place].remaining.is_some() && paces[**place] > 0;
            let working: Vec<(usize, Sharing)> = places
                .iter()
                .filter(works)
                .filter_map(|place| Some((*place, sharing(*place)?)))
                .collect();
            let threads = working
                .iter()
                .map(|(_, one)| u64::from(one.threads.min(one.host_cores)));
            let threads = threads.sum::<u64>().max(1);
            for (place, one) in working {
                let share = u64::from(one.host_cores) * FULL_PERMILLE / threads;
                paces[place] = (paces[place] * share.min(FULL_PERMILLE) / FULL_PERMILLE).max(1);
            }
        }
        paces
    }
}

impl Stage {
    /// How fast it may work now if it has the cores for itself.
    fn pace_max(&self) -> u64 {
        let quota = self.quota.as_ref();
        quota.map_or(FULL_PERMILLE, Quota::pace_max)
    }

    /// When something changes for it next, should nothing change for others.
    fn next_event(&self, now: u64, pace: u64) -> Option<u64> {
        let Some(remaining) = self.remaining else {
            return self.arrivals.front().copied();
        };
        let done_at = |nanos| match pace {
            0 => NEVER,
            _ => now.saturating_add(at_pace(nanos, pace)),
        };
        let done = done_at(remaining);
        Some(match &self.quota {
            Some(quota) => done.min(done_at(quota.left()).min(quota.period_ends())),
            None => done,
        })
    }
}

/// How long work takes that a stage does at this pace.
fn at_pace(nanos: u64, pace: u64) -> u64 {
    scaled(nanos, FULL_PERMILLE, pace)
}

/// Rounded up, so that whatever is left is done at its moment.
fn scaled(nanos: u64, by: u64, of: u64) -> u64 {
    let scaled = (u128::from(nanos) * u128::from(by)).div_ceil(u128::from(of.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
