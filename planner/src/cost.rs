//! What a stage, a hop and a plan cost, as integers.
//!
//! Every decision of this crate compares the numbers made here: bytes and
//! nanoseconds, rounded up once per stage. No floats, so no order of additions can
//! change a plan.

mod links;
mod memory;
mod route;
mod stage;

use std::ops::Range;

pub(crate) use links::Links;

use crate::device::{Device, DeviceId};
use crate::request::Request;

/// Index of a device in the list sorted by id.
pub(crate) type Index = usize;

/// Costs above this are "never". Low enough that a sum of many cannot wrap.
pub(crate) const NEVER: u64 = 1 << 56;

/// One stage of a candidate: who, and which layers.
pub(crate) type Cut = (Index, Range<usize>);

/// The request, sorted and summed up so that any range costs a subtraction.
pub(crate) struct Costs<'r> {
    pub(crate) request: &'r Request,
    /// Sorted by id, so that the order of the request cannot matter.
    pub(crate) devices: Vec<&'r Device>,
    pub(crate) layer_count: usize,
    /// Whether all layers cost the same, so that only their number matters.
    pub(crate) layers_are_alike: bool,
    /// Prefix sums over layers: weights, and keys and values as the model tells them.
    weights: Vec<u64>,
    held: Vec<u64>,
    /// Time of one decode row on each device, rounded up per layer, so that moving a layer
    /// changes a plan by exactly what that layer costs.
    decode: Vec<Vec<u64>>,
    /// The same with each layer on the device that is best at it.
    least: Vec<u64>,
    least_embedding: u64,
    least_head: u64,
    /// Furthest end by start, for each device.
    reach: Vec<Vec<usize>>,
    streamed: Vec<u64>,
    cache_read: Vec<u64>,
    macs: Vec<u64>,
    pub(crate) links: Links,
    /// Where rows come from and tokens go to, if that is one of the devices.
    pub(crate) driver: Option<Index>,
}

impl<'r> Costs<'r> {
    pub(crate) fn new(request: &'r Request) -> Self {
        let mut devices: Vec<&Device> = request.devices.iter().collect();
        devices.sort_by_key(|device| device.id);
        let layers = &request.model.layers;
        let held = u64::from(request.context_tokens).saturating_mul(request.sequences.into());
        let read = u64::from(request.prompt_tokens);
        let decode: Vec<Vec<u64>> = devices
            .iter()
            .map(|device| {
                let times = layers
                    .iter()
                    .map(|layer| stage::row_nanos(device, layer, read));
                let mut sums = prefix(times);
                sums.iter_mut().for_each(|sum| *sum = (*sum).min(NEVER));
                sums
            })
            .collect();
        let driver = request
            .driver
            .and_then(|id| devices.binary_search_by_key(&id, |device| device.id).ok());
        let mut costs = Self {
            request,
            layer_count: layers.len(),
            reach: Vec::new(),
            layers_are_alike: layers.windows(2).all(|pair| pair[0] == pair[1]),
            weights: prefix(layers.iter().map(|layer| layer.weight_bytes)),
            held: prefix(
                layers
                    .iter()
                    .map(|layer| layer.kv_bytes_per_token.saturating_mul(held)),
            ),
            streamed: prefix(
                layers
                    .iter()
                    .map(|layer| layer.active_bytes.unwrap_or(layer.weight_bytes)),
            ),
            cache_read: prefix(
                layers
                    .iter()
                    .map(|layer| layer.kv_bytes_per_token.saturating_mul(read)),
            ),
            macs: prefix(layers.iter().map(|layer| {
                layer
                    .macs_per_row
                    .saturating_add(layer.attention_macs_per_token.saturating_mul(read))
            })),
            least: prefix((0..layers.len()).map(|layer| {
                let times = decode.iter().map(|sums| sums[layer + 1] - sums[layer]);
                times.min().unwrap_or(0)
            })),
            decode,
            least_embedding: 0,
            least_head: 0,
            links: Links::new(request, &devices),
            devices,
            driver,
        };
        let all = 0..costs.devices.len();
        let embeddings = all.clone().map(|device| costs.embedding_nanos(device));
        costs.least_embedding = embeddings.min().unwrap_or(0);
        let heads = all.map(|device| costs.head_nanos(device));
        costs.least_head = heads.min().unwrap_or(0);
        costs.reach = (0..costs.devices.len())
            .map(|device| costs.reaches(device))
            .collect();
        costs
    }

    pub(crate) fn index_of(&self, id: DeviceId) -> Option<Index> {
        self.devices
            .binary_search_by_key(&id, |device| device.id)
            .ok()
    }
}

/// Time for `amount` at `per_second`, rounded up, capped at [`NEVER`].
pub(crate) fn nanos(amount: u64, per_second: u64) -> u64 {
    let per_second = per_second.max(1);
    if let Some(scaled) = amount.checked_mul(1_000_000_000) {
        return scaled.div_ceil(per_second).min(NEVER);
    }
    let exact = (u128::from(amount) * 1_000_000_000).div_ceil(u128::from(per_second));
    u64::try_from(exact).map_or(NEVER, |nanos| nanos.min(NEVER))
}

fn prefix(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sum = 0u64;
    let mut sums = vec![0];
    sums.extend(values.map(|value| {
        sum = sum.saturating_add(value);
        sum
    }));
    sums
}
