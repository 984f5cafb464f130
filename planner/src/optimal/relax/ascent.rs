//! Finds the penalties under which the relaxation bounds best.
//!
//! Integer subgradient steps of Polyak's length, from prices that a knapsack sets.

use std::ops::Range;

use super::{Relaxation, Relaxed};
use crate::cost::NEVER;

/// Elementary operations for all rounds of an ascent: a tenth of a second or so.
const WORK_MAX: usize = 200_000_000;
const ROUNDS_MAX: usize = 160;
/// Rounds without a better bound before steps are shortened by a fifth.
const PATIENCE: usize = 4;
/// Steps start at Polyak's length and end at a hundredth of it.
const LENGTH_MAX: u64 = 1000;
const LENGTH_MIN: u64 = 10;
/// Routes are mended into plans in one round of so many.
const REPAIR_EVERY: usize = 4;
/// A price per unit of work carries this many fractional bits.
const FRACTION_BITS: u32 = 32;

impl Relaxation<'_, '_> {
    /// Penalties to start from: what a device's room is worth when work is dealt out to
    /// the cheapest devices first. They are the dual of a fractional knapsack, and the
    /// best penalties lie near.
    pub(super) fn appraise(&mut self) {
        let layers = self.costs.layer_count;
        let count = self.devices.len();
        let mut offers: Vec<(u128, u64, u64, usize)> = Vec::new();
        for (place, device) in self.devices.iter().enumerate() {
            let ranges = (0..layers).map(|start| start..self.arcs.ends(place, start).end - 1);
            let ranges = ranges.filter(|range| !range.is_empty());
            let rooms = ranges.map(|range| (self.costs.least_nanos(&range), range));
            let Some((room, range)) = rooms.max_by_key(|(room, range)| (*room, range.start)) else {
                continue;
            };
            let hop = (0..count).map(|from| self.hops[from * count + place]).min();
            let time = self.costs.decode_nanos(*device, &range) + hop.unwrap_or(0).min(NEVER);
            let rate = (u128::from(time) << FRACTION_BITS) / u128::from(room.max(1));
            offers.push((rate, room, time, place));
        }
        offers.sort_unstable();
        let mut left = self.costs.least_nanos(&(0..layers));
        let mut price = 0;
        for (rate, room, _, _) in &offers {
            price = *rate;
            if left <= *room {
                break;
            }
            left -= room;
        }
        for (_, room, time, place) in offers {
            let worth = price.saturating_mul(room.into()) >> FRACTION_BITS;
            let worth = u64::try_from(worth).unwrap_or(NEVER);
            self.penalties[place] = worth.saturating_sub(time).min(PENALTY_MAX);
        }
    }

    /// Ascends towards the best bound below `best`, the cost of a known plan. Starts
    /// from the present penalties and ends with the best ones in place.
    pub(super) fn ascend(&mut self, best: &mut u64) -> Relaxed {
        let work = self.arcs.count() + self.devices.len() * self.costs.layer_count * self.breadth();
        let rounds = (WORK_MAX / work.max(1)).clamp(1, ROUNDS_MAX);
        let mut found: Option<Relaxed> = None;
        let mut plan = None;
        let (mut length, mut idle) = (LENGTH_MAX, 0);
        for round in 0..rounds {
            self.sweep();
            let bound = self.bound();
            let route = self.route();
            if round % REPAIR_EVERY == 0
                && let Some(cuts) = self.repair(&route)
            {
                let nanos = self.costs.latency_nanos(&cuts);
                if nanos < *best {
                    *best = nanos;
                    plan = Some(cuts);
                }
            }
            if found.as_ref().is_none_or(|found| bound > found.bound_nanos) {
                found = Some(self.snapshot(bound));
                idle = 0;
            } else {
                idle += 1;
            }
            if idle == PATIENCE {
                idle = 0;
                length = length * 4 / 5;
            }
            if bound >= *best || length < LENGTH_MIN || !self.step(&route, *best - bound, length) {
                break;
            }
        }
        let found = found.expect("there is at least one round");
        self.penalties.clone_from(&found.penalties);
        Relaxed { plan, ..found }
    }

    fn snapshot(&self, bound_nanos: u64) -> Relaxed {
        Relaxed {
            penalties: self.penalties.clone(),
            to_go: self.to_go.clone(),
            bound_nanos,
            plan: None,
        }
    }

    /// Moves penalties towards one use per device; false when nothing would change.
    /// `length` is in thousandths of Polyak's.
    fn step(&mut self, route: &[(usize, Range<usize>)], gap: u64, length: u64) -> bool {
        let mut excess: Vec<i64> = vec![-1; self.devices.len()];
        for (place, _) in route {
            excess[*place] += 1;
        }
        for (excess, penalty) in excess.iter_mut().zip(&self.penalties) {
            if *penalty == 0 && *excess < 0 {
                *excess = 0;
            }
        }
        let square: i64 = excess.iter().map(|excess| excess * excess).sum();
        if square == 0 {
            return false;
        }
        let gap = i64::try_from(gap.min(PENALTY_MAX) * length / LENGTH_MAX).unwrap_or(i64::MAX);
        let step = gap / square;
        if step == 0 {
            return false;
        }
        for (penalty, excess) in self.penalties.iter_mut().zip(excess) {
            let moved = penalty.saturating_add_signed(step.saturating_mul(excess));
            *penalty = moved.min(PENALTY_MAX);
        }
        true
    }
}

/// Low enough that a penalty for every device still sums up below [`NEVER`].
const PENALTY_MAX: u64 = NEVER >> 8;
