//! How long something took: by the time that passed, or by what of it the calling thread ran.
//!
//! Says durations, never what time it is.

use std::time::{Duration, Instant};

use crate::kernel::SPIN;

/// Which time counts. Where the system does not tell of threads, all that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// All that passes: what a stage is seen to take.
    Wall,
    /// What the system lets the calling thread run.
    Thread,
    /// What the system lets all threads of the process run, shared out among so many that
    /// compute. A pool that is stopped now and then, because its control group has used up its
    /// part of the processors, is as fast as any other while it runs; and where it stops one
    /// thread before the others, these do that one's work. What they spin before they sleep is
    /// taken from that part too, so it counts.
    Pool(usize),
}

/// Until a pool's threads sleep: far longer than they spin. Linux adds what another thread runs
/// to its process's time when that thread stops, and before only at ticks, which are up to 10 ms
/// apart: as long as a pass takes.
const REST: Duration = Duration::from_millis(1);
const _: () = assert!(REST.as_micros() > 10 * SPIN.as_micros());

/// Since when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    clock: Clock,
    since: Instant,
    /// Processor time until then, if that is what counts.
    ran: Option<Duration>,
}

impl Stopwatch {
    pub(crate) fn start(clock: Clock) -> Stopwatch {
        Stopwatch {
            clock,
            since: Instant::now(),
            ran: clock.ran(),
        }
    }

    /// What has counted since the start; to be asked by the thread that started it. Where a pool
    /// counts, it must have nothing to do, and is waited for until it sleeps.
    pub(crate) fn elapsed(&self) -> Duration {
        if let (Clock::Pool(_), Some(_)) = (self.clock, self.ran) {
            std::thread::sleep(REST);
        }
        match (self.ran, self.clock.ran()) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            (None, _) | (_, None) => self.since.elapsed(),
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

impl Clock {
    /// Processor time until now.
    #[cfg(target_os = "linux")]
    fn ran(self) -> Option<Duration> {
        match self {
            Clock::Wall => None,
            Clock::Thread => time(libc::CLOCK_THREAD_CPUTIME_ID),
            Clock::Pool(threads) => {
                let ran = time(libc::CLOCK_PROCESS_CPUTIME_ID)?;
                Some(ran / u32::try_from(threads.max(1)).ok()?)
            }
        }
    }

    /// Processor time until now.
    #[cfg(not(target_os = "linux"))]
    fn ran(self) -> Option<Duration> {
        None
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a system call that fills a plain structure")]
fn time(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one `timespec`.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) } != 0;
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    (!failed).then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_is_stopped_takes_no_time_of_its_own() {
        let [wall, thread] = [Clock::Wall, Clock::Thread].map(Stopwatch::start);
        let (send, receive) = channel::<()>();
        assert!(receive.recv_timeout(Duration::from_millis(50)).is_err());
        drop(send);
        assert!(wall.elapsed() >= Duration::from_millis(50));
        if cfg!(target_os = "linux") {
            assert!(thread.elapsed() * 2 < wall.elapsed());
        }
    }

    #[test]
    fn a_thread_that_has_just_run_is_counted_whole() {
        for _ in 0..20 {
            let (done, until_done) = channel();
            let (end, until_end) = channel::<()>();
            let watch = Stopwatch::start(Clock::Pool(1));
            let other = std::thread::spawn(move || {
                let own = Stopwatch::start(Clock::Thread);
                spin(Duration::from_millis(3));
                done.send(()).expect("somebody waits");
                // As a pool's threads do before they sleep. To ask for its own time before
                // would have the system add it up.
                spin(SPIN);
                until_end.recv().expect("somebody sends");
                own.elapsed()
            });
            until_done.recv().expect("the thread sends");
            let counted = watch.elapsed();
            end.send(()).expect("the thread waits");
            let ran = other.join().expect("it ends well");
            // Waking up once more is not counted.
            assert!(counted * 10 > ran * 9, "{counted:?} of {ran:?}");
        }
    }

    fn spin(time: Duration) {
        let since = Instant::now();
        while since.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_thread_that_runs_takes_time_by_either_clock() {
        for clock in [Clock::Wall, Clock::Thread, Clock::Pool(2)] {
            let watch = Stopwatch::start(clock);
            while watch.elapsed() < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
        }
    }
}
