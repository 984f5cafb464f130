//! What a measured time says of a device whose time on the cores is limited.
//!
//! Such a device works at full speed until its period's time is used up, and then not until the
//! next period. So a stage of it takes anything from the time at full speed to what it takes in the
//! long run, by how long the other stages have the row: of equal devices the one with the larger
//! stage looks slower. A time within that range says nothing of the device. That it takes clearly
//! longer than before, with the same layers everywhere, does.

use super::Drift;
use super::ranges::{EARLY, is_clearly_more};

/// What one limited device was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limited {
    /// The most in the first judgements under the split, in thousandths of the time in the long
    /// run, and how many judgements there were.
    early_most: u64,
    judgements: u32,
    /// How many times slower it had become when the split began, and is now, in thousandths.
    grown_before: u64,
    grown: u64,
}

impl Default for Limited {
    fn default() -> Self {
        Self {
            early_most: 0,
            judgements: 0,
            grown_before: 1000,
            grown: 1000,
        }
    }
}

impl Limited {
    /// Layers have moved, here or elsewhere: other stages leave it other pauses from now on.
    pub(super) fn begin(&mut self) {
        *self = Self {
            grown_before: self.grown,
            grown: self.grown,
            ..Self::default()
        };
    }

    /// The drift from what was to be expected, for one from the time in the long run.
    /// `burst_permille` is how much faster it is at full speed; `off_permille` is what all forecasts
    /// are off by.
    pub(super) fn note(&mut self, seen: Drift, burst_permille: u32, off_permille: u64) -> Drift {
        let permille = seen.permille();
        if self.judgements < EARLY {
            self.judgements += 1;
            self.early_most = self.early_most.max(permille);
        }
        let outside = outside(of(permille, 1000, off_permille), burst_permille);
        self.grown = of(self.grown_before, permille, self.early_most).max(1000);
        let drift = match is_clearly_more(self.grown, 1000) {
            true => outside.max(self.grown),
            false => outside,
        };
        let drift = of(drift, off_permille, 1000);
        Drift {
            forecast_micros: of(seen.measured_micros, 1000, drift).max(1),
            measured_micros: seen.measured_micros,
        }
    }
}

/// How far a drift from the time in the long run is from what may be expected of a device that is
/// so much faster at full speed, in thousandths: 1000 anywhere between the two.
pub(super) fn outside(permille: u64, burst_permille: u32) -> u64 {
    let full_speed = 1_000_000 / u64::from(burst_permille.max(1000));
    of(permille, 1000, permille.clamp(full_speed, 1000))
}

/// `a * b / c`
fn of(a: u64, b: u64, c: u64) -> u64 {
    let scaled = u128::from(a) * u128::from(b) / u128::from(c.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At full speed four times as fast as in the long run.
    const BURST: u32 = 4000;

    fn noted(limited: &mut Limited, permille: u64) -> u64 {
        let seen = Drift {
            forecast_micros: 1_000_000,
            measured_micros: permille * 1000,
        };
        limited.note(seen, BURST, 1000).permille()
    }

    #[test]
    fn a_time_between_full_speed_and_the_long_run_is_as_expected() {
        for (seen, expected) in [
            (125, 500),
            (250, 1000),
            (600, 1000),
            (1000, 1000),
            (3000, 3000),
        ] {
            assert_eq!(noted(&mut Limited::default(), seen), expected, "{seen}");
        }
    }

    #[test]
    fn what_is_clearly_slower_than_under_the_same_split_is_a_drift() {
        let mut limited = Limited::default();
        for noise in [400, 380, 400, 420, 390, 500, 629] {
            assert_eq!(noted(&mut limited, noise), 1000, "{noise}");
        }
        assert_eq!(noted(&mut limited, 840), 2000);
        // It is as slow under another split, whatever pauses that leaves it, until it recovers.
        limited.begin();
        assert_eq!(noted(&mut limited, 700), 2000);
        for _ in 0..EARLY {
            assert_eq!(noted(&mut limited, 600), 1714);
        }
        assert_eq!(noted(&mut limited, 350), 1000);
    }

    #[test]
    fn what_all_are_off_by_is_no_fault_of_its_own() {
        let seen = Drift {
            forecast_micros: 1000,
            measured_micros: 900,
        };
        let drift = Limited::default().note(seen, BURST, 3000);
        assert_eq!(drift.permille() / 10, 300);
    }
}
