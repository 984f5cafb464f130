//! Who runs an errand, and that nothing of it is lost.

use std::sync::atomic::AtomicUsize;
use std::thread::{JoinHandle, ThreadId, current};

use futures::StreamExt;
use futures::channel::mpsc;
use tokio::sync::oneshot;

use super::*;

/// A network thread with one errand: it notes who runs it for each number it is sent,
/// and ends with the channel.
struct Thread {
    numbers: mpsc::UnboundedSender<u32>,
    runs: std::sync::mpsc::Receiver<(u32, ThreadId)>,
    thread: JoinHandle<()>,
}

fn thread() -> Thread {
    let (numbers, mut sent) = mpsc::unbounded();
    let (note, runs) = std::sync::mpsc::channel();
    let (up, is_up) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let work = async move {
            up.send(()).expect("the test waits");
            while let Some(number) = sent.next().await {
                assert_ne!(number, u32::MAX, "a test's own panic");
                note.send((number, current().id())).expect("the test waits");
            }
        };
        runtime().block_on(Task::new(Box::pin(work)));
    });
    is_up.recv().expect("the thread runs");
    Thread {
        numbers,
        runs,
        thread,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn the_thread_that_brings_work_runs_it() {
    let Thread {
        numbers,
        runs,
        thread,
    } = thread();
    // The thread may still be at the end of a run of its own, which leaves it the next.
    let mut own = 0;
    for number in 0.. {
        assist(|| numbers.unbounded_send(number)).expect("it listens");
        let (found, runner) = runs.recv().expect("it runs");
        assert_eq!(found, number);
        own += u32::from(runner == current().id());
        if own == 10 {
            break;
        }
        assert!(number < 1_000_000, "it never runs here");
    }
    // Brought from within, work is the outer call's to run; without one, the thread's.
    assist(|| assist(|| numbers.unbounded_send(100))).expect("it listens");
    assert_eq!(runs.recv().expect("it runs").0, 100);
    numbers.unbounded_send(101).expect("it listens");
    assert_eq!(runs.recv(), Ok((101, thread.thread().id())));
    assist(|| drop(numbers));
    thread.join().expect("the task hears of the end");
}

#[test]
fn a_panic_ends_the_errand_and_not_the_caller() {
    let Thread {
        numbers,
        runs,
        thread,
    } = thread();
    assist(|| numbers.unbounded_send(u32::MAX)).expect("it listens");
    thread.join().expect("the task ends");
    assert!(runs.recv().is_err(), "the work is dropped");
}

#[test]
fn a_panic_of_the_caller_leaves_the_work_to_the_thread() {
    let Thread {
        numbers,
        runs,
        thread,
    } = thread();
    let fell = catch_unwind(AssertUnwindSafe(|| {
        assist(|| {
            numbers.unbounded_send(1).expect("it listens");
            panic!("a test's own panic");
        });
    }));
    assert!(fell.is_err());
    assert_eq!(runs.recv(), Ok((1, thread.thread().id())));
    drop(numbers);
    thread.join().expect("the task hears of the end");
}

#[test]
fn many_threads_lose_nothing() {
    const EACH: usize = 20_000;
    const THREADS: usize = 3;
    let (numbers, mut sent) = mpsc::unbounded::<()>();
    let counted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&counted);
    let work = async move {
        while sent.next().await.is_some() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    };
    let (begun, has_begun) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async {
            let errand = tokio::spawn(Task::new(Box::pin(work)));
            begun.send(()).expect("the test waits");
            errand.await.expect("no panic");
        });
    });
    has_begun.blocking_recv().expect("the thread runs");
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    assist(|| numbers.unbounded_send(())).expect("it listens");
                }
            });
        }
    });
    drop(numbers);
    thread.join().expect("the task hears of the end");
    assert_eq!(counted.load(Ordering::SeqCst), THREADS * EACH);
}
