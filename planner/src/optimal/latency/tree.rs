//! Best-first search over pipelines.
//!
//! Grows pipelines stage by stage, always the one whose bound is least, and merges
//! those that used the same devices, end on the same one and reached the same layer.
//! Ends with a proof, or out of steps with the bound of what it left open. Skips plans
//! that could be made no worse by moving layers between two of their own stages.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;

use super::super::bound::Bound;
use super::super::form::{Form, Forms};
use super::super::front::Fronts;
use super::super::graph::{ROOT as START, Spot};
use super::super::routes::{Labels, Routes};
use crate::cost::{Costs, Cut, Index, NEVER};
use crate::hash::Mixer;
use crate::twins::Twins;

/// The first layers of the model on some devices.
#[derive(Clone, Copy)]
struct Node {
    /// Places, and how many of each kind.
    used: u128,
    cost: u64,
    parent: u32,
    end: u16,
    last: u8,
    first: u8,
    form: Form,
    /// Penalties of the devices not used yet.
    spare: u64,
    /// Where in the graph it is.
    spot: Spot,
}

/// What makes two nodes interchangeable.
type Key = (u128, u16, u8, u8, Form);

const ROOT: u32 = u32::MAX;

pub(super) struct Tree<'s, 'r> {
    costs: &'s Costs<'r>,
    /// Few enough for a bit set.
    devices: &'s [Index],
    bound: Bound,
    routes: &'s Routes<'s>,
    /// What is left to pay from each node of the graph on.
    labels: Option<Labels>,
    forms: Forms,
    twins: Twins,
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

impl<'s, 'r> Tree<'s, 'r> {
    /// A search for less than `best` nanos.
    pub(super) fn new(
        costs: &'s Costs<'r>,
        devices: &'s [Index],
        (routes, best): (&'s Routes<'s>, u64),
        steps: &'s mut u64,
    ) -> Self {
        let labels = routes.backward(best, usize::MAX, steps);
        Self {
            costs,
            devices,
            bound: Bound::new(costs, devices),
            labels,
            routes,
            forms: Forms::new(costs, devices),
            twins: Twins::among(costs, devices),
            nodes: Vec::new(),
            open: BinaryHeap::new(),
            cheapest: HashMap::default(),
            fronts: costs.links.are_alike().then(|| Fronts::new(costs, devices)),
            best,
            best_node: None,
            steps,
        }
    }

    /// A plan for less, if there is one to be found, and a bound on all others.
    pub(super) fn run(mut self) -> (Option<Vec<Cut>>, u64) {
        let root = self.routes.bound_nanos;
        if self.labels.is_none() {
            return (None, root.min(self.best));
        }
        let mut proven = root;
        if proven < self.best {
            proven = proven.max(self.grow_root());
        }
        while let Some(Reverse((bound, _, index))) = self.open.pop() {
            proven = bound.max(root);
            if bound >= self.best || *self.steps == 0 {
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
        (
            self.best_node.map(|index| self.path(index)),
            proven.min(self.best),
        )
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
            spare: self.routes.prices.sum(),
            spot: START,
        };
        let bound = self.bound.rest_nanos(0, 0);
        self.grow(root, ROOT);
        bound
    }

    /// Opens every stage that may follow a node.
    fn grow(&mut self, node: Node, index: u32) {
        for number in self.routes.graph.out_numbers(node.spot) {
            let hop = self.routes.graph.edges()[number as usize];
            match self.routes.graph.node(hop.head).place() {
                Some(place) => self.enter(&node, index, place, hop.head, hop.nanos),
                None => {
                    for number in self.routes.graph.out_numbers(hop.head) {
                        let rest = self.routes.graph.edges()[number as usize];
                        if let Some(place) = self.routes.graph.node(rest.head).place() {
                            self.enter(&node, index, place, rest.head, hop.nanos + rest.nanos);
                        }
                    }
                }
            }
        }
    }

    fn enter(&mut self, node: &Node, index: u32, place: usize, spot: Spot, hop: u64) {
        if node.used & (1 << place) != 0 || !self.twins.is_next(place, node.used) {
            return;
        }
        let stages = self.routes.graph.out_numbers(spot);
        *self.steps = self.steps.saturating_sub(1 + stages.len() as u64);
        for number in stages {
            let stage = self.routes.graph.edges()[number as usize];
            let end = usize::from(self.routes.graph.node(stage.head).layer);
            let cost = node.cost + hop + stage.nanos;
            self.open_stage(node, index, (place, stage.head), end, cost);
        }
    }

    fn open_stage(
        &mut self,
        node: &Node,
        index: u32,
        (place, spot): (usize, Spot),
        end: usize,
        cost: u64,
    ) {
        let start = usize::from(node.end);
        let device = self.devices[place];
        let before = (index != ROOT).then_some((usize::from(node.last), node.form));
        let Some(form) = self
            .forms
            .after(self.costs, before, place, device, &(start..end))
        else {
            return;
        };
        let Some(used) = self.routes.kinds.add(node.used, place) else {
            return;
        };
        let child = Node {
            used,
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
            spare: node.spare - self.routes.prices.0[place],
            spot,
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
        let route = cost + self.rest_nanos(&child);
        if route >= self.best {
            return;
        }
        *self.steps = self.steps.saturating_sub(1 + self.devices.len() as u64 / 6);
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

    /// At least what is left to pay, if each unused device may be used once.
    fn rest_nanos(&self, node: &Node) -> u64 {
        let used = self.routes.kinds.without(node.used, node.last.into());
        let labels = self
            .labels
            .as_ref()
            .map_or(&[][..], |labels| labels.at(node.spot));
        let fitting = labels.iter().find(|label| label.seen & used == 0);
        fitting.map_or(NEVER, |label| label.cost.saturating_sub(node.spare))
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
