//! How fast a peer's large frames come, as the reader saw it.
//!
//! What counts is what the reader could have: encryption and a busy thread are in it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use cairn_wire::stream::Transfer;

/// Transfers that count.
const TRANSFERS_MAX: usize = 15;

/// The last transfers over one link.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    lately: Mutex<VecDeque<u64>>,
}

impl Speed {
    /// A frame has come.
    pub(crate) fn note(&self, transfer: Option<Transfer>) {
        let Some(Transfer { bytes, took }) = transfer else {
            return;
        };
        let nanos = took.as_nanos().max(1);
        let speed = bytes as u128 * 1_000_000_000 / nanos;
        let speed = u64::try_from(speed).unwrap_or(u64::MAX);
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.len() == TRANSFERS_MAX {
            lately.pop_front();
        }
        lately.push_back(speed);
    }

    /// The median of the last ones.
    pub(crate) fn bytes_per_second(&self) -> Option<u64> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<u64> = lately.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_median_of_the_last_transfers_counts() {
        let speed = Speed::default();
        assert_eq!(speed.bytes_per_second(), None);
        let come = |bytes, millis| {
            let took = Duration::from_millis(millis);
            speed.note(Some(Transfer { bytes, took }));
            speed.bytes_per_second()
        };
        assert_eq!(come(1000, 1000), Some(1000));
        for _ in 0..TRANSFERS_MAX {
            come(1000, 10);
        }
        assert_eq!(come(1000, 1000), Some(100_000), "one slow one among many");
    }
}
