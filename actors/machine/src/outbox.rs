//! Frames that wait for a full link, in order.
//!
//! Decides nothing: a machine sends through it, and tells it what came back and
//! when there is room.

use std::collections::{BTreeMap, VecDeque};

use cairn_wire::frame::DataFrame;
use cairn_wire::id::NodeId;

/// Waiting frames by neighbour. A neighbour is in here while its link is full.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: BTreeMap<NodeId, VecDeque<DataFrame>>,
}

impl Outbox {
    /// Gives the frame back when it may be sent now, else keeps it behind the others.
    pub(crate) fn pass(&mut self, to: NodeId, frame: DataFrame) -> Option<DataFrame> {
        match self.waiting.get_mut(&to) {
            Some(queue) => {
                queue.push_back(frame);
                None
            }
            None => Some(frame),
        }
    }

    /// The link refused this frame: it waits, and those sent after it wait behind it.
    pub(crate) fn hold(&mut self, to: NodeId, frame: DataFrame) {
        self.waiting.entry(to).or_default().push_front(frame);
    }

    /// The link has room: everything that waits, in order. What does not fit comes back.
    pub(crate) fn release(&mut self, to: NodeId) -> VecDeque<DataFrame> {
        self.waiting.remove(&to).unwrap_or_default()
    }

    /// The neighbour is gone.
    pub(crate) fn forget(&mut self, to: NodeId) {
        self.waiting.remove(&to);
    }

    /// Frames waiting for it.
    pub(crate) fn len(&self, to: NodeId) -> usize {
        self.waiting.get(&to).map_or(0, VecDeque::len)
    }
}
