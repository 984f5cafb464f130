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

    /// Twins where a device's links and nearness to the driver matter.
    pub(crate) fn among(costs: &Costs<'_>, allowed: &[Index]) -> Self {
        Self::find(allowed, |left, right| {
            are_equal(costs, left, right)
                && costs.driver != Some(left)
                && costs.driver != Some(right)
                && costs.links.look_alike(left, right)
        })
    }

    /// Twins where no link is looked at; `apart` is like no other.
    pub(crate) fn unlinked(costs: &Costs<'_>, allowed: &[Index], apart: Option<Index>) -> Self {
        Self::find(allowed, |left, right| {
            are_equal(costs, left, right) && apart != Some(left) && apart != Some(right)
        })
    }

    fn find(allowed: &[Index], same: impl Fn(Index, Index) -> bool) -> Self {
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

pub(crate) fn are_equal(costs: &Costs<'_>, left: Index, right: Index) -> bool {
    let (left, right) = (costs.devices[left], costs.devices[right]);
    left.memory_bytes == right.memory_bytes
        && left.decode_bytes_per_second == right.decode_bytes_per_second
        && left.prefill_macs_per_second == right.prefill_macs_per_second
        && left.detail == right.detail
}
