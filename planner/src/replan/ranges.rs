//! What one device was off by on each range of layers that it had.
//!
//! A forecast may be wrong about a kind of stage, one with the head say, rather than about a
//! device. Then each device looks slow on that stage and fast on another.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges remembered of one device.
const PAST_MAX: usize = 16;
/// What a device takes in so many judgements under a new split is usual for it: some find it
/// cold, some before its control group stops it for the first time.
pub(super) const EARLY: u32 = 5;

/// Half as much again. Noise is less.
pub(super) fn is_clearly_more(now: u64, usual: u64) -> bool {
    u128::from(now) >= u128::from(usual) * 3 / 2
}

/// The ranges of one device; what it was off by on them in thousandths of the forecast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    range: (u32, u32),
    /// When it got the range, or what was expected of it then if it had the range before.
    first: u64,
    /// Now.
    last: u64,
    /// The most in the first judgements under the split, and how many there were.
    early_most: u64,
    judgements: u32,
    /// On the ranges that it had before, by what it was like when it got this one.
    past: BTreeMap<(u32, u32), u64>,
}

impl Ranges {
    /// A device with its first range.
    pub(super) fn new(range: &Range<u32>, permille: u64) -> Self {
        let permille = permille.max(1);
        Self {
            range: (range.start, range.end),
            first: permille,
            last: permille,
            early_most: permille,
            judgements: 1,
            past: BTreeMap::new(),
        }
    }

    /// The device is off by so much on this range now.
    pub(super) fn note(&mut self, range: &Range<u32>, permille: u64) {
        let (key, permille) = ((range.start, range.end), permille.max(1));
        if key != self.range {
            let expected = self.on(range);
            self.begin();
            self.past.insert(self.range, self.last);
            self.past.remove(&key);
            if self.past.len() > PAST_MAX {
                // Any will do: a device that had so many is moved all the time.
                self.past.pop_first();
            }
            self.range = key;
            self.first = expected.unwrap_or(permille);
        }
        self.last = permille;
        if self.judgements < EARLY {
            self.judgements += 1;
            self.early_most = self.early_most.max(permille);
        }
    }

    /// Layers have moved, here or elsewhere: the device is compared with what it does from now
    /// on.
    pub(super) fn begin(&mut self) {
        let past = self.past.keys().map(|key| (*key, self.scaled(*key)));
        self.past = past.collect();
        self.first = self.last;
        (self.early_most, self.judgements) = (0, 0);
    }

    /// Whether the device takes half as long again as is usual since layers have moved.
    pub(super) fn has_grown_slow(&self) -> bool {
        self.judgements == EARLY && is_clearly_more(self.last, self.early_most)
    }

    /// What is to be expected of the device on a range, if it had it.
    pub(super) fn on(&self, range: &Range<u32>) -> Option<u64> {
        let key = (range.start, range.end);
        if key == self.range {
            return Some(self.last);
        }
        self.past.contains_key(&key).then(|| self.scaled(key))
    }

    /// As seen then, and as many times more or less as the device has changed since on the
    /// range that it has now.
    fn scaled(&self, key: (u32, u32)) -> u64 {
        let scaled = u128::from(self.past[&key]) * u128::from(self.last) / u128::from(self.first);
        u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_remembered_and_follows_the_device() {
        let mut ranges = Ranges::new(&(0..6), 1500);
        assert_eq!(ranges.on(&(0..6)), Some(1500));
        assert_eq!(ranges.on(&(6..12)), None);
        ranges.note(&(6..12), 1000);
        assert_eq!(ranges.on(&(0..6)), Some(1500));
        ranges.note(&(6..12), 2000);
        assert_eq!(ranges.on(&(0..6)), Some(3000), "the device is half as fast");
        // Back there it is fast again, and so it would be on the other.
        ranges.note(&(0..6), 1500);
        assert_eq!(ranges.on(&(6..12)), Some(1000));
        for noise in [1400, 1600, 1499, 1500] {
            ranges.note(&(0..6), noise);
        }
        assert_eq!(
            ranges.on(&(6..12)),
            Some(1000),
            "noise leaves nothing behind"
        );
    }
}
