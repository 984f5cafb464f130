//! Round trips and speeds of this node's links.
//!
//! Of the round trips lately the lower quartile counts: a token hops while its neighbours
//! wait for it, not while they compute for others.

use std::collections::{BTreeMap, VecDeque};

use cairn_wire::control::LinkSeen;
use cairn_wire::id::NodeId;
use cairn_wire::limits::SEEN_MAX;

/// Round trips that count. One a second makes half a minute.
const TRIPS_MAX: usize = 31;
/// Fewer are no measurement: the first finds everything cold.
const TRIPS_MIN: usize = 3;

/// What was measured, by neighbour.
#[derive(Debug, Default)]
pub struct LinkTimes {
    links: BTreeMap<NodeId, LinkTime>,
}

#[derive(Debug, Default)]
struct LinkTime {
    trips: VecDeque<u64>,
    bytes_per_second: u64,
}

impl LinkTimes {
    /// A message went to a neighbour's actors and back.
    pub fn round_trip(&mut self, peer: NodeId, micros: u64) {
        if !self.links.contains_key(&peer) && self.links.len() >= SEEN_MAX {
            return;
        }
        let trips = &mut self.links.entry(peer).or_default().trips;
        if trips.len() == TRIPS_MAX {
            trips.pop_front();
        }
        trips.push_back(micros);
    }

    /// Large frames come from a neighbour so fast.
    pub fn speed(&mut self, peer: NodeId, bytes_per_second: u64) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.bytes_per_second = bytes_per_second;
        }
    }

    /// The link is gone; the next with that neighbour may be another wire.
    pub fn forget(&mut self, peer: NodeId) {
        self.links.remove(&peer);
    }

    /// What is known of each link.
    pub fn seen(&self) -> Vec<LinkSeen> {
        let links = self.links.iter();
        let known = links.filter(|(_, link)| link.trips.len() >= TRIPS_MIN);
        let seen = known.map(|(peer, link)| LinkSeen {
            peer: *peer,
            round_trip_micros: lower_quartile(&link.trips).max(1),
            bytes_per_second: link.bytes_per_second,
        });
        seen.collect()
    }
}

fn lower_quartile(trips: &VecDeque<u64>) -> u64 {
    let mut sorted: Vec<u64> = trips.iter().copied().collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::node;

    #[test]
    fn a_busy_neighbour_does_not_lengthen_the_link() {
        let mut links = LinkTimes::default();
        for trip in 0..40 {
            links.round_trip(node(1), if trip % 2 == 0 { 5_000 } else { 200 });
        }
        links.speed(node(1), 7);
        let seen = links.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].round_trip_micros, 200);
        assert_eq!(seen[0].bytes_per_second, 7);
    }

    #[test]
    fn a_link_that_is_gone_or_new_is_not_told() {
        let mut links = LinkTimes::default();
        links.round_trip(node(1), 9);
        assert_eq!(links.seen(), []);
        links.round_trip(node(1), 9);
        links.round_trip(node(1), 9);
        assert_eq!(links.seen().len(), 1);
        links.forget(node(1));
        assert_eq!(links.seen(), []);
    }

    #[test]
    fn no_more_links_than_a_status_may_tell() {
        let mut links = LinkTimes::default();
        for number in 0..SEEN_MAX as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            for _ in 0..3 {
                links.round_trip(NodeId(id), 1);
            }
        }
        assert_eq!(links.seen().len(), SEEN_MAX);
    }
}
