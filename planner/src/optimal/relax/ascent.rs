//! Finds the penalties under which the relaxation bounds best.
//!
//! Integer subgradient steps of Polyak's length, from prices that a knapsack sets.

use super::super::prices::{LENGTH_MAX, PENALTY_MAX, Prices};
use super::Relaxation;
use crate::cost::{Cut, NEVER};

/// Elementary operations for all rounds of an ascent: a tenth of a second or so.
const WORK_MAX: usize = 200_000_000;
/// Rounds before each trimming.
const ROUNDS_MAX: usize = 40;
/// Rounds without a better bound before steps are shortened by a fifth.
const PATIENCE: usize = 4;
/// Steps start at Polyak's length and end at a hundredth of it.
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
            self.prices.0[place] = worth.saturating_sub(time).min(PENALTY_MAX);
        }
    }

    /// Ascends towards the best bound below `best`, the cost of a known plan, and leaves
    /// the best penalties in place.
    pub(super) fn ascend(&mut self, ascent: &mut Ascent, best: &mut u64) {
        let work = self.arcs.count() + self.devices.len() * self.costs.layer_count * self.breadth();
        let rounds = (WORK_MAX / work.max(1)).clamp(1, ROUNDS_MAX);
        ascent.length = LENGTH_MAX;
        let mut idle = 0;
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
                    ascent.plan = Some(cuts);
                }
            }
            if bound > ascent.bound_nanos {
                ascent.bound_nanos = bound;
                ascent.prices.clone_from(&self.prices);
                idle = 0;
            } else {
                idle += 1;
            }
            if idle == PATIENCE {
                idle = 0;
                ascent.length = ascent.length * 4 / 5;
            }
            if bound >= *best || ascent.length < LENGTH_MIN {
                break;
            }
            let uses = route.iter().map(|(place, _)| *place);
            if !self.prices.step(uses, *best - bound, ascent.length) {
                break;
            }
        }
        self.prices.clone_from(&ascent.prices);
    }
}

/// How far an ascent got.
pub(super) struct Ascent {
    /// No plan costs less.
    pub(super) bound_nanos: u64,
    /// The penalties that gave that bound.
    prices: Prices,
    /// The best plan met on the way.
    pub(super) plan: Option<Vec<Cut>>,
    length: u64,
}

impl Ascent {
    pub(super) fn new(prices: &Prices) -> Self {
        Self {
            bound_nanos: 0,
            prices: prices.clone(),
            plan: None,
            length: LENGTH_MAX,
        }
    }
}
