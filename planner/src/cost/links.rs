//! What the wires cost: a token, a hidden row, a chunk of rows, and how long they are busy.
//!
//! Loads on a shared wire are not added up.

use std::collections::BTreeMap;

use super::{Index, NEVER, nanos};
use crate::device::{Device, DeviceId, LinkSpeed};
use crate::request::Request;

/// The costs of all pairs, by class: most pairs of a cluster share one.
pub(crate) struct Links {
    device_count: usize,
    /// Empty when every pair is of class 0.
    class_of: Vec<u32>,
    classes: Vec<LinkClass>,
    /// Half a default round trip: the way to a driver outside the list.
    pub(super) outside_nanos: u64,
}

#[derive(Clone, Copy)]
struct LinkClass {
    hop_nanos: u64,
    token_nanos: u64,
    busy_nanos: u64,
}

impl Links {
    pub(super) fn new(request: &Request, devices: &[&Device]) -> Self {
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

    /// The shortest that any link would be occupied that is longer than this.
    pub(crate) fn next_busy_nanos(&self, nanos: u64) -> Option<u64> {
        let busy = self.classes.iter().map(|class| class.busy_nanos);
        busy.filter(|busy| *busy > nanos).min()
    }

    /// How much longer the slowest hop takes than the quickest.
    pub(crate) fn differ_by_nanos(&self) -> u64 {
        let hops = || self.classes.iter().map(|class| class.hop_nanos);
        hops().max().unwrap_or(0) - hops().min().unwrap_or(0)
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
