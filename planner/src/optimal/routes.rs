//! A bound by routes that remember some of the devices they used.
//!
//! The ng-routes of Baldacci, Mingozzi and Roberti (2011): every place has a memory of
//! others, and a route forgets a device when it comes to a place that does not remember
//! it; only what is forgotten may be used again. Memories grow where the cheapest route
//! used a device twice, and prices follow, until little is gained. Edges on which no
//! two halves of a better plan can meet are taken out on the way. How many of a kind were
//! used is never forgotten.

mod labels;

use super::graph::{Graph, ROOT, Spot};
use super::kinds::Kinds;
use super::prices::{Charges, Prices};
use crate::cost::NEVER;
pub(super) use labels::Labels;
use labels::{Direction, Question};

/// The places that a route used, in order, and the layers where they end.
pub(super) type Route = Vec<(usize, usize)>;

/// How little an edge costs on a route, and who remembers whom.
pub(super) struct Routes<'k> {
    pub(super) graph: Graph,
    pub(super) kinds: &'k Kinds,
    pub(super) prices: Prices,
    /// Penalties that are not paid, but rule routes out.
    guiding: Prices,
    memory: Vec<u128>,
    /// No plan costs less.
    pub(super) bound_nanos: u64,
}

const ROUNDS_MAX: usize = 80;
/// Labels of one pass.
pub(super) const LABELS_MAX: usize = 200_000;
/// With fewer it is as quick to search.
const LABELS_MIN: usize = 1000;
/// Labels of a node where plans are looked for.
const NARROW: usize = 4;
/// Steps start at this many thousandths of Polyak's length.
const LENGTH: u64 = 300;
const LENGTH_MIN: u64 = 10;
/// Rounds without a better bound before steps are shortened by a third.
const PATIENCE: usize = 3;

impl<'k> Routes<'k> {
    pub(super) fn new(kinds: &'k Kinds, charges: Charges, bound_nanos: u64) -> Self {
        Self {
            graph: Graph::empty(),
            kinds,
            memory: unaware(charges.paid.0.len()),
            prices: charges.paid,
            guiding: charges.guiding,
            bound_nanos,
        }
    }

    fn forget(&mut self) {
        self.memory = unaware(self.prices.0.len());
    }

    /// Raises the bound towards `aim`, among plans that cost less. `mend` makes a plan of
    /// a route and says what the best costs.
    pub(super) fn tighten(
        &mut self,
        graph: Graph,
        mut aim: u64,
        steps: &mut u64,
        mut mend: impl FnMut(&Route) -> u64,
    ) {
        self.graph = graph;
        let (mut length, mut idle) = (LENGTH, 0);
        let mut top = (0, self.prices.clone(), self.memory.clone());
        let mut trimmed = NEVER;
        let untried = self.memory == unaware(self.memory.len());
        // Half is for the search.
        let mut left = *steps / 2;
        *steps -= left;
        for round in 0..ROUNDS_MAX {
            let Some(labels) = self.backward(aim, LABELS_MAX, &mut left) else {
                if round == 0 && left > 0 {
                    self.forget();
                    top.2.clone_from(&self.memory);
                    continue;
                }
                break;
            };
            let bound = self.bound(&labels).min(aim);
            let route = labels.route(&self.graph);
            if round == 0 && untried && bound < self.bound_nanos {
                // These prices are worse than none.
                self.prices.0.fill(0);
                top.1.0.fill(0);
                continue;
            }
            if bound > top.0 {
                idle = 0;
                top = (bound, self.prices.clone(), self.memory.clone());
                aim = aim.min(mend(&self.narrow(aim, &mut left)));
            } else {
                idle += 1;
            }
            aim = aim.min(mend(&route));
            if top.0 >= aim {
                break;
            }
            let gap = aim - top.0;
            if bound == top.0 && gap < trimmed / 10 * 9 {
                trimmed = gap;
                self.trim(&labels, aim, &mut left);
            }
            if labels.count() < LABELS_MIN || length < LENGTH_MIN {
                break;
            }
            if idle == PATIENCE {
                idle = 0;
                length = length * 2 / 3;
                self.prices.clone_from(&top.1);
            }
            let grew = self.remember(&route);
            let uses = route.iter().map(|(place, _)| *place);
            if !self.prices.step(uses, aim - bound, length) && !grew {
                break;
            }
        }
        *steps += left;
        self.bound_nanos = top.0.max(self.bound_nanos);
        (_, self.prices, self.memory) = top;
    }

    /// What is left to pay from each node on.
    pub(super) fn backward(&self, best: u64, limit: usize, steps: &mut u64) -> Option<Labels> {
        let paid = self.plain();
        let limits = (best, limit);
        self.labels(Direction::Backward, (&paid, &self.guiding), limits, steps)
    }

