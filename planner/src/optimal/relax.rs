//! A bound that sees every link and every layer, but lets a device be used twice.
//!
//! The route relaxation of Christofides, Mingozzi and Toth (1981), with a Lagrangian
//! penalty on every device that makes using it twice unattractive. Ascends by integer
//! subgradient steps; also yields plans on the way. Proves nothing by itself.

use crate::cost::{Costs, Cut, Index, NEVER};

/// The penalties that gave the best bound, and the least costs to go under them.
pub(super) struct Relaxed {
    penalties: Vec<u64>,
    /// `[place][layer]`: what is left to pay after `place` ended at `layer`, penalties of
    /// later stages included.
    to_go: Vec<Vec<u64>>,
    /// No plan costs less.
    pub(super) bound_nanos: u64,
    /// The best plan met on the way.
    pub(super) plan: Option<Vec<Cut>>,
}

/// Elementary operations for all rounds together: a tenth of a second or so.
const WORK_MAX: usize = 60_000_000;
const ROUNDS_MAX: usize = 120;
/// Rounds without a better bound before steps are halved.
const PATIENCE: usize = 5;

pub(super) struct Relaxation<'s, 'r> {
    costs: &'s Costs<'r>,
    devices: &'s [Index],
    ends: &'s [Vec<usize>],
    penalties: Vec<u64>,
    /// `[layer * devices + place]`: the cost from `layer` on if `place` takes it.
    from: Vec<u64>,
    /// As in [`Relaxed`]; after the last layer, the head and the way home.
    to_go: Vec<Vec<u64>>,
    hops: Vec<u64>,
}

impl<'s, 'r> Relaxation<'s, 'r> {
    /// `ends[place][start]` is the furthest end that memory permits.
    pub(super) fn new(costs: &'s Costs<'r>, devices: &'s [Index], ends: &'s [Vec<usize>]) -> Self {
        let count = devices.len();
        let pairs = devices
            .iter()
            .flat_map(|from| devices.iter().map(move |to| (*from, *to)));
        let hops = pairs
            .map(|(from, to)| match from == to {
                true => NEVER,
                false => costs.links.hop_nanos(from, to),
            })
            .collect();
        let layers = costs.layer_count;
        let home = |device: &Index| {
            let firsts = devices.iter().filter(|first| *first != device);
            let times = firsts.map(|first| costs.leave_nanos(*device, *first));
            costs.head_nanos(*device) + times.min().unwrap_or(0)
        };
        let to_go = devices
            .iter()
            .map(|device| {
                let mut to_go = vec![NEVER; layers + 1];
                to_go[layers] = home(device);
                to_go
            })
            .collect();
        Self {
            costs,
            devices,
            ends,
            penalties: vec![0; count],
            from: vec![NEVER; layers * count],
            to_go,
            hops,
        }
    }

    /// Ascends towards the best bound below `best`, the cost of a known plan.
    pub(super) fn ascend(mut self, mut best: u64) -> Relaxed {
        let count = self.devices.len();
        let reaches: usize = self
            .ends
            .iter()
            .flat_map(|ends| ends.iter().enumerate().map(|(start, end)| end - start))
            .sum();
        let work = reaches + count * self.costs.layer_count * self.breadth();
        let rounds = (WORK_MAX / work.max(1)).clamp(1, ROUNDS_MAX);
        let mut found: Option<Relaxed> = None;
        let mut plan = None;
        let (mut halvings, mut idle) = (0u32, 0);
        for _ in 0..rounds {
            self.sweep();
            let bound = self.bound();
            let route = self.route();
            if let Some(cuts) = self.repair(&route) {
                let nanos = self.costs.latency_nanos(&cuts);
                if nanos < best {
                    best = nanos;
                    plan = Some(cuts);
                }
            }
            if found.as_ref().is_none_or(|found| bound > found.bound_nanos) {
                found = Some(Relaxed {
                    penalties: self.penalties.clone(),
                    to_go: self.to_go.clone(),
                    bound_nanos: bound,
                    plan: None,
                });
                idle = 0;
            } else {
                idle += 1;
            }
            if idle == PATIENCE {
                idle = 0;
                halvings += 1;
            }
            if bound >= best || halvings > 5 || !self.step(&route, best - bound, halvings) {
                break;
            }
        }
        let found = found.expect("there is at least one round");
        Relaxed { plan, ..found }
    }

    /// How many predecessors a stage is compared with: alike links need but two.
    fn breadth(&self) -> usize {
        if self.costs.links.are_alike() {
            2
        } else {
            self.devices.len()
        }
    }

    /// Least costs to go under the present penalties, from the last layer back.
    fn sweep(&mut self) {
        let (count, layers) = (self.devices.len(), self.costs.layer_count);
        for start in (0..layers).rev() {
            for place in 0..count {
                self.from[start * count + place] = self.stage_nanos(start, place);
            }
            if start > 0 {
                self.connect(start);
            }
        }
    }

    /// The cheapest stage of a device from a layer on, what follows included.
    fn stage_nanos(&self, start: usize, place: usize) -> u64 {
        let end = self.ends[place][start];
        let sums = self.costs.decode_sums(self.devices[place]);
        let after = start + 1..end + 1;
        let times = sums[after.clone()].iter().zip(&self.to_go[place][after]);
        let split = times.map(|(sum, to_go)| sum + to_go).min();
        let split = split.map_or(NEVER, |least| least - sums[start]);
        let device = self.devices[place];
        let time = if start > 0 {
            split
        } else {
            let embedding = self.costs.embedding_nanos(device);
            // A whole model on one device goes home to its own first stage.
            let home = self.costs.leave_nanos(device, device);
            let whole = match end == self.costs.layer_count {
                true => sums[end] + self.costs.head_nanos(device) + home,
                false => NEVER,
            };
            split.min(whole) + embedding
        };
        (time + self.penalties[place]).min(NEVER)
    }

