//! What using a device costs besides its time, so that no route uses it twice.

use crate::cost::NEVER;

/// Low enough that a penalty for every device still sums up below [`NEVER`].
pub(super) const PENALTY_MAX: u64 = NEVER >> 8;
/// Lengths of steps are in thousandths of Polyak's.
pub(super) const LENGTH_MAX: u64 = 1000;

/// A penalty for each place.
#[derive(Clone)]
pub(super) struct Prices(pub(super) Vec<u64>);

impl Prices {
    /// What every relaxed route gets back.
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// A subgradient step towards one use per device; false when nothing would change.
    pub(super) fn step(
        &mut self,
        uses: impl Iterator<Item = usize>,
        gap: u64,
        length: u64,
    ) -> bool {
        let mut excess: Vec<i64> = vec![-1; self.0.len()];
        for place in uses {
            excess[place] += 1;
        }
        for (excess, penalty) in excess.iter_mut().zip(&self.0) {
            if *penalty == 0 && *excess < 0 {
                *excess = 0;
            }
        }
        let square: i64 = excess.iter().map(|excess| excess * excess).sum();
        if square == 0 {
            return false;
        }
        let gap = i64::try_from(gap.min(PENALTY_MAX) * length / LENGTH_MAX).unwrap_or(i64::MAX);
        let step = gap / square;
        if step == 0 {
            return false;
        }
        for (penalty, excess) in self.0.iter_mut().zip(excess) {
            let moved = penalty.saturating_add_signed(step.saturating_mul(excess));
            *penalty = moved.min(PENALTY_MAX);
        }
        true
    }
}
