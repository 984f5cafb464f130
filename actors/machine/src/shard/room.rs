//! The pages of the cache that a stage's sequences hold, those of several counted once.
//!
//! Holds no page: it follows what the engine does with them. The engine may hold fewer, as it
//! takes a page when the first row for it comes, and never more.

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::data::Prefix;
use cairn_wire::id::SequenceId;

/// Rows of a page: what the engine shares, and the unit in which room is counted.
pub const PAGE_ROWS: u32 = 256;

/// Who holds which pages.
#[derive(Debug, Default)]
pub(super) struct Room {
    held: BTreeMap<SequenceId, Vec<Page>>,
    /// Pages that there ever were.
    pages: u64,
}

/// Names a page; a name is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Page(u64);

impl Room {
    /// Counts a sequence that may grow to `rows_max` rows. It has the whole pages of its prefix
    /// in common with the sequence that had it; what the prefix has of another page is copied.
    pub(super) fn take(&mut self, sequence: SequenceId, rows_max: u32, prefix: Option<Prefix>) {
        let mut pages = Vec::new();
        if let Some(prefix) = prefix
            && let Some(earlier) = self.held.get(&prefix.sequence)
        {
            let whole = prefix.rows.min(rows_max) / PAGE_ROWS;
            pages.extend(earlier.iter().take(whole as usize));
        }
        while pages.len() < page_count(rows_max) {
            pages.push(Page(self.pages));
            self.pages += 1;
        }
        self.held.insert(sequence, pages);
    }

    /// The sequence has ended with `rows` rows.
    pub(super) fn trim(&mut self, sequence: SequenceId, rows: u32) {
        if let Some(pages) = self.held.get_mut(&sequence) {
            pages.truncate(page_count(rows));
        }
    }

    /// The sequence is gone.
    pub(super) fn give_back(&mut self, sequence: SequenceId) {
        self.held.remove(&sequence);
    }

    /// Pages that anybody holds.
    pub(super) fn used(&self) -> usize {
        let all: BTreeSet<Page> = self.held.values().flatten().copied().collect();
        all.len()
    }
}

/// Pages that so many rows take.
pub(super) fn page_count(rows: u32) -> usize {
    rows.div_ceil(PAGE_ROWS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::node;

    fn sequence(number: u64) -> SequenceId {
        let driver = node(9);
        SequenceId { driver, number }
    }

    fn prefix(number: u64, rows: u32) -> Option<Prefix> {
        let sequence = sequence(number);
        Some(Prefix { sequence, rows })
    }

    #[test]
    fn a_start_that_many_have_counts_once() {
        let mut room = Room::default();
        // Five whole pages of the 1,500 rows, and a part of the sixth.
        room.take(sequence(1), 2048, None);
        assert_eq!(room.used(), 8);
        room.trim(sequence(1), 1500);
        assert_eq!(room.used(), 6);
        for number in 2..12 {
            room.take(sequence(number), 2048, prefix(1, 1500));
        }
        assert_eq!(room.used(), 6 + 10 * 3);
    }

    #[test]
    fn what_others_share_outlives_whoever_had_it_first() {
        let mut room = Room::default();
        room.take(sequence(1), 600, None);
        room.take(sequence(2), 600, prefix(1, 512));
        room.take(sequence(3), 600, prefix(2, 600));
        assert_eq!(room.used(), 2 + 3);
        room.give_back(sequence(1));
        assert_eq!(room.used(), 2 + 2);
        room.give_back(sequence(2));
        assert_eq!(room.used(), 3);
        room.give_back(sequence(3));
        assert_eq!(room.used(), 0);
    }

    #[test]
    fn a_prefix_longer_than_the_sequence_takes_no_more_than_it_asked_for() {
        let mut room = Room::default();
        room.take(sequence(1), 1024, None);
        room.take(sequence(2), 300, prefix(1, 1024));
        assert_eq!(room.used(), 4 + 1);
    }
}
