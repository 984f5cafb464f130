//! A bound by routes that count devices of a kind but do not tell them apart.
//!
//! There are few kinds, so such routes are soon exact in all but links: of each pair of
//! kinds they see the best. Says which ranges fit together where memory is scarce.

use super::graph::Graph;
use super::kinds::Kinds;
use super::prices::Charges;
use super::routes::{LABELS_MAX, Route, Routes};

pub(super) struct Merged {
    kinds: Kinds,
    charges: Charges,
}

impl Merged {
    /// `None` where no device has a twin.
    pub(super) fn new(kinds: &Kinds, charges: &Charges) -> Option<Self> {
        let mut charges = charges.clone();
        for (place, price) in charges.paid.0.iter_mut().enumerate() {
            if kinds.has_twin(place) {
                *price = 0;
            }
        }
        (kinds.counted != 0).then(|| Self {
            kinds: kinds.merged(),
            charges,
        })
    }

    /// The cheapest such route below `aim`, empty where there is none, and its bound;
    /// `None` when it was not found within limits.
    pub(super) fn least(&self, graph: &Graph, aim: u64, steps: &mut u64) -> Option<(u64, Route)> {
        let (routes, _) = self.routes(graph);
        let labels = routes.backward(aim, LABELS_MAX, steps)?;
        Some((routes.bound(&labels).min(aim), labels.route(&routes.graph)))
    }

    /// Takes out the edges that no such route below `aim` has.
    pub(super) fn trim(&self, graph: &mut Graph, aim: u64, steps: &mut u64) {
        let (routes, stands_for) = self.routes(graph);
        let labels = routes.backward(aim, LABELS_MAX, steps);
        let kept = labels.and_then(|labels| routes.met(&labels, aim, steps));
        if let Some(kept) = kept {
            let mut numbers = stands_for.into_iter();
            graph.retain(|_| numbers.next().is_some_and(|number| kept[number as usize]));
        }
    }

    /// Places that a route may stand for, in its order.
    pub(super) fn places(&self, route: &Route) -> Vec<usize> {
        let mut places: Vec<usize> = Vec::new();
        for (first, _) in route {
            let like = |place: &usize| self.kinds.first_like(*place) == *first;
            let mut members = (0..self.charges.paid.0.len()).filter(like);
            places.extend(members.find(|place| !places.contains(place)));
        }
        places
    }

    fn routes(&self, graph: &Graph) -> (Routes<'_>, Vec<u32>) {
        let mut routes = Routes::new(&self.kinds, self.charges.clone(), 0);
        let (merged, stands_for) = graph.merged(|place| self.kinds.first_like(place));
        routes.graph = merged;
        (routes, stands_for)
    }
}
