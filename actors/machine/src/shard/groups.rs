//! How many groups of sequences go round the stages at once, and the search for the best number.
//!
//! Rows that are computed together read the weights once, so on stages that share
//! their cores or their memory one large group is best. On machines of their own,
//! a single group leaves all stages but one idle, and as many groups as stages
//! keep them busy. The plan's forecast says what to begin with, and may be wrong: the
//! first stage, which all rows pass, tries a neighbouring number now and then and
//! keeps what gave more rows per second. Has no clock but the ticks that it is told.

use std::collections::BTreeSet;

use cairn_wire::id::SequenceId;

use crate::Tick;

/// A group of which nothing has come back for so long does not count any more.
const LOST_MILLIS: u64 = 10_000;
/// Shortest measurement of one number of groups.
const WINDOW_MILLIS: u64 = 200;
/// Passes of one measurement per stage, at least.
const WINDOW_PASSES: u64 = 4;
/// Measured pairs that must favour another number of groups before it is adopted.
const PAIRS: u32 = 3;
/// How much better it must be, in thousandths.
const GAIN_PERMILLE: u64 = 50;
/// Measurements before the first trial, and after one that was won.
const REST_WINDOWS: u32 = 5;
/// After one that was lost there are twice as many as before it, up to so many.
const REST_WINDOWS_MAX: u32 = 160;

/// The groups that are under way through the stages of a plan.
#[derive(Debug)]
pub(super) struct Groups {
    under_way: Vec<Group>,
    search: Search,
}

/// Sequences whose rows left the first stage in one pass.
#[derive(Debug)]
struct Group {
    /// Those whose next row has not come yet.
    missing: BTreeSet<SequenceId>,
    left: Tick,
    /// When those that are missing are waited for no longer.
    until: Tick,
}

impl Groups {
    /// For the first of `stages` stages. Begins with so many groups, or as many as can be.
    pub(super) fn new(stages: usize, groups: usize) -> Self {
        Self {
            under_way: Vec::new(),
            search: Search::new(stages, groups),
        }
    }

    /// Rows of the next group, when `open` sequences are open; 0 while none may leave.
    pub(super) fn room(&mut self, now: Tick, open: usize) -> usize {
        self.under_way.retain(|group| now < group.until);
        let allowed = self.search.allowed();
        if self.under_way.len() < allowed {
            open.div_ceil(allowed)
        } else {
            0
        }
    }

    /// When a group that keeps others from leaving is waited for no longer.
    pub(super) fn deadline(&self) -> Option<Tick> {
        self.under_way.iter().map(|group| group.until).min()
    }

    /// A pass with one row of each of `sequences` leaves, while `open` sequences are open.
    pub(super) fn left(
        &mut self,
        now: Tick,
        sequences: impl Iterator<Item = SequenceId>,
        open: usize,
    ) {
        let missing: BTreeSet<SequenceId> = sequences.collect();
        let rows = missing.len() as u64;
        self.search.passed(now, rows, open);
        if rows > 0 {
            self.under_way.push(Group {
                missing,
                left: now,
                until: now.after_millis(LOST_MILLIS),
            });
        }
    }

    /// Rows of prompts pass: a measurement that they take part in tells nothing.
    pub(super) fn prompts_passed(&mut self) {
        self.search.window = None;
    }

    /// The next row of a sequence is here, or none will come.
    pub(super) fn came_back(&mut self, now: Tick, sequence: SequenceId) {
        for group in &mut self.under_way {
            if group.missing.remove(&sequence) {
                // Another driver may be a little further away, but none may hold the others up.
                let patience = now.millis_since(group.left) / 4 + 1;
                group.until = group.until.min(now.after_millis(patience));
            }
        }
        self.under_way.retain(|group| !group.missing.is_empty());
    }
}

