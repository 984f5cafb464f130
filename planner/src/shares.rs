//! The strategies that share layers out by a weight per device.
//!
//! They use every device that memory permits and do not look at links; that is what
//! the optimal strategy is for.

use std::ops::Range;

use crate::cost::{Costs, Cut, Index};

/// What a device's share is in proportion to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    Equal,
    Memory,
    Speed,
    MemoryAndSpeed,
}

/// A sharing: the stages, and what each device would have got without limits.
pub(crate) struct Sharing {
    pub(crate) cuts: Vec<Cut>,
    /// Per device index; zero for devices that were not among the best.
    pub(crate) wanted: Vec<usize>,
}

/// Shares the layers out, or `None` when no order that is tried can hold them.
///
/// `fallback` is an order known to hold the model, for clusters so tight that the
/// order by id does not.
pub(crate) fn share(costs: &Costs<'_>, weight: Weight, fallback: &[Index]) -> Option<Sharing> {
    let weights = weights(costs, weight);
    let mut order = pipeline_order(costs);
    if order.len() > costs.layer_count {
        let mut best: Vec<Index> = (0..order.len()).collect();
        best.sort_by_key(|index| (std::cmp::Reverse(weights[*index]), *index));
        best.truncate(costs.layer_count);
        order.retain(|index| best.contains(index));
    }
    let wanted = quotas(&weights, &order, costs.layer_count);
    let mut roomy = order.clone();
    roomy.sort_by_key(|index| (std::cmp::Reverse(costs.usable_bytes(*index)), *index));
    [order.as_slice(), roomy.as_slice(), fallback]
        .into_iter()
        .find_map(|order| near(costs, order, &wanted))
        .map(|cuts| Sharing { cuts, wanted })
}

/// By id, the driver first: its rows then start without a hop.
fn pipeline_order(costs: &Costs<'_>) -> Vec<Index> {
    let others = (0..costs.devices.len()).filter(|index| Some(*index) != costs.driver);
    costs.driver.into_iter().chain(others).collect()
}

fn weights(costs: &Costs<'_>, weight: Weight) -> Vec<u128> {
    let room: Vec<u128> = (0..costs.devices.len())
        .map(|index| {
            let usable = costs.usable_bytes(index);
            u128::from(usable.saturating_sub(costs.request.buffer_bytes))
        })
        .collect();
    let speed: Vec<u128> = (0..costs.devices.len())
        .map(|index| u128::from(costs.speed(index)))
        .collect();
    let (all_room, all_speed) = (room.iter().sum::<u128>(), speed.iter().sum::<u128>());
    match weight {
        Weight::Equal => vec![1; room.len()],
        Weight::Memory => room,
        Weight::Speed => speed,
        // Both shares over a common denominator; shifted so that products stay in range.
        Weight::MemoryAndSpeed => room
            .iter()
            .zip(&speed)
            .map(|(room, speed)| {
                (room >> 8) * (all_speed.max(1) >> 8).max(1)
                    + (speed >> 8) * (all_room.max(1) >> 8).max(1)
            })
            .collect(),
    }
}

/// Layers in proportion to weight, at least one each, by largest remainder; ties go to
/// the lower id. There are at least as many layers as devices in `order`.
fn quotas(weights: &[u128], order: &[Index], layer_count: usize) -> Vec<usize> {
    let mut quotas = vec![0; weights.len()];
    let total: u128 = order.iter().map(|index| weights[*index]).sum();
    if order.is_empty() || total == 0 {
        for (place, index) in order.iter().enumerate() {
            quotas[*index] =
                layer_count / order.len() + usize::from(place < layer_count % order.len());
        }
        return quotas;
    }
    // Shifted down together until a product with the layer count cannot overflow.
    let shift = (128 - total.leading_zeros()).saturating_sub(100);
    let (total, count) = ((total >> shift).max(1), layer_count as u128);
    let mut remainders = Vec::new();
    let mut given = 0;
    for index in order {
        let share = (weights[*index] >> shift) * count;
        let floor = usize::try_from(share / total).unwrap_or(layer_count);
        quotas[*index] = floor.max(1);
        given += quotas[*index];
        let rest = if floor == 0 { 0 } else { share % total };
        remainders.push((std::cmp::Reverse(rest), *index));
    }
    remainders.sort();
    let mut place = 0;
    while given < layer_count {
        quotas[remainders[place % remainders.len()].1] += 1;
        given += 1;
        place += 1;
    }
    while given > layer_count {
        // The minimum of one layer was paid for by whoever has most.
        let most = order
            .iter()
            .copied()
            .max_by_key(|index| (quotas[*index], std::cmp::Reverse(*index)))
            .expect("order is not empty: checked above");
        quotas[most] -= 1;
        given -= 1;
    }
    quotas
}

/// The partition nearest to the quotas that memory permits, for a fixed order: fewest
/// devices left empty, then the least sum of squared differences, so that what one
/// device cannot hold is spread over the others.
fn near(costs: &Costs<'_>, order: &[Index], wanted: &[usize]) -> Option<Vec<Cut>> {
    /// Dearer than any sum of squares.
    const EMPTY: u64 = 1 << 40;
    let layers = costs.layer_count;
    let mut best = vec![u64::MAX; layers + 1];
    best[0] = 0;
    let mut choices: Vec<Vec<u32>> = Vec::with_capacity(order.len());
    for device in order {
        let mut next: Vec<u64> = best.iter().map(|cost| cost.saturating_add(EMPTY)).collect();
        let mut starts: Vec<u32> = (0..=layers as u32).collect();
        for (start, before) in best.iter().copied().enumerate().take(layers) {
            if before == u64::MAX {
                continue;
            }
            for end in start + 1..=costs.reach(*device, start) {
                let off = (end - start).abs_diff(wanted[*device]) as u64;
                let cost = before.saturating_add(off * off);
                if cost < next[end] {
                    next[end] = cost;
                    starts[end] = start as u32;
                }
            }
        }
        choices.push(starts);
        best = next;
    }
    if best[layers] == u64::MAX {
        return None;
    }
    Some(trace(order, &choices, layers))
}

/// Follows the chosen starts back from the last layer.
pub(crate) fn trace(order: &[Index], choices: &[Vec<u32>], layers: usize) -> Vec<Cut> {
    let mut end = layers;
    let mut cuts: Vec<(Index, Range<usize>)> = Vec::new();
    for (device, starts) in order.iter().zip(choices).rev() {
        let start = starts[end] as usize;
        if start < end {
            cuts.push((*device, start..end));
            end = start;
        }
    }
    cuts.reverse();
    cuts
}
