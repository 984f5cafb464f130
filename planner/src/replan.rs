//! Whether reality has moved far enough from the plan to move layers.
//!
//! Judges numbers that others measured; has no clock, and sets nothing in motion.

mod history;
mod limited;
mod ranges;
mod review;

use crate::device::{Detail, Device};

pub use history::{History, Known};
pub use review::{Observed, Review, review};

/// How far and how long reality must differ before layers move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin {
    /// A candidate must be better than the running plan by this many thousandths.
    pub gain_permille: u32,
    /// The same while a device is clearly slower than it was under this very plan: that much is
    /// measured, and no forecast's error.
    pub relief_permille: u32,
    /// And must have been so in this many judgements in a row.
    pub judgements: u32,
    /// Judgements after a move in which nothing is moved again; twice as many after the next
    /// one, and so on, until nothing better was found for a long time.
    pub rest: u32,
}

impl Margin {
    /// A fifth better, or a tenth where a device has grown slow, five times in a row, then a pause
    /// of thirty judgements: what looks better by less than forecasts are off by may be worse, and
    /// judged once a second a slowed laptop is relieved within seconds.
    pub fn calm() -> Self {
        Self {
            gain_permille: 200,
            relief_permille: 100,
            judgements: 5,
            rest: 30,
        }
    }
}

/// What earlier judgements left behind. Start with the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replan {
    /// Judgements in a row in which the candidate was better by the margin.
    pub in_a_row: u32,
    /// Judgements that are still to pass before anything may move.
    pub resting: u32,
    /// Moves lately: each makes the rest after the next twice as long, so that layers which
    /// look better wherever they are not do not go to and fro for ever.
    pub moves: u32,
    /// Judgements in a row that found nothing better.
    pub calm: u32,
}

/// A rest is not doubled more often: half an hour and more.
const DOUBLINGS_MAX: u32 = 6;
/// So many rests without anything better, and earlier moves are forgotten.
const CALM_RESTS: u32 = 20;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The candidate is not better by the margin.
    Stay,
    /// It is better, but not for long enough, or a move was made only just now.
    Wait {
        /// How much better, in thousandths of the running plan.
        gain_permille: u64,
    },
    /// Adopt the candidate.
    Move {
        /// How much better, in thousandths of the running plan.
        gain_permille: u64,
    },
}

/// Judges a candidate plan against the running one.
///
/// Both objectives must come from the same, corrected devices: plan the running split
/// as a custom list and the candidate as optimal, and compare their proofs. Comparing a
/// measurement with a forecast would move layers whenever forecasts are off by a
/// constant.
pub fn should_replan(
    before: Replan,
    current_nanos: u64,
    candidate_nanos: u64,
    margin: Margin,
) -> (Replan, Decision) {
    let resting = before.resting.saturating_sub(1);
    let saved = u128::from(current_nanos.saturating_sub(candidate_nanos)) * 1000;
    let gain_permille = u64::try_from(saved / u128::from(current_nanos.max(1))).unwrap_or(u64::MAX);
    if gain_permille == 0 || gain_permille < u64::from(margin.gain_permille) {
        let calm = before.calm.saturating_add(1);
        let forgets = calm >= margin.rest.saturating_mul(CALM_RESTS);
        let after = Replan {
            in_a_row: 0,
            resting,
            moves: if forgets { 0 } else { before.moves },
            calm,
        };
        return (after, Decision::Stay);
    }
    let in_a_row = before.in_a_row.saturating_add(1);
    if before.resting > 0 || in_a_row < margin.judgements {
        let after = Replan {
            in_a_row,
            resting,
            moves: before.moves,
            calm: 0,
        };
        return (after, Decision::Wait { gain_permille });
    }
    let after = Replan {
        in_a_row: 0,
        resting: margin.rest << before.moves.min(DOUBLINGS_MAX),
        moves: before.moves.saturating_add(1),
        calm: 0,
    };
    (after, Decision::Move { gain_permille })
}

/// A stage's measured time next to its forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What the plan said for one decode row.
    pub forecast_micros: u64,
    /// What was measured, as a median over many rows.
    pub measured_micros: u64,
}

impl Drift {
    /// The measured time in thousandths of the forecast: 1000 when it was right.
    pub fn permille(&self) -> u64 {
        let measured = u128::from(self.measured_micros) * 1000;
        u64::try_from(measured / u128::from(self.forecast_micros.max(1))).unwrap_or(u64::MAX)
    }

    /// The device as its stage times show it to be, for the next plan. Prefill is
    /// scaled alike: what slows one slows the other.
    pub fn correct(&self, device: &Device) -> Device {
        let scale = |per_second: u64| {
            let scaled = u128::from(per_second) * u128::from(self.forecast_micros.max(1))
                / u128::from(self.measured_micros.max(1));
            u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
        };
        let stretch = |nanos: u64| {
            let stretched = u128::from(nanos) * u128::from(self.measured_micros)
                / u128::from(self.forecast_micros.max(1));
            u64::try_from(stretched).unwrap_or(u64::MAX)
        };
        let detail = device.detail;
        Device {
            decode_bytes_per_second: scale(device.decode_bytes_per_second),
            prefill_macs_per_second: scale(device.prefill_macs_per_second),
            detail: Detail {
                layer_nanos: stretch(detail.layer_nanos),
                head_bytes_per_second: detail.head_bytes_per_second.map(scale),
                cache_bytes_per_second: detail.cache_bytes_per_second.map(scale),
                attention_macs_per_second: detail.attention_macs_per_second.map(scale),
                kv_permille: detail.kv_permille,
                sharing: detail.sharing,
            },
            ..device.clone()
        }
    }
}

#[cfg(test)]
mod tests;
