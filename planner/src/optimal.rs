//! The best plan for an objective, with a proof or a bound on the gap.
//!
//! Uses no clock: its effort is counted in steps, so that it answers the same anywhere.

mod arcs;
mod bound;
mod counts;
mod form;
mod front;
mod graph;
mod improve;
mod kinds;
mod latency;
mod merged;
mod order;
mod prices;
mod relax;
mod routes;
mod throughput;

#[cfg(test)]
mod tests;

use crate::cost::{Costs, Cut, Index, NEVER};
use crate::cover::{self, DEVICE_COUNT_MAX};
use crate::request::Objective;
use crate::shares::{self, Weight};

/// Elementary operations that go into bettering a plan: before a search, for each pair of
/// devices, because a small cluster is searched through faster; and after a search that
/// did not end.
const WORK_BEFORE: u64 = 4_000;
const WORK_AFTER: u64 = 50_000_000;

/// Few enough devices that a plain search gets through most of their sets.
const FEW: usize = 20;

/// A plan, and what no plan can beat.
pub(crate) struct Found {
    pub(crate) cuts: Vec<Cut>,
    pub(crate) lower_bound_nanos: u64,
}

/// The best plan that was found; `None` when the model does not fit.
pub(crate) fn search(costs: &Costs<'_>) -> Option<Found> {
    let seed = seeds(costs)
        .into_iter()
        .min_by_key(|cuts| rank(costs, cuts))?;
    let mut steps = costs.request.search_steps;
    match costs.request.objective {
        Objective::Latency => Some(least_latency(costs, seed, &mut steps)),
        Objective::Throughput => Some(throughput::search(costs, seed, &mut steps)),
    }
}

fn least_latency(costs: &Costs<'_>, seed: Vec<Cut>, steps: &mut u64) -> Found {
    let relaxed = counts::least(costs);
    let split = relaxed.as_ref().map_or(NEVER, |relaxed| relaxed.nanos);
    let mut best = seed;
    if let Some(relaxed) = &relaxed {
        let counted = lay_out(costs, &relaxed.counts)
            .or_else(|| order::best_cuts(costs, &with_spares(costs, &relaxed.counts)));
        if let Some(cuts) = counted {
            best = better(costs, best, cuts);
        }
    }
    let mut lower = single_nanos(costs).min(split);
    if costs.latency_nanos(&best) > lower {
        let work = WORK_BEFORE * (costs.devices.len() as u64).pow(2);
        best = improve::improve(costs, best, work.min(WORK_AFTER));
        let (searched, bound) = search_latency(costs, best, steps);
        best = searched;
        lower = lower.max(bound);
    }
    if costs.latency_nanos(&best) > lower {
        best = improve::improve(costs, best, WORK_AFTER);
    }
    Found {
        lower_bound_nanos: lower.min(costs.latency_nanos(&best)),
        cuts: best,
    }
}

/// The better of a plan and what the search finds, and the bound that it proves.
fn search_latency(costs: &Costs<'_>, best: Vec<Cut>, steps: &mut u64) -> (Vec<Cut>, u64) {
    let devices = worth_searching(costs);
    let known = costs.latency_nanos(&best);
    let outcome = latency::search(costs, &devices, known, steps);
    let bound = if devices.len() == costs.devices.len() {
        outcome.lower_bound_nanos
    } else {
        0
    };
    match outcome.better {
        Some(cuts) => (better(costs, best, cuts), bound),
        None => (best, bound),
    }
}

/// The counted devices and some fast ones besides, for when the counts do not quite fit.
fn with_spares(costs: &Costs<'_>, counts: &[(Index, usize)]) -> Vec<Index> {
    let counted: Vec<Index> = counts.iter().map(|(device, _)| *device).collect();
    let mut spares: Vec<Index> = (0..costs.devices.len())
        .filter(|device| !counted.contains(device))
        .collect();
    spares.sort_by_key(|device| {
        let nanos = costs.whole_nanos(*device);
        (nanos, *device)
    });
    spares.truncate(counted.len() + 4);
    let (last, before) = counted
        .split_last()
        .expect("a split has two stages or more");
    let order = before.iter().chain(&spares).chain([last]);
    order.copied().collect()
}

fn better(costs: &Costs<'_>, left: Vec<Cut>, right: Vec<Cut>) -> Vec<Cut> {
    if rank(costs, &right) < rank(costs, &left) {
        right
    } else {
        left
    }
}

/// The latency of the best plan that does not split.
fn single_nanos(costs: &Costs<'_>) -> u64 {
    let whole = 0..costs.layer_count;
    (0..costs.devices.len())
        .filter(|device| costs.fits(*device, &whole))
        .map(|device| costs.latency_nanos(&[(device, whole.clone())]))
        .min()
        .unwrap_or(NEVER)
}

/// Turns counts into ranges; `None` when they only fit on paper.
fn lay_out(costs: &Costs<'_>, counts: &[(Index, usize)]) -> Option<Vec<Cut>> {
    let mut start = 0;
    let mut cuts = Vec::new();
    for (device, count) in counts {
        let layers = start..start + count;
        start = layers.end;
        if !costs.fits(*device, &layers) {
            return None;
        }
        cuts.push((*device, layers));
    }
    (start == costs.layer_count).then_some(cuts)
}

/// All devices, or the fastest that fit into a bit set.
fn worth_searching(costs: &Costs<'_>) -> Vec<Index> {
    let mut devices: Vec<Index> = (0..costs.devices.len()).collect();
    if devices.len() > DEVICE_COUNT_MAX {
        devices.sort_by_key(|device| {
            let nanos = costs.whole_nanos(*device);
            (nanos, *device)
        });
        devices.truncate(DEVICE_COUNT_MAX);
        devices.sort_unstable();
    }
    devices
}

/// What decides between two plans: the objective, then one stream's latency, then the
/// fewer stages, then ids.
fn rank(costs: &Costs<'_>, cuts: &[Cut]) -> (u64, u64, usize, Vec<(usize, usize)>) {
    (
        costs.objective_nanos(cuts),
        costs.latency_nanos(cuts),
        cuts.len(),
        cuts.iter()
            .map(|(device, layers)| (*device, layers.end))
            .collect(),
    )
}

/// Plans to start from: every other strategy's, every single device, any that fits.
/// The search can therefore never end below them.
fn seeds(costs: &Costs<'_>) -> Vec<Vec<Cut>> {
    let fit = cover::by_memory(costs);
    let order: Vec<usize> = fit.iter().flatten().map(|cut| cut.0).collect();
    let shared = [
        Weight::Equal,
        Weight::Memory,
        Weight::Speed,
        Weight::MemoryAndSpeed,
    ]
    .into_iter()
    .filter_map(|weight| shares::share(costs, weight, &order))
    .map(|sharing| sharing.cuts);
    let whole = 0..costs.layer_count;
    let single = (0..costs.devices.len())
        .filter(|device| costs.fits(*device, &whole))
        .map(|device| vec![(device, whole.clone())]);
    single.chain(shared).chain(fit.clone()).collect()
}
