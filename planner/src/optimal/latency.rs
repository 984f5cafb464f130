//! Least latency when layers or links differ: what is looked for, one look after another.
//!
//! A look is at all plans below some aim: it takes out what such plans cannot have and
//! searches the rest. Ends with a proof, or out of steps with the bound of what was left.

mod tree;

use super::graph::Graph;
use super::improve::improve;
use super::kinds::Kinds;
use super::merged::Merged;
use super::prices::Charges;
use super::relax::{self, Relaxed};
use super::routes::{Route, Routes};
use super::{FEW, WORK_BEFORE, order};
use crate::cost::{Costs, Cut, Index};
use crate::cover::DEVICE_COUNT_MAX;
use tree::Tree;

/// What is left to say after a search.
pub(super) struct Outcome {
    /// A plan better than the one it started from, if there was one to be found.
    pub(super) better: Option<Vec<Cut>>,
    /// No pipeline of these devices costs less.
    pub(super) lower_bound_nanos: u64,
}

/// What is looked at, and how.
#[derive(Clone, Copy)]
enum Look {
    /// Plans that cost little more than the bound: the less a plan may cost, the fewer
    /// stages and hops it may have.
    Cheap { slack: u64 },
    /// All plans, by routes without a memory: where links are alike that mostly does, and
    /// sets of few devices are few, so nothing is quicker than to merge pipelines by them.
    Plain,
    /// All plans, by routes with a memory.
    Thorough,
}

/// The part of all steps that a plain look may take where a thorough one follows.
const PLAIN_SHARE: u64 = 4;
/// The part of what is left that each look at cheap plans may take among few devices.
const FEW_SHARE: u64 = 32;
/// The same where some of them are equal: counting them makes such a look worth more.
const TWINS_SHARE: u64 = 16;
/// The same among many.
const MANY_SHARE: u64 = 2;
/// Plans are first looked for that cost this fraction more than the bound.
const SLACK: u64 = 256;

/// Looks among at most [`DEVICE_COUNT_MAX`] devices for less than `best` nanos.
pub(super) fn search(costs: &Costs<'_>, devices: &[Index], best: u64, steps: &mut u64) -> Outcome {
    assert!(devices.len() <= DEVICE_COUNT_MAX);
    let relaxed = relax::relax(costs, devices, best);
    let kinds = match costs.links.are_alike() {
        // The tree takes twins for one.
        true => Kinds::none(devices.len()),
        false => Kinds::among(costs, devices),
    };
    let charges = Charges::new(relaxed.prices(), &kinds, costs.links.differ_by_nanos());
    let mut search = Search {
        costs,
        devices,
        best,
        better: None,
        proven: relaxed.bound_nanos.min(best),
        merged: Merged::new(&kinds, &charges),
        twins: kinds.counted != 0,
        relaxed,
    };
    search.adopt(search.relaxed.plan.clone());
    search.look_at_kinds(steps);
    let mut routes = Routes::new(&kinds, charges.clone(), search.proven);
    let mut look = match costs.links.are_alike() {
        true => Some(Look::Plain),
        false => Some(Look::Cheap {
            slack: search.proven / SLACK,
        }),
    };
    while let Some(now) = look.filter(|_| search.proven < search.best) {
        if let Look::Plain = now {
            routes = Routes::new(&kinds, charges.clone(), search.proven);
        }
        look = search.look(now, &mut routes, steps);
    }
    Outcome {
        better: search.better,
        lower_bound_nanos: search.proven.min(search.best),
    }
}

struct Search<'s, 'r> {
    costs: &'s Costs<'r>,
    /// Few enough for a bit set.
    devices: &'s [Index],
    relaxed: Relaxed<'s, 'r>,
    /// Dropped once it takes little away.
    merged: Option<Merged>,
    /// Whether equal devices are counted.
    twins: bool,
    /// What the best known plan costs.
    best: u64,
    better: Option<Vec<Cut>>,
    /// No plan costs less.
    proven: u64,
}

