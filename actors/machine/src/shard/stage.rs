//! One stage of one plan: the sequences that it holds and where each stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_wire::control::Plan;
use cairn_wire::data::{FailedWhy, Span};
use cairn_wire::frame::RowsFrame;
use cairn_wire::id::SequenceId;

use super::{PassItem, Queue};

/// A stage that this node owns.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) plan: Arc<Plan>,
    pub(super) index: u16,
    pub(super) queue: Queue,
    held: BTreeMap<SequenceId, Held>,
}

/// Where a sequence stands on a stage.
#[derive(Clone, Copy, Debug)]
struct Held {
    rows_max: u32,
    /// Rows before this position are computed or queued.
    next: u32,
}

/// The answer to an `Open`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is new and has a slot.
    Taken,
    /// It is open already: the frame is a repeat.
    Known,
    /// It cannot be opened.
    Refused(FailedWhy, String),
}

impl Stage {
    pub(super) fn new(plan: Arc<Plan>, index: u16) -> Self {
        Self {
            plan,
            index,
            queue: Queue::default(),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn sequences(&self) -> usize {
        self.held.len()
    }

    pub(super) fn open(&mut self, sequence: SequenceId, rows_max: u32) -> Admission {
        if self.held.contains_key(&sequence) {
            return Admission::Known;
        }
        if rows_max == 0 || rows_max > self.plan.context {
            let detail = format!(
                "{rows_max} rows asked for, the context holds {}",
                self.plan.context
            );
            return Admission::Refused(FailedWhy::Overflow, detail);
        }
        if self.held.len() >= self.plan.sequences as usize {
            let detail = format!("all {} sequences are in use", self.plan.sequences);
            return Admission::Refused(FailedWhy::Busy, detail);
        }
        self.held.insert(sequence, Held { rows_max, next: 0 });
        Admission::Taken
    }

    /// Queues the rows of a span that are new; the number of rows that were not.
    pub(super) fn take(
        &mut self,
        span: Span,
        offset: u32,
        frame: &RowsFrame,
    ) -> Result<u32, (FailedWhy, String)> {
        let Some(held) = self.held.get_mut(&span.sequence) else {
            return Err((FailedWhy::Gap, "the sequence is not open here".to_owned()));
        };
        if span.position > held.next {
            let detail = format!("row {} came before row {}", span.position, held.next);
            return Err((FailedWhy::Gap, detail));
        }
        let end = span.position.checked_add(span.rows);
        let Some(end) = end.filter(|end| *end <= held.rows_max) else {
            let detail = format!("the sequence was opened for {} rows", held.rows_max);
            return Err((FailedWhy::Overflow, detail));
        };
        let replayed = (held.next - span.position).min(span.rows);
        if replayed < span.rows {
            held.next = end;
            let span = Span {
                position: span.position + replayed,
                rows: span.rows - replayed,
                ..span
            };
            self.queue.push(PassItem {
                span,
                frame: frame.clone(),
                offset: offset + replayed,
            });
        }
        Ok(replayed)
    }

    /// Forgets sequences and their waiting rows; those that were held.
    pub(super) fn remove_where(
        &mut self,
        matches: impl Fn(&SequenceId) -> bool,
    ) -> Vec<SequenceId> {
        self.queue.remove_where(|item| matches(&item.span.sequence));
        let gone: Vec<SequenceId> = self.held.keys().filter(|id| matches(id)).copied().collect();
        for sequence in &gone {
            self.held.remove(sequence);
        }
        gone
    }
}
