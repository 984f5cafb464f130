//! A bound that sees every link and every layer, but lets a device be used twice.
//!
//! The route relaxation of Christofides, Mingozzi and Toth (1981), with a Lagrangian
//! penalty on every device that makes using it twice unattractive. Stages that no plan
//! better than the known one can have are trimmed away, which tightens the bound again.
//! Also yields plans on the way. Proves nothing by itself.

mod ascent;
mod trim;

use super::arcs::Arcs;
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

/// Trims and ascends again at most so often.
const TRIMS_MAX: usize = 4;

/// The best bound that was found for plans of two stages or more that cost less than
/// `best`, and the stages that such a plan may have.
pub(super) fn relax(costs: &Costs<'_>, devices: &[Index], best: u64) -> (Relaxed, Arcs) {
    let arcs = Arcs::within_memory(costs, devices);
    let mut relaxation = Relaxation::new(costs, devices, arcs);
    let mut best = best;
    relaxation.appraise();
    let mut relaxed = relaxation.ascend(&mut best);
    let mut left = relaxation.arcs.count();
    for _ in 0..TRIMS_MAX {
        if relaxed.bound_nanos >= best {
            break;
        }
        relaxation.to_go.clone_from(&relaxed.to_go);
        let now = relaxation.trim(best);
        // What takes little away tightens little.
        if now * 10 > left * 9 {
            break;
        }
        left = now;
        let plan = relaxed.plan.take();
        relaxed = relaxation.ascend(&mut best);
        relaxed.plan = relaxed.plan.or(plan);
    }
    (relaxed, relaxation.arcs)
}

struct Relaxation<'s, 'r> {
    costs: &'s Costs<'r>,
    devices: &'s [Index],
    arcs: Arcs,
    penalties: Vec<u64>,
    /// `[layer * devices + place]`: the cost from `layer` on if `place` takes it.
    from: Vec<u64>,
    /// As in [`Relaxed`]; after the last layer, the head and the way home.
    to_go: Vec<Vec<u64>>,
    hops: Vec<u64>,
}

impl<'s, 'r> Relaxation<'s, 'r> {
    fn new(costs: &'s Costs<'r>, devices: &'s [Index], arcs: Arcs) -> Self {
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
            arcs,
            penalties: vec![0; count],
            from: vec![NEVER; layers * count],
            to_go,
            hops,
        }
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
        let ends = self.arcs.ends(place, start);
        let sums = self.costs.decode_sums(self.devices[place]);
        let times = sums[ends.clone()].iter().zip(&self.to_go[place][ends]);
        let split = times.map(|(sum, to_go)| sum + to_go).min();
        let split = split.map_or(NEVER, |least| least - sums[start]);
        let device = self.devices[place];
        let time = match start {
            0 => split + self.costs.embedding_nanos(device),
            _ => split,
        };
        (time + self.costs.pass_nanos(device) + self.penalties[place]).min(NEVER)
    }

    /// Where that cheapest stage ends.
    fn stage_end(&self, start: usize, place: usize) -> usize {
        let sums = self.costs.decode_sums(self.devices[place]);
        let ends = self.arcs.ends(place, start);
        let least = ends.min_by_key(|end| (sums[*end] + self.to_go[place][*end], *end));
        least.unwrap_or(self.costs.layer_count)
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