impl Search<'_, '_> {
    /// A bound and a plan from routes that do not tell devices of a kind apart.
    fn look_at_kinds(&mut self, steps: &mut u64) {
        let mut slack = self.proven / SLACK;
        while let Some(merged) = &self.merged
            && self.proven < self.best
        {
            let aim = self.best.min(self.proven.saturating_add(slack));
            let graph = self.relaxed.graph(aim);
            let Some((bound, route)) = merged.least(&graph, aim, steps) else {
                self.merged = None;
                return;
            };
            self.proven = self.proven.max(bound);
            if bound < aim {
                let order: Vec<Index> = merged
                    .places(&route)
                    .into_iter()
                    .map(|place| self.devices[place])
                    .collect();
                let work = WORK_BEFORE * (self.devices.len() as u64).pow(2);
                let cuts = order::best_cuts(self.costs, &order);
                self.adopt(cuts.map(|cuts| improve(self.costs, cuts, work)));
                return;
            }
            slack = slack.saturating_mul(2);
        }
    }

    /// Looks once; says how to go on.
    fn look(&mut self, look: Look, routes: &mut Routes<'_>, steps: &mut u64) -> Option<Look> {
        let alike = self.costs.links.are_alike();
        let few = self.devices.len() <= FEW;
        let aim = match look {
            Look::Cheap { slack } => self.best.min(self.proven.saturating_add(slack)),
            Look::Plain | Look::Thorough => self.best,
        };
        let look = match look {
            Look::Cheap { .. } if aim == self.best && !few => Look::Thorough,
            look => look,
        };
        let mut share = match look {
            Look::Cheap { .. } if few && self.twins => *steps / TWINS_SHARE,
            Look::Cheap { .. } if few => *steps / FEW_SHARE,
            Look::Cheap { .. } => *steps / MANY_SHARE,
            Look::Plain if alike => *steps / PLAIN_SHARE,
            Look::Plain | Look::Thorough => *steps,
        };
        *steps -= share;
        let graph = self.graph(aim, &mut share);
        match look {
            Look::Plain => routes.graph = graph,
            Look::Cheap { .. } | Look::Thorough => {
                routes.tighten(graph, aim, &mut share, |route| self.mend(route));
            }
        }
        let aim = aim.min(self.best);
        let tree = Tree::new(self.costs, self.devices, (routes, aim), &mut share);
        let (found, bound) = tree.run();
        *steps += share;
        self.adopt(found);
        self.proven = self.proven.max(routes.bound_nanos).max(bound);
        let failed = bound < aim.min(self.best);
        match look {
            Look::Cheap { slack } if !failed => Some(Look::Cheap {
                slack: slack.saturating_add(slack / 2 + 1),
            }),
            // What is dear to rule out piece by piece is looked for as a whole.
            Look::Cheap { .. } if few => Some(Look::Plain),
            Look::Cheap { .. } => Some(Look::Thorough),
            Look::Plain if alike && failed => Some(Look::Thorough),
            Look::Plain | Look::Thorough => None,
        }
    }

    /// The stages and hops that a plan below `aim` may have.
    fn graph(&mut self, aim: u64, steps: &mut u64) -> Graph {
        let mut graph = self.relaxed.graph(aim);
        if let Some(merged) = &self.merged {
            let before = graph.edges().len();
            merged.trim(&mut graph, aim, steps);
            if graph.edges().len() > before / 10 * 9 {
                self.merged = None;
            }
        }
        graph
    }

    /// Adopts a plan near a route; says what the best plan costs.
    fn mend(&mut self, route: &Route) -> u64 {
        self.adopt(self.relaxed.mend(route));
        self.best
    }

    fn adopt(&mut self, plan: Option<Vec<Cut>>) {
        let Some(cuts) = plan else { return };
        let nanos = self.costs.latency_nanos(&cuts);
        if nanos < self.best {
            self.best = nanos;
            self.better = Some(cuts);
        }
    }
}
