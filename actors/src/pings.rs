//! Round trips to the neighbours' actors, which is where a row goes too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cairn_wire::control::Ping;
use cairn_wire::id::NodeId;
use cairn_wire::limits::PING_BYTES_MAX;

/// Between two pings of one neighbour.
const EVERY: Duration = Duration::from_secs(1);
/// This one is large, for the receiver to see how fast it comes. By then the link is warm. Those
/// before it follow each other as fast as they are asked for: the first plan needs a figure.
const FILLED: u64 = 3;

/// Pings under way, one for each neighbour at most.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    neighbours: BTreeMap<NodeId, Asked>,
}

#[derive(Debug)]
struct Asked {
    number: u64,
    at: Instant,
    is_open: bool,
}

impl Pings {
    /// The ping to send to a neighbour now, if it is time for one. Asked with every heartbeat.
    pub(crate) fn due(&mut self, peer: NodeId) -> Option<Ping> {
        let at = Instant::now();
        let last = self.neighbours.get(&peer);
        let too_soon = |last: &Asked| last.number >= FILLED && at.duration_since(last.at) < EVERY;
        if last.is_some_and(too_soon) {
            return None;
        }
        let number = last.map_or(0, |last| last.number + 1);
        let is_filled = number == FILLED;
        let asked = Asked {
            number,
            at,
            // What a large one takes says nothing about an empty one.
            is_open: !is_filled,
        };
        self.neighbours.insert(peer, asked);
        let filler = if is_filled { PING_BYTES_MAX } else { 0 };
        Some(Ping {
            number,
            filler: vec![0; filler],
        })
    }

    /// How long it took until a neighbour answered, if it answers the last ping and nothing else.
    pub(crate) fn answered(&mut self, peer: NodeId, number: u64) -> Option<Duration> {
        let asked = self.neighbours.get_mut(&peer)?;
        if !asked.is_open || asked.number != number {
            return None;
        }
        asked.is_open = false;
        Some(asked.at.elapsed())
    }

    /// The link is gone.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.neighbours.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ping_is_answered_once() {
        let peer = NodeId([1; 32]);
        let mut pings = Pings::default();
        let ping = pings.due(peer).expect("the first is due at once");
        assert!(ping.filler.is_empty());
        assert_eq!(pings.answered(NodeId([2; 32]), ping.number), None);
        assert_eq!(pings.answered(peer, ping.number + 1), None);
        assert!(pings.answered(peer, ping.number).is_some());
        assert_eq!(pings.answered(peer, ping.number), None, "a second answer");
        pings.forget(peer);
        assert_eq!(pings.answered(peer, ping.number), None);
    }

    #[test]
    fn the_first_follow_each_other_and_the_others_take_their_time() {
        let peer = NodeId([1; 32]);
        let mut pings = Pings::default();
        for number in 0..FILLED {
            let ping = pings.due(peer).expect("one of the first");
            assert_eq!((ping.number, ping.filler.len()), (number, 0));
            assert!(pings.answered(peer, number).is_some());
        }
        let filled = pings.due(peer).expect("the large one");
        assert_eq!(filled.filler.len(), PING_BYTES_MAX);
        assert_eq!(pings.answered(peer, FILLED), None, "says nothing");
        assert_eq!(pings.due(peer), None, "too soon");
    }
}
