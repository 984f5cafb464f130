//! The best cuts for devices in a given order, any of which may be left out.
//!
//! The order is taken as it is; finding a good one is for others.

use crate::cost::{Costs, Cut, Index, NEVER};

/// The least latency for this order, or `None` when it cannot hold the layers.
pub(super) fn best_cuts(costs: &Costs<'_>, order: &[Index]) -> Option<Vec<Cut>> {
    let layers = costs.layer_count;
    let width = layers + 1;
    // `best[place * width + end]`: least cost with the last stage on `place`.
    let mut best = vec![NEVER; order.len() * width];
    let mut parents = vec![(0u32, 0u32); order.len() * width];
    let mut last: Option<(u64, usize)> = None;
    // With alike links the cheapest way to a layer is all that a next stage asks for.
    let alike = costs.links.are_alike();
    let mut cheapest = vec![(NEVER, 0usize); width];
    for (place, device) in order.iter().enumerate() {
        for start in 0..layers {
            let (paid, parent) = if start == 0 {
                (costs.enter_nanos(*device), place)
            } else if alike {
                let (before, parent) = cheapest[start];
                (
                    before + costs.links.hop_nanos(order[parent], *device),
                    parent,
                )
            } else {
                let before = (0..place).map(|parent| {
                    let hop = costs.links.hop_nanos(order[parent], *device);
                    (best[parent * width + start] + hop, parent)
                });
                before.min().unwrap_or((NEVER, place))
            };
            if paid >= NEVER {
                continue;
            }
            for end in start + 1..=costs.reach(*device, start) {
                let cost = paid + costs.decode_nanos(*device, &(start..end));
                let slot = place * width + end;
                if cost < best[slot] {
                    best[slot] = cost;
                    parents[slot] = (start as u32, parent as u32);
                }
            }
        }
        for end in 1..width {
            cheapest[end] = cheapest[end].min((best[place * width + end], place));
        }
        // The way home from another first stage is judged when plans are compared.
        let home =
            best[place * width + layers].saturating_add(costs.leave_nanos(*device, order[0]));
        if home < NEVER && last.is_none_or(|last| (home, place) < last) {
            last = Some((home, place));
        }
    }
    let (_, mut place) = last?;
    let mut end = layers;
    let mut cuts = Vec::new();
    while end > 0 {
        let (start, parent) = parents[place * width + end];
        cuts.push((order[place], start as usize..end));
        (end, place) = (start as usize, parent as usize);
    }
    cuts.reverse();
    Some(cuts)
}
