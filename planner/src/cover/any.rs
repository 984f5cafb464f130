//! Covers of layers that differ, by search with memory of what was reached.
//!
//! Exact while its steps last. Stands on one fact: from the same set of used devices,
//! whoever got further can do all that the other can.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::measure::Measure;
use super::{Answer, Limits};
use crate::cost::{Cut, Index};
use crate::hash::Mixer;
use crate::twins::Twins;

/// Whether busy links bar a pair of neighbours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Ignored,
    Respected,
}

/// Devices fit into a bit set up to here; larger clusters get a greedy answer.
pub(crate) const DEVICE_COUNT_MAX: usize = 128;

/// Devices that are tried as the first of a dive.
const DIVES: usize = 8;

struct Search<'s, 'a, 'r> {
    limits: &'s Limits<'a, 'r>,
    allowed: &'s [Index],
    links: Links,
    steps: &'s mut u64,
    /// `ends[place][start]`, for places in `allowed`.
    ends: Vec<Vec<usize>>,
    /// Measures of layers by which a cover may be seen to be impossible.
    measures: Vec<Measure>,
    twins: Twins,
    /// Furthest layer reached, or every layer reached where links matter.
    // A hash map whose order is never looked at, so it cannot make a plan depend on it.
    seen: HashMap<(u128, u16, u16), u16, BuildHasherDefault<Mixer>>,
    path: Vec<Cut>,
}

pub(super) fn cover(
    limits: &Limits<'_, '_>,
    allowed: &[Index],
    links: Links,
    steps: &mut u64,
) -> Answer {
    let ends: Vec<Vec<usize>> = allowed.iter().map(|device| limits.ends(*device)).collect();
    let costs = limits.costs;
    let layers = costs.layer_count;
    let bytes = (0..layers).map(|layer| costs.layer_bytes(&(layer..layer + 1)));
    let measures = vec![
        Measure::new(vec![1; layers], &ends),
        Measure::new(bytes.collect(), &ends),
    ];
    let mut search = Search {
        limits,
        allowed,
        links,
        steps,
        ends,
        measures,
        twins: Twins::none(),
        seen: HashMap::default(),
        path: Vec::new(),
    };
    if !search.may_reach(0, 0, limits.stage_max()) {
        return Answer::Impossible;
    }
    if let Some(cuts) = search.greedy() {
        return Answer::Found(cuts);
    }
    let tuned = Measure::tuned(&search.measures[1], &search.ends, limits.stage_max());
    search.measures.push(tuned);
    if !search.may_reach(0, 0, limits.stage_max()) {
        return Answer::Impossible;
    }
    if let Some(cuts) = search.thrifty() {
        return Answer::Found(cuts);
    }
    if allowed.len() > DEVICE_COUNT_MAX || *search.steps == 0 {
        return Answer::Unknown;
    }
    search.twins = match links {
        Links::Ignored => {
            let roomier = limits.extra.map(|(device, _)| device);
            Twins::unlinked(costs, allowed, roomier)
        }
        Links::Respected => Twins::among(costs, allowed),
    };
    if search.extend(0, 0) {
        return Answer::Found(search.path);
    }
    if *search.steps == 0 {
        Answer::Unknown
    } else {
        Answer::Impossible
    }
}

