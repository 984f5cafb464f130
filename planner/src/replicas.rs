//! Several whole pipelines side by side, where the devices suffice for them.
//!
//! Every group of streams that passes a stage streams its weights again, so two short
//! pipelines with half of the streams each can be faster together than a long one with
//! all. Deals devices out by a rule of thumb: each pipeline is planned as the strategy
//! promises, which devices form one is not proven best.

use crate::device::{Device, DeviceId};
use crate::plan::Plan;
use crate::request::{Objective, Request};
use crate::{NoPlan, plan};

/// Pipelines that are tried at most.
const PIPELINE_COUNT_MAX: usize = 8;

/// One whole pipeline and its share of the streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The request that it was planned for: its own devices, links and streams.
    pub request: Request,
    /// Its plan.
    pub plan: Plan,
}

/// The split into one or more whole pipelines with the most tokens per second of all
/// streams together; one pipeline over all devices is always among the candidates, so the
/// answer is never slower than [`plan()`] for throughput. No device is in two of them.
///
/// # Errors
/// As [`plan()`], for the one pipeline over all devices.
pub fn pipelines(request: &Request) -> Result<Vec<Pipeline>, NoPlan> {
    let request = Request {
        objective: Objective::Throughput,
        ..request.clone()
    };
    let mut best = vec![Pipeline {
        plan: plan(&request)?,
        request: request.clone(),
    }];
    let streams = usize::try_from(request.sequences).unwrap_or(usize::MAX);
    let most = PIPELINE_COUNT_MAX.min(request.devices.len()).min(streams);
    for count in 2..=most {
        let Some(split) = split(&request, count) else {
            continue;
        };
        if rate(&split) > rate(&best) {
            best = split;
        }
    }
    Ok(best)
}

/// Tokens of all streams in 10^15 nanoseconds.
fn rate(pipelines: &[Pipeline]) -> u128 {
    let rates = pipelines.iter().map(|pipeline| {
        let turn = pipeline.plan.proof.objective_nanos.max(1);
        u128::from(pipeline.request.sequences) * 1_000_000_000_000_000 / u128::from(turn)
    });
    rates.sum()
}

/// `count` pipelines, or `None` where one of them cannot hold the model.
fn split(request: &Request, count: usize) -> Option<Vec<Pipeline>> {
    let groups = deal(request, count)?;
    let speed = |group: &Vec<Device>| -> u128 {
        let speeds = group.iter().map(|device| device.decode_bytes_per_second);
        speeds.map(u128::from).sum()
    };
    let all: u128 = groups.iter().map(speed).sum();
    let mut left = request.sequences;
    let mut pipelines = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        let others = u32::try_from(groups.len() - place - 1).unwrap_or(u32::MAX);
        let share = u128::from(request.sequences) * speed(group) / all.max(1);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let sequences = match others {
            0 => left,
            _ => share.clamp(1, left.saturating_sub(others).max(1)),
        };
        left -= sequences;
        let request = subset(request, group, sequences);
        let plan = plan(&request).ok()?;
        pipelines.push(Pipeline { request, plan });
    }
    Some(pipelines)
}

/// Devices in groups: the fastest first, each to the group that lacks most memory, then
/// to the slowest group. `None` where memory does not suffice on paper.
fn deal(request: &Request, count: usize) -> Option<Vec<Vec<Device>>> {
    let model = &request.model;
    let streams = u64::from(request.sequences).div_ceil(count as u64);
    let held = u64::from(request.context_tokens).saturating_mul(streams);
    // Whether it suffices in truth is for each pipeline's plan to find.
    let least_kept = |told| {
        let caches = request.devices.iter().map(|device| device.kv_bytes(told));
        caches.min().unwrap_or(told)
    };
    let layers = model.layers.iter().map(|layer| {
        layer
            .weight_bytes
            .saturating_add(least_kept(layer.kv_bytes_per_token.saturating_mul(held)))
    });
    let needed = layers
        .fold(0u64, u64::saturating_add)
        .saturating_add(model.embedding.weight_bytes)
        .saturating_add(model.head.weight_bytes);
    let room = |device: &Device| {
        device
            .memory_bytes
            .saturating_sub(request.headroom_bytes)
            .saturating_sub(request.buffer_bytes)
    };
    let mut devices: Vec<&Device> = request.devices.iter().collect();
    devices.sort_by_key(|device| (std::cmp::Reverse(device.decode_bytes_per_second), device.id));
    let mut groups = vec![Vec::new(); count];
    let mut lacks = vec![needed; count];
    let mut speeds = vec![0u64; count];
    for device in devices {
        let place = (0..count)
            .max_by_key(|place| (lacks[*place], std::cmp::Reverse((speeds[*place], *place))))?;
        lacks[place] = lacks[place].saturating_sub(room(device));
        speeds[place] = speeds[place].saturating_add(device.decode_bytes_per_second);
        groups[place].push(device.clone());
    }
    lacks.iter().all(|lack| *lack == 0).then_some(groups)
}

/// The request for some of its devices and streams.
fn subset(request: &Request, group: &[Device], sequences: u32) -> Request {
    let has = |id: DeviceId| group.iter().any(|device| device.id == id);
    let links = request.links.iter();
    Request {
        devices: group.to_vec(),
        links: links
            .filter(|link| has(link.from) && has(link.to))
            .cloned()
            .collect(),
        sequences,
        ..request.clone()
    }
}

#[cfg(test)]
mod tests;
