//! What a whole pipeline costs: the sum of its stages and hops, or the slowest of them.

use super::{Costs, Cut, Index, NEVER};
use crate::request::Objective;

impl Costs<'_> {
    /// The time of one token of one stream: all stages, all hops, and the way home.
    pub(crate) fn latency_nanos(&self, cuts: &[Cut]) -> u64 {
        let stages: u64 = cuts
            .iter()
            .map(|(device, layers)| self.decode_nanos(*device, layers))
            .fold(0, |sum, nanos| (sum + nanos).min(NEVER));
        (stages + self.hops_nanos(cuts)).min(NEVER)
    }

    /// What the hops of one token cost: into the first stage, between stages, home.
    pub(crate) fn hops_nanos(&self, cuts: &[Cut]) -> u64 {
        let order: Vec<Index> = cuts.iter().map(|cut| cut.0).collect();
        self.way_nanos(&order)
    }

    /// The same for devices in this order.
    pub(crate) fn way_nanos(&self, order: &[Index]) -> u64 {
        let (Some(first), Some(last)) = (order.first(), order.last()) else {
            return 0;
        };
        let between = order
            .windows(2)
            .map(|pair| self.links.hop_nanos(pair[0], pair[1]));
        let ends = self.enter_nanos(*first) + self.leave_nanos(*last, *first);
        between.fold(ends, |sum, nanos| (sum + nanos).min(NEVER))
    }

    /// A token's way from the driver to the first stage.
    pub(crate) fn enter_nanos(&self, first: Index) -> u64 {
        match (self.request.driver, self.driver) {
            (None, _) => 0,
            (Some(_), Some(driver)) => self.links.token_nanos(driver, first),
            (Some(_), None) => self.links.outside_nanos,
        }
    }

    /// A sampled token's way from the last stage to the driver.
    pub(crate) fn leave_nanos(&self, last: Index, first: Index) -> u64 {
        match (self.request.driver, self.driver) {
            (None, _) => self.links.token_nanos(last, first),
            (Some(_), Some(driver)) => self.links.token_nanos(last, driver),
            (Some(_), None) => self.links.outside_nanos,
        }
    }

    /// The time in which every sequence advances by one token when all stages are kept
    /// busy by so many groups: the slowest stage's or link's share of it.
    pub(crate) fn slowest_nanos(&self, cuts: &[Cut], groups: usize) -> u64 {
        let stages = cuts
            .iter()
            .map(|(device, layers)| self.turn_nanos(*device, layers, groups));
        let links = cuts
            .windows(2)
            .map(|pair| self.links.busy_nanos(pair[0].0, pair[1].0));
        stages.chain(links).max().unwrap_or(0)
    }

    pub(crate) fn objective_nanos(&self, cuts: &[Cut]) -> u64 {
        match self.request.objective {
            Objective::Latency => self.latency_nanos(cuts),
            Objective::Throughput => self.slowest_nanos(cuts, cuts.len()),
        }
    }
}
