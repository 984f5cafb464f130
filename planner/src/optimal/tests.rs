//! The search against an oracle that tries every order and every cut.
//!
//! The oracle adds costs up by itself, layer by layer, and shares no code with the
//! search: an error in the cost tables would show, not cancel.

use std::ops::Range;

use crate::testing::Dice;
use crate::{
    Detail, Device, DeviceId, LayerCost, Link, LinkSpeed, Model, NoPlan, Objective, Part, Request,
    Strategy, plan,
};

/// How many instances each objective is tried on.
const INSTANCES: u64 = 2000;
/// The same for equal devices that hold the model barely.
const SHELVES: u64 = 120;

#[test]
fn latency_equals_brute_force() {
    compare(INSTANCES, |seed| instance(seed, Objective::Latency));
}

#[test]
fn throughput_equals_brute_force() {
    compare(INSTANCES, |seed| instance(seed, Objective::Throughput));
}

#[test]
fn latency_of_a_shelf_equals_brute_force() {
    compare(SHELVES, |seed| shelf(seed, Objective::Latency));
}

#[test]
fn throughput_of_a_shelf_equals_brute_force() {
    compare(SHELVES, |seed| shelf(seed, Objective::Throughput));
}

/// Where links are often what is slowest.
#[test]
fn throughput_over_slow_links_equals_brute_force() {
    compare(SHELVES, |seed| {
        let mut request = shelf(seed, Objective::Throughput);
        for link in &mut request.links {
            link.bytes_per_second /= 16;
        }
        request
    });
}

