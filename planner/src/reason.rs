//! One line per device: why this many layers, or why none.
//!
//! Explains a plan that is already made; changes nothing about it.

use std::ops::Range;

use crate::cost::{Costs, Cut, Index};
use crate::plan::{Limit, Reason, Why};
use crate::request::Strategy;

/// The reasons of all devices, in id order.
pub(crate) fn reasons(costs: &Costs<'_>, cuts: &[Cut], wanted: Option<&[usize]>) -> Vec<Reason> {
    (0..costs.devices.len())
        .map(|device| {
            let used = cuts.iter().find(|cut| cut.0 == device);
            let why = match used {
                Some((_, layers)) => why_used(costs, cuts, device, layers, wanted),
                None => why_unused(costs, cuts, device, wanted),
            };
            Reason {
                device: costs.devices[device].id,
                name: costs.devices[device].name.clone(),
                why,
            }
        })
        .collect()
}

fn why_used(
    costs: &Costs<'_>,
    cuts: &[Cut],
    device: Index,
    layers: &Range<usize>,
    wanted: Option<&[usize]>,
) -> Why {
    let count = u32::try_from(layers.len()).unwrap_or(u32::MAX);
    if let Strategy::Custom(_) = costs.request.strategy {
        return Why::Listed { layers: count };
    }
    let full = is_full(costs, device, layers);
    if let Some(wanted) = wanted {
        let wanted = wanted[device];
        let limit = match layers.len().cmp(&wanted) {
            std::cmp::Ordering::Less => Limit::MemoryFull,
            std::cmp::Ordering::Equal => Limit::Share,
            std::cmp::Ordering::Greater => Limit::OthersFull,
        };
        return Why::Share {
            layers: count,
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            limit,
        };
    }
    let limit = if cuts.len() == 1 {
        Limit::WholeModel
    } else if full {
        Limit::MemoryFull
    } else {
        Limit::Time
    };
    let speeds = (0..costs.devices.len()).map(|index| costs.speed(index));
    let fastest = speeds.max().unwrap_or(1);
    let speed = u128::from(costs.speed(device));
    Why::Chosen {
        layers: count,
        limit,
        speed_percent: u64::try_from(speed * 100 / u128::from(fastest.max(1))).unwrap_or(100),
    }
}

/// Whether neither neighbour of the range would fit in addition.
fn is_full(costs: &Costs<'_>, device: Index, layers: &Range<usize>) -> bool {
    let longer_after =
        layers.end < costs.layer_count && costs.fits(device, &(layers.start..layers.end + 1));
    let longer_before = layers.start > 0 && costs.fits(device, &(layers.start - 1..layers.end));
    !longer_after && !longer_before
}

fn why_unused(costs: &Costs<'_>, cuts: &[Cut], device: Index, wanted: Option<&[usize]>) -> Why {
    if let Strategy::Custom(_) = costs.request.strategy {
        return Why::Unlisted;
    }
    let smallest = (0..costs.layer_count)
        .map(|layer| costs.memory_bytes(device, &(layer..layer + 1)))
        .min()
        .unwrap_or(0);
    let usable = costs.usable_bytes(device);
    if smallest > usable {
        return Why::TooSmall {
            bytes_missing: smallest - usable,
        };
    }
    if wanted.is_some() {
        return if costs.devices.len() > costs.layer_count {
            Why::MoreDevicesThanLayers
        } else {
            Why::NotNeeded
        };
    }
    let now = costs.objective_nanos(cuts);
    match best_with(costs, cuts, device) {
        Some(with) if with > now => Why::Slower {
            worse_permille: u64::try_from(u128::from(with - now) * 1000 / u128::from(now.max(1)))
                .unwrap_or(u64::MAX)
                .max(1),
        },
        Some(_) | None => Why::NotNeeded,
    }
}

/// The best objective with the device squeezed into the plan: in place of a stage, or
/// between two stages with a part of the layers of either.
fn best_with(costs: &Costs<'_>, cuts: &[Cut], device: Index) -> Option<u64> {
    let mut candidates: Vec<Vec<Cut>> = Vec::new();
    for (place, (owner, layers)) in cuts.iter().enumerate() {
        let mut replaced = cuts.to_vec();
        replaced[place].0 = device;
        candidates.push(replaced);
        for middle in layers.start + 1..layers.end {
            for (left, right) in [(*owner, device), (device, *owner)] {
                let halves = [(left, layers.start..middle), (right, middle..layers.end)];
                let mut split = cuts.to_vec();
                split.splice(place..=place, halves);
                candidates.push(split);
            }
        }
    }
    candidates
        .into_iter()
        .filter(|cuts| {
            cuts.iter()
                .all(|(device, layers)| costs.fits(*device, layers))
        })
        .map(|cuts| costs.objective_nanos(&cuts))
        .min()
}
