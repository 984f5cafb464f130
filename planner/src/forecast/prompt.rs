//! A prompt's way through the stages: its chunks follow each other, and stages of one machine
//! share its cores.

use std::collections::{BTreeMap, VecDeque};

use crate::cost::{Costs, Cut, NEVER};
use crate::device::Sharing;

/// Nothing holds a stage up.
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
    /// Rows of each chunk and of those before it.
    chunks: Vec<(u64, u64)>,
    stages: Vec<Stage>,
    /// Places of stages that share the cores of one machine.
    machines: Vec<Vec<usize>>,
}

/// A stage works on one chunk at a time, in order.
#[derive(Default)]
struct Stage {
    /// When each chunk arrives that has not left it; the first is in work or awaited.
    arrivals: VecDeque<u64>,
    /// Chunks that have left it.
    passed: usize,
    /// What the chunk in work still takes if nothing holds the stage up.
    remaining: Option<u64>,
}

impl<'a> Prompt<'a> {
    fn new(costs: &'a Costs<'a>, cuts: &'a [Cut]) -> Self {
        let rows = u64::from(costs.request.prompt_tokens);
        let chunk = u64::from(costs.request.prefill_chunk_rows).max(1);
        let chunks = (0..rows.div_ceil(chunk)).map(|number| {
            let cached = number * chunk;
            (chunk.min(rows - cached), cached)
        });
        let mut machines: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (place, (device, _)) in cuts.iter().enumerate() {
            if let Some(sharing) = costs.devices[*device].detail.sharing {
                machines.entry(sharing.host).or_default().push(place);
            }
        }
        Self {
            costs,
            cuts,
            chunks: chunks.collect(),
            stages: cuts.iter().map(|_| Stage::default()).collect(),
            machines: machines.into_values().collect(),
        }
    }

    /// When the last stage is done with the last chunk. Goes from one moment at which a chunk
    /// arrives or is done to the next; in between each stage keeps its pace.
    fn passed_nanos(mut self) -> u64 {
        let begin = self.costs.enter_nanos(self.cuts[0].0);
        self.stages[0].arrivals = self.chunks.iter().map(|_| begin).collect();
        let mut now = begin;
        loop {
            self.begin_chunks(now);
            let paces = self.paces();
            let events = self.stages.iter().zip(&paces);
            let events = events.filter_map(|(stage, pace)| match stage.remaining {
                Some(nanos) => Some(now.saturating_add(at_pace(nanos, *pace))),
                None => stage.arrivals.front().copied(),
            });
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
        let Some(remaining) = stage.remaining else {
            return;
        };
        let passed = next - now;
        if at_pace(remaining, pace) > passed {
            stage.remaining = Some(remaining - scaled(passed, pace, FULL_PERMILLE));
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

    /// How fast each stage works now, in thousandths: a machine deals its cores out to the
    /// threads of those that work, alike, and none gets more than it may use.
    fn paces(&self) -> Vec<u64> {
        let mut paces = vec![FULL_PERMILLE; self.stages.len()];
        for places in self.machines.iter().filter(|places| places.len() > 1) {
            let works = |place: &&usize| self.stages[**place].remaining.is_some();
            let mut working: Vec<(u64, usize, Sharing)> = places
                .iter()
                .filter(works)
                .filter_map(|place| {
                    let device = self.costs.devices[self.cuts[*place].0];
                    let sharing = device.detail.sharing?;
                    Some((limit_permille(&sharing), *place, sharing))
                })
                .collect();
            working.sort_unstable_by_key(|(limit, place, _)| (*limit, *place));
            let threads = |sharing: &Sharing| u64::from(sharing.threads.min(sharing.host_cores));
            let mut threads_left: u64 = working.iter().map(|(.., one)| threads(one)).sum();
            let cores = working.first().map_or(0, |(.., one)| one.host_cores);
            let mut cores_left = u64::from(cores) * FULL_PERMILLE;
            for (limit, place, sharing) in working {
                let share = limit.min(cores_left / threads_left.max(1)).max(1);
                cores_left = cores_left.saturating_sub(share * threads(&sharing));
                threads_left -= threads(&sharing);
                paces[place] = (share * FULL_PERMILLE / limit).max(1);
            }
        }
        paces
    }
}

/// What of a core's time each of a device's threads may use in the long run, in thousandths.
fn limit_permille(sharing: &Sharing) -> u64 {
    (FULL_PERMILLE * FULL_PERMILLE / u64::from(sharing.burst_permille.max(1000))).max(1)
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
