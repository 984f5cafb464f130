//! Where a batch's spans are in their sequences, and which of their rows the head projects.

use crate::shard::{LogitRows, SlotId};

/// A span with its place in its sequence checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) slot: SlotId,
    pub(crate) position: usize,
    pub(crate) rows: usize,
    pub(crate) logits: LogitRows,
}

impl Placed {
    /// The part of the span, at its end, that the head projects.
    pub(crate) fn wanted(&self) -> Option<Placed> {
        let rows = match self.logits {
            LogitRows::None => return None,
            LogitRows::Last => 1,
            LogitRows::All => self.rows,
        };
        Some(Placed {
            position: self.position + self.rows - rows,
            rows,
            ..*self
        })
    }
}

/// The rows of the batch that `placed` wants projected.
pub(crate) fn wanted(placed: &[Placed]) -> Vec<usize> {
    let mut wanted = Vec::new();
    let mut end = 0;
    for span in placed {
        end += span.rows;
        if let Some(part) = span.wanted() {
            wanted.extend(end - part.rows..end);
        }
    }
    wanted
}
