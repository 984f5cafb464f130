//! Processor time that a device is given in periods: it runs at full speed until a period's
//! time is used up, and then not at all until the next begins.

/// What systems deal out by unless told otherwise (Linux, `cpu.max`).
const PERIOD_NANOS: u64 = 100_000_000;
/// So many periods are followed one by one at most; where more would pass, they are taken to be
/// longer, which moves the end by less than one of them.
const PERIODS_MAX: u64 = 1000;

/// What a device may still use. Work counts as the time that it takes in the long run.
pub(super) struct Quota {
    burst_permille: u64,
    period: u64,
    left: u64,
    period_ends: u64,
}

impl Quota {
    /// Of a device that has rested until `now` and has so much to do. A period has begun then,
    /// as likely long ago as just before.
    pub(super) fn rested(now: u64, burst_permille: u64, work: u64) -> Self {
        let period = PERIOD_NANOS.max(work / PERIODS_MAX);
        Self {
            burst_permille,
            period,
            left: period,
            period_ends: now.saturating_add(period / 2),
        }
    }

    /// How much faster than in the long run it may work now, in thousandths.
    pub(super) fn pace_max(&self) -> u64 {
        match self.left {
            0 => 0,
            _ => self.burst_permille,
        }
    }

    /// What is left to use before it is stopped.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// When it is given more.
    pub(super) fn period_ends(&self) -> u64 {
        self.period_ends
    }

    /// Goes on to `now`; so much was done meanwhile.
    pub(super) fn pass(&mut self, now: u64, done: u64) {
        self.left = self.left.saturating_sub(done);
        if let Some(since) = now.checked_sub(self.period_ends) {
            let periods = since / self.period + 1;
            self.period_ends = self.period_ends.saturating_add(periods * self.period);
            self.left = self.period;
        }
    }
}
