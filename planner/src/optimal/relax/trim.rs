//! Takes out the stages that no plan better than the known one can have.
//!
//! A stage stays if the cheapest route through it, by the present penalties, is cheaper
//! than the known plan. Routes may use devices twice, so what goes is gone for certain.

use super::Relaxation;
use crate::cost::NEVER;

impl Relaxation<'_, '_> {
    /// Trims against `best`, the cost of a known plan. Call when `to_go` belongs to the
    /// present penalties. Returns, by place and layer, the least cost of all stages up to
    /// one of the place that ends there.
    pub(super) fn trim(&mut self, best: u64) -> Vec<Vec<u64>> {
        let (count, layers) = (self.devices.len(), self.costs.layer_count);
        let ceiling = best.saturating_add(self.prices.sum());
        let mut paid = vec![vec![NEVER; layers + 1]; count];
        for start in 0..layers {
            for place in 0..count {
                let entered = self.entered(&paid, start, place);
                let ends = self.arcs.ends(place, start);
                let sums = self.costs.decode_sums(self.devices[place]);
                let before = entered + self.prices.0[place];
                let fixed = match start {
                    0 => before + self.costs.embedding_nanos(self.devices[place]),
                    _ => before,
                };
                let to_go = &self.to_go[place];
                let stays =
                    |end: &usize| fixed + (sums[*end] - sums[start]) + to_go[*end] < ceiling;
                let first = ends.clone().find(stays);
                let last = ends.clone().rfind(stays);
                let kept = match (first, last) {
                    (Some(first), Some(last)) => first..last + 1,
                    _ => ends.start..ends.start,
                };
                for end in kept.clone() {
                    let cost = (fixed + (sums[end] - sums[start])).min(NEVER);
                    paid[place][end] = paid[place][end].min(cost);
                }
                self.arcs.keep(place, start, &kept);
            }
        }
        paid
    }

    /// The least cost up to a stage of `place` from `start` on, the hop to it included.
    fn entered(&self, paid: &[Vec<u64>], start: usize, place: usize) -> u64 {
        if start == 0 {
            return self.costs.enter_nanos(self.devices[place]);
        }
        if self.arcs.ends(place, start).is_empty() {
            return NEVER;
        }
        let count = self.devices.len();
        let ways = (0..count)
            .filter(|before| *before != place)
            .map(|before| paid[before][start] + self.hops[before * count + place]);
        ways.min().unwrap_or(NEVER).min(NEVER)
    }
}
