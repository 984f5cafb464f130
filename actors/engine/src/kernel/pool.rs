//! A pool of compute threads that spin briefly and then sleep.
//!
//! No futures, no queue of jobs, no global: every owner has its own pool, and a
//! job is a counted loop that its caller takes part in.
//!
//! The items of a job are dealt out in equal runs, one to each thread, so that
//! threads touch different cache lines and read memory in long stretches. Who
//! is done with its own run takes items from the others'.
//!
//! A decode step is some hundred jobs of a few microseconds, so a job must
//! start in well under one. Waking a sleeping thread costs more than that, so
//! workers spin after a job; but they spin for a bounded time, because a
//! spinning thread is a stolen core to every other program on the device.
//! Memory would be idle while one thread prepares what the next job works on,
//! so the threads that wait begin to fetch what they will read then.
//! A caller never waits for a worker that has not arrived: it closes the job
//! when the items are gone, and a late worker finds it closed. That is what
//! keeps a pool quick while another process holds one of its cores.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::cores;
use super::simd::fetch_far;

/// How long a worker looks for the next job before it sleeps. Longer than the
/// gap between two jobs of one forward pass, shorter than a scheduler's slice.
pub(crate) const SPIN: Duration = Duration::from_micros(60);

const LINE_BYTES: usize = 64;
/// How much the caller asks for ahead before it goes on with other things.
const CALLER_AHEAD_BYTES: usize = 16 << 10;

/// The low bit of [`Gate`]: workers may still enter the job.
const OPEN: u64 = 1;
/// One worker inside the job, in [`Gate`].
const ONE_INSIDE: u64 = 2;
/// One job, in [`Gate`]: above any possible count of workers inside.
const ONE_EPOCH: u64 = 1 << 20;

type Job = *const (dyn Fn(usize, usize) + Sync);

/// Binds the calling thread, which gives the jobs of a pool that is
/// [`Pool::pinned`], to the first core that it may use.
pub fn bind_caller() {
    if let Some(&first) = cores::allowed().first() {
        cores::pin(first);
    }
}

/// How many cores the calling thread may be bound to; `None` where the system
/// does not tell.
#[must_use]
pub fn cores_allowed() -> Option<usize> {
    Some(cores::allowed().len()).filter(|&count| count > 0)
}

/// A fixed set of threads; the caller of a job is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Jobs of one pool take turns; two callers of one pool queue here.
    turn: Mutex<()>,
}

