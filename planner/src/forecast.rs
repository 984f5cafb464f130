//! What a plan will cost to use: time to first token, time per token, memory.
//!
//! Predicts the machinery as it is meant to run; queues from other users are not in it.

use crate::cost::{Costs, Cut};
use crate::plan::{Forecast, StageForecast, Standby};

/// Forecasts a plan for the request's prompt length and number of streams.
pub(crate) fn forecast(costs: &Costs<'_>, cuts: &[Cut], standbys: &[Standby]) -> Forecast {
    let request = costs.request;
    let tpot = costs.latency_nanos(cuts);
    let many = many_nanos(costs, cuts);
    Forecast {
        prompt_tokens: request.prompt_tokens,
        ttft_micros: first_token_nanos(costs, cuts).div_ceil(1000),
        tpot_micros: tpot.div_ceil(1000),
        hops_micros: costs.hops_nanos(cuts).div_ceil(1000),
        tokens_per_second: 1e9 / tpot.max(1) as f64,
        streams: request.sequences,
        many_tpot_micros: many.div_ceil(1000),
        many_tokens_per_second: f64::from(request.sequences) * 1e9 / many.max(1) as f64,
        stages: stages(costs, cuts, standbys),
    }
}

/// The time in which each of the many streams gets one token: no less than the slowest
/// stage needs for all of them, and no less than one stream alone would see.
fn many_nanos(costs: &Costs<'_>, cuts: &[Cut]) -> u64 {
    costs.slowest_nanos(cuts).max(costs.latency_nanos(cuts))
}

/// Chunks follow each other through the stages: a stage starts a chunk when it has it
/// and is done with the one before. The last stage then runs the head on one row.
fn first_token_nanos(costs: &Costs<'_>, cuts: &[Cut]) -> u64 {
    let (Some((first, _)), Some((last, _))) = (cuts.first(), cuts.last()) else {
        return 0;
    };
    let prompt = u64::from(costs.request.prompt_tokens);
    let chunk = u64::from(costs.request.prefill_chunk_rows).max(1);
    let mut done = vec![0u64; cuts.len()];
    let mut cached = 0;
    while cached < prompt {
        let rows = chunk.min(prompt - cached);
        let mut arrived = costs.enter_nanos(*first);
        for (place, (device, layers)) in cuts.iter().enumerate() {
            let work = costs.prefill_nanos(*device, layers, rows, cached);
            done[place] = done[place].max(arrived) + work;
            if let Some((next, _)) = cuts.get(place + 1) {
                arrived = done[place] + costs.links.rows_nanos(*device, *next, rows);
            }
        }
        cached += rows;
    }
    let computed = done[cuts.len() - 1];
    computed + costs.head_nanos(*last) + costs.leave_nanos(*last, *first)
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
            let memory_bytes = costs.memory_bytes(layers) + standby_bytes;
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
