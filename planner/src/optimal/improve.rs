//! Betters a plan by small changes to the order of its devices.
//!
//! For clusters too large to search through: a good plan early makes the search short,
//! and is the answer where the search does not end. Proves nothing.

mod estimate;

use super::FEW;
use super::order::best_cuts;
use crate::cost::{Costs, Cut, Index};
use estimate::Estimate;

/// Elementary operations of a glance, per device.
const GLANCE: u64 = 4;
/// Devices in a row that are moved together.
const RUN_MAX: usize = 3;

/// Swaps, turns, moves, replaces, inserts and drops devices while that helps and `work`
/// lasts, the most promising change by a glance at it first.
pub(super) fn improve(costs: &Costs<'_>, cuts: Vec<Cut>, mut work: u64) -> Vec<Cut> {
    let estimate = Estimate::new(costs);
    let mut best = cuts;
    let mut best_nanos = costs.latency_nanos(&best);
    'again: loop {
        let order: Vec<Index> = best.iter().map(|cut| cut.0).collect();
        // Among few devices a glance errs by more than a change gains, and looks are cheap.
        let now = match costs.devices.len() <= FEW {
            true => best_nanos,
            false => estimate.nanos(&order),
        };
        let mut looked = 0;
        let mut promising: Vec<(u64, Vec<Index>)> = neighbours(costs, &order)
            .inspect(|_| looked += 1)
            .map(|order| (estimate.nanos(&order), order))
            .filter(|(nanos, _)| *nanos < now)
            .collect();
        promising.sort_unstable();
        work = work.saturating_sub(looked * GLANCE * order.len() as u64);
        let price = price(costs, order.len() + 1);
        for (_, candidate) in promising {
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
    let strangers: Vec<Index> = (0..costs.devices.len())
        .filter(|device| !order.contains(device))
        .collect();
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
    let moved = (1..=RUN_MAX)
        .flat_map(move |length| pairs().map(move |pair| (length, pair)))
        .filter(move |(length, (from, to))| {
            from + length <= count && *to + length <= count && from != to
        })
        .map(|(length, (from, to))| {
            let mut changed = order.to_vec();
            let run: Vec<Index> = changed.drain(from..from + length).collect();
            changed.splice(to..to, run);
            changed
        });
    let dropped = (0..count).filter(move |_| count > 2).map(|place| {
        let mut changed = order.to_vec();
        changed.remove(place);
        changed
    });
    with.chain(swapped)
        .chain(turned)
        .chain(moved)
        .chain(dropped)
}
