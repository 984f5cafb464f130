//! What earlier reviews left behind: how far devices are from what they told of themselves.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::limited::{Limited, outside};
use super::ranges::Ranges;
use super::{Drift, Replan};
use crate::device::{Device, DeviceId};
use crate::request::Request;

/// Reviews whose drift is remembered for what a forecast is usually off by. Longer than a rest
/// after a move, or a stage that stays slow meanwhile would come to look usual.
const USUAL_MAX: usize = 120;
/// Fewer do not say what is usual.
const USUAL_MIN: usize = 8;

/// What earlier reviews left behind. Start with the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// For how long the candidate was better, and how long to rest.
    pub replan: Replan,
    /// Kept when a device loses its stage, or it would look as fast as before and get it back;
    /// until it is measured anew and tells another speed.
    known: BTreeMap<DeviceId, Known>,
    /// The split that was judged last.
    split: Vec<(DeviceId, Range<u32>)>,
    /// What each device was off by on each range that it had.
    ranges: BTreeMap<DeviceId, Ranges>,
    /// Those whose time on the cores is limited.
    limited: BTreeMap<DeviceId, Limited>,
    /// The least drift in each of the last reviews, in thousandths.
    usual: VecDeque<u64>,
    /// What a device of which nothing is known is taken to be off by, in thousandths.
    shared_permille: Option<u64>,
}

/// The last drift of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Seen beside forecast.
    pub drift: Drift,
    /// The decode speed that the device told then, in bytes per second.
    pub told: u64,
}

impl History {
    /// What another's history told: the drifts of devices, and what the others are off by in
    /// thousandths, 0 for unknown.
    pub fn told_by_another(
        known: impl IntoIterator<Item = (DeviceId, Known)>,
        shared_permille: u64,
    ) -> Self {
        let shared = (shared_permille > 0).then_some(shared_permille);
        Self {
            known: known.into_iter().collect(),
            split: Vec::new(),
            ranges: BTreeMap::new(),
            limited: BTreeMap::new(),
            usual: shared.into_iter().cycle().take(USUAL_MIN).collect(),
            shared_permille: shared,
            replan: Replan::default(),
        }
    }

    /// The last drift of each device that had a stage.
    pub fn known(&self) -> impl Iterator<Item = (DeviceId, Known)> {
        self.known.iter().map(|(id, known)| (*id, *known))
    }

    /// What a device of which nothing is known is taken to be off by, in thousandths of the
    /// forecast.
    pub fn shared_permille(&self) -> Option<u64> {
        self.shared_permille
    }

    /// The request with its devices as they were seen to be.
    pub fn correct(&self, request: &Request) -> Request {
        let mut corrected = request.clone();
        let shared = self.shared_permille.map(|measured_micros| Drift {
            forecast_micros: 1000,
            measured_micros,
        });
        for device in &mut corrected.devices {
            let known = self
                .known
                .get(&device.id)
                .filter(|known| known.is_of(device));
            if let Some(drift) = known.map(|known| known.drift).or(shared) {
                *device = drift.correct(device);
            }
        }
        corrected
    }

    /// The same for one split: a device that had this very range before is as it was seen to be
    /// on it.
    pub(super) fn correct_for(
        &self,
        request: &Request,
        split: &[(DeviceId, Range<u32>)],
    ) -> Request {
        let mut corrected = self.correct(request);
        for (device, told) in corrected.devices.iter_mut().zip(&request.devices) {
            let ranges = split.iter().filter(|(id, _)| *id == told.id);
            let seen = |(id, range): &(DeviceId, Range<u32>)| self.ranges.get(id)?.on(range);
            if let Some(measured_micros) = ranges.filter_map(seen).next() {
                let drift = Drift {
                    forecast_micros: 1000,
                    measured_micros,
                };
                *device = drift.correct(told);
            }
        }
        corrected
    }

    /// Takes in what was seen of a split now, as drifts from the plan's times.
    pub(super) fn note(
        &mut self,
        request: &Request,
        split: &[(DeviceId, Range<u32>)],
        seen: &BTreeMap<DeviceId, Drift>,
    ) {
        let told: BTreeMap<DeviceId, &Device> = request
            .devices
            .iter()
            .map(|device| (device.id, device))
            .collect();
        let before = self.known.len();
        self.known
            .retain(|id, known| told.get(id).is_none_or(|device| known.is_of(device)));
        let known = &self.known;
        self.ranges.retain(|id, _| known.contains_key(id));
        self.limited.retain(|id, _| known.contains_key(id));
        if self.split != split {
            self.split = split.to_vec();
            self.ranges.values_mut().for_each(Ranges::begin);
            self.limited.values_mut().for_each(Limited::begin);
        }
        let seen = &self.expected(&told, seen);
        for (id, range) in split {
            if let Some(drift) = seen.get(id).map(Drift::permille) {
                let ranges = self.ranges.entry(*id);
                ranges
                    .and_modify(|ranges| ranges.note(range, drift))
                    .or_insert_with(|| Ranges::new(range, drift));
            }
        }
        if self.known.len() < before {
            // What was usual for the old figures is not for the new ones.
            self.usual.clear();
            self.shared_permille = None;
        }
        for (id, drift) in seen {
            let told = told[id].decode_bytes_per_second;
            let drift = *drift;
            self.known.insert(*id, Known { drift, told });
        }
        let Some(least) = seen.values().map(Drift::permille).min() else {
            return;
        };
        if self.usual.len() == USUAL_MAX {
            self.usual.pop_front();
        }
        self.usual.push_back(least);
        let shared = match seen.len() {
            // A stage alone has nobody to be compared with but itself in the past.
            1 => least.min(self.usual_permille().unwrap_or(least)),
            _ => least,
        };
        self.shared_permille = Some(shared);
    }

    /// Drifts from what was to be expected, which for a device with limited time is a range.
    fn expected(
        &mut self,
        told: &BTreeMap<DeviceId, &Device>,
        seen: &BTreeMap<DeviceId, Drift>,
    ) -> BTreeMap<DeviceId, Drift> {
        let burst = |id: &DeviceId| {
            let sharing = told[id].detail.sharing?;
            Some(sharing.burst_permille).filter(|permille| *permille > 1000)
        };
        // What all forecasts are off by shows in devices without a limit; where there are none, in
        // one that is faster than at full speed.
        let free = seen.iter().filter(|(id, _)| burst(id).is_none());
        let off = free.map(|(_, drift)| drift.permille()).min();
        let off = off.unwrap_or_else(|| {
            let all = seen.iter();
            let all = all.filter_map(|(id, drift)| Some(outside(drift.permille(), burst(id)?)));
            all.min().unwrap_or(1000).min(1000)
        });
        let drifts = seen.iter().map(|(id, drift)| {
            let drift = match burst(id) {
                Some(burst) => {
                    let limited = self.limited.entry(*id).or_default();
                    limited.note(*drift, burst, off)
                }
                None => *drift,
            };
            (*id, drift)
        });
        drifts.collect()
    }

    /// Whether one of these devices has become clearly slower since layers moved last.
    pub(super) fn has_grown_slow(&self, seen: &BTreeMap<DeviceId, Drift>) -> bool {
        let mut ranges = seen.keys().filter_map(|id| self.ranges.get(id));
        ranges.any(Ranges::has_grown_slow)
    }

    /// The median of what was seen lately.
    fn usual_permille(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.usual.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() >= USUAL_MIN).then(|| sorted[sorted.len() / 2])
    }
}

impl Known {
    /// Whether the device still tells of itself what it told then.
    fn is_of(&self, device: &Device) -> bool {
        self.told == device.decode_bytes_per_second
    }
}
