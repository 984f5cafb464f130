//! Betters a plan by small changes to the order of its devices.
//!
//! For clusters too large to search through: a good plan early makes the search short,
//! and is the answer where the search does not end. Proves nothing.

use super::order::best_cuts;
use crate::cost::{Costs, Cut, Index};

/// Unused devices that are tried in a place.
const STRANGERS_MAX: usize = 12;

/// Swaps, moves, replaces and inserts devices while that helps and `work` lasts.
pub(super) fn improve(costs: &Costs<'_>, cuts: Vec<Cut>, mut work: u64) -> Vec<Cut> {
    let mut best = cuts;
    let mut best_nanos = costs.latency_nanos(&best);
    'again: loop {
        let order: Vec<Index> = best.iter().map(|cut| cut.0).collect();
        let price = price(costs, order.len() + 1);
        for candidate in neighbours(costs, &order) {
            if work < price {
                return best;
            }
            work -= price;
            if let Some(cuts) = best_cuts(costs, &candidate) {
                let nanos = costs.latency_nanos(&cuts);
                if nanos < best_nanos {
                    (best, best_nanos) = (cuts, nanos);
                    continue 'again;
                }
            }
        }
        return best;
    }
}

/// Elementary operations to cut an order of this many devices.
fn price(costs: &Costs<'_>, devices: usize) -> u64 {
    let pairs = if costs.links.are_alike() {
        devices
    } else {
        devices * devices / 2
    };
    let reach = costs.layer_count.div_ceil(devices);
    ((pairs + devices * reach) * costs.layer_count) as u64
}

fn neighbours(costs: &Costs<'_>, order: &[Index]) -> impl Iterator<Item = Vec<Index>> {
    let strangers = strangers(costs, order);
    let count = order.len();
    let with = strangers.into_iter().flat_map(move |stranger| {
        let replaced = (0..count).map(move |place| (place, stranger, true));
        let inserted = (0..=count).map(move |place| (place, stranger, false));
        replaced.chain(inserted)
    });
    let with = with.map(|(place, stranger, replaces)| {
        let mut changed = order.to_vec();
        if replaces {
            changed[place] = stranger;
        } else {
            changed.insert(place, stranger);
        }
        changed
    });
    let pairs = move || (0..count).flat_map(move |left| (0..count).map(move |right| (left, right)));
    let swapped = pairs()
        .filter(|(left, right)| left < right)
        .map(|(left, right)| {
            let mut changed = order.to_vec();
            changed.swap(left, right);
            changed
        });
    let turned = pairs()
        .filter(|(left, right)| left + 1 < *right)
        .map(|(left, right)| {
            let mut changed = order.to_vec();
            changed[left..=right].reverse();
            changed
        });
    let moved = pairs().filter(|(from, to)| from != to).map(|(from, to)| {
        let mut changed = order.to_vec();
        let device = changed.remove(from);
        changed.insert(to, device);
        changed
    });
    with.chain(swapped).chain(turned).chain(moved)
}

/// The unused devices that might help: the fastest, and those with the best links.
fn strangers(costs: &Costs<'_>, order: &[Index]) -> Vec<Index> {
    let mut unused: Vec<Index> = (0..costs.devices.len())
        .filter(|device| !order.contains(device))
        .collect();
    unused.sort_by_key(|device| {
        let nanos = costs.whole_nanos(*device);
        (nanos, *device)
    });
    let mut chosen: Vec<Index> = unused.iter().copied().take(STRANGERS_MAX).collect();
    if !costs.links.are_alike() {
        unused.sort_by_key(|device| {
            let hops = order.iter().map(|used| {
                costs.links.hop_nanos(*used, *device) + costs.links.hop_nanos(*device, *used)
            });
            (hops.min(), *device)
        });
        let near = unused.into_iter().take(STRANGERS_MAX);
        chosen.extend(
            near.filter(|device| !chosen.contains(device))
                .collect::<Vec<_>>(),
        );
    }
    chosen
}
