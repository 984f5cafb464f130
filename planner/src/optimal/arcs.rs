//! The stages that are still worth a thought: for a device and a first layer, its ends.
//!
//! Begins with what memory permits and only ever shrinks.

use std::ops::Range;

use crate::cost::{Costs, Index};

/// Ends by place and start. Plans of one stage are not among them: they are compared
/// one by one before any search.
#[derive(Clone)]
pub(super) struct Arcs {
    layer_count: usize,
    /// `[place * layers + start]`: the shortest and one past the furthest end.
    ends: Vec<(u16, u16)>,
}

impl Arcs {
    /// Every stage that fits, of plans with two stages or more.
    pub(super) fn within_memory(costs: &Costs<'_>, devices: &[Index]) -> Self {
        let layers = costs.layer_count;
        let ends = devices.iter().flat_map(|device| {
            (0..layers).map(|start| {
                let reach = costs.reach(*device, start);
                let reach = if start == 0 {
                    reach.min(layers - 1)
                } else {
                    reach
                };
                (narrow(start + 1), narrow(reach + 1))
            })
        });
        Self {
            layer_count: layers,
            ends: ends.collect(),
        }
    }

    /// The ends of a place's stage from `start` on; may be empty.
    pub(super) fn ends(&self, place: usize, start: usize) -> Range<usize> {
        let (first, after) = self.ends[place * self.layer_count + start];
        usize::from(first)..usize::from(after.max(first))
    }

    /// Leaves only `ends`, which are among those that were there.
    pub(super) fn keep(&mut self, place: usize, start: usize, ends: &Range<usize>) {
        self.ends[place * self.layer_count + start] = (narrow(ends.start), narrow(ends.end));
    }

    /// How many stages there are.
    pub(super) fn count(&self) -> usize {
        let lengths = self
            .ends
            .iter()
            .map(|(first, after)| after.max(first) - first);
        lengths.map(usize::from).sum()
    }
}

fn narrow(layer: usize) -> u16 {
    u16::try_from(layer).expect("layers are few enough: checked with the request")
}
