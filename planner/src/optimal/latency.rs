//! Least latency when layers or links differ: best-first search over pipelines.
//!
//! Grows pipelines stage by stage, always the one whose bound is least, and merges
//! those that used the same devices, end on the same one and reached the same layer.
//! Ends with a proof, or out of steps with the bound of what it left open. Skips plans
//! that could be made no worse by moving layers between two of their own stages.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;

use super::arcs::Arcs;
use super::bound::Bound;
use super::form::{Form, Forms};
use super::front::Fronts;
use super::relax::{self, Relaxed};
use crate::cost::{Costs, Cut, Index};
use crate::cover::DEVICE_COUNT_MAX;
use crate::hash::Mixer;
use crate::twins::Twins;

/// What is left to say after a search.
pub(super) struct Outcome {
    /// A plan better than the one it started from, if there was one to be found.
    pub(super) better: Option<Vec<Cut>>,
    /// No pipeline of these devices costs less.
    pub(super) lower_bound_nanos: u64,
}

/// The first layers of the model on some devices.
#[derive(Clone, Copy)]
struct Node {
    used: u128,
    cost: u64,
    parent: u32,
    end: u16,
    last: u8,
    first: u8,
    form: Form,
    /// Penalties of the devices not used yet.
    spare: u64,
}

/// What makes two nodes interchangeable.
type Key = (u128, u16, u8, u8, Form);

const ROOT: u32 = u32::MAX;

pub(super) struct Search<'s, 'r> {
    costs: &'s Costs<'r>,
    /// Few enough for a bit set.
    devices: &'s [Index],
    bound: Bound,
    relaxed: Relaxed,
    forms: Forms,
    twins: Twins,
    arcs: Arcs,
    nodes: Vec<Node>,
    open: BinaryHeap<Reverse<(u64, Reverse<u16>, u32)>>,
    // A hash map whose order is never looked at, so it cannot make a plan depend on it.
    cheapest: HashMap<Key, u64, BuildHasherDefault<Mixer>>,
    /// Where it does not matter who was last: the nodes worth keeping of each set of
    /// used devices.
    fronts: Option<Fronts>,
    best: u64,
    best_node: Option<u32>,
    /// Counted down; the search ends at zero.
    steps: &'s mut u64,
}