    /// Where that cheapest stage ends.
    fn stage_end(&self, start: usize, place: usize) -> usize {
        let layers = self.costs.layer_count;
        let device = self.devices[place];
        let ends = start + 1..=self.ends[place][start];
        let cost = |end: &usize| {
            let after = match (start, *end == layers) {
                (0, true) => self.costs.leave_nanos(device, device),
                (_, true) => self.to_go[place][layers] - self.costs.head_nanos(device),
                (_, false) => self.to_go[place][*end],
            };
            (
                self.costs.decode_nanos(device, &(start..*end)) + after,
                *end,
            )
        };
        ends.min_by_key(cost).unwrap_or(layers)
    }

    fn connect(&mut self, start: usize) {
        let count = self.devices.len();
        let row = start * count..(start + 1) * count;
        let from = &self.from[row];
        if self.costs.links.are_alike() && count > 1 {
            let hop = self.hops[1];
            let mut ranked: Vec<(u64, usize)> = from.iter().copied().zip(0..).collect();
            ranked.select_nth_unstable(1);
            let (first, second) = (ranked[0].min(ranked[1]), ranked[0].max(ranked[1]));
            for place in 0..count {
                let next = if first.1 == place { second } else { first };
                self.to_go[place][start] = (next.0 + hop).min(NEVER);
            }
            return;
        }
        for place in 0..count {
            let hops = &self.hops[place * count..(place + 1) * count];
            let costs = from.iter().zip(hops).map(|(from, hop)| from + hop);
            self.to_go[place][start] = costs.min().unwrap_or(NEVER).min(NEVER);
        }
    }

    fn first(&self) -> (u64, usize) {
        let costs = self.devices.iter().enumerate().map(|(place, device)| {
            let cost = self.from[place] + self.costs.enter_nanos(*device);
            (cost.min(NEVER), place)
        });
        costs.min().unwrap_or((NEVER, 0))
    }

    fn bound(&self) -> u64 {
        let penalties: u64 = self.penalties.iter().sum();
        self.first().0.saturating_sub(penalties)
    }

    /// The cheapest route under the present penalties; may use devices twice.
    fn route(&self) -> Vec<(usize, std::ops::Range<usize>)> {
        let (count, layers) = (self.devices.len(), self.costs.layer_count);
        let mut route = Vec::new();
        let (mut cost, mut place) = self.first();
        let mut start = 0;
        while cost < NEVER {
            let end = self.stage_end(start, place);
            route.push((place, start..end));
            if end == layers {
                break;
            }
            let hops = &self.hops[place * count..(place + 1) * count];
            let next = (0..count).map(|next| (self.from[end * count + next] + hops[next], next));
            (cost, place) = next.min().unwrap_or((NEVER, 0));
            start = end;
        }
        route
    }

    /// Moves penalties towards one use per device; false when nothing would change.
    fn step(&mut self, route: &[(usize, std::ops::Range<usize>)], gap: u64, halvings: u32) -> bool {
        let mut excess: Vec<i64> = vec![-1; self.devices.len()];
        for (place, _) in route {
            excess[*place] += 1;
        }
        for (excess, penalty) in excess.iter_mut().zip(&self.penalties) {
            if *penalty == 0 && *excess < 0 {
                *excess = 0;
            }
        }
        let square: i64 = excess.iter().map(|excess| excess * excess).sum();
        if square == 0 {
            return false;
        }
        let gap = i64::try_from(gap.min(NEVER)).unwrap_or(i64::MAX);
        let length = (gap >> halvings) / square;
        if length == 0 {
            return false;
        }
        for (penalty, excess) in self.penalties.iter_mut().zip(excess) {
            *penalty = penalty
                .saturating_add_signed(length.saturating_mul(excess))
                .min(NEVER >> 8);
        }
        true
    }

    /// A plan near a route: its devices in order of first use, then all others by what
    /// their penalty says they are worth, cut as well as that order permits.
    fn repair(&self, route: &[(usize, std::ops::Range<usize>)]) -> Option<Vec<Cut>> {
        let mut order: Vec<usize> = Vec::new();
        for (place, _) in route {
            if !order.contains(place) {
                order.push(*place);
            }
        }
        if order.len() < route.len() {
            let mut others: Vec<usize> = (0..self.devices.len())
                .filter(|place| !order.contains(place))
                .collect();
            others.sort_by_key(|place| (std::cmp::Reverse(self.penalties[*place]), *place));
            others.truncate(2 * order.len() + 4);
            order.extend(others);
        }
        let order: Vec<Index> = order.into_iter().map(|place| self.devices[place]).collect();
        super::order::best_cuts(self.costs, &order)
    }
}

impl Relaxed {
    /// At least what is left to pay after `place` ended at `layer`, when the devices not
    /// in `used` may each be used once; `spare` is the sum of their penalties.
    pub(super) fn rest_nanos(&self, layer: usize, place: usize, spare: u64) -> u64 {
        self.to_go[place][layer].saturating_sub(spare)
    }

    /// The sum of penalties of all devices.
    pub(super) fn all_penalties(&self) -> u64 {
        self.penalties.iter().sum()
    }

    /// The penalty of one device.
    pub(super) fn penalty(&self, place: usize) -> u64 {
        self.penalties[place]
    }
}
