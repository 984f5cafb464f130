//! Takes nodes of like places for one.

use std::collections::BTreeMap;

use super::{Edge, Graph, NOBODY, ROOT, Spot};

impl Graph {
    /// The graph with each place taken for the one that `first_like` names, and for each
    /// of its edges the number of the one that stands for it now: the cheapest alike.
    pub(in crate::optimal) fn merged(
        &self,
        first_like: impl Fn(usize) -> usize,
    ) -> (Self, Vec<u32>) {
        let mut merged = Self::empty();
        let mut known: BTreeMap<(u16, u16, bool), Spot> = BTreeMap::new();
        let mut spots = Vec::with_capacity(self.len());
        for (spot, node) in (0..).zip(&self.nodes) {
            let place = node.place().map_or(NOBODY.into(), &first_like);
            let begins = self.out(spot).iter().any(Edge::is_stage);
            let mut add = || merged.add(place, node.layer.into());
            spots.push(match spot == ROOT || spot == self.sink() {
                true => add(),
                false => *known
                    .entry((place as u16, node.layer, begins))
                    .or_insert_with(add),
            });
        }
        let ends = |edge: &Edge| (spots[edge.tail as usize], spots[edge.head as usize]);
        let mut order: Vec<u32> = (0..self.edges.len() as u32).collect();
        order.sort_unstable_by_key(|number| {
            let edge = &self.edges[*number as usize];
            (ends(edge), edge.nanos, *number)
        });
        let mut stands_for = vec![0; self.edges.len()];
        for number in order {
            let edge = &self.edges[number as usize];
            let (tail, head) = ends(edge);
            let last = merged.edges.last();
            if last.is_none_or(|last| (last.tail, last.head) != (tail, head)) {
                merged.link(Edge {
                    tail,
                    head,
                    ..*edge
                });
            }
            stands_for[number as usize] = merged.edges.len() as u32 - 1;
        }
        merged.index();
        (merged, stands_for)
    }
}