impl<'s, 'r> Search<'s, 'r> {
    /// A search among at most [`DEVICE_COUNT_MAX`] devices for less than `best` nanos.
    pub(super) fn new(
        costs: &'s Costs<'r>,
        devices: &'s [Index],
        best: u64,
        steps: &'s mut u64,
    ) -> Self {
        assert!(devices.len() <= DEVICE_COUNT_MAX);
        let (relaxed, arcs) = relax::relax(costs, devices, best);
        let met = relaxed.plan.as_ref().map(|cuts| costs.latency_nanos(cuts));
        Self {
            costs,
            devices,
            bound: Bound::new(costs, devices),
            relaxed,
            forms: Forms::new(costs, devices),
            twins: Twins::among(costs, devices),
            arcs,
            nodes: Vec::new(),
            open: BinaryHeap::new(),
            cheapest: HashMap::default(),
            fronts: costs.links.are_alike().then(|| Fronts::new(costs, devices)),
            best: met.unwrap_or(best).min(best),
            best_node: None,
            steps,
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        let root = self.relaxed.bound_nanos;
        let mut proven = root;
        if proven < self.best {
            proven = proven.max(self.grow_root());
        }
        while let Some(Reverse((bound, _, index))) = self.open.pop() {
            proven = bound.max(root);
            if bound >= self.best {
                break;
            }
            if *self.steps == 0 {
                break;
            }
            let node = self.nodes[index as usize];
            if !self.is_overtaken(&node) {
                self.grow(node, index);
            }
        }
        if self.open.is_empty() && proven < self.best && *self.steps > 0 {
            proven = self.best;
        }
        Outcome {
            better: match self.best_node {
                Some(index) => Some(self.path(index)),
                None => self.relaxed.plan,
            },
            lower_bound_nanos: proven.min(self.best),
        }
    }

    fn grow_root(&mut self) -> u64 {
        let root = Node {
            used: 0,
            cost: 0,
            parent: ROOT,
            end: 0,
            last: 0,
            first: 0,
            form: Form::default(),
            spare: self.relaxed.all_penalties(),
        };
        let bound = self.bound.rest_nanos(0, 0);
        self.grow(root, ROOT);
        bound
    }

    /// Opens every stage that may follow a node.
    fn grow(&mut self, node: Node, index: u32) {
        let start = usize::from(node.end);
        for place in 0..self.devices.len() {
            if node.used & (1 << place) != 0 || !self.twins.is_next(place, node.used) {
                continue;
            }
            let hop = if index == ROOT {
                self.costs.enter_nanos(self.devices[place])
            } else {
                let last = self.devices[usize::from(node.last)];
                self.costs.links.hop_nanos(last, self.devices[place])
            };
            let ends = self.arcs.ends(place, start);
            *self.steps = self.steps.saturating_sub(1 + ends.len() as u64);
            for end in ends {
                self.open_stage(&node, index, place, end, node.cost + hop);
            }
        }
    }

    fn open_stage(&mut self, node: &Node, index: u32, place: usize, end: usize, paid: u64) {
        let start = usize::from(node.end);
        let device = self.devices[place];
        let before = (index != ROOT).then_some((usize::from(node.last), node.form));
        let Some(form) = self
            .forms
            .after(self.costs, before, place, device, &(start..end))
        else {
            return;
        };
        let cost = paid + self.costs.decode_nanos(device, &(start..end));
        let child = Node {
            used: node.used | 1 << place,
            cost,
            parent: index,
            end: end as u16,
            last: place as u8,
            first: if index == ROOT {
                place as u8
            } else {
                node.first
            },
            form,
            spare: node.spare - self.relaxed.penalty(place),
        };
        if end == self.costs.layer_count {
            let first = self.devices[usize::from(child.first)];
            let total = cost + self.costs.leave_nanos(device, first);
            if total < self.best {
                self.best = total;
                self.best_node = Some(self.nodes.len() as u32);
                self.nodes.push(Node {
                    cost: total,
                    ..child
                });
            }
            return;
        }
        let route = cost + self.relaxed.rest_nanos(end, place, child.spare);
        if route >= self.best {
            return;
        }
        *self.steps = self.steps.saturating_sub(1 + self.devices.len() as u64 / 4);
        let bound = route.max(cost + self.bound.rest_nanos(end, child.used));
        if bound >= self.best {
            return;
        }
        if !self.is_news(&child) {
            return;
        }
        let number = self.nodes.len() as u32;
        self.nodes.push(child);
        self.open.push(Reverse((bound, Reverse(child.end), number)));
    }

    /// Notes a node; false when one as good was there before.
    fn is_news(&mut self, node: &Node) -> bool {
        if let Some(fronts) = &mut self.fronts {
            return fronts.admit(node.used, usize::from(node.end), node.cost);
        }
        let key = self.key(node);
        let known = self.cheapest.entry(key).or_insert(u64::MAX);
        let news = node.cost < *known;
        *known = node.cost.min(*known);
        news
    }

    /// Whether a better node came after this one.
    fn is_overtaken(&self, node: &Node) -> bool {
        match &self.fronts {
            Some(fronts) => !fronts.holds(node.used, usize::from(node.end), node.cost),
            None => {
                let known = self.cheapest.get(&self.key(node));
                known.is_some_and(|cost| *cost < node.cost)
            }
        }
    }

    /// Who was first matters only for the way home to a driver that is the first stage.
    fn key(&self, node: &Node) -> Key {
        let first = match self.costs.request.driver {
            Some(_) => 0,
            None => node.first,
        };
        (node.used, node.end, node.last, first, node.form)
    }

    fn path(&self, mut index: u32) -> Vec<Cut> {
        let mut cuts = Vec::new();
        while index != ROOT {
            let node = self.nodes[index as usize];
            let start = match node.parent {
                ROOT => 0,
                parent => usize::from(self.nodes[parent as usize].end),
            };
            let device = self.devices[usize::from(node.last)];
            cuts.push((device, start..usize::from(node.end)));
            index = node.parent;
        }
        cuts.reverse();
        cuts
    }
}
