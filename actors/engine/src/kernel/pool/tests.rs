use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{CALLER_AHEAD_BYTES, Pool};

#[test]
fn every_item_runs_once() {
    for threads in [0, 1, 2, 3, 8] {
        let pool = Pool::new(threads);
        for count in [0, 1, 2, 7, 100] {
            let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(count, &|worker, item| {
                assert!(worker < pool.threads());
                runs[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn no_worker_runs_two_items_at_once() {
    let pool = Pool::new(4);
    let busy: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
    for _ in 0..200 {
        pool.for_each(64, &|worker, _| {
            assert_eq!(busy[worker].fetch_add(1, Ordering::SeqCst), 0);
            std::hint::black_box((0..50).sum::<u64>());
            busy[worker].fetch_sub(1, Ordering::SeqCst);
        });
    }
}

#[test]
fn run_hands_out_every_part() {
    let pool = Pool::new(3);
    let seen = AtomicUsize::new(0);
    pool.run(&|part, parts| {
        assert_eq!(parts, 3);
        seen.fetch_add(1 << (8 * part), Ordering::Relaxed);
    });
    assert_eq!(seen.into_inner(), 0x01_01_01);
}

#[test]
fn jobs_follow_sleep_and_sleep_follows_jobs() {
    let pool = Pool::new(2);
    let sum = AtomicUsize::new(0);
    for round in 0..300 {
        pool.for_each(2, &|_, item| {
            sum.fetch_add(item + round, Ordering::Relaxed);
        });
        if round % 100 == 0 {
            // Long enough that the worker parks: the next job must wake it
            // or do without it.
            let parked = Instant::now();
            while parked.elapsed() < Duration::from_millis(2) {
                std::thread::yield_now();
            }
        }
    }
    assert_eq!(
        sum.into_inner(),
        (0..300).map(|round| 2 * round + 1).sum::<usize>()
    );
}

#[test]
fn a_caller_that_outlives_its_spin_is_woken() {
    let pool = Pool::new(2);
    for _ in 0..5 {
        let entered = AtomicUsize::new(0);
        pool.for_each(2, &|worker, _| {
            // Both threads are inside before either goes on, and the worker
            // then stays past the caller's spin.
            entered.fetch_add(1, Ordering::SeqCst);
            while entered.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            let since = Instant::now();
            while worker != 0 && since.elapsed() < Duration::from_millis(3) {
                std::hint::spin_loop();
            }
        });
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads);
        for bad in [0, 5, 9] {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.for_each(10, &|_, item| assert_ne!(item, bad, "item {item} is bad"));
            }));
            let payload = caught.expect_err("the panic propagates");
            let text = payload.downcast_ref::<String>().expect("a formatted panic");
            assert!(text.contains(&format!("item {bad} is bad")), "{text}");
            let after = AtomicUsize::new(0);
            pool.for_each(10, &|_, _| {
                after.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(after.into_inner(), 10);
        }
    }
}

#[test]
fn callers_of_one_pool_take_turns_and_pools_live_side_by_side() {
    let pools = [Pool::new(3), Pool::new(3)];
    let sum = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (pool, sum) = (&pools[caller % 2], &sum);
            scope.spawn(move || {
                for _ in 0..200 {
                    pool.for_each(16, &|_, _| {
                        sum.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 4 * 200 * 16);
}

#[test]
#[cfg(target_os = "linux")]
fn pinned_threads_stay_on_cores_that_were_allowed() {
    // On a thread of its own, because the caller is bound as well.
    let check = || {
        let allowed = super::cores::allowed();
        let pool = Pool::pinned(3);
        super::bind_caller();
        let seen = AtomicUsize::new(0);
        pool.for_each(50, &|_, _| {
            let mine = super::cores::allowed();
            assert!(mine.len() == 1 && allowed.contains(&mine[0]), "{mine:?}");
            seen.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(seen.into_inner(), 50);
    };
    std::thread::spawn(check).join().expect("the checks hold");
}

#[test]
fn a_worker_that_was_roused_for_nothing_still_hears_of_the_next_job() {
    let pool = Pool::new(2);
    for _ in 0..50 {
        // Asleep, it is roused; some times it is asleep again when the job comes, some times not.
        let parked = Instant::now();
        while parked.elapsed() < Duration::from_micros(150) {
            std::thread::yield_now();
        }
        pool.rouse();
        // Each item waits until the other one runs, so that the worker has to come.
        let inside = AtomicUsize::new(0);
        pool.for_each(2, &|_, _| {
            inside.fetch_add(1, Ordering::SeqCst);
            while inside.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        });
    }
}

#[test]
fn what_is_expected_is_asked_for_after_a_job_or_when_roused() {
    let pool = Pool::new(2);
    let memory = vec![0; 4 * CALLER_AHEAD_BYTES];
    let left = |thread: usize| pool.shared.ahead[thread].bytes.load(Ordering::Relaxed);
    let until = |done: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !done() {
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "the worker took it up"
            );
            std::thread::yield_now();
        }
    };

    pool.expect(|_| &memory);
    assert_eq!((left(0), left(1)), (CALLER_AHEAD_BYTES, memory.len()));
    // Each item waits until the other one runs, so that the worker has to come.
    let inside = AtomicUsize::new(0);
    pool.for_each(2, &|_, _| {
        inside.fetch_add(1, Ordering::SeqCst);
        while inside.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
    });
    assert_eq!(left(0), 0);
    until(&|| left(1) == 0);

    until(&|| pool.shared.asleep[0].load(Ordering::SeqCst));
    pool.expect(|_| &memory);
    pool.rouse();
    until(&|| left(1) == 0);
    assert_eq!(left(0), CALLER_AHEAD_BYTES, "the caller has its own work");
}
