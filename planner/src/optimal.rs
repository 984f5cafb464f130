//! The best plan for an objective, with a proof or a bound on the gap.
//!
//! Uses no clock: its effort is counted in steps, so that it answers the same anywhere.

use crate::cost::{Costs, Cut};
use crate::cover;
use crate::shares::{self, Weight};

/// A plan, and what no plan can beat.
pub(crate) struct Found {
    pub(crate) cuts: Vec<Cut>,
    pub(crate) lower_bound_nanos: u64,
}

/// The best plan that was found; `None` when the model does not fit.
pub(crate) fn search(costs: &Costs<'_>) -> Option<Found> {
    let best = seeds(costs)
        .into_iter()
        .min_by_key(|cuts| rank(costs, cuts))?;
    Some(Found {
        lower_bound_nanos: 0,
        cuts: best,
    })
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
