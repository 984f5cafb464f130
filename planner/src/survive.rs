//! What the loss of each device means, and who stands by for whom.
//!
//! Looks at single losses only; two at once are replanned, not prepared for.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cost::{Costs, Cut, Index};
use crate::plan::{Loss, Standby, Survival};

/// Memory that is left on every device, and whether its buffers are already paid for.
struct Room {
    free_bytes: Vec<u64>,
    in_use: Vec<bool>,
}

impl Room {
    fn new(costs: &Costs<'_>, cuts: &[Cut]) -> Self {
        let count = costs.devices.len();
        let mut room = Self {
            free_bytes: (0..count).map(|index| costs.usable_bytes(index)).collect(),
            in_use: vec![false; count],
        };
        for (device, layers) in cuts {
            room.free_bytes[*device] -= costs.memory_bytes(*device, layers);
            room.in_use[*device] = true;
        }
        room
    }

    /// What a standby range takes on this device: no second set of buffers.
    fn needed_bytes(&self, costs: &Costs<'_>, device: Index, layers: &Range<usize>) -> u64 {
        let whole = costs.memory_bytes(device, layers);
        if self.in_use[device] {
            whole - costs.request.buffer_bytes
        } else {
            whole
        }
    }

    fn fits(&self, costs: &Costs<'_>, device: Index, layers: &Range<usize>) -> bool {
        self.needed_bytes(costs, device, layers) <= self.free_bytes[device]
    }

    fn take(&mut self, costs: &Costs<'_>, device: Index, layers: &Range<usize>) -> u64 {
        let bytes = self.needed_bytes(costs, device, layers);
        self.free_bytes[device] -= bytes;
        self.in_use[device] = true;
        bytes
    }
}

/// Standby ranges such that the loss of any one device leaves a full cover, as far as
/// memory permits: whole stages on one device if that can be arranged for all of them,
/// parts otherwise. A stage that cannot be covered in full gets no standby at all,
/// because half of a range saves nobody.
pub(crate) fn standbys(costs: &Costs<'_>, cuts: &[Cut]) -> Vec<Standby> {
    let mut order: Vec<usize> = (0..cuts.len()).collect();
    order.sort_by_key(|place| {
        let (device, layers) = &cuts[*place];
        let bytes = costs.memory_bytes(*device, layers);
        (std::cmp::Reverse(bytes), *place)
    });
    let mut fastest: Vec<Index> = (0..costs.devices.len()).collect();
    fastest.sort_by_key(|index| {
        let nanos = costs.whole_nanos(*index);
        (nanos, *index)
    });
    let mut whole = WholeStages {
        costs,
        cuts,
        order: &order,
        fastest: &fastest,
        steps: WHOLE_STEPS,
    };
    let mut chosen = Vec::new();
    let pieces = if whole.place(&mut Room::new(costs, cuts), &mut chosen) {
        chosen
    } else {
        parts(costs, cuts, &order)
    };
    let mut room = Room::new(costs, cuts);
    let mut standbys: Vec<Standby> = pieces
        .into_iter()
        .map(|(device, layers)| Standby {
            device: costs.devices[device].id,
            memory_bytes: room.take(costs, device, &layers),
            layers: narrow(&layers),
        })
        .collect();
    standbys.sort_by_key(|standby| standby.layers.start);
    // The first range on an idle device pays for its buffers, whatever the order of
    // placing was; `check` charges them in the order of the list.
    let mut paid: BTreeMap<_, ()> = cuts
        .iter()
        .map(|(device, _)| (costs.devices[*device].id, ()))
        .collect();
    for standby in &mut standbys {
        let device = costs.index_of(standby.device).expect("one of the devices");
        let whole = costs.memory_bytes(device, &crate::check::wide(&standby.layers));
        standby.memory_bytes = match paid.insert(standby.device, ()) {
            None => whole,
            Some(()) => whole - costs.request.buffer_bytes,
        };
    }
    standbys
}

/// Tries before settling for parts; a handful of stages needs far fewer.
const WHOLE_STEPS: u32 = 20_000;

/// Backtracking over who stands by for which whole stage, largest stage first.
struct WholeStages<'a, 'r> {
    costs: &'a Costs<'r>,
    cuts: &'a [Cut],
    order: &'a [usize],
    fastest: &'a [Index],
    steps: u32,
}

impl WholeStages<'_, '_> {
    fn place(&mut self, room: &mut Room, chosen: &mut Vec<Cut>) -> bool {
        let Some(place) = self.order.get(chosen.len()) else {
            return true;
        };
        let (owner, layers) = &self.cuts[*place];
        for device in self.fastest {
            if device == owner || !room.fits(self.costs, *device, layers) {
                continue;
            }
            if self.steps == 0 {
                return false;
            }
            self.steps -= 1;
            let (free, in_use) = (room.free_bytes[*device], room.in_use[*device]);
            room.take(self.costs, *device, layers);
            chosen.push((*device, layers.clone()));
            if self.place(room, chosen) {
                return true;
            }
            chosen.pop();
            room.free_bytes[*device] = free;
            room.in_use[*device] = in_use;
        }
        false
    }
}

/// Covers stages one after the other from whoever has most room, cutting ranges where
/// they end; a stage that does not fit gives back what it took.
fn parts(costs: &Costs<'_>, cuts: &[Cut], order: &[usize]) -> Vec<Cut> {
    let mut room = Room::new(costs, cuts);
    let mut all = Vec::new();
    for place in order {
        let (owner, layers) = &cuts[*place];
        let saved = (room.free_bytes.clone(), room.in_use.clone());
        let mut pieces: Vec<Cut> = Vec::new();
        let mut start = layers.start;
        while start < layers.end {
            let furthest = (0..costs.devices.len())
                .filter(|device| device != owner)
                .map(|device| {
                    let fits = |end: &usize| room.fits(costs, device, &(start..*end));
                    let end = (start + 1..=layers.end).take_while(fits).last();
                    (end.unwrap_or(start), std::cmp::Reverse(device))
                })
                .max();
            let Some((end, std::cmp::Reverse(device))) = furthest.filter(|(end, _)| *end > start)
            else {
                break;
            };
            room.take(costs, device, &(start..end));
            pieces.push((device, start..end));
            start = end;
        }
        if start == layers.end {
            all.extend(pieces);
        } else {
            (room.free_bytes, room.in_use) = saved;
        }
    }
    all
}

/// What the loss of each used device means, in stage order.
pub(crate) fn survival(costs: &Costs<'_>, cuts: &[Cut], standbys: &[Standby]) -> Vec<Survival> {
    cuts.iter()
        .map(|(device, layers)| {
            let range = narrow(layers);
            let held: u32 = standbys
                .iter()
                .filter(|standby| {
                    range.start <= standby.layers.start && standby.layers.end <= range.end
                })
                .map(|standby| standby.layers.end - standby.layers.start)
                .sum();
            let loss = if held >= range.end - range.start {
                Loss::Covered
            } else {
                let left: Vec<Index> = (0..costs.devices.len())
                    .filter(|other| other != device)
                    .collect();
                match crate::cover::bytes_missing(costs, &left) {
                    0 => Loss::Reload,
                    bytes_missing => Loss::Short { bytes_missing },
                }
            };
            Survival {
                device: costs.devices[*device].id,
                loss,
            }
        })
        .collect()
}

pub(crate) fn narrow(layers: &Range<usize>) -> Range<u32> {
    let narrow = |layer: usize| u32::try_from(layer).expect("layers are counted in u32: checked");
    narrow(layers.start)..narrow(layers.end)
}

#[cfg(test)]
mod tests;
