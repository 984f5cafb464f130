//! Covers of layers that all cost the same, exactly and for any number of devices.
//!
//! Only the number of layers on a device matters then, and whether it stands first,
//! last or between, because embedding and head take room of their own. Links are not
//! looked at.

use std::cmp::Reverse;

use super::{Answer, Limits};
use crate::cost::{Cut, Index};

/// How many layers a device can take in each place.
#[derive(Clone, Copy)]
struct Room {
    device: Index,
    first: usize,
    middle: usize,
    last: usize,
}

impl Room {
    fn new(limits: &Limits<'_, '_>, device: Index) -> Self {
        let layers = limits.costs.layer_count;
        // Covers by one device are asked for before, so the other end belongs to another.
        let first = limits.end(device, 0).min(layers - 1);
        let middle = limits.end(device, 1).min(layers - 1).saturating_sub(1);
        let (mut fails, mut fits) = (0, layers);
        while fails + 1 < fits {
            let start = fails.midpoint(fits);
            if limits.fits(device, &(start..layers)) {
                fits = start;
            } else {
                fails = start;
            }
        }
        Self {
            device,
            first,
            middle,
            last: layers - fits,
        }
    }
}

pub(super) fn cover(limits: &Limits<'_, '_>, allowed: &[Index]) -> Answer {
    let layers = limits.costs.layer_count;
    let mut rooms: Vec<Room> = allowed
        .iter()
        .map(|device| Room::new(limits, *device))
        .collect();
    rooms.sort_by_key(|room| (Reverse(room.middle), room.device));
    let stages = limits.stage_max().min(rooms.len());
    if stages < 2 {
        return Answer::Impossible;
    }
    let mut sums = vec![0];
    for room in &rooms {
        sums.push(sums[sums.len() - 1] + room.middle);
    }
    // The best middles of any plan are a prefix of the sorted list with its two ends
    // skipped.
    let total = |first: usize, last: usize| {
        let mut count = stages - 2;
        for end in [first.min(last), first.max(last)] {
            count += usize::from(end < count);
        }
        let skipped = [first, last].into_iter().filter(|end| *end < count);
        let middles = sums[count] - skipped.map(|end| rooms[end].middle).sum::<usize>();
        middles + rooms[first].first + rooms[last].last
    };
    let firsts = candidates(&rooms, stages, |room| room.first);
    let lasts = candidates(&rooms, stages, |room| room.last);
    let best = firsts
        .iter()
        .flat_map(|first| lasts.iter().map(move |last| (*first, *last)))
        .filter(|(first, last)| first != last)
        .filter(|(first, last)| rooms[*first].first > 0 && rooms[*last].last > 0)
        .max_by_key(|(first, last)| (total(*first, *last), Reverse((*first, *last))));
    match best {
        Some((first, last)) if total(first, last) >= layers => {
            Answer::Found(lay_out(&rooms, first, last, layers))
        }
        Some(_) | None => Answer::Impossible,
    }
}

/// Places in the sorted list among which a best end is: those that lose least by
/// standing at an end among the ones that are used anyway, those that bring most among
/// the others, and the ones at the border, which the other end may push either way.
fn candidates(rooms: &[Room], stages: usize, end: impl Fn(&Room) -> usize) -> Vec<usize> {
    let sure = stages.saturating_sub(2);
    let border = (stages + 2).min(rooms.len());
    let mut inside: Vec<usize> = (0..sure).filter(|place| end(&rooms[*place]) > 0).collect();
    inside.sort_by_key(|place| {
        (
            rooms[*place].middle - end(&rooms[*place]).min(rooms[*place].middle),
            *place,
        )
    });
    inside.truncate(3);
    let mut outside: Vec<usize> = (border..rooms.len()).collect();
    outside.sort_by_key(|place| (Reverse(end(&rooms[*place])), *place));
    outside.truncate(3);
    inside.extend(sure..border);
    inside.extend(outside);
    inside
}

/// Lays the layers out: as many as fit on each, but one kept back for the last stage.
fn lay_out(rooms: &[Room], first: usize, last: usize, layers: usize) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let mut start = 0;
    // The last stage takes all it can; what is before it is filled from the front.
    let until = layers - rooms[last].last;
    let middles = (0..rooms.len()).filter(|place| *place != first && *place != last);
    let front = std::iter::once((first, rooms[first].first))
        .chain(middles.map(|place| (place, rooms[place].middle)));
    for (place, room) in front {
        let end = (start + room).min(until.max(1));
        if end > start {
            cuts.push((rooms[place].device, start..end));
            start = end;
        }
    }
    cuts.push((rooms[last].device, start..layers));
    cuts
}
