//! A bound that sees every link and every layer, but lets a device be used twice.
//!
//! The route relaxation of Christofides, Mingozzi and Toth (1981), with a Lagrangian
//! penalty on every device that makes using it twice unattractive. Stages that no plan
//! better than the known one can have are trimmed away, which tightens the bound again.
//! Also yields plans on the way. Proves nothing by itself.

mod ascent;
mod trim;

use super::arcs::Arcs;
use super::graph::Graph;
use super::prices::Prices;
use super::routes::Route;
use crate::cost::{Costs, Cut, Index, NEVER};
use ascent::Ascent;

/// Ascends and trims at most so often.
const PASSES_MAX: usize = 4;

/// What a relaxation leaves to search through.
pub(super) struct Relaxed<'s, 'r> {
    relaxation: Relaxation<'s, 'r>,
    /// By place and layer: the least cost of all stages up to one that ends there.
    paid: Vec<Vec<u64>>,
    /// No plan costs less.
    pub(super) bound_nanos: u64,
    /// The best plan met on the way.
    pub(super) plan: Option<Vec<Cut>>,
}

/// The best bound that was found for plans of two stages or more that cost less than
/// `best`, and the stages that such a plan may have.
pub(super) fn relax<'s, 'r>(
    costs: &'s Costs<'r>,
    devices: &'s [Index],
    mut best: u64,
) -> Relaxed<'s, 'r> {
    let arcs = Arcs::within_memory(costs, devices);
    let mut relaxation = Relaxation::new(costs, devices, arcs);
    relaxation.appraise();
    let mut ascent = Ascent::new(&relaxation.prices);
    let mut left = relaxation.arcs.count();
    let mut paid = Vec::new();
    for _ in 0..PASSES_MAX {
        relaxation.ascend(&mut ascent, &mut best);
        relaxation.sweep();
        paid = relaxation.trim(best);
        let now = relaxation.arcs.count();
        // What takes little away tightens little.
        if ascent.bound_nanos >= best || now * 10 > left * 9 {
            break;
        }
        left = now;
    }
    Relaxed {
        relaxation,
        paid,
        bound_nanos: ascent.bound_nanos,
        plan: ascent.plan,
    }
}

impl Relaxed<'_, '_> {
    pub(super) fn prices(&self) -> &Prices {
        &self.relaxation.prices
    }

    /// The stages and hops that a plan below `aim` may have.
    pub(super) fn graph(&mut self, aim: u64) -> Graph {
        // What was trimmed since the last sweep is in it only now.
        self.relaxation.sweep();
        let ceiling = aim.saturating_add(self.relaxation.prices.sum());
        Graph::new(&self.relaxation, &self.paid, ceiling)
    }

    /// A plan near a route.
    pub(super) fn mend(&self, route: &Route) -> Option<Vec<Cut>> {
        self.relaxation.repair(route)
    }
}

pub(super) struct Relaxation<'s, 'r> {
    pub(super) costs: &'s Costs<'r>,
    pub(super) devices: &'s [Index],
    pub(super) arcs: Arcs,
    prices: Prices,
    /// `[layer * devices + place]`: the cost from `layer` on if `place` takes it.
    pub(super) from: Vec<u64>,
    /// `[place][layer]`: what is left to pay after `place` ended at `layer`, penalties of
    /// later stages included; after the last layer, the head and the way home.
    to_go: Vec<Vec<u64>>,
    /// `[from * devices + to]`.
    pub(super) hops: Vec<u64>,
    /// The same for each place with who is there, nearest first.
    nearest: Vec<(u64, u16)>,
}

impl<'s, 'r> Relaxation<'s, 'r> {
    fn new(costs: &'s Costs<'r>, devices: &'s [Index], arcs: Arcs) -> Self {
        let count = devices.len();
        let pairs = devices
            .iter()
            .flat_map(|from| devices.iter().map(move |to| (*from, *to)));
        let hops: Vec<u64> = pairs
            .map(|(from, to)| match from == to {
                true => NEVER,
                false => costs.links.hop_nanos(from, to),
            })
            .collect();
        let nearest = hops.chunks(count.max(1)).flat_map(|hops| {
            let mut nearest: Vec<(u64, u16)> = hops.iter().copied().zip(0..).collect();
            nearest.sort_unstable();
            nearest
        });
        let nearest = nearest.collect();
        let layers = costs.layer_count;
        let home = |device: &Index| costs.head_nanos(*device) + way_home(costs, devices, *device);
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
            prices: Prices(vec![0; count]),
            from: vec![NEVER; layers * count],
            to_go,
            hops,
            nearest,
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
        (time + self.prices.0[place]).min(NEVER)
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
        let least = from.iter().copied().min().unwrap_or(NEVER);
        for place in 0..count {
            let mut best = NEVER;
            for (hop, next) in &self.nearest[place * count..(place + 1) * count] {
                if hop + least >= best {
                    break;
                }
                best = best.min(hop + from[usize::from(*next)]);
            }
            self.to_go[place][start] = best;
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
        self.first().0.saturating_sub(self.prices.sum())
    }

    /// The cheapest route under the present penalties; may use devices twice.
    fn route(&self) -> Route {
        let (count, layers) = (self.devices.len(), self.costs.layer_count);
        let mut route = Vec::new();
        let (mut cost, mut place) = self.first();
        let mut start = 0;
        while cost < NEVER {
            let end = self.stage_end(start, place);
            route.push((place, end));
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
    fn repair(&self, route: &Route) -> Option<Vec<Cut>> {
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
            others.sort_by_key(|place| (std::cmp::Reverse(self.prices.0[*place]), *place));
            others.truncate(2 * order.len() + 4);
            order.extend(others);
        }
        let order: Vec<Index> = order.into_iter().map(|place| self.devices[place]).collect();
        super::order::best_cuts(self.costs, &order)
    }

    /// The least way home from a last stage.
    pub(super) fn way_home(&self, place: usize) -> u64 {
        way_home(self.costs, self.devices, self.devices[place])
    }
}

fn way_home(costs: &Costs<'_>, devices: &[Index], last: Index) -> u64 {
    let firsts = devices.iter().filter(|first| **first != last);
    let times = firsts.map(|first| costs.leave_nanos(last, *first));
    times.min().unwrap_or(0)
}