impl Search<'_, '_, '_> {
    /// Whether no measure rules out that the unused devices take the rest.
    fn may_reach(&self, used: u128, start: usize, stages: usize) -> bool {
        let mut measures = self.measures.iter();
        measures.all(|measure| measure.may_reach(used, start, stages))
    }

    /// Whoever gets furthest goes next, a few different devices first in turn.
    fn greedy(&self) -> Option<Vec<Cut>> {
        self.dives(|place, start| Reverse(self.ends[place][start]))
    }

    /// Whoever gives least away by the tuned measure goes next.
    fn thrifty(&self) -> Option<Vec<Cut>> {
        self.dives(|place, start| (self.waste(place, start), Reverse(self.ends[place][start])))
    }

    /// What the tuned measure says is given away if a place goes on from a layer.
    fn waste(&self, place: usize, start: usize) -> u64 {
        let tuned = &self.measures[self.measures.len() - 1];
        let range = start..self.ends[place][start];
        tuned.waste(place, &range, self.limits.stage_max())
    }

    /// Covers by taking the place that `rank` puts lowest, again and again.
    fn dives<R: Ord>(&self, rank: impl Fn(usize, usize) -> R) -> Option<Vec<Cut>> {
        if self.links == Links::Respected {
            return None;
        }
        let mut firsts: Vec<usize> = (0..self.allowed.len())
            .filter(|place| self.ends[*place][0] > 0)
            .collect();
        firsts.sort_by_key(|place| (rank(*place, 0), *place));
        firsts.truncate(DIVES);
        firsts.into_iter().find_map(|first| self.dive(first, &rank))
    }

    fn dive<R: Ord>(&self, first: usize, rank: &impl Fn(usize, usize) -> R) -> Option<Vec<Cut>> {
        let layers = self.limits.costs.layer_count;
        let mut used = vec![false; self.allowed.len()];
        let mut cuts: Vec<Cut> = Vec::new();
        let (mut place, mut start) = (first, 0);
        loop {
            used[place] = true;
            let end = self.ends[place][start];
            cuts.push((self.allowed[place], start..end));
            if end == layers {
                return Some(cuts);
            }
            if cuts.len() == self.limits.stage_max() {
                return None;
            }
            start = end;
            place = (0..self.allowed.len())
                .filter(|place| !used[*place] && self.ends[*place][start] > start)
                .min_by_key(|place| (rank(*place, start), *place))?;
        }
    }

    /// Depth first; leaves the cover in `path` when it finds one.
    fn extend(&mut self, used: u128, start: usize) -> bool {
        let layers = self.limits.costs.layer_count;
        if start == layers {
            return true;
        }
        let stages = self.limits.stage_max();
        if self.path.len() == stages
            || *self.steps == 0
            || !self.may_reach(used, start, stages - self.path.len())
        {
            return false;
        }
        let price = 16 + 4 * self.allowed.len() as u64;
        *self.steps = self.steps.saturating_sub(price);
        let mut next: Vec<(u64, Reverse<usize>, usize)> = (0..self.allowed.len())
            .filter(|place| used & (1 << place) == 0)
            .filter(|place| self.twins.is_next(*place, used))
            .filter(|place| self.ends[*place][start] > start)
            .map(|place| {
                (
                    self.waste(place, start),
                    Reverse(self.ends[place][start]),
                    place,
                )
            })
            .collect();
        next.sort_unstable();
        for (_, Reverse(furthest), place) in next {
            let device = self.allowed[place];
            let shortest = match self.links {
                Links::Ignored => furthest,
                Links::Respected => start + 1,
            };
            let barred = self.path.last().is_some_and(|(before, _)| {
                self.links == Links::Respected && !self.limits.link_fits(*before, device)
            });
            if barred {
                continue;
            }
            for end in (shortest..=furthest).rev() {
                let used = used | 1 << place;
                if !self.is_news(used, place, end) {
                    continue;
                }
                self.path.push((device, start..end));
                if self.extend(used, end) {
                    return true;
                }
                self.path.pop();
            }
        }
        false
    }

    /// Notes a state; false when as good a one was there before. Where links matter, a
    /// device may be needed as a bridge, so getting further is not always better.
    fn is_news(&mut self, used: u128, place: usize, end: usize) -> bool {
        let reached = end as u16;
        let key = match self.links {
            Links::Ignored => (used, 0, 0),
            Links::Respected => (used, place as u16, end as u16),
        };
        let before = self.seen.insert(key, reached);
        match before {
            Some(before) if before >= reached => {
                self.seen.insert(key, before);
                false
            }
            Some(_) | None => true,
        }
    }
}
