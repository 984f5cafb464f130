//! Credits: how many data frames each end may still send the other.
//!
//! The only backpressure on the data plane. A frame without a credit is a
//! violation, not a delay; a full link is an answer, never a wait.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_wire::Violation;
use cairn_wire::limits::CREDIT_WINDOW_FRAMES;
use tokio::sync::Notify;

/// This end's right to send.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: AtomicU32,
    /// Somebody was told `Full` and waits to be told otherwise.
    wanted: AtomicBool,
}

impl Allowance {
    pub(crate) fn new() -> Self {
        Self {
            left: AtomicU32::new(CREDIT_WINDOW_FRAMES),
            wanted: AtomicBool::new(false),
        }
    }

    /// Takes a credit; without one, remembers that somebody wanted it.
    pub(crate) fn spend(&self) -> bool {
        if self.try_spend() {
            return true;
        }
        self.wanted.store(true, Ordering::SeqCst);
        // A grant may have come between the two lines above and told nobody.
        self.try_spend()
    }

    /// Adds what the peer granted. Says whether somebody waits for it.
    pub(crate) fn grant(&self, frames: u32) -> Result<bool, Violation> {
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_add(frames)
                    .filter(|&left| left <= CREDIT_WINDOW_FRAMES)
            })
            .map_err(|_| Violation::Overgranted { frames })?;
        Ok(self.wanted.swap(false, Ordering::SeqCst))
    }

    fn try_spend(&self) -> bool {
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}

/// The peer's right to send, as this end granted it.
#[derive(Debug)]
pub(crate) struct Grants {
    account: Mutex<Account>,
    due: Notify,
}

#[derive(Debug)]
struct Account {
    /// Frames that the peer may still send.
    left: u32,
    /// Frames dealt with here, whose credits the peer does not have back yet.
    returned: u32,
}

impl Account {
    /// Credits go back in batches, so that a token does not cost a frame each way;
    /// at once when the peer has none left, or it would wait for nothing.
    fn is_due(&self) -> bool {
        self.returned >= CREDIT_WINDOW_FRAMES / 2 || (self.left == 0 && self.returned > 0)
    }
}

impl Grants {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            account: Mutex::new(Account {
                left: CREDIT_WINDOW_FRAMES,
                returned: 0,
            }),
            due: Notify::new(),
        })
    }

    /// Charges the peer for a frame that arrived.
    pub(crate) fn charge(self: &Arc<Self>) -> Result<CreditGuard, Violation> {
        let mut account = self.account();
        account.left = account.left.checked_sub(1).ok_or(Violation::Uncredited)?;
        if account.is_due() {
            self.due.notify_one();
        }
        Ok(CreditGuard {
            grants: Arc::clone(self),
        })
    }

    /// Waits until credits should go back. Cancelling loses nothing.
    pub(crate) async fn due(&self) {
        self.due.notified().await;
    }

    /// Takes the credits that are to go back now.
    pub(crate) fn take(&self) -> Option<u32> {
        let mut account = self.account();
        if !account.is_due() {
            return None;
        }
        let frames = std::mem::take(&mut account.returned);
        account.left += frames;
        Some(frames)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sender's credit, held while its frame is being dealt with.
#[derive(Debug)]
pub struct CreditGuard {
    grants: Arc<Grants>,
}

impl Drop for CreditGuard {
    fn drop(&mut self) {
        let mut account = self.grants.account();
        account.returned += 1;
        if account.is_due() {
            self.grants.due.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_all_there_is() {
        let allowance = Allowance::new();
        for _ in 0..CREDIT_WINDOW_FRAMES {
            assert!(allowance.spend());
        }
        assert!(!allowance.spend());
        assert_eq!(allowance.grant(3), Ok(true), "somebody waited");
        assert_eq!(allowance.grant(1), Ok(false), "and was told");
        assert_eq!(
            allowance.grant(CREDIT_WINDOW_FRAMES - 3),
            Err(Violation::Overgranted {
                frames: CREDIT_WINDOW_FRAMES - 3
            })
        );
    }

    #[test]
    fn credits_return_by_half_windows_or_when_the_peer_has_none() {
        let grants = Grants::new();
        let half = CREDIT_WINDOW_FRAMES / 2;
        let guards: Vec<_> = (0..half).map(|_| grants.charge().unwrap()).collect();
        assert_eq!(grants.take(), None, "nothing was dealt with");
        drop(guards);
        assert_eq!(grants.take(), Some(half));

        let mut guards: Vec<_> = (0..CREDIT_WINDOW_FRAMES)
            .map(|_| grants.charge().unwrap())
            .collect();
        assert!(matches!(grants.charge(), Err(Violation::Uncredited)));
        assert_eq!(grants.take(), None);
        guards.pop();
        assert_eq!(grants.take(), Some(1), "the peer waits for this one");
        guards.pop();
        assert_eq!(grants.take(), None, "now it has one");
    }
}
