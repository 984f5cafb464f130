//! The stages and hops that a better plan may have, as a graph from the driver and back.
//!
//! Layers order its nodes, so one pass over them in order of number, or against it, sees
//! every edge after all that lead to it. Only ever shrinks.

mod merge;

use std::ops::Range;

use super::relax::Relaxation;
use crate::cost::NEVER;

/// A number of a node.
pub(super) type Spot = u32;

/// What no place is.
const NOBODY: u16 = u16::MAX;

/// A point of a pipeline: a place begins or has ended its stage at a layer.
#[derive(Clone, Copy)]
pub(super) struct Node {
    place: u16,
    pub(super) layer: u16,
}

/// A stage, a hop, or half a hop where links are alike and all of a layer share a hub.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub(super) tail: Spot,
    pub(super) head: Spot,
    pub(super) nanos: u64,
    is_stage: bool,
}

pub(super) struct Graph {
    nodes: Vec<Node>,
    /// In order of their tails.
    edges: Vec<Edge>,
    /// By node: where its edges begin among `edges`.
    out: Vec<u32>,
    /// In order of their heads, and by node where its own begin.
    into: Vec<u32>,
    into_first: Vec<u32>,
}

/// The nodes by layer and place; [`ROOT`] where there is none.
struct Spots {
    ended: Vec<Spot>,
    begun: Vec<Spot>,
    /// By layer.
    hubs: Vec<Spot>,
}

/// Where all pipelines begin.
pub(super) const ROOT: Spot = 0;

impl Node {
    /// Whose stage begins or ends here, but at the two ends and at hubs.
    pub(super) fn place(&self) -> Option<usize> {
        (self.place != NOBODY).then_some(self.place.into())
    }
}

impl Edge {
    /// Whether it is a stage: a way through a device, not to one.
    pub(super) fn is_stage(&self) -> bool {
        self.is_stage
    }
}

impl Graph {
    pub(super) fn empty() -> Self {
        Self {
            nodes: Vec::new(),
            edges: Vec::new(),
            out: Vec::new(),
            into: Vec::new(),
            into_first: Vec::new(),
        }
    }

    /// What a relaxation left of the stages, and the hops between them on which routes
    /// stay below `ceiling`; `paid` as its trimming returned it.
    pub(super) fn new(relaxation: &Relaxation<'_, '_>, paid: &[Vec<u64>], ceiling: u64) -> Self {
        let mut graph = Self {
            nodes: vec![Node {
                place: NOBODY,
                layer: 0,
            }],
            edges: Vec::new(),
            out: Vec::new(),
            into: Vec::new(),
            into_first: Vec::new(),
        };
        let spots = graph.add_all(relaxation, paid);
        graph.link_stages(relaxation, &spots);
        graph.link_hops(relaxation, &spots, (paid, ceiling));
        graph.index();
        graph
    }

    /// Nodes in order: who ends at a layer, its hub, who begins there.
    fn add_all(&mut self, relaxation: &Relaxation<'_, '_>, paid: &[Vec<u64>]) -> Spots {
        let (count, layers) = (relaxation.devices.len(), relaxation.costs.layer_count);
        let mut ended = vec![0; count * (layers + 1)];
        let mut begun = vec![0; count * layers];
        let mut hubs = vec![0; layers];
        for layer in 0..=layers {
            for place in 0..count {
                if paid[place][layer] < NEVER {
                    ended[layer * count + place] = self.add(place, layer);
                }
            }
            if layer == layers {
                break;
            }
            if layer > 0 && count > 1 && relaxation.costs.links.are_alike() {
                hubs[layer] = self.add(NOBODY.into(), layer);
            }
            for place in 0..count {
                if !relaxation.arcs.ends(place, layer).is_empty() {
                    begun[layer * count + place] = self.add(place, layer);
                }
            }
        }
        self.add(NOBODY.into(), layers);
        Spots { ended, begun, hubs }
    }

