//! Numbers that a node tells of itself, set where they arise, read once a second.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_wire::control::NodeStatus;

/// All start at zero but the progress of loading.
#[derive(Debug)]
pub(crate) struct Gauges {
    pub(crate) weight_bytes: AtomicU64,
    pub(crate) kv_bytes: AtomicU64,
    pub(crate) loading_permille: AtomicU32,
    pub(crate) sequences: AtomicU32,
    pub(crate) queue_rows: AtomicU32,
    pub(crate) frames_stale: AtomicU64,
    pub(crate) frames_refused: AtomicU64,
    pub(crate) prefix_hits: AtomicU64,
    pub(crate) prefix_rows: AtomicU64,
    rows: AtomicU64,
    forwards: AtomicU64,
    forward_micros: AtomicU64,
    /// Passes of one row since they were last asked for, in microseconds.
    single_rows: Mutex<Vec<u64>>,
}

/// Passes of one row that are remembered; the ones after that are like those before.
const SINGLE_ROWS_MAX: usize = 1024;
/// Fewer say nothing.
const SINGLE_ROWS_MIN: usize = 8;

impl Default for Gauges {
    fn default() -> Self {
        Self {
            weight_bytes: AtomicU64::new(0),
            kv_bytes: AtomicU64::new(0),
            loading_permille: AtomicU32::new(1000),
            sequences: AtomicU32::new(0),
            queue_rows: AtomicU32::new(0),
            frames_stale: AtomicU64::new(0),
            frames_refused: AtomicU64::new(0),
            prefix_hits: AtomicU64::new(0),
            prefix_rows: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            forwards: AtomicU64::new(0),
            forward_micros: AtomicU64::new(0),
            single_rows: Mutex::default(),
        }
    }
}

impl Gauges {
    /// How far a download or a load is.
    pub(crate) fn loading(&self, done: u64, total: u64) {
        let permille = done.saturating_mul(1000) / total.max(1);
        let permille = u32::try_from(permille.min(1000)).expect("at most 1000");
        self.loading_permille.store(permille, Ordering::Relaxed);
    }

    /// Counts one pass of the engine.
    pub(crate) fn forward(&self, rows: u64, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.forwards.fetch_add(1, Ordering::Relaxed);
        self.forward_micros.fetch_add(micros, Ordering::Relaxed);
        let mut single_rows = self.lock();
        if rows == 1 && single_rows.len() < SINGLE_ROWS_MAX {
            single_rows.push(micros);
        }
    }

    /// The median time of the passes of one row since the last call, if they were enough.
    pub(crate) fn single_row_micros(&self) -> Option<u64> {
        let mut single_rows = std::mem::take(&mut *self.lock());
        single_rows.sort_unstable();
        let middle = single_rows.get(single_rows.len() / 2).copied();
        middle.filter(|_| single_rows.len() >= SINGLE_ROWS_MIN)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.single_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The status, but for what the process as a whole knows.
    pub(crate) fn status(&self, resident_bytes: u64, uptime_millis: u64) -> NodeStatus {
        NodeStatus {
            resident_bytes,
            weight_bytes: self.weight_bytes.load(Ordering::Relaxed),
            kv_bytes: self.kv_bytes.load(Ordering::Relaxed),
            uptime_millis,
            loading_permille: self.loading_permille.load(Ordering::Relaxed),
            sequences: self.sequences.load(Ordering::Relaxed),
            queue_rows: self.queue_rows.load(Ordering::Relaxed),
            rows_total: self.rows.load(Ordering::Relaxed),
            forwards_total: self.forwards.load(Ordering::Relaxed),
            forward_micros_total: self.forward_micros.load(Ordering::Relaxed),
            frames_stale_total: self.frames_stale.load(Ordering::Relaxed),
            frames_refused_total: self.frames_refused.load(Ordering::Relaxed),
            prefix_hits_total: self.prefix_hits.load(Ordering::Relaxed),
            prefix_rows_total: self.prefix_rows.load(Ordering::Relaxed),
        }
    }
}