/// The search for the number of groups that gives most rows per second.
#[derive(Debug)]
struct Search {
    stages: usize,
    best: usize,
    /// Sequences that are open.
    open: usize,
    /// The next trial is of fewer groups, or of more.
    fewer: bool,
    trial: Option<Trial>,
    /// Measurements until the next trial.
    rest: u32,
    /// How many there were before the last one.
    rested: u32,
    window: Option<Window>,
}

/// One number of groups against another, in turns.
#[derive(Clone, Copy, Debug)]
struct Trial {
    candidate: usize,
    /// Rows per second (in thousandths) of the best, once measured; then it is the candidate's turn.
    best_rate: Option<u64>,
    won: u32,
}

/// A measurement under way.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Tick,
    /// Passes that leave before it counts: the groups form anew.
    settling: u64,
    passes: u64,
    rows: u64,
}

impl Search {
    fn new(stages: usize, groups: usize) -> Self {
        Self {
            stages,
            best: groups.clamp(1, stages),
            open: 0,
            fewer: true,
            trial: None,
            rest: REST_WINDOWS,
            rested: REST_WINDOWS,
            window: None,
        }
    }

    fn allowed(&self) -> usize {
        let candidate = |trial: &Trial| trial.best_rate.map(|_| trial.candidate);
        self.trial.as_ref().and_then(candidate).unwrap_or(self.best)
    }

    /// Groups that are possible now.
    fn groups_max(&self) -> usize {
        self.stages.min(self.open)
    }

    fn passed(&mut self, now: Tick, rows: u64, open: usize) {
        if self.open != open {
            // What was measured of a pair so far compares with nothing that comes.
            self.open = open;
            self.window = None;
            if let Some(trial) = &mut self.trial {
                trial.best_rate = None;
            }
        }
        if self.groups_max() < 2 {
            self.window = None;
            return;
        }
        let fresh = Window {
            since: now,
            settling: 2 * self.stages as u64,
            passes: 0,
            rows: 0,
        };
        let window = self.window.get_or_insert(fresh);
        if window.settling > 0 {
            window.settling -= 1;
            window.since = now;
            return;
        }
        // The pass that ends a window is the first of the time after it.
        let millis = now.millis_since(window.since);
        if millis < WINDOW_MILLIS || window.passes < WINDOW_PASSES * self.stages as u64 {
            window.passes += 1;
            window.rows += rows;
            return;
        }
        let rate = window.rows * 1_000_000 / millis;
        self.window = None;
        self.measured(rate);
    }

    /// A window has ended with so many rows in a thousand seconds.
    fn measured(&mut self, rate: u64) {
        let Some(trial) = &mut self.trial else {
            self.rest = self.rest.saturating_sub(1);
            if self.rest == 0 {
                self.trial = self.next_trial();
            }
            return;
        };
        let Some(best_rate) = trial.best_rate.take() else {
            trial.best_rate = Some(rate);
            return;
        };
        if rate * 1000 < best_rate * (1000 + GAIN_PERMILLE) {
            self.trial = None;
            self.fewer = !self.fewer;
            self.rested = (2 * self.rested).min(REST_WINDOWS_MAX);
            self.rest = self.rested;
            return;
        }
        trial.won += 1;
        if trial.won == PAIRS {
            self.best = trial.candidate;
            self.rested = REST_WINDOWS;
            self.trial = self.next_trial();
        }
    }

