//! Reasons why a cover cannot exist: layers weigh more than all devices can take.
//!
//! Any weights will do: if the heaviest ranges of the devices weigh less together than
//! what is left, nothing covers it. Good weights are the dual of fractional packing.

use std::cmp::Reverse;
use std::ops::Range;

use super::any::DEVICE_COUNT_MAX;

/// Weights of layers, and the most that each device can take by them.
pub(super) struct Measure {
    /// Prefix sums.
    sums: Vec<u64>,
    /// Weight of the heaviest range, place, and its start; heaviest first.
    most: Vec<(u64, usize, usize)>,
    /// Weight of each place's heaviest range.
    most_of: Vec<u64>,
}

/// Rounds of tuning; more found little more on clusters of 8 to 100 devices.
const ROUNDS: u64 = 96;
const UNIT: u64 = 1 << 20;

impl Measure {
    /// `ends[place][start]` is the furthest end of a range.
    pub(super) fn new(weights: Vec<u64>, ends: &[Vec<usize>]) -> Self {
        let mut sums = vec![0u64];
        for weight in weights {
            sums.push(sums[sums.len() - 1].saturating_add(weight));
        }
        let most: Vec<(u64, usize, usize)> = ends
            .iter()
            .enumerate()
            .map(|(place, ends)| {
                let (weight, start) = heaviest(&sums, ends);
                (weight, place, start)
            })
            .collect();
        let most_of = most.iter().map(|(weight, _, _)| *weight).collect();
        let mut most = most;
        most.sort_unstable_by_key(|(weight, place, _)| (Reverse(*weight), *place));
        Self {
            sums,
            most,
            most_of,
        }
    }

    /// Starts from the shape of another measure and adds weight where the heaviest
    /// ranges leave layers out, until the devices cannot take all or rounds end.
    pub(super) fn tuned(shape: &Self, ends: &[Vec<usize>], stages: usize) -> Self {
        let layers = shape.sums.len() - 1;
        let total = u128::from(shape.sums[layers].max(1));
        let mut weights: Vec<u64> = shape
            .sums
            .windows(2)
            .map(|pair| {
                let share = u128::from(pair[1] - pair[0]) * layers as u128 * u128::from(UNIT);
                u64::try_from(share / total).unwrap_or(UNIT)
            })
            .collect();
        let mut best = Self::new(weights.clone(), ends);
        for round in 0..ROUNDS {
            let measure = Self::new(weights.clone(), ends);
            let mut times = vec![0u64; layers];
            for (_, place, start) in measure.most.iter().take(stages) {
                let range = *start..ends[*place][*start];
                times[range].iter_mut().for_each(|times| *times += 1);
            }
            let step = UNIT / (16 + 2 * round);
            for (weight, times) in weights.iter_mut().zip(times) {
                *weight = match times {
                    0 => *weight + step,
                    _ => weight.saturating_sub(step * (times - 1)),
                };
            }
            if measure.slack(stages) < best.slack(stages) {
                best = measure;
            }
            if best.slack(stages) < UNIT {
                break;
            }
        }
        best
    }

    /// What the devices can take over what there is; below [`UNIT`] means impossible.
    pub(super) fn slack(&self, stages: usize) -> u64 {
        let most = self.most.iter().take(stages);
        let taken: u128 = most.map(|(weight, _, _)| u128::from(*weight)).sum();
        let total = u128::from(self.sums[self.sums.len() - 1].max(1));
        u64::try_from(taken * u128::from(UNIT) / total).unwrap_or(u64::MAX)
    }

    /// What a range gives away against the heaviest of its device, or against the
    /// weakest device of the `stages` best where its own is weaker still.
    pub(super) fn waste(&self, place: usize, range: &Range<usize>, stages: usize) -> u64 {
        let weakest = self.most.get(stages.min(self.most.len()).saturating_sub(1));
        let could = weakest
            .map_or(0, |weakest| weakest.0)
            .max(self.most_of[place]);
        could.saturating_sub(self.sums[range.end] - self.sums[range.start])
    }

    /// Whether unused devices might take everything from `start` on.
    pub(super) fn may_reach(&self, used: u128, start: usize, stages: usize) -> bool {
        let mut left = self.sums[self.sums.len() - 1] - self.sums[start];
        let unused = |place: usize| place >= DEVICE_COUNT_MAX || used & (1 << place) == 0;
        let open = self.most.iter().filter(|(_, place, _)| unused(*place));
        for (weight, _, _) in open.take(stages) {
            if left <= *weight {
                return true;
            }
            left -= weight;
        }
        left == 0
    }
}

/// The heaviest range and its start. A loop by hand: this is the inner loop of tuning.
fn heaviest(sums: &[u64], ends: &[usize]) -> (u64, usize) {
    let mut best = (0, 0);
    for (start, end) in ends.iter().enumerate() {
        let weight = sums[*end] - sums[start];
        if weight > best.0 {
            best = (weight, start);
        }
    }
    best
}
