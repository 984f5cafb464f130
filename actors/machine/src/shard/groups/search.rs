//! The search for the best number of groups.
//!
//! What a trial of a worse number costs is bounded by its length: one that is clearly behind ends
//! early, and one that is disturbed is put off.

use crate::Tick;

/// Shortest measurement of one number of groups.
const WINDOW_MILLIS: u64 = 200;
/// Passes of one measurement per stage, at least.
const WINDOW_PASSES: u64 = 4;
/// Measured pairs that must favour another number of groups before it is adopted.
const PAIRS: u32 = 3;
/// How much better it must be, in thousandths.
const GAIN_PERMILLE: u64 = 50;
/// A candidate that is so much worse after so long has lost already.
const LOSING_MILLIS: u64 = WINDOW_MILLIS / 4;
/// Measurements before the first trial, and after one that was won.
const REST_WINDOWS: u32 = 5;
/// After one that was lost, or disturbed, there are twice as many as before it, up to so many.
const REST_WINDOWS_MAX: u32 = 160;

/// The search for the number of groups that gives most rows per second.
#[derive(Debug)]
pub(super) struct Search {
    stages: usize,
    pub(super) best: usize,
    /// Sequences that are open.
    open: usize,
    /// The next trial is of fewer groups, or of more.
    fewer: bool,
    trial: Option<Trial>,
    /// Measurements until the next trial, or until a disturbed one goes on.
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

impl Trial {
    /// Whether the candidate, with such a rate so far, is clearly worse.
    fn is_losing(&self, rate: u64) -> bool {
        let worse = |best: u64| rate * 1000 < best * (1000 - GAIN_PERMILLE);
        self.best_rate.is_some_and(worse)
    }
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
    pub(super) fn new(stages: usize, groups: usize) -> Self {
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

    /// How many there may be now.
    pub(super) fn allowed(&self) -> usize {
        let candidate = |trial: Trial| trial.best_rate.map(|_| trial.candidate);
        self.trial.and_then(candidate).unwrap_or(self.best)
    }

    /// Groups that are possible now.
    fn groups_max(&self) -> usize {
        self.stages.min(self.open)
    }

    /// A pass with so many rows left, while `open` sequences are open.
    pub(super) fn passed(&mut self, now: Tick, rows: u64, open: usize) {
        if self.open != open {
            self.open = open;
            self.disturbed();
        }
        if self.groups_max() < 2 {
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
        let rate = window.rows * 1_000_000 / millis.max(1);
        let losing = self.trial.is_some_and(|trial| trial.is_losing(rate));
        let least = if losing { LOSING_MILLIS } else { WINDOW_MILLIS };
        if millis < least || window.passes < WINDOW_PASSES * self.stages as u64 {
            window.passes += 1;
            window.rows += rows;
            return;
        }
        self.window = None;
        self.measured(rate);
    }

    /// Whatever is being measured compares with nothing that comes. A candidate whose turn it was
    /// has to wait: where that happens often it would have its turn most of the time.
    pub(super) fn disturbed(&mut self) {
        self.window = None;
        if let Some(trial) = &mut self.trial
            && trial.best_rate.take().is_some()
        {
            self.put_off();
        }
    }

    /// The next candidate's turn comes after twice as long as the last one's.
    fn put_off(&mut self) {
        self.rested = (2 * self.rested).min(REST_WINDOWS_MAX);
        self.rest = self.rested;
    }

    /// A window has ended with so many rows in a thousand seconds.
    fn measured(&mut self, rate: u64) {
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        if self.trial.is_none() {
            self.trial = self.next_trial();
        }
        let Some(trial) = &mut self.trial else {
            return;
        };
        let Some(best_rate) = trial.best_rate.take() else {
            trial.best_rate = Some(rate);
            return;
        };
        if rate * 1000 < best_rate * (1000 + GAIN_PERMILLE) {
            self.trial = None;
            self.fewer = !self.fewer;
            self.put_off();
            return;
        }
        trial.won += 1;
        if trial.won == PAIRS {
            self.best = trial.candidate;
            self.rested = REST_WINDOWS;
            self.trial = None;
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

    /// Of eight rows, or of four and four: the second group gives two thirds.
    fn pass_micros(groups: usize) -> u64 {
        if groups == 1 { 4_000 } else { 3_000 }
    }

    /// Decodes eight rows for so long, and gives for how long of it there was more than one group.
    fn decode(search: &mut Search, now: &mut u64, micros: u64) -> u64 {
        let until = *now + micros;
        let mut others = 0;
        while *now < until {
            let groups = search.allowed();
            search.passed(Tick(*now / 1000), 8 / groups as u64, 8);
            *now += pass_micros(groups);
            if groups > 1 {
                others += pass_micros(groups);
            }
        }
        others
    }

    #[test]
    fn short_answers_are_not_spent_on_trials() {
        let (mut search, mut now, mut others) = (Search::new(3, 1), 0, 0);
        for _ in 0..200 {
            for open in 1..=8 {
                search.passed(Tick(now / 1000), 1, open);
                search.disturbed();
                now += 5_000;
            }
            others += decode(&mut search, &mut now, 400_000);
            for open in (1..8).rev() {
                search.passed(Tick(now / 1000), 1, open);
                now += 1_000;
            }
        }
        assert!(others > 0, "nothing was tried");
        assert!(others * 50 < now, "{others} of {now} microseconds");
    }

    #[test]
    fn prompts_put_a_trial_off() {
        let mut tried = 0;
        for every_millis in [30, 100, 230, 300, 500] {
            let (mut search, mut now, mut others) = (Search::new(3, 1), 0, 0);
            while now < 60_000_000 {
                others += decode(&mut search, &mut now, every_millis * 1000);
                search.disturbed();
            }
            assert!(
                others * 50 < now,
                "{others} of {now}, every {every_millis} ms"
            );
            tried += others;
        }
        assert!(tried > 0, "nothing was tried");
    }
}
