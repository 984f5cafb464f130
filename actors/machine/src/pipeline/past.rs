//! Sequences whose rows the stages may hold for others to start with: those that are answered,
//! with the rows of their prompts, and those that have ended.
//!
//! Knows no more than this node drove itself. A stage that has dropped the rows
//! says so, and the sequence then starts without them.

use std::collections::VecDeque;

use cairn_wire::data::Prefix;
use cairn_wire::id::SequenceId;

/// Sequences that are remembered; stages keep about as many as they have places for.
const PAST_MAX: usize = 32;
/// A shorter prefix is not worth the risk that a stage has dropped it.
const PREFIX_ROWS_MIN: usize = 16;

/// The sequences that came last under one plan, the latest last.
#[derive(Debug, Default)]
pub(super) struct Past {
    known: VecDeque<(SequenceId, Vec<u32>)>,
}

impl Past {
    /// Takes in a sequence with the tokens of the rows that all stages have computed.
    pub(super) fn remember(&mut self, sequence: SequenceId, tokens: Vec<u32>) {
        // Whoever could start with that one can start with this one.
        self.known.retain(|(_, old)| !tokens.starts_with(old));
        if self.known.len() == PAST_MAX {
            self.known.pop_front();
        }
        self.known.push_back((sequence, tokens));
    }

    /// The most rows that a prompt shares with one of them. Its last token is never among them:
    /// its row must be computed for the answer's first token.
    pub(super) fn longest_prefix(&self, prompt: &[u32]) -> Option<Prefix> {
        let most = prompt.len().saturating_sub(1);
        let shared = |tokens: &[u32]| {
            let pairs = tokens.iter().zip(&prompt[..most]);
            pairs.take_while(|(old, new)| old == new).count()
        };
        let known = self.known.iter();
        let all = known.map(|(sequence, tokens)| (shared(tokens), *sequence));
        let (rows, sequence) = all.max_by_key(|(rows, _)| *rows)?;
        (rows >= PREFIX_ROWS_MIN).then(|| Prefix {
            sequence,
            rows: u32::try_from(rows).expect("shorter than the context"),
        })
    }

    /// Forgets one: a stage has.
    pub(super) fn forget(&mut self, sequence: SequenceId) {
        self.known.retain(|(old, _)| *old != sequence);
    }

    /// Forgets them all: the stages have.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::node;

    fn sequence(number: u64) -> SequenceId {
        let driver = node(9);
        SequenceId { driver, number }
    }

    #[test]
    fn the_longest_shared_start_wins_and_the_last_token_stays_out() {
        let mut past = Past::default();
        assert_eq!(past.longest_prefix(&[1; 40]), None);
        past.remember(sequence(1), vec![1; 20]);
        past.remember(sequence(2), [vec![1; 18], vec![2; 20]].concat());
        let prefix = |sequence, rows| Some(Prefix { sequence, rows });
        let prompt = [vec![1; 18], vec![2; 5], vec![3; 5]].concat();
        assert_eq!(past.longest_prefix(&prompt), prefix(sequence(2), 23));
        assert_eq!(past.longest_prefix(&[1; 20]), prefix(sequence(1), 19));
        assert_eq!(past.longest_prefix(&[1; 15]), None, "too short to matter");
        assert_eq!(past.longest_prefix(&[]), None);
    }

    #[test]
    fn a_longer_sequence_takes_the_place_of_its_start() {
        let mut past = Past::default();
        past.remember(sequence(1), vec![1; 20]);
        past.remember(sequence(2), vec![1; 30]);
        assert_eq!(past.known.len(), 1);
        for number in 3..100 {
            past.remember(sequence(number), vec![number as u32; 20]);
        }
        assert_eq!(past.known.len(), PAST_MAX);
    }
}
