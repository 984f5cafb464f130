//! How long a stage takes for one decode row, over the last seconds.
//!
//! Only passes of exactly one row count: a pass of several streams' rows says little about
//! what one of them costs. The figure is the median of each second's mean. A plain median
//! would not see a quota, which lets nine passes through and then stops the tenth for as
//! long as all of them; a plain mean would take one hiccup for six seconds of slowness.

use std::collections::{BTreeMap, VecDeque};

use cairn_wire::control::StageSeen;
use cairn_wire::id::PlanId;

use crate::Tick;

/// Passes longer ago say nothing about now.
const WINDOW_MILLIS: u64 = 6_000;
/// What is averaged before the median is taken.
const SLICE_MILLIS: u64 = 1_000;
/// Fewer passes are no measurement: the one that proves a plan finds everything cold.
const PASSES_MIN: u64 = 3;

/// Times of this node's stages, by plan.
#[derive(Debug, Default)]
pub struct StageTimes {
    stages: BTreeMap<PlanId, VecDeque<Slice>>,
}

/// The passes of one second.
#[derive(Clone, Copy, Debug)]
struct Slice {
    number: u64,
    passes: u64,
    micros: u64,
    waited_micros: u64,
}

impl StageTimes {
    /// A pass of one row took so long, after the row had waited for the engine.
    pub fn decoded(&mut self, now: Tick, plan: PlanId, micros: u64, waited_micros: u64) {
        let number = now.0 / SLICE_MILLIS;
        let slices = self.stages.entry(plan).or_default();
        slices.retain(|slice| is_recent(slice, number));
        if slices.back().is_none_or(|last| last.number != number) {
            slices.push_back(Slice {
                number,
                passes: 0,
                micros: 0,
                waited_micros: 0,
            });
        }
        let slice = slices.back_mut().expect("one is there or was just added");
        slice.passes += 1;
        slice.micros = slice.micros.saturating_add(micros);
        slice.waited_micros = slice.waited_micros.saturating_add(waited_micros);
    }

    /// The layers of a plan are gone.
    pub fn forget(&mut self, plan: PlanId) {
        self.stages.remove(&plan);
    }

    /// The newest plan that was seen to decode, and how it went; nothing when none did lately.
    pub fn seen(&self, now: Tick) -> Option<StageSeen> {
        let number = now.0 / SLICE_MILLIS;
        let mut newest_first = self.stages.iter().rev();
        newest_first.find_map(|(plan, slices)| {
            let recent: Vec<Slice> = slices
                .iter()
                .filter(|slice| is_recent(slice, number))
                .copied()
                .collect();
            let passes: u64 = recent.iter().map(|slice| slice.passes).sum();
            (passes >= PASSES_MIN).then(|| StageSeen {
                plan: *plan,
                decode_micros: middle(&recent, |slice| slice.micros).max(1),
                queue_wait_micros: middle(&recent, |slice| slice.waited_micros),
            })
        })
    }
}

fn is_recent(slice: &Slice, now: u64) -> bool {
    now.saturating_sub(slice.number) < WINDOW_MILLIS / SLICE_MILLIS
}

/// The median of the slices' means; of two in the middle the lower.
fn middle(slices: &[Slice], sum: impl Fn(&Slice) -> u64) -> u64 {
    let mut means: Vec<u64> = slices.iter().map(|one| sum(one) / one.passes).collect();
    means.sort_unstable();
    means[(means.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::plan_id;

    #[test]
    fn a_figure_goes_stale_when_traffic_stops() {
        let mut times = StageTimes::default();
        for pass in 0..100 {
            times.decoded(Tick(pass * 50), plan_id(1), 2_000, 10);
        }
        let seen = times.seen(Tick(5_000)).expect("a hundred passes");
        assert_eq!((seen.decode_micros, seen.queue_wait_micros), (2_000, 10));
        assert_eq!(times.seen(Tick(16_000)), None);
    }

    #[test]
    fn the_token_that_proves_a_plan_is_no_measurement() {
        let mut times = StageTimes::default();
        for pass in 0..10 {
            times.decoded(Tick(pass * 50), plan_id(1), 2_000, 0);
        }
        times.decoded(Tick(600), plan_id(2), 90_000, 0);
        assert_eq!(
            times.seen(Tick(700)).map(|seen| seen.plan),
            Some(plan_id(1))
        );
        for pass in 0..3 {
            times.decoded(Tick(800 + pass), plan_id(2), 1_000, 0);
        }
        assert_eq!(
            times.seen(Tick(900)).map(|seen| seen.plan),
            Some(plan_id(2))
        );
        times.forget(plan_id(2));
        assert_eq!(
            times.seen(Tick(900)).map(|seen| seen.plan),
            Some(plan_id(1))
        );
    }

    #[test]
    fn a_hiccup_is_not_seen_and_a_quota_is() {
        let mut hiccup = StageTimes::default();
        let mut quota = StageTimes::default();
        for pass in 0..1_000 {
            let now = Tick(pass * 10);
            let once = if pass == 500 { 800_000 } else { 2_000 };
            hiccup.decoded(now, plan_id(1), once, 0);
            let stopped = if pass % 10 == 9 { 72_000 } else { 2_000 };
            quota.decoded(now, plan_id(1), stopped, 0);
        }
        let micros = |times: &StageTimes| times.seen(Tick(9_999)).map(|seen| seen.decode_micros);
        assert_eq!(micros(&hiccup), Some(2_000));
        assert_eq!(micros(&quota), Some(9_000));
    }

    #[test]
    fn a_lasting_change_is_seen_within_the_window() {
        let mut times = StageTimes::default();
        for pass in 0..1_000 {
            let micros = if pass < 500 { 2_000 } else { 8_000 };
            times.decoded(Tick(pass * 20), plan_id(1), micros, 0);
        }
        let at = |millis| {
            let mut times = StageTimes::default();
            for pass in 0..millis / 20 {
                let micros = if pass < 500 { 2_000 } else { 8_000 };
                times.decoded(Tick(pass * 20), plan_id(1), micros, 0);
            }
            times.seen(Tick(millis)).map(|seen| seen.decode_micros)
        };
        assert_eq!(at(10_000), Some(2_000));
        assert_eq!(at(17_000), Some(8_000));
    }
}
