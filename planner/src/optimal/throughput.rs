//! Least busy time of the slowest stage, one number of stages after the other.
//!
//! More stages mean more groups of sequences, and every group streams the weights
//! again, so the number of stages is part of the price. For a given number a plan is a
//! cover within a time limit, and the least limit is found by halving.

use super::{Found, rank};
use crate::cost::{Costs, Cut, Index};
use crate::cover::{Answer, Limits, TimeLimit, cover};

/// Improves on `best`, which is any plan.
pub(super) fn search(costs: &Costs<'_>, best: Vec<Cut>, steps: &mut u64) -> Found {
    let all: Vec<Index> = (0..costs.devices.len()).collect();
    let stage_max = costs.layer_count.min(all.len());
    let mut search = Search {
        costs,
        share: (*steps / SHARES).max(1),
        all,
        best_nanos: costs.objective_nanos(&best),
        best,
        open: Vec::new(),
        steps,
    };
    // In an order that jumps about, because each improvement costs a search by halving
    // and a rising order may improve at every step.
    for stages in scattered(stage_max) {
        search.improve(stages);
    }
    let mut lower_bound_nanos = search.best_nanos;
    search.open.dedup();
    for stages in std::mem::take(&mut search.open) {
        lower_bound_nanos = search.proven(stages, lower_bound_nanos);
    }
    Found {
        cuts: search.best,
        lower_bound_nanos,
    }
}

/// All numbers from 1 to `count`, neighbours far apart.
fn scattered(count: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (1..=count).collect();
    numbers.sort_by_key(|number| (number.reverse_bits(), *number));
    numbers
}

struct Search<'s, 'r> {
    costs: &'s Costs<'r>,
    all: Vec<Index>,
    best: Vec<Cut>,
    best_nanos: u64,
    /// Numbers of stages for which a better plan was neither found nor ruled out.
    open: Vec<usize>,
    steps: &'s mut u64,
    /// Steps that one question may take, so that the first cannot use up all of them.
    share: u64,
}

/// Questions that get their full share of steps when none is answered.
const SHARES: u64 = 8;
/// A bound that is not attained is sought to this fraction of the objective.
const GRAIN: u64 = 2000;

impl<'s, 'r> Search<'s, 'r> {
    fn improve(&mut self, stages: usize) {
        let mut short = 0;
        let mut first = true;
        while short + 1 < self.best_nanos {
            // One question decides for most numbers of stages: anything better at all?
            let nanos = if first {
                self.best_nanos - 1
            } else {
                short.midpoint(self.best_nanos)
            };
            match self.ask(stages, nanos) {
                Answer::Found(cuts) => {
                    first = false;
                    self.adopt(cuts);
                }
                Answer::Impossible if first => return,
                Answer::Impossible => short = self.next_nanos(stages, nanos) - 1,
                Answer::Unknown if first => {
                    self.open.push(stages);
                    return;
                }
                Answer::Unknown => {
                    self.open.push(stages);
                    short = self.next_nanos(stages, nanos) - 1;
                }
            }
        }
    }

    /// The least time limit above this one at which the answer may be another. Where layers
    /// are alike, to ask again is cheaper than to know.
    fn next_nanos(&self, stage_max: usize, nanos: u64) -> u64 {
        match self.costs.layers_are_alike {
            true => nanos + 1,
            false => self.limits(stage_max, nanos).next_nanos(&self.all),
        }
    }

    fn limits(&self, stage_max: usize, nanos: u64) -> Limits<'s, 'r> {
        Limits {
            time: Some(TimeLimit { stage_max, nanos }),
            ..Limits::memory(self.costs)
        }
    }

    fn ask(&mut self, stage_max: usize, nanos: u64) -> Answer {
        let limits = self.limits(stage_max, nanos);
        let given = self.share.min(*self.steps);
        let mut left = given;
        let answer = cover(&limits, &self.all, &mut left);
        *self.steps -= given - left;
        answer
    }

    fn adopt(&mut self, cuts: Vec<Cut>) {
        if rank(self.costs, &cuts) < rank(self.costs, &self.best) {
            self.best_nanos = self.costs.objective_nanos(&cuts);
            self.best = cuts;
        }
    }

    /// The lesser of `known` and a time below which this number of stages is ruled out
    /// without search.
    fn proven(&self, stages: usize, known: u64) -> u64 {
        let (mut ruled_out, mut open) = (0, known);
        let mut nanos = known.saturating_sub(1);
        while ruled_out + 1 + known / GRAIN < open {
            match cover(&self.limits(stages, nanos), &self.all, &mut 0) {
                Answer::Impossible => ruled_out = self.next_nanos(stages, nanos) - 1,
                Answer::Found(_) | Answer::Unknown => open = nanos,
            }
            nanos = ruled_out.midpoint(open);
        }
        match ruled_out + 1 {
            least if least < known => least,
            _ => known,
        }
    }
}
