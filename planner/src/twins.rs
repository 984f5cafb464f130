//! Devices that no plan can tell apart, so that a search need try only one of them.
//!
//! Twins have the same memory, speeds and links; they differ by id alone.

use crate::cost::{Costs, Index};

/// For each place in a list of devices, the twin that comes before it.
pub(crate) struct Twins {
    before: Vec<Option<usize>>,
}

impl Twins {
    /// Every device for itself.
    pub(crate) fn none() -> Self {
        Self { before: Vec::new() }
    }

    pub(crate) fn among(costs: &Costs<'_>, allowed: &[Index]) -> Self {
        let same = |left: Index, right: Index| {
            let (a, b) = (costs.devices[left], costs.devices[right]);
            a.memory_bytes == b.memory_bytes
                && a.decode_bytes_per_second == b.decode_bytes_per_second
                && a.prefill_macs_per_second == b.prefill_macs_per_second
                && costs.driver != Some(left)
                && costs.driver != Some(right)
                && costs.links.look_alike(left, right)
        };
        let before = (0..allowed.len())
            .map(|place| {
                (0..place)
                    .rev()
                    .find(|other| same(allowed[*other], allowed[place]))
            })
            .collect();
        Self { before }
    }

    /// Whether a place may be used next: its earlier twin, if any, is used already.
    pub(crate) fn is_next(&self, place: usize, used: u128) -> bool {
        self.before
            .get(place)
            .copied()
            .flatten()
            .is_none_or(|twin| used & (1 << twin) != 0)
    }
}