    fn link_stages(&mut self, relaxation: &Relaxation<'_, '_>, spots: &Spots) {
        let (count, layers) = (relaxation.devices.len(), relaxation.costs.layer_count);
        let sink = self.sink();
        for place in 0..count {
            let device = relaxation.devices[place];
            let enter = relaxation.costs.enter_nanos(device);
            self.link_hop(ROOT, spots.begun[place], enter);
            for start in 0..layers {
                let tail = spots.begun[start * count + place];
                if tail == 0 {
                    continue;
                }
                for end in relaxation.arcs.ends(place, start) {
                    let head = spots.ended[end * count + place];
                    let nanos = relaxation.costs.decode_nanos(device, &(start..end));
                    self.link_stage(tail, head, nanos);
                }
            }
            let tail = spots.ended[layers * count + place];
            if tail != 0 {
                self.link_hop(tail, sink, relaxation.way_home(place));
            }
        }
    }

    fn link_hops(
        &mut self,
        relaxation: &Relaxation<'_, '_>,
        spots: &Spots,
        (paid, ceiling): (&[Vec<u64>], u64),
    ) {
        let (count, layers) = (relaxation.devices.len(), relaxation.costs.layer_count);
        for (place, paid) in paid.iter().enumerate() {
            for (layer, paid) in paid.iter().enumerate().take(layers).skip(1) {
                let tail = spots.ended[layer * count + place];
                if spots.hubs[layer] != 0 {
                    if tail != 0 {
                        self.link_hop(tail, spots.hubs[layer], relaxation.hops[1]);
                    }
                    let begun = spots.begun[layer * count + place];
                    self.link_hop(spots.hubs[layer], begun, 0);
                    continue;
                }
                if tail == 0 {
                    continue;
                }
                for next in (0..count).filter(|next| *next != place) {
                    let hop = relaxation.hops[place * count + next];
                    let route = paid + hop + relaxation.from[layer * count + next];
                    if route < ceiling {
                        self.link_hop(tail, spots.begun[layer * count + next], hop);
                    }
                }
            }
        }
    }

    fn link_stage(&mut self, tail: Spot, head: Spot, nanos: u64) {
        self.link(Edge {
            tail,
            head,
            nanos,
            is_stage: true,
        });
    }

    fn link_hop(&mut self, tail: Spot, head: Spot, nanos: u64) {
        self.link(Edge {
            tail,
            head,
            nanos,
            is_stage: false,
        });
    }

    /// Adds an edge, unless nobody begins at its head.
    fn link(&mut self, edge: Edge) {
        if edge.head != ROOT {
            self.edges.push(edge);
        }
    }

    fn add(&mut self, place: usize, layer: usize) -> Spot {
        self.nodes.push(Node {
            place: u16::try_from(place).unwrap_or(NOBODY),
            layer: layer as u16,
        });
        (self.nodes.len() - 1) as Spot
    }

    fn index(&mut self) {
        self.edges
            .sort_unstable_by_key(|edge| (edge.tail, edge.head));
        self.into = (0..self.edges.len() as u32).collect();
        let edges = &self.edges;
        self.into
            .sort_unstable_by_key(|edge| (edges[*edge as usize].head, *edge));
        let starts = |numbers: &mut dyn Iterator<Item = Spot>, count: usize| {
            let mut first = vec![0u32; count + 1];
            for number in numbers {
                first[number as usize + 1] += 1;
            }
            for number in 0..count {
                first[number + 1] += first[number];
            }
            first
        };
        self.out = starts(&mut edges.iter().map(|edge| edge.tail), self.nodes.len());
        self.into_first = starts(&mut edges.iter().map(|edge| edge.head), self.nodes.len());
    }

    /// How many nodes there are; the last is where all pipelines end.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn sink(&self) -> Spot {
        (self.nodes.len() - 1) as Spot
    }

    pub(super) fn node(&self, spot: Spot) -> &Node {
        &self.nodes[spot as usize]
    }

    pub(super) fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The edges that leave a node.
    pub(super) fn out(&self, spot: Spot) -> &[Edge] {
        let spot = spot as usize;
        &self.edges[self.out[spot] as usize..self.out[spot + 1] as usize]
    }

    /// The numbers of the edges that leave a node.
    pub(super) fn out_numbers(&self, spot: Spot) -> Range<u32> {
        self.out[spot as usize]..self.out[spot as usize + 1]
    }

    /// The numbers of the edges that lead to a node.
    pub(super) fn numbers_into(&self, spot: Spot) -> &[u32] {
        let spot = spot as usize;
        &self.into[self.into_first[spot] as usize..self.into_first[spot + 1] as usize]
    }

    /// Takes out all edges but these.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Edge) -> bool) {
        self.edges.retain(|edge| keep(edge));
        self.index();
    }
}
