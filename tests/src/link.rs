//! The data plane of one connection as its two ends see it: credits out, credits owed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_machine::Tick;
use cairn_wire::frame::DataFrame;
use cairn_wire::limits::CREDIT_WINDOW_FRAMES;

/// Credits are given back so many at a time.
const GRANT_FRAMES: u32 = CREDIT_WINDOW_FRAMES / 4;

/// One end.
#[derive(Debug)]
pub struct Link {
    /// Since when.
    pub opened: Tick,
    credits: u32,
    /// A sender was told that there is no room.
    wanted: Wanted,
    /// Frames that arrived and are not yet paid back.
    outstanding: u32,
    done: Arc<AtomicU32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Room,
}

/// Lives as long as a frame; its end is a credit.
#[derive(Debug)]
struct Guard(Arc<AtomicU32>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Link {
    /// A connection that has just been made.
    pub fn new(opened: Tick) -> Link {
        Link {
            opened,
            credits: CREDIT_WINDOW_FRAMES,
            wanted: Wanted::Nothing,
            outstanding: 0,
            done: Arc::new(AtomicU32::new(0)),
        }
    }

    /// Pays for a frame to the peer. False when there is no room: the caller hears of it.
    pub fn spend(&mut self) -> bool {
        match self.credits.checked_sub(1) {
            Some(left) => {
                self.credits = left;
                true
            }
            None => {
                self.wanted = Wanted::Room;
                false
            }
        }
    }

    /// The peer granted credits. True if a sender waits for them.
    pub fn granted(&mut self, frames: u32) -> bool {
        self.credits += frames;
        assert!(
            self.credits <= CREDIT_WINDOW_FRAMES,
            "credits out of nothing"
        );
        std::mem::replace(&mut self.wanted, Wanted::Nothing) == Wanted::Room
    }

    /// Takes a frame from the peer; rows are paid back when their last clone goes.
    ///
    /// # Panics
    /// When the peer had no credit for it.
    pub fn take(&mut self, frame: DataFrame) -> DataFrame {
        self.outstanding += 1;
        assert!(
            self.outstanding <= CREDIT_WINDOW_FRAMES,
            "a frame without a credit"
        );
        let guard = Box::new(Guard(Arc::clone(&self.done)));
        match frame {
            DataFrame::Rows(rows) => DataFrame::Rows(rows.with_guard(guard)),
            frame @ (DataFrame::Open(_)
            | DataFrame::Close(_)
            | DataFrame::Sampled(_)
            | DataFrame::Failed(_)
            | DataFrame::Credit(_)) => frame,
        }
    }

    /// The credits to give back now, if it is worth a frame.
    pub fn grant(&mut self) -> Option<u32> {
        if self.done.load(Ordering::Relaxed) < GRANT_FRAMES {
            return None;
        }
        let frames = self.done.swap(0, Ordering::Relaxed);
        self.outstanding -= frames;
        Some(frames)
    }
}
