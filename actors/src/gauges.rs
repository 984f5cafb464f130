//! Numbers that a node tells of itself, set where they arise, read once a second.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cairn_machine::Tick;
use cairn_machine::placement::Seen;
use cairn_machine::seen::{LinkTimes, StageTimes};
use cairn_machine::shard::Pass;
use cairn_wire::control::{NodeStatus, Standing};
use cairn_wire::id::{NodeId, PlanId};

/// All start at zero but the progress of loading.
#[derive(Debug)]
pub(crate) struct Gauges {
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
    started: Instant,
    stages: Mutex<StageTimes>,
    links: Mutex<LinkTimes>,
    standing: Mutex<Option<Standing>>,
}

/// What is known of the process as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) resident_bytes: u64,
    pub(crate) weight_bytes: u64,
    pub(crate) uptime_millis: u64,
}

/// What is kept of a pass until it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassStart {
    plan: PlanId,
    rows: u64,
    is_one_row: bool,
    waited_millis: u64,
}

impl From<&Pass> for PassStart {
    fn from(pass: &Pass) -> Self {
        Self {
            plan: pass.plan,
            rows: pass.rows(),
            is_one_row: pass.is_one_row(),
            waited_millis: pass.waited_millis,
        }
    }
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
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
            started: Instant::now(),
            stages: Mutex::default(),
            links: Mutex::default(),
            standing: Mutex::default(),
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
    pub(crate) fn forward(&self, pass: PassStart, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.rows.fetch_add(pass.rows, Ordering::Relaxed);
        self.forwards.fetch_add(1, Ordering::Relaxed);
        self.forward_micros.fetch_add(micros, Ordering::Relaxed);
        if pass.is_one_row {
            let waited_micros = pass.waited_millis.saturating_mul(1000);
            lock(&self.stages).decoded(self.now(), pass.plan, micros, waited_micros);
        }
    }

    /// The layers of a plan are gone.
    pub(crate) fn dropped(&self, plan: PlanId) {
        lock(&self.stages).forget(plan);
    }

    /// A message went to a neighbour and back; large frames come from it so fast, if any did.
    pub(crate) fn round_trip(&self, peer: NodeId, took: Duration, speed: Option<u64>) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut links = lock(&self.links);
        links.round_trip(peer, micros);
        if let Some(bytes_per_second) = speed {
            links.speed(peer, bytes_per_second);
        }
    }

    /// A link is gone.
    pub(crate) fn unlinked(&self, peer: NodeId) {
        lock(&self.links).forget(peer);
    }

    /// This node keeps these layers for others.
    pub(crate) fn stands_by(&self, standing: Option<Standing>) {
        *lock(&self.standing) = standing;
    }

    /// What this node sees of its stage and its links.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            stage: lock(&self.stages).seen(self.now()),
            links: lock(&self.links).seen(),
        }
    }

    /// The median time of a decode pass of one row, while there are enough of them.
    pub(crate) fn single_row_micros(&self) -> Option<u64> {
        Some(self.seen().stage?.decode_micros)
    }

    fn now(&self) -> Tick {
        let millis = self.started.elapsed().as_millis();
        Tick(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// The status, with what is known of the process as a whole.
    pub(crate) fn status(&self, process: Process) -> NodeStatus {
        let Seen { stage, links } = self.seen();
        NodeStatus {
            resident_bytes: process.resident_bytes,
            weight_bytes: process.weight_bytes,
            kv_bytes: self.kv_bytes.load(Ordering::Relaxed),
            uptime_millis: process.uptime_millis,
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
            stage,
            links,
            standing: lock(&self.standing).clone(),
        }
    }
}

/// Whoever panicked while it held a list of numbers left them as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
