//! Whether a plan holds what every plan must hold, for whoever makes or adopts one.
//!
//! Trusts nothing that the plan says about itself, and does not judge how good it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::cost::Costs;
use crate::device::{Device, DeviceId};
use crate::fault::Fault;
use crate::plan::{Plan, Stage};
use crate::request::Request;

/// Validates any plan against a request: every layer once and in order, known devices
/// once each, every byte within every device's memory, standbys that stand by for
/// something. Reports all faults together.
pub fn check(plan: &Plan, request: &Request) -> Result<(), Vec<Fault>> {
    let list: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| (stage.device, stage.layers.clone()))
        .collect();
    let mut faults = check_list(&list, request);
    for pair in list.windows(2) {
        if pair[1].1.start < pair[0].1.start {
            faults.push(Fault::OutOfOrder {
                device: request.name_of(pair[1].0),
            });
        }
    }
    if faults.is_empty() {
        let costs = Costs::new(request);
        check_memory(plan, &costs, &mut faults);
        check_standbys(plan, &costs, &mut faults);
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

/// The faults of a list of ranges, in any order of the list.
pub(crate) fn check_list(list: &[(DeviceId, Range<u32>)], request: &Request) -> Vec<Fault> {
    check_named_list(list, request, &|id| request.name_of(id))
}

/// The same with the caller's words for devices, known ones and others.
pub(crate) fn check_named_list(
    list: &[(DeviceId, Range<u32>)],
    request: &Request,
    name_of: &dyn Fn(DeviceId) -> String,
) -> Vec<Fault> {
    let costs = Costs::new(request);
    let layer_count = u32::try_from(costs.layer_count).unwrap_or(u32::MAX);
    let mut faults = Vec::new();
    let mut seen: BTreeMap<DeviceId, u32> = BTreeMap::new();
    let mut sound = Vec::new();
    for (id, layers) in list {
        let device = name_of(*id);
        let index = costs.index_of(*id);
        if index.is_none() {
            faults.push(Fault::UnknownDevice {
                device: device.clone(),
            });
        }
        let times = seen.entry(*id).or_insert(0);
        *times += 1;
        if *times == 2 {
            faults.push(Fault::DuplicateDevice {
                device: device.clone(),
            });
        }
        if layers.start >= layers.end {
            let layers = layers.clone();
            faults.push(Fault::Empty { device, layers });
            continue;
        }
        if layers.end > layer_count {
            faults.push(Fault::OutOfBounds {
                device,
                layers: layers.clone(),
                layer_count,
            });
        } else if let Some(index) = index {
            let usable = costs.usable_bytes(index);
            let needed = costs.memory_bytes(index, &wide(layers));
            if needed > usable {
                faults.push(Fault::OverMemory {
                    device,
                    layers: layers.clone(),
                    bytes_missing: needed - usable,
                });
            }
        }
        sound.push((
            *id,
            layers.start.min(layer_count)..layers.end.min(layer_count),
        ));
    }
    check_cover(sound, layer_count, name_of, &mut faults);
    faults
}

fn check_cover(
    mut list: Vec<(DeviceId, Range<u32>)>,
    layer_count: u32,
    name_of: &dyn Fn(DeviceId) -> String,
    faults: &mut Vec<Fault>,
) {
    list.sort_by_key(|(id, layers)| (layers.start, layers.end, *id));
    let mut covered = 0;
    let mut holder: Option<DeviceId> = None;
    for (id, layers) in list.into_iter().filter(|(_, layers)| !layers.is_empty()) {
        if layers.start > covered {
            faults.push(Fault::Gap {
                layers: covered..layers.start,
            });
        } else if let Some(first) = holder.filter(|_| layers.start < covered) {
            faults.push(Fault::Overlap {
                layers: layers.start..covered.min(layers.end),
                first: name_of(first),
                second: name_of(id),
            });
        }
        if layers.end > covered {
            covered = layers.end;
            holder = Some(id);
        }
    }
    if covered < layer_count {
        faults.push(Fault::Gap {
            layers: covered..layer_count,
        });
    }
}

fn check_memory(plan: &Plan, costs: &Costs<'_>, faults: &mut Vec<Fault>) {
    for stage in &plan.stages {
        let Some(index) = costs.index_of(stage.device) else {
            continue;
        };
        let needed = costs.memory_bytes(index, &wide(&stage.layers));
        if stage.memory_bytes != needed {
            faults.push(Fault::MemoryMisstated {
                device: costs.request.name_of(stage.device),
                stated: stage.memory_bytes,
                needed,
            });
        }
    }
}

fn check_standbys(plan: &Plan, costs: &Costs<'_>, faults: &mut Vec<Fault>) {
    let name = |id| costs.request.name_of(id);
    let owners: BTreeSet<DeviceId> = plan.stages.iter().map(|stage| stage.device).collect();
    let mut used: BTreeMap<DeviceId, u64> = plan
        .stages
        .iter()
        .map(|stage| (stage.device, stage.memory_bytes))
        .collect();
    for standby in &plan.standbys {
        let Some(index) = costs.index_of(standby.device) else {
            let device = name(standby.device);
            faults.push(Fault::UnknownDevice { device });
            continue;
        };
        let inside = |stage: &&Stage| {
            stage.layers.start <= standby.layers.start && standby.layers.end <= stage.layers.end
        };
        let owner = plan.stages.iter().find(inside);
        if standby.layers.is_empty() || owner.is_none_or(|stage| stage.device == standby.device) {
            faults.push(Fault::StrayStandby {
                device: name(standby.device),
                layers: standby.layers.clone(),
            });
            continue;
        }
        let entry = used.entry(standby.device);
        let buffers = match entry {
            std::collections::btree_map::Entry::Vacant(_) => costs.request.buffer_bytes,
            std::collections::btree_map::Entry::Occupied(_) => 0,
        };
        let whole = costs.memory_bytes(index, &wide(&standby.layers));
        let needed = whole - costs.request.buffer_bytes + buffers;
        if standby.memory_bytes != needed {
            faults.push(Fault::MemoryMisstated {
                device: name(standby.device),
                stated: standby.memory_bytes,
                needed,
            });
        }
        let sum = entry.or_insert(0);
        *sum = sum.saturating_add(needed);
    }
    for (id, sum) in used {
        let Some(index) = costs.index_of(id) else {
            continue;
        };
        let usable = costs.usable_bytes(index);
        if sum > usable {
            faults.push(Fault::StandbyOverMemory {
                device: name(id),
                bytes_missing: sum - usable,
            });
        }
    }
    for stage in &plan.stages {
        for id in &stage.standbys {
            let held = plan
                .standbys
                .iter()
                .any(|standby| standby.device == *id && standby.layers == stage.layers);
            if !held || (owners.contains(id) && *id == stage.device) {
                faults.push(Fault::StrayStandby {
                    device: name(*id),
                    layers: stage.layers.clone(),
                });
            }
        }
    }
}

/// The faults of a request, apart from its custom list.
pub(crate) fn check_request(request: &Request) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut zero = |value: u64, what: String| {
        if value == 0 {
            faults.push(Fault::Zero { what });
        }
    };
    zero(
        request.model.layers.len() as u64,
        "the model's layer count".into(),
    );
    zero(request.context_tokens.into(), "the context".into());
    zero(request.sequences.into(), "the number of sequences".into());
    zero(request.prompt_tokens.into(), "the prompt length".into());
    zero(
        request.prefill_chunk_rows.into(),
        "the prefill chunk".into(),
    );
    zero(
        request.default_link.bytes_per_second,
        "the default link's bandwidth".into(),
    );
    for device in &request.devices {
        let name = &device.name;
        zero(
            device.decode_bytes_per_second,
            format!("the decode speed of {name}"),
        );
        zero(
            device.prefill_macs_per_second,
            format!("the prefill speed of {name}"),
        );
        let detail = &device.detail;
        for (speed, what) in [
            (detail.head_bytes_per_second, "head"),
            (detail.cache_bytes_per_second, "cache"),
            (detail.attention_macs_per_second, "attention"),
        ] {
            zero(speed.unwrap_or(1), format!("the {what} speed of {name}"));
        }
    }
    for link in &request.links {
        let (from, to) = (request.name_of(link.from), request.name_of(link.to));
        zero(
            link.bytes_per_second,
            format!("the bandwidth from {from} to {to}"),
        );
    }
    check_sizes(request, &mut faults);
    check_ids(request, &mut faults);
    faults
}

