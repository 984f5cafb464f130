//! How many groups of sequences go round the stages at once, and the search for the best number.
//!
//! Rows that are computed together read the weights once, so on stages that share
//! their cores or their memory one large group is best. On machines of their own,
//! a single group leaves all stages but one idle, and as many groups as stages
//! keep them busy. The plan's forecast says what to begin with, and may be wrong: the
//! first stage, which all rows pass, tries a neighbouring number now and then and
//! keeps what gave more rows per second. Has no clock but the ticks that it is told.

mod search;

use std::collections::BTreeSet;

use cairn_wire::id::SequenceId;

use self::search::Search;
use crate::Tick;

/// A group of which nothing has come back for so long does not count any more.
const LOST_MILLIS: u64 = 10_000;

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
        self.search.disturbed();
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
