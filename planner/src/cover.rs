//! Whether some devices, in some order, can hold every layer within given limits.
//!
//! Answers yes with the stages, no, or "not found within the steps allowed"; never
//! asks which cover is better.

mod alike;
mod any;
mod measure;

pub(crate) use any::DEVICE_COUNT_MAX;

use std::ops::Range;

use crate::cost::{Costs, Cut, Index, NEVER};

/// What bounds a stage: memory always, busy time if asked.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a, 'r> {
    pub(crate) costs: &'a Costs<'r>,
    /// Memory that one device is imagined to have in addition.
    pub(crate) extra: Option<(Index, u64)>,
    pub(crate) time: Option<TimeLimit>,
}

/// No stage may be busy for longer in a plan of this many stages at most.
#[derive(Clone, Copy)]
pub(crate) struct TimeLimit {
    pub(crate) stage_max: usize,
    pub(crate) nanos: u64,
}

pub(crate) enum Answer {
    Found(Vec<Cut>),
    Impossible,
    Unknown,
}

impl<'a, 'r> Limits<'a, 'r> {
    pub(crate) fn memory(costs: &'a Costs<'r>) -> Self {
        Self {
            costs,
            extra: None,
            time: None,
        }
    }

    fn fits(&self, device: Index, layers: &Range<usize>) -> bool {
        let extra = self.extra.filter(|(roomier, _)| *roomier == device);
        let usable = self
            .costs
            .usable_bytes(device)
            .saturating_add(extra.map_or(0, |(_, bytes)| bytes));
        self.costs.memory_bytes(device, layers) <= usable
            && self.time.is_none_or(|time| {
                self.costs.turn_nanos(device, layers, time.stage_max) <= time.nanos
            })
    }

    /// The furthest end of a range from `start` within the limits, or `start`.
    fn end(&self, device: Index, start: usize) -> usize {
        let (mut fits, mut fails) = (start, self.costs.layer_count + 1);
        while fits + 1 < fails {
            let middle = fits.midpoint(fails);
            if self.fits(device, &(start..middle)) {
                fits = middle;
            } else {
                fails = middle;
            }
        }
        fits
    }

    /// The furthest end for every start; ends never move back as starts move on.
    fn ends(&self, device: Index) -> Vec<usize> {
        let layers = self.costs.layer_count;
        let mut end = 0;
        (0..layers)
            .map(|start| {
                end = end.max(start);
                while end < layers && self.fits(device, &(start..end + 1)) {
                    end += 1;
                }
                end
            })
            .collect()
    }

    /// The least time above the limit at which a device could take more or one more link
    /// were quick enough: until there every question has the same answer.
    pub(crate) fn next_nanos(&self, allowed: &[Index]) -> u64 {
        let Some(TimeLimit { stage_max, nanos }) = self.time else {
            return NEVER;
        };
        let stages = allowed.iter().flat_map(|device| {
            let longer = self.ends(*device).into_iter().enumerate();
            longer
                .filter(|(start, end)| self.costs.reach(*device, *start) > *end)
                .map(|(start, end)| self.costs.turn_nanos(*device, &(start..end + 1), stage_max))
        });
        let links = self.costs.links.next_busy_nanos(nanos);
        stages.chain(links).min().unwrap_or(NEVER)
    }

    fn stage_max(&self) -> usize {
        let stage_max = self.time.map_or(usize::MAX, |time| time.stage_max);
        stage_max.min(self.costs.layer_count)
    }

    /// Whether the link between two devices is within the limits.
    fn link_fits(&self, from: Index, to: Index) -> bool {
        self.time
            .is_none_or(|time| self.costs.links.busy_nanos(from, to) <= time.nanos)
    }

    fn links_all_fit(&self) -> bool {
        self.time
            .is_none_or(|time| self.costs.links.busiest_nanos() <= time.nanos)
    }

    fn no_link_fits(&self) -> bool {
        self.time
            .is_some_and(|time| self.costs.links.idlest_nanos() > time.nanos)
    }
}

/// Looks for a cover by some of the `allowed` devices. `steps` is counted down.
pub(crate) fn cover(limits: &Limits<'_, '_>, allowed: &[Index], steps: &mut u64) -> Answer {
    let layers = limits.costs.layer_count;
    let whole = 0..layers;
    if let Some(device) = allowed.iter().find(|device| limits.fits(**device, &whole)) {
        return Answer::Found(vec![(*device, whole)]);
    }
    if limits.stage_max() < 2 || limits.no_link_fits() {
        return Answer::Impossible;
    }
    let relaxed = if limits.costs.layers_are_alike {
        alike::cover(limits, allowed)
    } else {
        any::cover(limits, allowed, any::Links::Ignored, steps)
    };
    match relaxed {
        Answer::Found(cuts) => {
            let linked = cuts
                .windows(2)
                .all(|pair| limits.link_fits(pair[0].0, pair[1].0));
            if linked {
                Answer::Found(cuts)
            } else {
                any::cover(limits, allowed, any::Links::Respected, steps)
            }
        }
        Answer::Unknown if !limits.links_all_fit() => {
            any::cover(limits, allowed, any::Links::Respected, steps)
        }
        Answer::Impossible | Answer::Unknown => relaxed,
    }
}

/// Steps for a question about memory alone.
const MEMORY_STEPS: u64 = 1_000_000;

/// Any plan that fits into memory.
pub(crate) fn by_memory(costs: &Costs<'_>) -> Option<Vec<Cut>> {
    let all: Vec<Index> = (0..costs.devices.len()).collect();
    match cover(&Limits::memory(costs), &all, &mut MEMORY_STEPS.clone()) {
        Answer::Found(cuts) => Some(cuts),
        Answer::Impossible | Answer::Unknown => None,
    }
}

/// Memory that makes the model fit on the allowed devices when added to the roomiest of
/// them; zero when it fits as it is. Without any device, what a single one would need.
pub(crate) fn bytes_missing(costs: &Costs<'_>, allowed: &[Index]) -> u64 {
    let roomiest = allowed
        .iter()
        .copied()
        .max_by_key(|index| (costs.usable_bytes(*index), std::cmp::Reverse(*index)));
    let Some(roomiest) = roomiest else {
        return costs
            .whole_bytes()
            .saturating_add(costs.request.headroom_bytes);
    };
    let all = costs.memory_bytes(roomiest, &(0..costs.layer_count));
    let holds = |bytes: u64, steps: u64| {
        let limits = Limits {
            extra: Some((roomiest, bytes)),
            ..Limits::memory(costs)
        };
        matches!(
            cover(&limits, allowed, &mut steps.clone()),
            Answer::Found(_)
        )
    };
    if holds(0, MEMORY_STEPS) {
        return 0;
    }
    let device = costs.devices[roomiest].memory_bytes;
    let (mut short, mut enough) = (0, all.saturating_add(costs.request.headroom_bytes));
    enough = enough.saturating_sub(device.min(costs.usable_bytes(roomiest)));
    while short + 1 < enough {
        let middle = short.midpoint(enough);
        if holds(middle, MEMORY_STEPS / 20) {
            enough = middle;
        } else {
            short = middle;
        }
    }
    enough
}
