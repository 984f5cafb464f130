//! Which beginnings of a pipeline are worth going on with, for each set of used devices.
//!
//! Holds where all links are alike, so that layers may be dropped from the front of any
//! continuation without a hop becoming dearer.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::cost::{Costs, Index};
use crate::hash::Mixer;

/// Beginnings that no other makes superfluous. One that got further does so when it paid
/// no more for the way between the two than the fastest unused device would: whatever
/// follows the shorter one can follow the longer one without those layers.
pub(super) struct Fronts {
    /// Fastest first, with prefix sums of the time for each layer. Where not every device
    /// is slower than the one before it for every layer, one for all: each layer on the
    /// device that is best at it.
    fastest: Vec<(usize, Vec<u64>)>,
    // A hash map whose order is never looked at, so it cannot make a plan depend on it.
    by_used: HashMap<u128, Vec<(u16, u64)>, BuildHasherDefault<Mixer>>,
}

impl Fronts {
    pub(super) fn new(costs: &Costs<'_>, devices: &[Index]) -> Self {
        let mut order: Vec<usize> = (0..devices.len()).collect();
        order.sort_by_key(|place| (costs.whole_nanos(devices[*place]), *place));
        let ranked = order
            .windows(2)
            .all(|pair| costs.is_no_slower(devices[pair[0]], devices[pair[1]]));
        let sums = |place| (place, costs.decode_sums(devices[place]).to_vec());
        Self {
            fastest: match ranked {
                true => order.into_iter().map(sums).collect(),
                false => vec![(order[0], costs.least_sums().to_vec())],
            },
            by_used: HashMap::default(),
        }
    }

    /// Takes a beginning in, unless another makes it superfluous; drops those that it
    /// makes superfluous itself.
    pub(super) fn admit(&mut self, used: u128, end: usize, cost: u64) -> bool {
        let sums = unused_sums(&self.fastest, used);
        let front = self.by_used.entry(used).or_default();
        let beaten = |by: (u16, u64), end: usize, cost: u64| {
            let further = usize::from(by.0);
            further >= end && by.1 <= cost + (sums[further] - sums[end])
        };
        if front.iter().any(|known| beaten(*known, end, cost)) {
            return false;
        }
        let new = (end as u16, cost);
        front.retain(|known| !beaten(new, usize::from(known.0), known.1));
        front.push(new);
        true
    }

    /// Whether a beginning that was admitted is still worth going on with.
    pub(super) fn holds(&self, used: u128, end: usize, cost: u64) -> bool {
        let front = self.by_used.get(&used);
        front.is_some_and(|front| front.contains(&(end as u16, cost)))
    }
}

/// Times on the fastest unused device; on the slowest of all where none is left, which
/// nothing can go on from anyway.
fn unused_sums(fastest: &[(usize, Vec<u64>)], used: u128) -> &[u64] {
    let unused = fastest.iter().find(|(place, _)| used & (1 << place) == 0);
    let (_, sums) = unused.unwrap_or(&fastest[fastest.len() - 1]);
    sums
}
