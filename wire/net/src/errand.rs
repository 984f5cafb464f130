//! Tasks that the network thread runs, or at once whoever brings them work.
//!
//! A frame left in a queue waits until the system has woken the network thread, and a
//! small frame's trip consists of little but such wake-ups. So the thread that hands a
//! frame over also encrypts and writes it, while the network thread sleeps on. Reading
//! stays with the network thread: no errand calls the sink, so that a caller may offer
//! under a lock that its sink takes too.
//!
//! A thread that the system stops in the middle of an errand holds that connection up,
//! heartbeats too, until it runs again. A run takes microseconds and such a stop some
//! milliseconds, where peers wait for hundreds.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// Runs within one call of [`assist`]. A frame takes two, its session's and its
/// connection's; what is woken beyond that is left to the network thread.
const RUNS_MAX: usize = 4;

/// What an errand consists of.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// Errands woken by this thread while it assists; none while it does not.
    static WOKEN: RefCell<Option<Vec<Arc<Errand>>>> = const { RefCell::new(None) };
}

/// The network thread's share of an errand: a future to be spawned there. Dropping it
/// drops the work.
pub(crate) struct Task(Arc<Errand>);

struct Errand {
    /// Locked by whoever runs it. None when it is done.
    work: Mutex<Option<Work>>,
    /// Woken since the last run began.
    woken: AtomicBool,
    /// Wakes the network thread's task.
    task: AtomicWaker,
}

impl Task {
    pub(crate) fn new(work: Work) -> Self {
        Self(Arc::new(Errand {
            work: Mutex::new(Some(work)),
            woken: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }))
    }
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.task.register(context.waker());
        self.0.run()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // A thread that is running it is done in microseconds: work never waits.
        let work = self.0.lock().take();
        drop(work);
    }
}

/// Hands something over and runs the errands that this wakes, here and now. Within
/// another call it only hands over: the outer one runs them.
pub(crate) fn assist<T>(hand_over: impl FnOnce() -> T) -> T {
    let Some(shift) = Shift::begin() else {
        return hand_over();
    };
    let handed = hand_over();
    shift.run();
    handed
}

/// Held while a thread assists. What is still woken in the end goes to the network
/// thread, after a panic too.
struct Shift;

impl Shift {
    fn begin() -> Option<Self> {
        WOKEN.with_borrow_mut(|woken| match woken {
            Some(_) => None,
            None => {
                *woken = Some(Vec::with_capacity(RUNS_MAX));
                Some(Self)
            }
        })
    }

    fn run(&self) {
        for _ in 0..RUNS_MAX {
            let next = WOKEN.with_borrow_mut(|woken| woken.as_mut()?.pop());
            let Some(errand) = next else {
                return;
            };
            if errand.run().is_ready() {
                // The task is still to hear of it.
                errand.task.wake();
            }
        }
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        for errand in WOKEN.take().unwrap_or_default() {
            errand.task.wake();
        }
    }
}

impl Errand {
    /// Runs it until it waits, unless another thread does so already.
    fn run(self: &Arc<Self>) -> Poll<()> {
        let mut work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever runs it will see that it was woken again.
            Err(TryLockError::WouldBlock) => return Poll::Pending,
        };
        self.woken.swap(false, Ordering::SeqCst);
        let Some(future) = work.as_mut() else {
            return Poll::Ready(());
        };
        let waker = Waker::from(Arc::clone(self));
        let mut context = Context::from_waker(&waker);
        // A caller must not fall with a connection that it happened to run.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)))
            .unwrap_or_else(|_| {
                tracing::error!("a task of the network thread panicked");
                Poll::Ready(())
            });
        if polled.is_ready() {
            *work = None;
            return Poll::Ready(());
        }
        drop(work);
        // Whoever came in between has gone again.
        if self.woken.load(Ordering::SeqCst) {
            self.notify();
        }
        Poll::Pending
    }

    fn notify(self: &Arc<Self>) {
        let assisted = WOKEN.try_with(|woken| match &mut *woken.borrow_mut() {
            Some(woken) => {
                woken.push(Arc::clone(self));
                true
            }
            None => false,
        });
        // A thread that is ending has no such list any more.
        if !assisted.unwrap_or(false) {
            self.task.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Errand {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.notify();
    }
}

#[cfg(test)]
mod tests;
