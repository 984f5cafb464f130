//! What using a device costs besides its time, so that no route uses it twice.

use super::kinds::Kinds;
use crate::cost::NEVER;

/// Low enough that a penalty for every device still sums up below [`NEVER`].
pub(super) const PENALTY_MAX: u64 = NEVER >> 8;
/// Lengths of steps are in thousandths of Polyak's.
pub(super) const LENGTH_MAX: u64 = 1000;

/// A penalty for each place.
#[derive(Clone)]
pub(super) struct Prices(pub(super) Vec<u64>);

/// Prices in two parts. Where devices of a kind are counted, what all of them have in
/// common need not be paid: a price that is not fully used weakens the bound. But it still
/// says which routes come to nothing.
#[derive(Clone)]
pub(super) struct Charges {
    pub(super) paid: Prices,
    pub(super) guiding: Prices,
}

impl Charges {
    /// Splits prices that did not count. Devices of a kind differ by links alone, so none
    /// is worth more than another by more than links differ on its two sides.
    pub(super) fn new(prices: &Prices, kinds: &Kinds, links_differ_by: u64) -> Self {
        let places = 0..prices.0.len();
        let least = |place: usize| {
            let like = |other: &usize| kinds.first_like(*other) == kinds.first_like(place);
            let prices = places.clone().filter(like).map(|other| prices.0[other]);
            prices.min().unwrap_or(0)
        };
        let split = |place: usize| match kinds.has_twin(place) {
            true => {
                let least = least(place);
                let own = prices.0[place] - least;
                (own.min(2 * links_differ_by), least)
            }
            false => (prices.0[place], 0),
        };
        let (paid, guiding) = places.clone().map(split).unzip();
        Self {
            paid: Prices(paid),
            guiding: Prices(guiding),
        }
    }
}

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
