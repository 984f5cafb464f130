//! What a plan with its devices in some order would cost, at a glance.
//!
//! Work is poured into the devices, fastest first, as if layers could be cut anywhere.

use crate::cost::{Costs, Index, NEVER};

/// Nanoseconds per unit of work carry this many fractional bits.
const FRACTION_BITS: u32 = 32;

pub(super) struct Estimate<'s, 'r> {
    costs: &'s Costs<'r>,
    slots: Vec<Slot>,
    /// Of all layers.
    work: u64,
}

/// One device at a glance.
#[derive(Clone, Copy)]
struct Slot {
    /// Fixed point; the device's number after it decides between equals.
    slowness: (u64, Index),
    /// The most work on it as first, middle and last stage.
    rooms: [u64; 3],
}

impl<'s, 'r> Estimate<'s, 'r> {
    pub(super) fn new(costs: &'s Costs<'r>) -> Self {
        let work = costs.least_sums()[costs.layer_count];
        Self {
            costs,
            slots: (0..costs.devices.len())
                .map(|device| Slot::new(costs, device, work))
                .collect(),
            work,
        }
    }

    pub(super) fn nanos(&self, order: &[Index]) -> u64 {
        let (first, last) = (order[0], order[order.len() - 1]);
        let kind = |device: Index| match device {
            device if device == first => 0,
            device if device == last => 2,
            _ => 1,
        };
        let mut fastest: Vec<((u64, Index), u64)> = order
            .iter()
            .map(|device| {
                let slot = &self.slots[*device];
                (slot.slowness, slot.rooms[kind(*device)])
            })
            .collect();
        fastest.sort_unstable();
        let mut left = self.work;
        let mut scaled = 0u128;
        for ((slowness, _), room) in fastest {
            let taken = left.min(room);
            scaled += u128::from(taken) * u128::from(slowness);
            left -= taken;
        }
        if left > 0 {
            return NEVER;
        }
        let ends = self.costs.embedding_nanos(first) + self.costs.head_nanos(last);
        let layers = u64::try_from(scaled >> FRACTION_BITS).unwrap_or(NEVER);
        (layers + ends + self.costs.way_nanos(order)).min(NEVER)
    }
}

impl Slot {
    fn new(costs: &Costs<'_>, device: Index, work: u64) -> Self {
        let layers = costs.layer_count;
        let sums = costs.least_sums();
        let run = |start: usize, end: usize| sums[end.max(start)] - sums[start];
        let first = run(0, costs.reach(device, 0));
        let middles = (1..layers).map(|start| run(start, costs.reach(device, start)));
        let last = (1..layers).find(|start| costs.reach(device, *start) == layers);
        let slowness =
            (u128::from(costs.whole_nanos(device)) << FRACTION_BITS) / u128::from(work.max(1));
        Self {
            slowness: (u64::try_from(slowness).unwrap_or(u64::MAX), device),
            rooms: [
                first,
                middles.max().unwrap_or(0),
                last.map_or(0, |start| run(start, layers)),
            ],
        }
    }
}