struct Shared {
    gate: Gate,
    /// The job of the current epoch. Written only while the gate is closed and
    /// nobody is inside; read only by a worker that is inside.
    job: UnsafeCell<Job>,
    /// Per thread, its run of the items. Written as `job` is.
    runs: Box<[Run]>,
    /// Per thread, what it begins to fetch when its part of the job is done.
    ahead: Box<[Ahead]>,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
    caller: Mutex<Option<Thread>>,
    caller_asleep: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Epoch, workers inside, and whether the job is open, in one word, so that
/// entering a job and closing it cannot cross. Alone on its cache lines (CPUs
/// fetch them in pairs), because idle workers look at it all the time.
#[repr(align(128))]
struct Gate(AtomicU64);

/// Consecutive items that one thread begins with; alone on its cache lines.
#[repr(align(128))]
struct Run {
    next: AtomicUsize,
    end: AtomicUsize,
}

/// Memory that one thread will read in a job to come; alone on its cache lines. Only asked for,
/// so nothing depends on what becomes of it.
#[derive(Default)]
#[repr(align(128))]
struct Ahead {
    at: AtomicPtr<u8>,
    bytes: AtomicUsize,
}

impl Ahead {
    /// Asks for all of it, until `stop`.
    fn fetch(&self, stop: impl Fn() -> bool) {
        if self.bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        let at = self.at.load(Ordering::Relaxed);
        for line in (0..bytes).step_by(LINE_BYTES) {
            if line % (8 * LINE_BYTES) == 0 && stop() {
                return;
            }
            fetch_far(at.wrapping_add(line));
        }
    }
}

impl Run {
    fn take(&self) -> Option<usize> {
        let end = self.end.load(Ordering::Relaxed);
        // Looking first keeps an exhausted run's line shared.
        if self.next.load(Ordering::Relaxed) >= end {
            return None;
        }
        let item = self.next.fetch_add(1, Ordering::Relaxed);
        (item < end).then_some(item)
    }
}

// SAFETY: `job` is the only field that is not already shareable. The gate
// orders its writes (gate closed, nobody inside) before its reads (inside).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller of each job being one of them:
    /// `threads - 1` are started. Zero counts as one.
    ///
    /// # Panics
    /// When the system refuses to start a thread.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::start(threads, &[])
    }

    /// [`Pool::new`] with every worker bound to a core of its own among those
    /// that the calling thread may use; the first is left to whoever gives the
    /// jobs, which [`bind_caller`] binds. Wraps around when there are more
    /// threads than cores; does nothing where the system cannot bind.
    ///
    /// # Panics
    /// As [`Pool::new`].
    #[must_use]
    pub fn pinned(threads: usize) -> Self {
        Self::start(threads, &cores::allowed())
    }

    fn start(threads: usize, cores: &[usize]) -> Self {
        let worker_count = threads.saturating_sub(1);
        assert!(worker_count < 1 << 16, "a pool is as wide as a machine");
        let idle: &(dyn Fn(usize, usize) + Sync) = &|_, _| {};
        let shared = Arc::new(Shared {
            gate: Gate(AtomicU64::new(0)),
            job: UnsafeCell::new(idle),
            runs: (0..=worker_count)
                .map(|_| Run {
                    next: AtomicUsize::new(0),
                    end: AtomicUsize::new(0),
                })
                .collect(),
            ahead: (0..=worker_count).map(|_| Ahead::default()).collect(),
            stop: AtomicBool::new(false),
            asleep: (0..worker_count).map(|_| AtomicBool::new(false)).collect(),
            caller: Mutex::new(None),
            caller_asleep: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (0..worker_count)
            .map(|worker| {
                let shared = Arc::clone(&shared);
                let core = cores.get((worker + 1) % cores.len().max(1)).copied();
                thread::Builder::new()
                    .name(format!("compute-{}", worker + 1))
                    .spawn(move || {
                        if let Some(core) = core {
                            cores::pin(core);
                        }
                        shared.work(worker);
                    })
                    .expect("the system starts a compute thread")
            })
            .collect();
        Self {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// Threads that can work on one job, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(worker, item)` once for every item below `count` and returns
    /// when all calls have. `worker` is below [`Pool::threads`] and no two
    /// calls that run at once share it; the caller is worker 0. Each thread
    /// begins with its own run of items and then helps the others, so a job
    /// must not care which worker runs an item or in which order, and no item
    /// may wait for another.
    ///
    /// # Panics
    /// With the panic of an item, after the others have stopped.
    pub fn for_each(&self, count: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        if count == 0 {
            return;
        }
        if count == 1 || self.workers.is_empty() {
            for item in 0..count {
                job(0, item);
            }
            return;
        }
        let turn = lock(&self.turn);
        self.open(count, job);
        let mine = catch_unwind(AssertUnwindSafe(|| self.shared.drain(0, job)));
        self.shared.ahead[0].fetch(|| false);
        self.close();
        let theirs = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Calls `part(index, threads)` once for every index below
    /// [`Pool::threads`], at once where that many threads are free.
    pub fn run(&self, part: &(dyn Fn(usize, usize) + Sync)) {
        let threads = self.threads();
        self.for_each(threads, &|_, index| part(index, threads));
    }

    /// The item of a job of `count` that a thread begins with.
    pub(super) fn first_item(&self, count: usize, thread: usize) -> usize {
        count * thread / self.threads()
    }

    /// When a thread has done its part of the next job, it asks for the memory that `first` gives
    /// it, which it will read first in a later one: a worker until there is another job, the
    /// caller for a little of it. A worker that is roused does so at once.
    pub(super) fn expect<'m>(&self, first: impl Fn(usize) -> &'m [u8]) {
        for (thread, ahead) in self.shared.ahead.iter().enumerate() {
            let first = first(thread);
            let bytes = match thread {
                0 => first.len().min(CALLER_AHEAD_BYTES),
                _ => first.len(),
            };
            ahead.at.store(first.as_ptr().cast_mut(), Ordering::Relaxed);
            ahead.bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// Wakes the workers for a job that is about to come: they look for it for as long as
    /// after a job, and then sleep again.
    pub fn rouse(&self) {
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }

    fn open(&self, count: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. `close` returns before `job`'s
        // borrow ends, and after it no worker is inside or can enter.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), Job>(job) };
        // SAFETY: the turn is ours, the gate is closed and nobody is inside
        // (`close` of the last job waited for that), so nobody reads `job`.
        unsafe { *shared.job.get() = job };
        for (thread, run) in shared.runs.iter().enumerate() {
            run.next
                .store(self.first_item(count, thread), Ordering::Relaxed);
            run.end
                .store(self.first_item(count, thread + 1), Ordering::Relaxed);
        }
        let gate = &shared.gate.0;
        let closed = gate.load(Ordering::Relaxed);
        debug_assert_eq!(closed % ONE_EPOCH, 0, "the last job was closed and left");
        gate.store(closed.wrapping_add(ONE_EPOCH) | OPEN, Ordering::SeqCst);
        self.rouse();
    }

    /// Shuts the gate and waits for the workers that are inside.
    fn close(&self) {
        let shared = &*self.shared;
        let inside = |gate: u64| gate % ONE_EPOCH >= ONE_INSIDE;
        if !inside(shared.gate.0.fetch_and(!OPEN, Ordering::SeqCst)) {
            return;
        }
        if spin_until(|| !inside(shared.gate.0.load(Ordering::Acquire))) {
            return;
        }
        *lock(&shared.caller) = Some(thread::current());
        while {
            shared.caller_asleep.store(true, Ordering::SeqCst);
            inside(shared.gate.0.load(Ordering::SeqCst))
        } {
            thread::park();
        }
        shared.caller_asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            worker
                .join()
                .expect("a worker catches the panics of its jobs");
        }
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let ready = || {
                let gate = self.gate.0.load(Ordering::SeqCst);
                (gate & OPEN != 0 && gate / ONE_EPOCH != seen) || self.stop.load(Ordering::Relaxed)
            };
            while !spin_until(ready) {
                let asleep = &self.asleep[worker];
                asleep.store(true, Ordering::SeqCst);
                // Whoever wakes it takes that back; a job opened before was not told of it.
                while asleep.load(Ordering::SeqCst) && !ready() {
                    thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
                // Roused before there is a job.
                self.ahead[worker + 1].fetch(ready);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(epoch) = self.enter() {
                seen = epoch;
                self.take_part(worker + 1);
                self.leave();
                let another = || self.gate.0.load(Ordering::Relaxed) / ONE_EPOCH != epoch;
                self.ahead[worker + 1].fetch(another);
            }
        }
    }

    /// Enters the open job; `None` when it closed first.
    fn enter(&self) -> Option<u64> {
        let open = |gate: u64| (gate & OPEN != 0).then_some(gate.wrapping_add(ONE_INSIDE));
        let entered = self
            .gate
            .0
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, open);
        entered.ok().map(|gate| gate / ONE_EPOCH)
    }

    fn take_part(&self, worker: usize) {
        // SAFETY: this worker is inside, so the caller is in `for_each` and
        // neither writes the cell nor lets the job's borrow end.
        let job = unsafe { &**self.job.get() };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.drain(worker, job))) {
            lock(&self.panic).get_or_insert(payload);
            // The remaining items are pointless: the caller will unwind.
            for run in &self.runs {
                run.end.store(0, Ordering::Relaxed);
            }
        }
    }

    fn leave(&self) {
        let gate = self.gate.0.fetch_sub(ONE_INSIDE, Ordering::SeqCst);
        let last = gate & OPEN == 0 && gate % ONE_EPOCH == ONE_INSIDE;
        if last
            && self.caller_asleep.load(Ordering::SeqCst)
            && let Some(caller) = &*lock(&self.caller)
        {
            caller.unpark();
        }
    }

    fn drain(&self, worker: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let (before, own) = self.runs.split_at(worker);
        for run in own.iter().chain(before) {
            while let Some(item) = run.take() {
                job(worker, item);
            }
        }
    }
}

/// Spins until `done` or for [`SPIN`]; says whether it saw `done`.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let mut since = None;
    loop {
        for _ in 0..64 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if since.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

/// A panic in a job is carried to its caller; it poisons nothing here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