    fn next_trial(&mut self) -> Option<Trial> {
        let groups_max = self.groups_max();
        let best = self.best.min(groups_max);
        if best == 1 {
            self.fewer = false;
        } else if best == groups_max {
            self.fewer = true;
        }
        let candidate = if self.fewer { best - 1 } else { best + 1 };
        let possible = (1..=groups_max).contains(&candidate);
        possible.then_some(Trial {
            candidate,
            best_rate: None,
            won: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_wire::id::NodeId;

    fn sequence(number: u64) -> SequenceId {
        SequenceId {
            driver: NodeId([7; 32]),
            number,
        }
    }

    /// Stages that take `read` for the weights and `row` for each row (microseconds), each on a
    /// machine of its own or all on one. Gives the number of groups that the search settles on
    /// when it begins with `begin`.
    fn settles(
        begin: usize,
        stages: usize,
        streams: u64,
        read: u64,
        row: u64,
        shared: bool,
    ) -> usize {
        let mut groups = Groups::new(stages, begin);
        let mut waiting: Vec<SequenceId> = (0..streams).map(sequence).collect();
        // Each stage's time at which it is free, and the groups that come back.
        let mut free = vec![0u64; stages];
        let mut back: Vec<(u64, Vec<SequenceId>)> = Vec::new();
        let mut now = 0u64;
        while now < 120_000_000 {
            let tick = Tick(now / 1000);
            let room = groups.room(tick, streams as usize).min(waiting.len());
            if free[0] <= now && room > 0 {
                let pass: Vec<SequenceId> = waiting.drain(..room).collect();
                groups.left(tick, pass.iter().copied(), streams as usize);
                let time = read + row * pass.len() as u64;
                let mut at = now;
                for stage in 0..stages {
                    if shared {
                        let all = free.iter().max().copied().unwrap_or(0);
                        at = at.max(all) + time;
                    } else {
                        at = at.max(free[stage]) + time;
                    }
                    free[stage] = at;
                }
                back.push((at + 300, pass));
            }
            let comes = back.iter().map(|(at, _)| *at).min();
            let ready = (!waiting.is_empty())
                .then_some(free[0])
                .filter(|at| *at > now);
            now = comes
                .into_iter()
                .chain(ready)
                .min()
                .expect("something goes on");
            let tick = Tick(now / 1000);
            while let Some(place) = back.iter().position(|(at, _)| *at <= now) {
                for sequence in back.swap_remove(place).1 {
                    groups.came_back(tick, sequence);
                    waiting.push(sequence);
                }
            }
        }
        groups.search.best
    }

    #[test]
    fn machines_of_their_own_get_a_group_each() {
        for begin in 1..=3 {
            assert_eq!(settles(begin, 3, 8, 3_000, 3_000, false), 3);
        }
        for begin in 1..=2 {
            assert_eq!(settles(begin, 2, 8, 3_000, 3_000, false), 2);
        }
        // The weights are the most of it, so a second group gains less than it takes to be sure.
        assert_eq!(settles(3, 3, 8, 10_000, 200, false), 3);
    }

    #[test]
    fn stages_on_one_machine_get_one_group() {
        for begin in 1..=3 {
            assert_eq!(settles(begin, 3, 8, 3_000, 300, true), 1);
            assert_eq!(settles(begin.min(2), 2, 4, 10_000, 200, true), 1);
        }
    }

    #[test]
    fn a_group_is_back_when_all_of_it_is_or_patience_ends() {
        let mut groups = Groups::new(1, 1);
        groups.left(Tick(0), [sequence(1), sequence(2)].into_iter(), 2);
        assert_eq!(groups.room(Tick(1), 2), 0);
        groups.came_back(Tick(40), sequence(1));
        assert_eq!(groups.room(Tick(41), 2), 0, "the other may come yet");
        assert_eq!(groups.deadline(), Some(Tick(51)));
        assert_eq!(groups.room(Tick(51), 2), 2);

        groups.left(Tick(60), [sequence(1), sequence(2)].into_iter(), 2);
        groups.came_back(Tick(70), sequence(1));
        groups.came_back(Tick(70), sequence(2));
        assert_eq!(groups.room(Tick(70), 2), 2);
    }

    #[test]
    fn a_group_that_is_lost_holds_nobody_up_for_ever() {
        let mut groups = Groups::new(1, 1);
        groups.left(Tick(0), [sequence(1)].into_iter(), 1);
        assert_eq!(groups.room(Tick(LOST_MILLIS - 1), 1), 0);
        assert_eq!(groups.room(Tick(LOST_MILLIS), 1), 1);
    }
}
