//! What a plan will cost to use: time to first token, time per token, memory.
//!
//! Predicts the machinery as it is meant to run; queues from other users are not in it.

mod prompt;
mod quota;

use std::collections::BTreeMap;

use crate::cost::{Costs, Cut, Index};
use crate::plan::{Forecast, StageForecast, Standby};

/// What more groups must gain, in thousandths.
const GAIN_PERMILLE: u64 = 50;

/// Processor time that a row takes of a device besides its pass, wherever it came from another:
/// the network's thread and what leads to the first layer, as measured on a Xeon
/// (docs/performance.md, "Beside one node"). Whoever is given all of its cores' time does that
/// while others have the row.
const HANDLING_NANOS: u64 = 190_000;

/// Forecasts a plan for the request's prompt length and number of streams.
pub(crate) fn forecast(costs: &Costs<'_>, cuts: &[Cut], standbys: &[Standby]) -> Forecast {
    let request = costs.request;
    let tpot = token_nanos(costs, cuts);
    let (groups, many) = many_nanos(costs, cuts);
    let many = many.max(tpot);
    Forecast {
        prompt_tokens: request.prompt_tokens,
        ttft_micros: prompt::first_token_nanos(costs, cuts).div_ceil(1000),
        tpot_micros: tpot.div_ceil(1000),
        hops_micros: costs.hops_nanos(cuts).div_ceil(1000),
        tokens_per_second: 1e9 / tpot.max(1) as f64,
        streams: request.sequences,
        groups,
        many_tpot_micros: many.div_ceil(1000),
        many_tokens_per_second: f64::from(request.sequences) * 1e9 / many.max(1) as f64,
        stages: stages(costs, cuts, standbys),
    }
}

/// One token of one stream. A stage that may not use the cores all the time runs in bursts
/// while the others have the row, but no more often than its time lasts, which handling the row
/// is taken from too.
fn token_nanos(costs: &Costs<'_>, cuts: &[Cut]) -> u64 {
    let is_split = cuts.len() > 1;
    let times = cuts.iter().map(|(device, layers)| {
        let nanos = costs.decode_nanos(*device, layers);
        let handling = match is_split {
            true => handling_nanos(costs, *device),
            false => 0,
        };
        (burst(costs, *device, nanos), nanos.saturating_add(handling))
    });
    let (bursts, slowest) = times.fold((0u64, 0), |(sum, slowest), (burst, nanos)| {
        (sum.saturating_add(burst), nanos.max(slowest))
    });
    bursts.saturating_add(costs.hops_nanos(cuts)).max(slowest)
}

/// The number of groups that the many streams best travel in, and the time in which each
/// stream then gets one token. Groups wait for each other in ways that are not counted here, so
/// each further one must be worth it.
fn many_nanos(costs: &Costs<'_>, cuts: &[Cut]) -> (u32, u64) {
    let groups_max = cuts.len().min(costs.request.sequences.max(1) as usize);
    let alone = (1, turn_nanos(costs, cuts, 1));
    (2..=groups_max).fold(alone, |best, groups| {
        let nanos = turn_nanos(costs, cuts, groups);
        match nanos.saturating_mul(1000 + GAIN_PERMILLE) < best.1.saturating_mul(1000) {
            true => (groups as u32, nanos),
            false => best,
        }
    })
}

