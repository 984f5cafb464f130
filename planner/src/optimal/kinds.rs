//! Equal devices, counted in the bits that a set of used devices leaves free.
//!
//! A route that forgot which of four equal devices it used still knows that it used all
//! four. Links are not looked at: devices are of a kind when memory and speeds are equal.

use crate::cost::{Costs, Index};
use crate::cover::DEVICE_COUNT_MAX;
use crate::twins::are_equal;

pub(super) struct Kinds {
    /// By place: the bit that says that it is used; none where that is only counted.
    own: Vec<u128>,
    /// By place: as many bits as its kind has devices; none for one that has no twin.
    counters: Vec<u128>,
    /// By place: the first of its kind.
    firsts: Vec<usize>,
    /// All bits that count.
    pub(super) counted: u128,
}

impl Kinds {
    /// Every device for itself.
    pub(super) fn none(count: usize) -> Self {
        Self {
            own: (0..count).map(|place| 1 << place).collect(),
            counters: vec![0; count],
            firsts: (0..count).collect(),
            counted: 0,
        }
    }

    /// All kinds of two devices or more for which there are bits.
    pub(super) fn among(costs: &Costs<'_>, devices: &[Index]) -> Self {
        let mut kinds = Self::none(devices.len());
        let mut next = devices.len();
        for place in 0..devices.len() {
            if kinds.has_twin(place) {
                continue;
            }
            let like = |other: &usize| are_equal(costs, devices[place], devices[*other]);
            let members: Vec<usize> = (place..devices.len()).filter(like).collect();
            if members.len() < 2 || next + members.len() > DEVICE_COUNT_MAX {
                continue;
            }
            let counter = ((1 << members.len()) - 1) << next;
            for member in &members {
                kinds.counters[*member] = counter;
                kinds.firsts[*member] = place;
            }
            kinds.counted |= counter;
            next += members.len();
        }
        kinds
    }

    /// The same for routes that do not tell devices of a kind apart.
    pub(super) fn merged(&self) -> Self {
        let own = self.own.iter().zip(&self.counters);
        let own = own.map(|(own, counter)| if *counter == 0 { *own } else { 0 });
        Self {
            own: own.collect(),
            counters: self.counters.clone(),
            firsts: self.firsts.clone(),
            counted: self.counted,
        }
    }

    pub(super) fn has_twin(&self, place: usize) -> bool {
        self.counters[place] != 0
    }

    /// The first place of the same kind.
    pub(super) fn first_like(&self, place: usize) -> usize {
        self.firsts[place]
    }

    /// A set with one more place; `None` when that or all of its kind is used. Counts from
    /// the lowest bit up.
    pub(super) fn add(&self, used: u128, place: usize) -> Option<u128> {
        let counter = self.counters[place];
        let lowest = counter & counter.wrapping_neg();
        let counted = (used & counter) << 1 | lowest;
        self.is_free(used, place)
            .then_some(used | self.own[place] | counted & counter)
    }

    /// The same for the other half of a route: counts from the highest bit down. So both
    /// halves have a bit in common exactly when they use more than there are.
    pub(super) fn add_above(&self, used: u128, place: usize) -> Option<u128> {
        let counter = self.counters[place];
        let highest = counter & !(counter >> 1);
        let counted = (used & counter) >> 1 | highest;
        self.is_free(used, place)
            .then_some(used | self.own[place] | counted & counter)
    }

    fn is_free(&self, used: u128, place: usize) -> bool {
        let counter = self.counters[place];
        used & self.own[place] == 0 && (counter == 0 || used & counter != counter)
    }

    /// A set that counts from the lowest bit up, without a place that is in it.
    pub(super) fn without(&self, used: u128, place: usize) -> u128 {
        let counter = self.counters[place];
        let counted = (used & counter) >> 1 & counter;
        used & !self.own[place] & !counter | counted
    }
}
