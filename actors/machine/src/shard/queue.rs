//! The rows that wait for the engine: decode before prefill, in order within a sequence.

use std::collections::{BTreeSet, VecDeque};

use cairn_wire::data::{Ask, Span};
use cairn_wire::id::SequenceId;

use super::PassItem;

/// Rows of one pass. Enough to share every weight read among many sequences, few
/// enough that a decode row never waits long behind a prefill.
pub(super) const PASS_ROWS_MAX: u64 = 256;

/// Waiting rows of one stage. Bounded by the credits of the links they came over.
#[derive(Debug, Default)]
pub(super) struct Queue {
    decode: VecDeque<PassItem>,
    prefill: VecDeque<PassItem>,
}

impl Queue {
    /// Rows waiting.
    pub(super) fn rows(&self) -> u64 {
        let all = self.decode.iter().chain(&self.prefill);
        all.map(|item| u64::from(item.span.rows)).sum()
    }

    pub(super) fn push(&mut self, item: PassItem) {
        let sequence = item.span.sequence;
        // A row must not overtake earlier rows of its own sequence.
        let behind = self
            .prefill
            .iter()
            .any(|waiting| waiting.span.sequence == sequence);
        if is_decode(&item.span) && !behind {
            self.decode.push_back(item);
        } else {
            self.prefill.push_back(item);
        }
    }

    pub(super) fn remove_where(&mut self, matches: impl Fn(&PassItem) -> bool) {
        self.decode.retain(|item| !matches(item));
        self.prefill.retain(|item| !matches(item));
    }

    /// Whether a pass with so many decode rows at most would have any rows.
    pub(super) fn has_rows(&self, decode_max: usize) -> bool {
        !self.prefill.is_empty() || decode_max > 0 && !self.decode.is_empty()
    }

    /// Takes the rows of the next pass: at least one item, no sequence twice, and
    /// `decode_max` decode rows at most.
    pub(super) fn next_pass(&mut self, decode_max: usize) -> Vec<PassItem> {
        let mut taken = Vec::new();
        let mut rows = 0;
        let mut seen = BTreeSet::new();
        for (queue, items_max) in [
            (&mut self.decode, decode_max),
            (&mut self.prefill, usize::MAX),
        ] {
            let items_before = taken.len();
            let mut left = VecDeque::with_capacity(queue.len());
            for item in queue.drain(..) {
                let next = rows + u64::from(item.span.rows);
                let fits = (taken.is_empty() || next <= PASS_ROWS_MAX)
                    && taken.len() - items_before < items_max;
                // Once a row of a sequence is passed over, its later rows are too.
                if seen.insert(item.span.sequence) && fits {
                    rows = next;
                    taken.push(item);
                } else {
                    left.push_back(item);
                }
            }
            *queue = left;
        }
        assert_distinct(&taken);
        taken
    }
}

/// Sequences named twice in one pass would race for one cache.
fn assert_distinct(items: &[PassItem]) {
    let distinct: BTreeSet<SequenceId> = items.iter().map(|item| item.span.sequence).collect();
    assert_eq!(distinct.len(), items.len(), "a sequence twice in one pass");
}

/// Whether the driver waits for this span: such rows go first.
pub(super) fn is_decode(span: &Span) -> bool {
    span.rows == 1 && span.ask == Ask::Token
}
