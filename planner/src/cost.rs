//! What a stage, a hop and a plan cost, as integers.
//!
//! Every decision of this crate compares the numbers made here: bytes and
//! nanoseconds, rounded up once per stage. No floats, so no order of additions can
//! change a plan.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::device::{Device, DeviceId, LinkSpeed};
use crate::request::{Objective, Request};

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
    /// Prefix sums over layers.
    resident: Vec<u64>,
    /// Time of one decode row on each device, rounded up once per layer, so that moving
    /// a layer changes a plan by exactly what that layer costs.
    decode: Vec<Vec<u64>>,
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
        let driver = request
            .driver
            .and_then(|id| devices.binary_search_by_key(&id, |device| device.id).ok());
        let mut costs = Self {
            request,
            layer_count: layers.len(),
            reach: Vec::new(),
            layers_are_alike: layers.windows(2).all(|pair| pair[0] == pair[1]),
            resident: prefix(layers.iter().map(|layer| {
                layer
                    .weight_bytes
                    .saturating_add(layer.kv_bytes_per_token.saturating_mul(held))
            })),
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
            decode: devices
                .iter()
                .map(|device| {
                    let mut sums = prefix(layers.iter().map(|layer| {
                        let weights = layer.active_bytes.unwrap_or(layer.weight_bytes);
                        let cache = layer.kv_bytes_per_token.saturating_mul(read);
                        let bytes = weights.saturating_add(cache);
                        nanos(bytes, device.decode_bytes_per_second)
                    }));
                    sums.iter_mut().for_each(|sum| *sum = (*sum).min(NEVER));
                    sums
                })
                .collect(),
            links: Links::new(request, &devices),
            devices,
            driver,
        };
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

    /// Memory that a device needs for these layers, buffers included, headroom not.
    pub(crate) fn memory_bytes(&self, layers: &Range<usize>) -> u64 {
        let model = &self.request.model;
        let mut bytes = self.resident[layers.end] - self.resident[layers.start];
        let first = layers.start == 0;
        let last = layers.end == self.layer_count;
        if first {
            bytes = bytes.saturating_add(model.embedding.weight_bytes);
        }
        if last {
            bytes = bytes.saturating_add(model.head.weight_bytes);
        }
        if first && last {
            bytes = bytes.saturating_sub(self.tied_bytes());
        }
        bytes.saturating_add(self.request.buffer_bytes)
    }

    /// What embedding and head really share; never more than either of them.
    fn tied_bytes(&self) -> u64 {
        let model = &self.request.model;
        model
            .tied_bytes
            .min(model.embedding.weight_bytes)
            .min(model.head.weight_bytes)
    }

    /// Memory of a device that a plan may fill.
    pub(crate) fn usable_bytes(&self, device: Index) -> u64 {
        self.devices[device]
            .memory_bytes
            .saturating_sub(self.request.headroom_bytes)
    }

    pub(crate) fn fits(&self, device: Index, layers: &Range<usize>) -> bool {
        self.memory_bytes(layers) <= self.usable_bytes(device)
    }

    /// The furthest end of a range from `start` that fits; `start` when none does.
    pub(crate) fn reach(&self, device: Index, start: usize) -> usize {
        self.reach[device][start]
    }

    /// Ends never move back as starts move on, so one pass over the layers finds all.
    fn reaches(&self, device: Index) -> Vec<usize> {
        let mut end = 0;
        (0..self.layer_count)
            .map(|start| {
                end = end.max(start);
                while end < self.layer_count && self.fits(device, &(start..end + 1)) {
                    end += 1;
                }
                end
            })
            .collect()
    }

    /// Weight bytes of a range that one row streams, ends included.
    fn streamed_bytes(&self, layers: &Range<usize>) -> u64 {
        let model = &self.request.model;
        let mut bytes = self.streamed[layers.end] - self.streamed[layers.start];
        if layers.start == 0 {
            bytes = bytes.saturating_add(model.embedding.decode_bytes);
        }
        if layers.end == self.layer_count {
            bytes = bytes.saturating_add(model.head.decode_bytes);
        }
        bytes
    }

    /// Weights and cache of a range in memory, without ends and buffers.
    pub(crate) fn layer_bytes(&self, layers: &Range<usize>) -> u64 {
        self.resident[layers.end] - self.resident[layers.start]
    }

    fn cache_bytes(&self, layers: &Range<usize>) -> u64 {
        self.cache_read[layers.end] - self.cache_read[layers.start]
    }

    /// Multiply-accumulates of one decode row, ends included.
    fn row_macs(&self, layers: &Range<usize>) -> u64 {
        let model = &self.request.model;
        let mut macs = self.macs[layers.end] - self.macs[layers.start];
        if layers.start == 0 {
            macs = macs.saturating_add(model.embedding.macs_per_row);
        }
        if layers.end == self.layer_count {
            macs = macs.saturating_add(model.head.macs_per_row);
        }
        macs
    }

    /// All bytes that one decode row reads in a range: weights and cache.
    pub(crate) fn row_bytes(&self, layers: &Range<usize>) -> u64 {
        self.streamed_bytes(layers)
            .saturating_add(self.cache_bytes(layers))
    }

    /// One decode row of one stream through a stage.
    pub(crate) fn decode_nanos(&self, device: Index, layers: &Range<usize>) -> u64 {
        let mut time = self.decode[device][layers.end] - self.decode[device][layers.start];
        if layers.start == 0 {
            time += self.embedding_nanos(device);
        }
        if layers.end == self.layer_count {
            time += self.head_nanos(device);
        }
        time.min(NEVER)
    }

    /// How long a stage is busy while every sequence advances by one token, when the
    /// plan has `stage_count` stages and the sequences travel in as many groups: each
    /// group streams the weights once, each row does its own arithmetic (the larger of
    /// the two counts, as in a roofline) and reads its own cache.
    pub(crate) fn turn_nanos(
        &self,
        device: Index,
        layers: &Range<usize>,
        stage_count: usize,
    ) -> u64 {
        let rows = u64::from(self.request.sequences);
        let groups = stage_count as u64;
        let machine = self.devices[device];
        let weights = nanos(
            self.streamed_bytes(layers).saturating_mul(groups),
            machine.decode_bytes_per_second,
        );
        let arithmetic = nanos(
            self.row_macs(layers).saturating_mul(rows),
            machine.prefill_macs_per_second,
        );
        let cache = nanos(
            self.cache_bytes(layers).saturating_mul(rows),
            machine.decode_bytes_per_second,
        );
        weights.max(arithmetic).saturating_add(cache).min(NEVER)
    }

    /// One chunk of prefill rows through a stage, with `cached` tokens before it. The
    /// head works on the last row of a prompt only, so it is not in here.
    pub(crate) fn prefill_nanos(
        &self,
        device: Index,
        layers: &Range<usize>,
        rows: u64,
        cached: u64,
    ) -> u64 {
        let machine = self.devices[device];
        let model = &self.request.model;
        let (mut streamed, mut macs) = (0u64, 0u64);
        // Row i of the chunk attends to the tokens before it and to itself.
        let attended = cached + rows.div_ceil(2);
        for layer in &model.layers[layers.clone()] {
            streamed = streamed.saturating_add(layer.active_bytes.unwrap_or(layer.weight_bytes));
            macs = macs
                .saturating_add(layer.macs_per_row)
                .saturating_add(layer.attention_macs_per_token.saturating_mul(attended));
        }
        if layers.start == 0 {
            streamed = streamed.saturating_add(model.embedding.decode_bytes);
            macs = macs.saturating_add(model.embedding.macs_per_row);
        }
        nanos(streamed, machine.decode_bytes_per_second).max(nanos(
            macs.saturating_mul(rows),
            machine.prefill_macs_per_second,
        ))
    }

    /// Prefix sums over layers of one decode row's time on a device, ends left out.
    pub(crate) fn decode_sums(&self, device: Index) -> &[u64] {
        &self.decode[device]
    }

    /// The embedding of one row.
    pub(crate) fn embedding_nanos(&self, device: Index) -> u64 {
        nanos(
            self.request.model.embedding.decode_bytes,
            self.devices[device].decode_bytes_per_second,
        )
    }

    /// The head on the one row of a prompt that is sampled from.
    pub(crate) fn head_nanos(&self, device: Index) -> u64 {
        nanos(
            self.request.model.head.decode_bytes,
            self.devices[device].decode_bytes_per_second,
        )
    }

    /// The time of one token of one stream: all stages, all hops, and the way home.
    pub(crate) fn latency_nanos(&self, cuts: &[Cut]) -> u64 {
        let stages: u64 = cuts
            .iter()
            .map(|(device, layers)| self.decode_nanos(*device, layers))
            .fold(0, |sum, nanos| (sum + nanos).min(NEVER));
        (stages + self.hops_nanos(cuts)).min(NEVER)
    }

    /// What the hops of one token cost: into the first stage, between stages, home.
    pub(crate) fn hops_nanos(&self, cuts: &[Cut]) -> u64 {
        let (Some((first, _)), Some((last, _))) = (cuts.first(), cuts.last()) else {
            return 0;
        };
        let between = cuts
            .windows(2)
            .map(|pair| self.links.hop_nanos(pair[0].0, pair[1].0));
        let ends = self.enter_nanos(*first) + self.leave_nanos(*last, *first);
        between.fold(ends, |sum, nanos| (sum + nanos).min(NEVER))
    }

    /// A token's way from the driver to the first stage.
    pub(crate) fn enter_nanos(&self, first: Index) -> u64 {
        match (self.request.driver, self.driver) {
            (None, _) => 0,
            (Some(_), Some(driver)) => self.links.token_nanos(driver, first),
            (Some(_), None) => self.links.outside_nanos,
        }
    }

    /// A sampled token's way from the last stage to the driver.
    pub(crate) fn leave_nanos(&self, last: Index, first: Index) -> u64 {
        match (self.request.driver, self.driver) {
            (None, _) => self.links.token_nanos(last, first),
            (Some(_), Some(driver)) => self.links.token_nanos(last, driver),
            (Some(_), None) => self.links.outside_nanos,
        }
    }

    /// The time in which every sequence advances by one token when all stages are kept
    /// busy: the slowest stage's or link's share of it.
    pub(crate) fn slowest_nanos(&self, cuts: &[Cut]) -> u64 {
        let stages = cuts
            .iter()
            .map(|(device, layers)| self.turn_nanos(*device, layers, cuts.len()));
        let links = cuts
            .windows(2)
            .map(|pair| self.links.busy_nanos(pair[0].0, pair[1].0));
        stages.chain(links).max().unwrap_or(0)
    }

    pub(crate) fn objective_nanos(&self, cuts: &[Cut]) -> u64 {
        match self.request.objective {
            Objective::Latency => self.latency_nanos(cuts),
            Objective::Throughput => self.slowest_nanos(cuts),
        }
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

/// The costs of all pairs, by class: most pairs of a cluster share one.
pub(crate) struct Links {
    device_count: usize,
    /// Empty when every pair is of class 0.
    class_of: Vec<u32>,
    classes: Vec<LinkClass>,
    /// Half a default round trip: the way to a driver outside the list.
    outside_nanos: u64,
}

#[derive(Clone, Copy)]
struct LinkClass {
    hop_nanos: u64,
    token_nanos: u64,
    busy_nanos: u64,
}

impl Links {
    fn new(request: &Request, devices: &[&Device]) -> Self {
        let mut classes: Vec<LinkSpeed> = vec![request.default_link];
        let mut known: BTreeMap<LinkSpeed, u32> = BTreeMap::from([(request.default_link, 0)]);
        let count = devices.len();
        let mut class_of = vec![
            0u32;
            if request.links.is_empty() {
                0
            } else {
                count * count
            }
        ];
        let mut given: Vec<_> = request.links.iter().collect();
        given.sort();
        let place = |id: DeviceId| devices.binary_search_by_key(&id, |device| device.id).ok();
        // First what was measured the other way round, then what was measured this way.
        for reversed in [true, false] {
            for link in &given {
                let (Some(from), Some(to)) = (place(link.from), place(link.to)) else {
                    continue;
                };
                let speed = LinkSpeed {
                    round_trip_micros: link.round_trip_micros,
                    bytes_per_second: link.bytes_per_second,
                };
                let class = *known.entry(speed).or_insert_with(|| {
                    classes.push(speed);
                    (classes.len() - 1) as u32
                });
                let cell = if reversed {
                    to * count + from
                } else {
                    from * count + to
                };
                class_of[cell] = class;
            }
        }
        let uniform = (0..count)
            .flat_map(|from| (0..count).map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .map(|(from, to)| class_of.get(from * count + to).copied().unwrap_or(0));
        let mut uniform = uniform;
        let first = uniform.next().unwrap_or(0);
        if uniform.all(|class| class == first) {
            classes = vec![classes[first as usize]];
            class_of = Vec::new();
        }
        let hidden = request.model.hidden_bytes_per_row;
        let rows = u64::from(request.sequences);
        Self {
            device_count: count,
            class_of,
            classes: classes
                .iter()
                .map(|speed| {
                    let token_nanos = half_round_trip(speed);
                    LinkClass {
                        token_nanos,
                        hop_nanos: (token_nanos + nanos(hidden, speed.bytes_per_second)).min(NEVER),
                        busy_nanos: nanos(hidden.saturating_mul(rows), speed.bytes_per_second),
                    }
                })
                .collect(),
            outside_nanos: half_round_trip(&request.default_link),
        }
    }

    fn class(&self, from: Index, to: Index) -> LinkClass {
        let class = self.class_of.get(from * self.device_count + to);
        self.classes[class.map_or(0, |class| *class as usize)]
    }

    /// The longest that any link may be occupied.
    pub(crate) fn busiest_nanos(&self) -> u64 {
        let busy = self.classes.iter().map(|class| class.busy_nanos);
        busy.max().unwrap_or(0)
    }

    /// The shortest that any link would be occupied.
    pub(crate) fn idlest_nanos(&self) -> u64 {
        let busy = self.classes.iter().map(|class| class.busy_nanos);
        busy.min().unwrap_or(0)
    }

    /// Whether every pair of devices has the same link.
    pub(crate) fn are_alike(&self) -> bool {
        self.class_of.is_empty()
    }

    /// One hidden row from one device to another.
    pub(crate) fn hop_nanos(&self, from: Index, to: Index) -> u64 {
        if from == to {
            return 0;
        }
        self.class(from, to).hop_nanos
    }

    /// A chunk of hidden rows from one device to another.
    pub(crate) fn rows_nanos(&self, from: Index, to: Index, rows: u64) -> u64 {
        let class = self.class(from, to);
        let row = class.hop_nanos - class.token_nanos;
        class
            .token_nanos
            .saturating_add(row.saturating_mul(rows))
            .min(NEVER)
    }

    /// One token id from one device to another: too small to count its bytes.
    pub(crate) fn token_nanos(&self, from: Index, to: Index) -> u64 {
        if from == to {
            return 0;
        }
        self.class(from, to).token_nanos
    }

    /// How long the link is occupied while every sequence sends one row.
    pub(crate) fn busy_nanos(&self, from: Index, to: Index) -> u64 {
        if from == to {
            return 0;
        }
        self.class(from, to).busy_nanos
    }

    /// Whether two devices see every third device alike and each other symmetrically.
    pub(crate) fn look_alike(&self, left: Index, right: Index) -> bool {
        let class = |from: Index, to: Index| self.class_of[from * self.device_count + to];
        self.are_alike()
            || (class(left, right) == class(right, left)
                && (0..self.device_count)
                    .filter(|other| *other != left && *other != right)
                    .all(|other| {
                        class(left, other) == class(right, other)
                            && class(other, left) == class(other, right)
                    }))
    }
}

fn half_round_trip(speed: &LinkSpeed) -> u64 {
    speed.round_trip_micros.saturating_mul(500).min(NEVER)
}
