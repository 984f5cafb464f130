//! What is paid up to, or left to pay from, each node, by what was used on the way.
//!
//! A label that costs more than another and remembers all that the other does is dropped.

use super::Route;
use super::{Graph, Kinds, Prices, ROOT, Spot};
use crate::cost::NEVER;

#[derive(Clone, Copy)]
pub(in crate::optimal) struct Label {
    pub(in crate::optimal) cost: u64,
    /// The same with the penalties that are not paid.
    guided: u64,
    /// Places used and not forgotten, and how many of each kind: from the lowest bit
    /// forward, from the highest bit backward.
    pub(in crate::optimal) seen: u128,
    /// The node that it came from, and which of its labels.
    via: Spot,
    index: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

pub(super) struct Question<'g> {
    pub(super) graph: &'g Graph,
    pub(super) prices: &'g Prices,
    /// Penalties that are not paid, but rule labels out.
    pub(super) guiding: &'g Prices,
    pub(super) kinds: &'g Kinds,
    /// By place: the places that are not forgotten there.
    pub(super) memory: &'g [u128],
    pub(super) direction: Direction,
    /// By node: at least what the other half of a route costs.
    pub(super) others: &'g [u64],
    /// Routes that cost as much are not wanted.
    pub(super) ceiling: u64,
    pub(super) limit: usize,
    /// The most labels that a node keeps.
    pub(super) width: usize,
}

pub(in crate::optimal) struct Labels {
    /// Those of one node together, cheapest first.
    labels: Vec<Label>,
    /// By node: where its labels begin and end.
    at: Vec<(u32, u32)>,
}

impl Labels {
    /// `None` when there are too many. What it costs is taken off `steps`.
    pub(super) fn spread(question: &Question<'_>, steps: &mut u64) -> Option<Self> {
        let graph = question.graph;
        let mut spread = Self {
            labels: Vec::new(),
            at: vec![(0, 0); graph.len()],
        };
        let mut arrived = Vec::new();
        let origin = match question.direction {
            Direction::Forward => ROOT,
            Direction::Backward => graph.sink(),
        };
        for step in 0..graph.len() as Spot {
            let spot = match question.direction {
                Direction::Forward => step,
                Direction::Backward => graph.sink() - step,
            };
            let begin = spread.labels.len();
            if spot == origin {
                spread.labels.push(Label {
                    cost: 0,
                    guided: 0,
                    seen: 0,
                    via: spot,
                    index: 0,
                });
            } else if question.others[spot as usize] < question.ceiling {
                spread.arrive(question, spot, &mut arrived);
                let came = arrived.len() as u64;
                let compared = spread.keep_best(&mut arrived, begin, question.width);
                let edges = question.graph.out_numbers(spot).len() as u64;
                *steps = steps.saturating_sub((edges + came + compared / 16) / 2);
            }
            spread.at[spot as usize] = (begin as u32, spread.labels.len() as u32);
            if spread.labels.len() > question.limit || *steps == 0 {
                return None;
            }
        }
        Some(spread)
    }

    fn arrive(&self, question: &Question<'_>, spot: Spot, arrived: &mut Vec<Label>) {
        let graph = question.graph;
        let place = graph.node(spot).place();
        let most = question.ceiling - question.others[spot as usize];
        let mut along = |edge: &super::super::graph::Edge, via: Spot| {
            let cost = question.prices.of(graph, edge);
            let guided = cost + question.guiding.penalty(graph, edge);
            let entered = place.filter(|_| !edge.is_stage());
            let kept = entered.map_or(u128::MAX, |place| {
                question.memory[place] | question.kinds.counted
            });
            for (index, label) in (0..).zip(self.at(via)) {
                if label.guided + guided >= most {
                    continue;
                }
                let seen = label.seen & kept;
                let seen = match (entered, question.direction) {
                    (None, _) => Some(seen),
                    (Some(place), Direction::Forward) => question.kinds.add(seen, place),
                    (Some(place), Direction::Backward) => question.kinds.add_above(seen, place),
                };
                if let Some(seen) = seen {
                    arrived.push(Label {
                        cost: label.cost + cost,
                        guided: label.guided + guided,
                        seen,
                        via,
                        index,
                    });
                }
            }
        };
        match question.direction {
            Direction::Backward => {
                for edge in graph.out(spot) {
                    along(edge, edge.head);
                }
            }
            Direction::Forward => {
                for number in graph.numbers_into(spot) {
                    let edge = &graph.edges()[*number as usize];
                    along(edge, edge.tail);
                }
            }
        }
    }

    /// Takes in the labels that no other beats; says how many were compared.
    fn keep_best(&mut self, arrived: &mut Vec<Label>, begin: usize, width: usize) -> u64 {
        let mut compared = 0;
        arrived.sort_unstable_by_key(|label| {
            (label.cost, label.seen.count_ones(), label.via, label.index)
        });
        for label in arrived.drain(..) {
            let mut kept = self.labels[begin..].iter();
            let beaten = kept.any(|kept| kept.seen & !label.seen == 0);
            compared += self.labels.len() - begin - kept.len();
            if !beaten && self.labels.len() - begin < width {
                self.labels.push(label);
            }
        }
        compared as u64
    }

    pub(in crate::optimal) fn at(&self, spot: Spot) -> &[Label] {
        let (begin, end) = self.at[spot as usize];
        &self.labels[begin as usize..end as usize]
    }

    pub(super) fn least(&self, spot: Spot) -> u64 {
        self.at(spot).first().map_or(NEVER, |label| label.cost)
    }

    pub(super) fn count(&self) -> usize {
        self.labels.len()
    }

    /// The cheapest route; empty when there is none.
    pub(in crate::optimal) fn route(&self, graph: &Graph) -> Route {
        let mut route = Vec::new();
        let (mut spot, mut index) = (ROOT, 0);
        while let Some(label) = self.at(spot).get(index)
            && spot != graph.sink()
        {
            let (here, next) = (graph.node(spot), graph.node(label.via));
            if let Some(place) = here.place()
                && here.layer < next.layer
            {
                route.push((place, next.layer.into()));
            }
            (spot, index) = (label.via, label.index as usize);
        }
        route
    }
}

/// Whether two halves that share no device cost less than `ceiling`, after `without` took
/// out of the left one's set what may be in both.
pub(super) fn meet(
    left: &[Label],
    right: &[Label],
    without: impl Fn(u128) -> u128,
    ceiling: u64,
) -> bool {
    let Some(least) = right.first() else {
        return false;
    };
    left.iter()
        .take_while(|left| left.cost + least.cost < ceiling)
        .any(|left| {
            let seen = without(left.seen);
            right
                .iter()
                .take_while(|right| left.cost + right.cost < ceiling)
                .any(|right| seen & right.seen == 0)
        })
}