    /// What no plan can cost less than, by labels from [`Routes::backward`].
    pub(super) fn bound(&self, labels: &Labels) -> u64 {
        labels.least(ROOT).saturating_sub(self.prices.sum())
    }

    fn labels(
        &self,
        direction: Direction,
        (others, guiding): (&[u64], &Prices),
        (best, limit): (u64, usize),
        steps: &mut u64,
    ) -> Option<Labels> {
        let question = Question {
            graph: &self.graph,
            prices: &self.prices,
            kinds: self.kinds,
            memory: &self.memory,
            direction,
            others,
            guiding,
            ceiling: best.saturating_add(self.prices.sum() + guiding.sum()),
            limit,
            width: usize::MAX,
        };
        Labels::spread(&question, steps)
    }

    /// A plan that narrow search finds.
    fn narrow(&self, best: u64, steps: &mut u64) -> Route {
        let paid = self.plain();
        let all = vec![u128::MAX; self.memory.len()];
        let question = Question {
            graph: &self.graph,
            prices: &self.prices,
            kinds: self.kinds,
            memory: &all,
            direction: Direction::Backward,
            others: &paid,
            guiding: &self.guiding,
            ceiling: best.saturating_add(self.prices.sum() + self.guiding.sum()),
            limit: usize::MAX,
            width: NARROW,
        };
        let labels = Labels::spread(&question, steps);
        labels.map_or(Vec::new(), |labels| labels.route(&self.graph))
    }

    /// The least to pay up to each node by routes without a memory.
    fn plain(&self) -> Vec<u64> {
        let mut paid = vec![NEVER; self.graph.len()];
        paid[ROOT as usize] = 0;
        for spot in 0..self.graph.len() as Spot {
            let before = paid[spot as usize];
            if before >= NEVER {
                continue;
            }
            for edge in self.graph.out(spot) {
                let penalty = self.guiding.penalty(&self.graph, edge);
                let cost = before + self.prices.of(&self.graph, edge) + penalty;
                let cell = &mut paid[edge.head as usize];
                *cell = (*cell).min(cost);
            }
        }
        paid
    }

    /// Takes out the edges on which no two halves meet for less than `best`.
    fn trim(&mut self, backward: &Labels, best: u64, steps: &mut u64) {
        if let Some(kept) = self.met(backward, best, steps) {
            let mut kept = kept.into_iter();
            self.graph.retain(|_| kept.next().unwrap_or(true));
        }
    }

    /// By edge, whether two halves meet on it for less than `best`.
    pub(super) fn met(&self, backward: &Labels, best: u64, steps: &mut u64) -> Option<Vec<bool>> {
        let to_go: Vec<u64> = (0..self.graph.len() as Spot)
            .map(|spot| backward.least(spot))
            .collect();
        let limits = (best, LABELS_MAX);
        let none = Prices(vec![0; self.prices.0.len()]);
        let forward = self.labels(Direction::Forward, (&to_go, &none), limits, steps)?;
        let ceiling = best.saturating_add(self.prices.sum());
        let kept = self.graph.edges().iter().map(|edge| {
            let left = ceiling.saturating_sub(self.prices.of(&self.graph, edge));
            let (forward, backward) = (forward.at(edge.tail), backward.at(edge.head));
            match self
                .graph
                .node(edge.tail)
                .place()
                .filter(|_| edge.is_stage())
            {
                // Both halves have the stage's own device.
                Some(place) => {
                    let without = |seen| self.kinds.without(seen, place);
                    labels::meet(forward, backward, without, left)
                }
                None => labels::meet(forward, backward, |seen| seen, left),
            }
        });
        Some(kept.collect())
    }

    /// Has everyone between two uses of a device remember it; false when there are none.
    fn remember(&mut self, route: &Route) -> bool {
        let mut grew = false;
        for (at, (place, _)) in route.iter().enumerate() {
            let after = &route[at + 1..];
            if let Some(between) = after.iter().position(|(other, _)| other == place) {
                for (other, _) in &after[..between] {
                    self.memory[*other] |= 1 << place;
                }
                grew = true;
            }
        }
        grew
    }
}

/// Each place remembers itself alone.
fn unaware(count: usize) -> Vec<u128> {
    (0..count).map(|place| 1 << place).collect()
}

impl Prices {
    /// What an edge costs, the penalty of a stage's device included.
    fn of(&self, graph: &Graph, edge: &super::graph::Edge) -> u64 {
        edge.nanos + self.penalty(graph, edge)
    }

    /// The penalty of a stage's device, for using it.
    fn penalty(&self, graph: &Graph, edge: &super::graph::Edge) -> u64 {
        match (edge.is_stage(), graph.node(edge.tail).place()) {
            (true, Some(place)) => self.0[place],
            _ => 0,
        }
    }
}
