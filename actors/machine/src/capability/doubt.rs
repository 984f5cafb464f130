//! When this node measures itself again.

use cairn_wire::control::NodeStatus;

use crate::Tick;

/// Statuses in a row without a row computed, until a node counts as idle.
const IDLE_STATUSES: u32 = 5;
/// Observations in a row that are far from the forecast, until it is not believed.
const DISAGREEMENTS: u32 = 30;
/// How far from the forecast is far, in thousandths.
const FAR_PERMILLE: u64 = 250;
/// After a measurement that reality asked for, or that was disturbed, the next such one
/// waits for so long, and twice as long each time, so that a busy machine is left alone.
const REST_MILLIS: u64 = 10_000;
const REST_MILLIS_MAX: u64 = 3_600_000;

/// Why a measurement is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Something else ran meanwhile.
    Disturbed,
    /// Rows take another time than it says.
    Disagrees,
    /// It was made with the layers of another model.
    OtherModel,
}

/// Whether a measurement was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calm {
    /// Yes.
    Calm,
    /// No: its timings lie far apart.
    Disturbed,
}

/// A stage's decode time as it was said and as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// One row, by the plan in force.
    pub forecast_micros: u64,
    /// One row, the median of the last ones.
    pub measured_micros: u64,
}

/// What speaks against the last measurement.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    doubt: Option<Doubt>,
    /// A measurement is under way.
    measuring: bool,
    rows_total: u64,
    idle: u32,
    disagreements: u32,
    not_before: Tick,
    rest_millis: u64,
}

impl Doubts {
    pub(super) fn doubt(&mut self, doubt: Doubt) {
        self.doubt = Some(doubt);
    }

    pub(super) fn measured(&mut self, now: Tick, calm: Calm) {
        self.measuring = false;
        self.disagreements = 0;
        if calm == Calm::Disturbed {
            self.doubt.get_or_insert(Doubt::Disturbed);
            self.rest(now);
        }
    }

    pub(super) fn observed(&mut self, now: Tick, observed: Observed) {
        let off = observed.measured_micros.abs_diff(observed.forecast_micros);
        let far = off.saturating_mul(1000) > observed.forecast_micros.saturating_mul(FAR_PERMILLE);
        self.disagreements = match far {
            true => self.disagreements + 1,
            false => 0,
        };
        if self.disagreements == DISAGREEMENTS {
            self.disagreements = 0;
            if self.doubt.is_none() && now >= self.not_before {
                self.doubt = Some(Doubt::Disagrees);
                // Should the new measurement say the same, the forecast is at fault.
                self.rest_millis = self.rest_millis.max(REST_MILLIS_MAX / 8);
            }
        }
    }

    /// What to measure for now, if this status shows the node idle for long enough.
    pub(super) fn look(&mut self, now: Tick, status: &NodeStatus) -> Option<Doubt> {
        let quiet = status.queue_rows == 0
            && status.loading_permille >= 1000
            && status.rows_total == self.rows_total;
        self.rows_total = status.rows_total;
        self.idle = match quiet {
            true => self.idle.saturating_add(1),
            false => 0,
        };
        if self.measuring || self.idle < IDLE_STATUSES {
            return None;
        }
        let doubt = self.doubt?;
        // A model that is new is no reason to be afraid of asking too often.
        if doubt != Doubt::OtherModel && now < self.not_before {
            return None;
        }
        self.doubt = None;
        self.measuring = true;
        if doubt == Doubt::Disagrees {
            self.rest(now);
        }
        Some(doubt)
    }

    fn rest(&mut self, now: Tick) {
        self.rest_millis = (self.rest_millis * 2).clamp(REST_MILLIS, REST_MILLIS_MAX);
        self.not_before = now.after_millis(self.rest_millis);
    }
}
