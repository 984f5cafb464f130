//! The least that the rest of a pipeline can cost, whatever devices it takes.
//!
//! Relaxed to a fractional knapsack: work instead of layers, filled into the fastest
//! unused devices first. Work is the time that each part takes on the device that is best
//! at it. Always at or below the truth; never a plan.

use crate::cost::{Costs, Index, NEVER};
use crate::cover::DEVICE_COUNT_MAX;

/// Nanoseconds per unit of work carry this many fractional bits, rounded down.
const FRACTION_BITS: u32 = 32;

/// One device as the relaxation sees it.
#[derive(Clone, Copy)]
struct Slot {
    place: usize,
    /// The most work that any range of it can have.
    capacity: u64,
    /// Fixed point.
    slowness: u64,
}

pub(super) struct Bound {
    /// Fastest first, hops left out of the rate.
    bare: Vec<Slot>,
    /// Fastest first, the cheapest hop spread over the capacity.
    charged: Vec<Slot>,
    /// Largest first.
    roomy: Vec<(u64, usize)>,
    /// Cheapest way in from another device and through, cheapest first.
    hops: Vec<(u64, usize)>,
    /// Cheapest way home.
    leave_nanos: u64,
    /// Work of all layers from here to the end, head included.
    rest: Vec<u64>,
}

impl Bound {
    pub(super) fn new(costs: &Costs<'_>, devices: &[Index]) -> Self {
        let layers = costs.layer_count;
        let mut bare = Vec::new();
        let mut charged = Vec::new();
        let mut roomy = Vec::new();
        let mut hops = Vec::new();
        for (place, device) in devices.iter().enumerate() {
            let capacity = (0..layers)
                .map(|start| costs.least_nanos(&(start..costs.reach(*device, start).max(start))))
                .max()
                .unwrap_or(0);
            let hop = devices
                .iter()
                .filter(|other| *other != device)
                .map(|other| costs.links.hop_nanos(*other, *device))
                .min()
                .unwrap_or(NEVER);
            let bare_rate = u128::from(costs.slowness(*device, FRACTION_BITS));
            let hop_rate = (u128::from(hop) << FRACTION_BITS) / u128::from(capacity.max(1));
            let slot = |rate: u128| Slot {
                place,
                capacity,
                slowness: u64::try_from(rate).unwrap_or(u64::MAX),
            };
            bare.push(slot(bare_rate));
            charged.push(slot(bare_rate + hop_rate));
            roomy.push((capacity, place));
            hops.push((hop, place));
        }
        bare.sort_by_key(|slot| (slot.slowness, slot.place));
        charged.sort_by_key(|slot| (slot.slowness, slot.place));
        roomy.sort_by_key(|(bytes, place)| (std::cmp::Reverse(*bytes), *place));
        hops.sort();
        let leave_nanos = match costs.request.driver {
            Some(_) => devices
                .iter()
                .map(|device| costs.leave_nanos(*device, *device))
                .min()
                .unwrap_or(0),
            None => 0,
        };
        Self {
            bare,
            charged,
            roomy,
            hops,
            leave_nanos,
            rest: (0..=layers)
                .map(|start| costs.least_nanos(&(start..layers)))
                .collect(),
        }
    }

    /// At least what layers from `start` on cost on unused devices, hops and way home
    /// included. The first stage of all pays no hop, so for an empty pipeline the
    /// dearest one is taken off again.
    pub(super) fn rest_nanos(&self, start: usize, used: u128) -> u64 {
        debug_assert!(self.bare.len() <= DEVICE_COUNT_MAX);
        let work = self.rest[start];
        let Some(bare) = fill(&self.bare, work, used) else {
            return NEVER;
        };
        let mut stages = 0;
        let mut left = work;
        for (capacity, place) in &self.roomy {
            if left == 0 {
                break;
            }
            if used & (1 << place) == 0 {
                left = left.saturating_sub(*capacity);
                stages += 1;
            }
        }
        let first_stage_is_free = usize::from(start == 0);
        let unused = self
            .hops
            .iter()
            .filter(|(_, place)| used & (1 << place) == 0);
        let hops: u64 = unused
            .take(stages - first_stage_is_free.min(stages))
            .map(|(nanos, _)| nanos)
            .fold(0, |sum, nanos| (sum + nanos).min(NEVER));
        let counted = bare.saturating_add(hops);
        let spread = if start == 0 {
            0
        } else {
            fill(&self.charged, work, used).unwrap_or(NEVER)
        };
        counted
            .max(spread)
            .saturating_add(self.leave_nanos)
            .min(NEVER)
    }
}

/// Fills the work into unused slots in order; `None` when it does not fit.
fn fill(slots: &[Slot], work: u64, used: u128) -> Option<u64> {
    let mut left = work;
    let mut scaled = 0u128;
    for slot in slots {
        if left == 0 {
            break;
        }
        if used & (1 << slot.place) == 0 {
            let taken = left.min(slot.capacity);
            scaled += u128::from(taken) * u128::from(slot.slowness);
            left -= taken;
        }
    }
    (left == 0).then(|| u64::try_from(scaled >> FRACTION_BITS).map_or(NEVER, |n| n.min(NEVER)))
}