fn compare(instances: u64, instance: impl Fn(u64) -> Request) {
    let mut planned = 0;
    for seed in 0..instances {
        let request = instance(seed);
        let oracle = Oracle::new(&request).best();
        match plan(&request) {
            Ok(plan) => {
                planned += 1;
                assert_eq!(Some(plan.proof.objective_nanos), oracle, "seed {seed}");
                assert!(plan.proof.is_exact(), "seed {seed}: {:?}", plan.proof);
            }
            Err(NoPlan::MemoryShort { .. }) => assert_eq!(oracle, None, "seed {seed}"),
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    // Instances without a plan prove little; most must have one.
    assert!(planned * 3 > instances * 2, "only {planned} had a plan");
}

/// Six devices of one to three kinds that hold twelve layers of two sizes barely or with some
/// room, each pair with a link of its own: nearly as good as the others, or any.
fn shelf(seed: u64, objective: Objective) -> Request {
    let mut dice = Dice::new(seed);
    let model = Model {
        layers: (0..12)
            .map(|layer| LayerCost {
                weight_bytes: if layer % 3 == 2 { 115 } else { 100 } * 1_000_000,
                macs_per_row: 100_000_000,
                ..LayerCost::default()
            })
            .collect(),
        hidden_bytes_per_row: 16 << 10,
        ..random_model(&mut dice)
    };
    let kinds = dice.between(1, 3);
    let palette: Vec<(u64, u64)> = (0..kinds)
        .map(|_| (dice.between(21, 40), dice.between(5, 100)))
        .collect();
    let devices: Vec<Device> = (0..6)
        .map(|index| {
            let (tenths, speed) = palette[dice.below(kinds) as usize];
            Device {
                id: DeviceId::from_index(index),
                name: format!("d{index}"),
                memory_bytes: tenths * 11_000_000 + 20_000_000,
                decode_bytes_per_second: speed * 1_000_000_000,
                prefill_macs_per_second: speed * 20_000_000_000,
                detail: Detail::default(),
            }
        })
        .collect();
    let near = dice.chance(2);
    let mut links = Vec::new();
    for (place, from) in devices.iter().enumerate() {
        for to in &devices[..place] {
            let (round_trip_micros, bytes_per_second) = match near {
                true => (dice.between(270, 330), dice.between(105, 118) * 1_000_000),
                false => random_speed(&mut dice),
            };
            links.push(Link {
                from: from.id,
                to: to.id,
                round_trip_micros,
                bytes_per_second,
            });
        }
    }
    Request {
        objective,
        links,
        context_tokens: 1,
        buffer_bytes: 0,
        sequences: dice.between(1, 12) as u32,
        search_steps: u64::MAX,
        ..Request::new(model, devices)
    }
}

/// Anything up to 6 devices and 12 layers: tight and roomy memory, alike and unlike
/// layers, twins, links of one or many kinds, a driver inside, outside or none.
fn instance(seed: u64, objective: Objective) -> Request {
    let mut dice = Dice::new(seed);
    let device_count = dice.between(1, 6);
    let model = random_model(&mut dice);
    let total: u64 = model.layers.iter().map(|layer| layer.weight_bytes).sum();
    // From "all of it everywhere" down to "hardly anywhere".
    let room = total * dice.between(8, 30) / 10 / device_count;
    let devices = random_devices(&mut dice, device_count, room);
    let links = random_links(&mut dice, &devices);
    let (round_trip_micros, bytes_per_second) = random_speed(&mut dice);
    let driver = match dice.below(3) {
        0 => None,
        1 => Some(DeviceId([7; 32])),
        _ => Some(devices[dice.below(device_count) as usize].id),
    };
    Request {
        strategy: Strategy::Optimal,
        objective,
        links,
        default_link: LinkSpeed {
            round_trip_micros,
            bytes_per_second,
        },
        context_tokens: dice.between(1, 2000) as u32,
        sequences: dice.between(1, 12) as u32,
        prompt_tokens: dice.between(1, 1000) as u32,
        buffer_bytes: dice.between(0, 30) * 1_000_000,
        headroom_bytes: dice.between(0, 30) * 1_000_000,
        driver,
        search_steps: u64::MAX,
        ..Request::new(model, devices)
    }
}

fn random_model(dice: &mut Dice) -> Model {
    let layer_count = dice.between(1, 12);
    let alike = dice.chance(3);
    let layer = |dice: &mut Dice| LayerCost {
        weight_bytes: dice.between(50, 150) * 1_000_000,
        macs_per_row: dice.between(50, 150) * 1_000_000,
        kv_bytes_per_token: dice.between(0, 3) * 1000,
        active_bytes: dice.chance(4).then(|| dice.between(10, 50) * 1_000_000),
        attention_macs_per_token: dice.between(0, 4000),
    };
    let part = |dice: &mut Dice| Part {
        weight_bytes: dice.between(0, 60) * 1_000_000,
        decode_bytes: dice.between(0, 60) * 1_000_000,
        macs_per_row: dice.between(0, 60) * 1_000_000,
    };
    let one = layer(dice);
    Model {
        layers: (0..layer_count)
            .map(|_| if alike { one } else { layer(dice) })
            .collect(),
        embedding: part(dice),
        head: part(dice),
        tied_bytes: dice.below(2) * 30_000_000,
        hidden_bytes_per_row: dice.between(1, 32) * 1024,
    }
}

/// Of one to four kinds, so that there are twins.
fn random_devices(dice: &mut Dice, count: u64, room: u64) -> Vec<Device> {
    let kinds = dice.between(1, 4);
    let palette: Vec<Device> = (0..kinds)
        .map(|_| Device {
            id: DeviceId::default(),
            name: String::new(),
            memory_bytes: room * dice.between(3, 20) / 10 + 120_000_000,
            decode_bytes_per_second: dice.between(5, 100) * 1_000_000_000,
            prefill_macs_per_second: dice.between(50, 4000) * 1_000_000_000,
            detail: match dice.chance(2) {
                true => Detail::default(),
                false => random_detail(dice),
            },
        })
        .collect();
    (0..count)
        .map(|index| Device {
            id: DeviceId::from_index(index as u32),
            name: format!("d{index}"),
            ..palette[dice.below(kinds) as usize].clone()
        })
        .collect()
}

/// As a measurement tells it: a layer of 100 MB takes some milliseconds.
fn random_detail(dice: &mut Dice) -> Detail {
    let speed = |dice: &mut Dice| {
        let known = dice.chance(2);
        known.then(|| dice.between(5, 100) * 1_000_000_000)
    };
    Detail {
        layer_nanos: dice.between(0, 5) * 300_000,
        head_bytes_per_second: speed(dice),
        cache_bytes_per_second: speed(dice),
        attention_macs_per_second: speed(dice),
        kv_permille: dice.chance(2).then(|| dice.between(1, 1000) as u32),
        sharing: None,
    }
}

/// None, some or all pairs.
fn random_links(dice: &mut Dice, devices: &[Device]) -> Vec<Link> {
    let density = dice.below(3);
    let mut links = Vec::new();
    for from in devices {
        for to in devices {
            if from.id != to.id && density > 0 && dice.chance(3 - density) {
                let (round_trip_micros, bytes_per_second) = random_speed(dice);
                links.push(Link {
                    from: from.id,
                    to: to.id,
                    round_trip_micros,
                    bytes_per_second,
                });
            }
        }
    }
    links
}

fn random_speed(dice: &mut Dice) -> (u64, u64) {
    (dice.between(0, 40) * 100, dice.between(1, 100) * 1_000_000)
}

struct Oracle<'r> {
    request: &'r Request,
    best: Option<u64>,
}

impl<'r> Oracle<'r> {
    fn new(request: &'r Request) -> Self {
        Self {
            request,
            best: None,
        }
    }

    fn best(mut self) -> Option<u64> {
        self.extend(&mut Vec::new(), 0);
        self.best
    }

    fn extend(&mut self, path: &mut Vec<(usize, Range<usize>)>, start: usize) {
        let layers = self.request.model.layers.len();
        if start == layers {
            let value = self.value(path);
            self.best = Some(self.best.map_or(value, |best| best.min(value)));
            return;
        }
        for device in 0..self.request.devices.len() {
            if path.iter().any(|stage| stage.0 == device) {
                continue;
            }
            for end in start + 1..=layers {
                if self.fits(device, &(start..end)) {
                    path.push((device, start..end));
                    self.extend(path, end);
                    path.pop();
                }
            }
        }
    }

    fn ends(&self, range: &Range<usize>) -> (bool, bool) {
        (
            range.start == 0,
            range.end == self.request.model.layers.len(),
        )
    }

    fn fits(&self, device: usize, range: &Range<usize>) -> bool {
        let request = self.request;
        let model = &request.model;
        let held = u64::from(request.context_tokens) * u64::from(request.sequences);
        let mut bytes = request.buffer_bytes + request.headroom_bytes;
        let mut cache = 0;
        for layer in &model.layers[range.clone()] {
            bytes += layer.weight_bytes;
            cache += layer.kv_bytes_per_token * held;
        }
        let kept = request.devices[device].detail.kv_permille;
        bytes += (cache * u64::from(kept.unwrap_or(1000))).div_ceil(1000);
        let (embeds, heads) = self.ends(range);
        let (embedding, head) = (model.embedding.weight_bytes, model.head.weight_bytes);
        bytes += if embeds { embedding } else { 0 } + if heads { head } else { 0 };
        if embeds && heads {
            bytes -= model.tied_bytes.min(embedding).min(head);
        }
        bytes <= request.devices[device].memory_bytes
    }

    /// Streamed bytes but for the head's, cache bytes and arithmetic of one row.
    fn row(&self, range: &Range<usize>) -> (u128, u128, u128) {
        let model = &self.request.model;
        let read = u64::from(self.request.prompt_tokens);
        let (mut bytes, mut cache, mut macs) = (0u128, 0u128, 0u128);
        for layer in &model.layers[range.clone()] {
            bytes += u128::from(layer.active_bytes.unwrap_or(layer.weight_bytes));
            cache += u128::from(layer.kv_bytes_per_token * read);
            macs += u128::from(layer.macs_per_row + layer.attention_macs_per_token * read);
        }
        let (embeds, heads) = self.ends(range);
        if embeds {
            bytes += u128::from(model.embedding.decode_bytes);
            macs += u128::from(model.embedding.macs_per_row);
        }
        if heads {
            macs += u128::from(model.head.macs_per_row);
        }
        (bytes, cache, macs)
    }

    fn link(&self, from: usize, to: usize) -> LinkSpeed {
        let devices = &self.request.devices;
        let find = |from: DeviceId, to: DeviceId| {
            let found = |link: &&Link| link.from == from && link.to == to;
            self.request.links.iter().find(found).map(|link| LinkSpeed {
                round_trip_micros: link.round_trip_micros,
                bytes_per_second: link.bytes_per_second,
            })
        };
        find(devices[from].id, devices[to].id)
            .or_else(|| find(devices[to].id, devices[from].id))
            .unwrap_or(self.request.default_link)
    }

    fn value(&self, path: &[(usize, Range<usize>)]) -> u64 {
        let value = match self.request.objective {
            Objective::Latency => self.latency(path),
            Objective::Throughput => self.slowest(path),
        };
        u64::try_from(value).expect("small instances")
    }

    fn latency(&self, path: &[(usize, Range<usize>)]) -> u128 {
        let hidden = self.request.model.hidden_bytes_per_row;
        let mut sum = 0;
        let model = &self.request.model;
        let read = u64::from(self.request.prompt_tokens);
        for (device, range) in path {
            let device = &self.request.devices[*device];
            let speed = device.decode_bytes_per_second;
            let cache_speed = device.detail.cache_bytes_per_second.unwrap_or(speed);
            let head_speed = device.detail.head_bytes_per_second.unwrap_or(speed);
            for layer in &model.layers[range.clone()] {
                let weights = layer.active_bytes.unwrap_or(layer.weight_bytes);
                sum += u128::from(device.detail.layer_nanos);
                sum += ceil(weights.into(), speed);
                sum += ceil((layer.kv_bytes_per_token * read).into(), cache_speed);
            }
            let (embeds, heads) = self.ends(range);
            let ends = [
                (model.embedding, embeds, speed),
                (model.head, heads, head_speed),
            ];
            for (part, here, speed) in ends {
                if here {
                    sum += ceil(part.decode_bytes.into(), speed);
                }
            }
        }
        for pair in path.windows(2) {
            let link = self.link(pair[0].0, pair[1].0);
            sum += u128::from(link.round_trip_micros) * 500;
            sum += ceil(hidden.into(), link.bytes_per_second);
        }
        let (first, last) = (path[0].0, path[path.len() - 1].0);
        let token = |from: usize, to: usize| {
            if from == to {
                return 0;
            }
            u128::from(self.link(from, to).round_trip_micros) * 500
        };
        let outside = u128::from(self.request.default_link.round_trip_micros) * 500;
        let inside = |id| {
            self.request
                .devices
                .iter()
                .position(|device| device.id == id)
        };
        match self.request.driver.map(inside) {
            None => sum + token(last, first),
            Some(None) => sum + 2 * outside,
            Some(Some(driver)) => sum + token(driver, first) + token(last, driver),
        }
    }

    fn slowest(&self, path: &[(usize, Range<usize>)]) -> u128 {
        let rows = u128::from(self.request.sequences);
        let mut slowest = 0;
        for (device, range) in path {
            let (bytes, cache, macs) = self.row(range);
            let device = &self.request.devices[*device];
            let (detail, speed) = (device.detail, device.decode_bytes_per_second);
            let groups = path.len() as u128;
            let (_, heads) = self.ends(range);
            let head = if heads {
                self.request.model.head.decode_bytes
            } else {
                0
            };
            let head_speed = detail.head_bytes_per_second.unwrap_or(speed);
            let weights = ceil(bytes * groups, speed) + ceil(u128::from(head) * groups, head_speed);
            let arithmetic = ceil(macs * rows, device.prefill_macs_per_second);
            let cache_speed = detail.cache_bytes_per_second.unwrap_or(speed);
            let cache = ceil(cache * rows, cache_speed);
            let layers = u128::from(detail.layer_nanos) * range.len() as u128;
            let overhead = layers * groups;
            slowest = slowest.max(weights.max(arithmetic) + cache + overhead);
        }
        for pair in path.windows(2) {
            let hidden = u128::from(self.request.model.hidden_bytes_per_row);
            let link = self.link(pair[0].0, pair[1].0);
            slowest = slowest.max(ceil(hidden * rows, link.bytes_per_second));
        }
        slowest
    }
}

fn ceil(amount: u128, per_second: u64) -> u128 {
    (amount * 1_000_000_000).div_ceil(per_second.into())
}
