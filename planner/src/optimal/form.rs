//! The form that some least-latency plan always has, so that others can be skipped.
//!
//! Moving a layer from a slower to a faster stage never costs time, so there is a best
//! plan in which no such move is left: the faster of two stages is full, or the slower
//! has a single layer. A device is faster than another when it takes no longer for any
//! layer; where layers differ there may be pairs of which neither is. Says nothing about
//! which devices to use.

use std::ops::Range;

use crate::cost::{Costs, Index};

/// What a pipeline so far demands of the stages to come. Ranks count from the most
/// preferred device: least time for all layers first, then lowest place. A faster device
/// has the lower rank, but where layers differ the lower rank may not be faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Lowest rank, plus one, of a stage that could hold more; 0 for none.
    open: u8,
    /// Highest rank, plus one, of a stage of more than one layer; 0 for none.
    long: u8,
}

/// The rule for one request.
pub(super) struct Forms {
    ranks: Vec<u8>,
    reach: Reach,
}

/// Between which stages layers can move without disturbing others.
enum Reach {
    /// Order carries no cost of its own here, so merging orders prunes more than any
    /// form: see the search's key.
    None,
    /// Layers differ: over a boundary between neighbours. By place, the places that are
    /// faster, as a set.
    Neighbours(Vec<u128>),
    /// Layers are alike: between any two stages. The most layers that fit on each
    /// device as first, middle and last stage.
    All(Vec<[usize; 3]>),
}

impl Forms {
    pub(super) fn new(costs: &Costs<'_>, devices: &[Index]) -> Self {
        let mut order: Vec<usize> = (0..devices.len()).collect();
        order.sort_by_key(|place| {
            let nanos = costs.whole_nanos(devices[*place]);
            (nanos, *place)
        });
        let mut ranks = vec![0; devices.len()];
        for (rank, place) in (0..).zip(order) {
            ranks[place] = rank;
        }
        let reach = if costs.links.are_alike() {
            Reach::None
        } else if costs.layers_are_alike {
            Reach::All(devices.iter().map(|device| most(costs, *device)).collect())
        } else {
            Reach::Neighbours(faster(costs, devices, &ranks))
        };
        Self { ranks, reach }
    }

    /// The form with one more stage, or `None` when the pipeline has left it.
    pub(super) fn after(
        &self,
        costs: &Costs<'_>,
        before: Option<(usize, Form)>,
        place: usize,
        device: Index,
        layers: &Range<usize>,
    ) -> Option<Form> {
        let rank = self.ranks[place] + 1;
        let long = if layers.len() > 1 { rank } else { 0 };
        let last = layers.end == costs.layer_count;
        match &self.reach {
            Reach::None => Some(Form::default()),
            Reach::Neighbours(faster) => {
                let full = last || costs.reach(device, layers.start) <= layers.end;
                let form = Form {
                    open: if full { 0 } else { rank },
                    long,
                };
                let Some((other, before)) = before else {
                    return Some(form);
                };
                let is_faster = |one: usize, than: usize| faster[than] & (1 << one) != 0;
                let faster_has_room_before = before.open > 0 && long > 0 && is_faster(other, place);
                let room_here = before.long > 0
                    && is_faster(place, other)
                    && costs.fits(device, &(layers.start - 1..layers.end));
                (!faster_has_room_before && !room_here).then_some(form)
            }
            Reach::All(most) => {
                let kind = match (layers.start == 0, last) {
                    (true, _) => 0,
                    (false, false) => 1,
                    (false, true) => 2,
                };
                let whole = layers.start == 0 && last;
                let full = whole || layers.len() >= most[place][kind];
                let (_, before) = before.unwrap_or_default();
                let slower_is_long = !full && before.long > rank;
                let faster_is_open = long > 0 && before.open > 0 && before.open < rank;
                (!slower_is_long && !faster_is_open).then_some(Form {
                    open: match (full, before.open) {
                        (true, open) => open,
                        (false, 0) => rank,
                        (false, open) => open.min(rank),
                    },
                    long: before.long.max(long),
                })
            }
        }
    }
}

/// For each place, the places that are faster: no slower for any layer, and of lower rank,
/// so that no two are faster than each other.
fn faster(costs: &Costs<'_>, devices: &[Index], ranks: &[u8]) -> Vec<u128> {
    let places = 0..devices.len();
    let is_faster = |one: usize, than: usize| {
        ranks[one] < ranks[than] && costs.is_no_slower(devices[one], devices[than])
    };
    let set = |than: usize| {
        let faster = places.clone().filter(|one| is_faster(*one, than));
        faster.fold(0u128, |set, one| set | 1 << one)
    };
    places.clone().map(set).collect()
}

/// The most alike layers on a device as first, middle and last stage of several.
fn most(costs: &Costs<'_>, device: Index) -> [usize; 3] {
    let layers = costs.layer_count;
    let first = costs.reach(device, 0).min(layers - 1);
    let middle = match layers {
        1 => 0,
        _ => costs.reach(device, 1).min(layers - 1) - 1,
    };
    let last = (1..layers).find(|start| costs.reach(device, *start) == layers);
    [first, middle, last.map_or(0, |start| layers - start)]
}
