//! How much of a time the system let the calling thread run.

use std::time::{Duration, Instant};

/// From when on.
#[derive(Clone, Copy)]
pub(super) struct Busy {
    since: Instant,
    /// `None` where the system does not tell.
    run: Option<Duration>,
}

impl Busy {
    pub(super) fn start() -> Busy {
        Busy {
            since: Instant::now(),
            run: run_time(),
        }
    }

    /// Thousandths of the time since the start; 1000 where the system does not tell.
    pub(super) fn permille(&self) -> u32 {
        let (Some(before), Some(now)) = (self.run, run_time()) else {
            return 1000;
        };
        let ran = now.saturating_sub(before).as_secs_f64();
        let share = ran / self.since.elapsed().as_secs_f64().max(1e-9);
        // Clocks may differ a little.
        (share * 1e3).min(1e3) as u32
    }
}

/// Processor time of the calling thread.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a system call that fills a plain structure")]
fn run_time() -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one `timespec`.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    (!failed).then(|| Duration::new(seconds, nanos))
}

/// Processor time of the calling thread.
#[cfg(not(target_os = "linux"))]
fn run_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_not_busy() {
        let busy = Busy::start();
        let (send, receive) = std::sync::mpsc::channel::<()>();
        assert!(receive.recv_timeout(Duration::from_millis(50)).is_err());
        drop(send);
        if cfg!(target_os = "linux") {
            assert!(busy.permille() < 500);
        }
    }
}
