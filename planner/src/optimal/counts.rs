//! Least latency when only the number of layers per device matters.
//!
//! A dynamic program over devices and layer counts, as in EdgeShard (2405.14371) but
//! with devices taken in any order. Exact when all layers and all links are alike;
//! otherwise every cost is replaced by the least it can be, and the result is a lower
//! bound. Does not look at plans of one stage.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cost::{Costs, Index, NEVER};

/// The bound, and the allocation that attains it: devices with counts, first stage
/// first and last stage last.
pub(super) struct Allocation {
    pub(super) nanos: u64,
    pub(super) counts: Vec<(Index, usize)>,
}

/// Which ends of the pipeline are already placed.
const FIRST: usize = 1;
const LAST: usize = 2;
const BOTH: usize = FIRST | LAST;

/// What one device would cost in each place, by number of layers; index 0 is unused.
/// Ends where memory does.
struct Prices {
    first: Vec<u64>,
    middle: Vec<u64>,
    last: Vec<u64>,
}

/// Runs of a number of layers that touch neither end of the model; one stands for all
/// where layers are alike.
fn inner_runs(costs: &Costs<'_>, count: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = costs.layer_count.saturating_sub(count);
    let starts = if costs.layers_are_alike {
        starts.min(2)
    } else {
        starts
    };
    (1..starts).map(move |start| start..start + count)
}

/// The least latency of two or more stages; `None` when no counts fit.
pub(super) fn least(costs: &Costs<'_>) -> Option<Allocation> {
    let layers = costs.layer_count;
    // Devices that keep as much of the cache need as much memory.
    let mut lightest: BTreeMap<Option<u32>, Vec<u64>> = BTreeMap::new();
    let width = layers + 1;
    let mut best = vec![NEVER; 4 * width];
    best[0] = 0;
    let mut choices: Vec<Vec<u32>> = Vec::with_capacity(costs.devices.len());
    for device in 0..costs.devices.len() {
        let kept = costs.devices[device].detail.kv_permille;
        let lightest = lightest.entry(kept).or_insert_with(|| {
            let lightest = (0..layers).map(|count| {
                let runs = inner_runs(costs, count);
                let bytes = runs.map(|run| costs.memory_bytes(device, &run));
                bytes.min().unwrap_or(u64::MAX)
            });
            lightest.collect()
        });
        let prices = Prices::new(costs, lightest, device);
        let mut next = best.clone();
        let mut chosen = vec![0u32; 4 * width];
        for ends in 0..4 {
            for (place, prices) in [
                (0, &prices.middle),
                (FIRST, &prices.first),
                (LAST, &prices.last),
            ] {
                if ends & place != 0 {
                    continue;
                }
                for held in 0..layers {
                    let before = best[ends * width + held];
                    if before >= NEVER {
                        continue;
                    }
                    let to = (ends | place) * width + held;
                    for (count, price) in prices.iter().enumerate().take(width - held).skip(1) {
                        let cost = before + price;
                        if cost < next[to + count] {
                            next[to + count] = cost;
                            chosen[to + count] = (count as u32) << 2 | place as u32;
                        }
                    }
                }
            }
        }
        choices.push(chosen);
        best = next;
    }
    let nanos = best[BOTH * width + layers];
    (nanos < NEVER).then(|| Allocation {
        nanos,
        counts: trace(&choices, layers),
    })
}

fn trace(choices: &[Vec<u32>], layers: usize) -> Vec<(Index, usize)> {
    let width = layers + 1;
    let (mut ends, mut held) = (BOTH, layers);
    let mut first = None;
    let mut last = None;
    let mut middle = Vec::new();
    for (device, chosen) in choices.iter().enumerate().rev() {
        let choice = chosen[ends * width + held] as usize;
        let (count, place) = (choice >> 2, choice & BOTH);
        if count == 0 {
            continue;
        }
        match place {
            FIRST => first = Some((device, count)),
            LAST => last = Some((device, count)),
            _ => middle.push((device, count)),
        }
        held -= count;
        ends &= !place;
    }
    middle.reverse();
    first.into_iter().chain(middle).chain(last).collect()
}

impl Prices {
    fn new(costs: &Costs<'_>, lightest: &[u64], device: Index) -> Self {
        let layers = costs.layer_count;
        let usable = costs.usable_bytes(device);
        let others = || (0..costs.devices.len()).filter(move |other| *other != device);
        let hop = others()
            .map(|other| costs.links.hop_nanos(other, device))
            .min()
            .unwrap_or(NEVER);
        let leave = others()
            .map(|first| costs.leave_nanos(device, first))
            .min()
            .unwrap_or(NEVER);
        let enter = costs.enter_nanos(device);
        let timed = |range: Range<usize>, hops: u64| {
            if costs.fits(device, &range) {
                costs
                    .decode_nanos(device, &range)
                    .saturating_add(hops)
                    .min(NEVER)
            } else {
                NEVER
            }
        };
        let middle = |count: usize| {
            if lightest[count] > usable {
                return NEVER;
            }
            let times = inner_runs(costs, count).map(|run| costs.decode_nanos(device, &run));
            times.min().unwrap_or(NEVER).saturating_add(hop).min(NEVER)
        };
        let prices = |price: &dyn Fn(usize) -> u64| {
            let mut prices = vec![NEVER];
            prices.extend((1..layers).map(price).take_while(|price| *price < NEVER));
            prices
        };
        Self {
            first: prices(&|count| timed(0..count, enter)),
            middle: prices(&middle),
            last: prices(&|count| timed(layers - count..layers, hop + leave)),
        }
    }
}