/// The time of one token of each of the many streams: no less than the slowest stage or link
/// needs for all groups, than the cores of a machine that several stages share, or than one
/// group needs for its way through all stages and home.
fn turn_nanos(costs: &Costs<'_>, cuts: &[Cut], groups: usize) -> u64 {
    let turn = |(device, layers): &Cut| (*device, costs.turn_nanos(*device, layers, groups));
    let shared = shared_nanos(costs, cuts.iter().map(turn));
    let rows = u64::from(costs.request.sequences).div_ceil(groups as u64);
    let passes = cuts.iter().map(|cut| {
        let (device, nanos) = turn(cut);
        burst(costs, device, nanos) / groups as u64
    });
    let between = cuts.windows(2).map(|pair| {
        let (from, to) = (pair[0].0, pair[1].0);
        costs.links.rows_nanos(from, to, rows)
    });
    let ends = match (cuts.first(), cuts.last()) {
        (Some(first), Some(last)) => {
            costs.enter_nanos(first.0) + costs.leave_nanos(last.0, first.0)
        }
        _ => 0,
    };
    let round = passes.chain(between).fold(ends, u64::saturating_add);
    costs.slowest_nanos(cuts, groups).max(shared).max(round)
}

/// What of a time in the long run a device needs when it may run for a moment.
fn burst(costs: &Costs<'_>, device: Index, nanos: u64) -> u64 {
    match costs.devices[device].detail.sharing {
        Some(sharing) => scaled(nanos, 1000, sharing.burst_permille.max(1000)),
        None => nanos,
    }
}

/// What handling one row takes in the long run of a device whose time is limited. One thread
/// does it, and the time is all threads'.
fn handling_nanos(costs: &Costs<'_>, device: Index) -> u64 {
    match costs.devices[device].detail.sharing {
        Some(sharing) if sharing.burst_permille > 1000 => {
            let one_thread = 1000u32.saturating_mul(sharing.threads.max(1));
            scaled(HANDLING_NANOS, sharing.burst_permille, one_thread)
        }
        Some(_) | None => 0,
    }
}

/// The longest that the cores of any one machine need for all that its stages compute.
fn shared_nanos(costs: &Costs<'_>, work: impl Iterator<Item = (Index, u64)>) -> u64 {
    let mut hosts: BTreeMap<u64, u64> = BTreeMap::new();
    for (device, nanos) in work {
        if let Some(sharing) = costs.devices[device].detail.sharing {
            let cores = sharing.host_cores.max(1);
            let threads = sharing.threads.min(cores);
            let needed = scaled(burst(costs, device, nanos), threads, cores);
            let sum = hosts.entry(sharing.host).or_insert(0);
            *sum = sum.saturating_add(needed);
        }
    }
    hosts.into_values().max().unwrap_or(0)
}

fn scaled(nanos: u64, by: u32, of: u32) -> u64 {
    let scaled = u128::from(nanos) * u128::from(by) / u128::from(of.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn stages(costs: &Costs<'_>, cuts: &[Cut], standbys: &[Standby]) -> Vec<StageForecast> {
    let request = costs.request;
    let rows = u64::from(request.prefill_chunk_rows.min(request.prompt_tokens));
    cuts.iter()
        .map(|(index, layers)| {
            let device = costs.devices[*index].id;
            let standby_bytes: u64 = standbys
                .iter()
                .filter(|standby| standby.device == device)
                .map(|standby| standby.memory_bytes)
                .sum();
            let memory_bytes = costs.memory_bytes(*index, layers) + standby_bytes;
            StageForecast {
                device,
                decode_micros: costs.decode_nanos(*index, layers).div_ceil(1000),
                prefill_chunk_micros: costs.prefill_nanos(*index, layers, rows, 0).div_ceil(1000),
                memory_bytes,
                free_bytes: costs.usable_bytes(*index).saturating_sub(memory_bytes),
            }
        })
        .collect()
}

/// Mean stage time over slowest stage time, of one decode row.
pub(crate) fn balance(costs: &Costs<'_>, cuts: &[Cut]) -> f64 {
    let times: Vec<u64> = cuts
        .iter()
        .map(|(device, layers)| costs.decode_nanos(*device, layers))
        .collect();
    let slowest = times.iter().copied().max().unwrap_or(0).max(1);
    times.iter().sum::<u64>() as f64 / times.len().max(1) as f64 / slowest as f64
}

#[cfg(test)]
mod tests;