fn check_ids(request: &Request, faults: &mut Vec<Fault>) {
    let mut by_id: Vec<_> = request
        .devices
        .iter()
        .map(|device| (device.id, &device.name))
        .collect();
    by_id.sort();
    for pair in by_id.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        faults.push(Fault::SameId {
            first: pair[0].1.clone(),
            second: pair[1].1.clone(),
        });
    }
    let strays: BTreeSet<DeviceId> = request
        .links
        .iter()
        .flat_map(|link| [link.from, link.to])
        .filter(|id| by_id.binary_search_by_key(id, |(known, _)| *known).is_err())
        .collect();
    faults.extend(strays.into_iter().map(|id| Fault::StrayLink {
        device: id.to_string(),
    }));
}

/// Sums that would not stay exact in 64 bits are refused here, once, so that the
/// arithmetic behind every decision need not ask again.
fn check_sizes(request: &Request, faults: &mut Vec<Fault>) {
    const BYTES_MAX: u128 = 1 << 60;
    // Searches count layers in 16 bits.
    const LAYER_COUNT_MAX: usize = 60_000;
    if request.model.layers.len() > LAYER_COUNT_MAX {
        let what = "the model's layer count".into();
        faults.push(Fault::TooLarge { what });
    }
    let held = u128::from(request.context_tokens) * u128::from(request.sequences);
    let attended = u128::from(request.prompt_tokens) * 2;
    let (mut bytes, mut macs) = (u128::from(request.buffer_bytes), 0u128);
    for layer in &request.model.layers {
        let active = u128::from(layer.active_bytes.unwrap_or(0));
        bytes += u128::from(layer.weight_bytes).max(active)
            + u128::from(layer.kv_bytes_per_token) * held.max(attended);
        macs +=
            u128::from(layer.macs_per_row) + u128::from(layer.attention_macs_per_token) * attended;
    }
    for part in [request.model.embedding, request.model.head] {
        bytes += u128::from(part.weight_bytes.max(part.decode_bytes));
        macs += u128::from(part.macs_per_row);
    }
    let takes_more = |device: &&Device| device.detail.kv_permille.is_some_and(|kept| kept > 1000);
    for device in request.devices.iter().filter(takes_more) {
        let what = format!("what {} takes for keys and values", device.name);
        faults.push(Fault::TooLarge { what });
    }
    if bytes > BYTES_MAX {
        let what = "the model with its caches".into();
        faults.push(Fault::TooLarge { what });
    }
    if macs > BYTES_MAX {
        let what = "the model's arithmetic".into();
        faults.push(Fault::TooLarge { what });
    }
}

/// Ranges of a plan count in `u32`, indexes into slices in `usize`.
pub(crate) fn wide(layers: &Range<u32>) -> Range<usize> {
    layers.start as usize..layers.end as usize
}
