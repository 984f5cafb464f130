//! How long it takes until a thread that sleeps runs what another has for it.

use std::sync::mpsc;
use std::time::Instant;

use super::PAUSE;

/// Times that a message goes to and fro.
const ROUNDS: usize = 25;

/// Seconds from a thread's message until another one that slept has it; the median.
/// Zero where the system gives no second thread.
pub(super) fn seconds() -> f64 {
    let (there, arrive) = mpsc::channel::<()>();
    let (back, home) = mpsc::channel();
    let echo = move || {
        while let Ok(()) = arrive.recv() {
            if back.send(()).is_err() {
                return;
            }
        }
    };
    let Ok(thread) = std::thread::Builder::new().spawn(echo) else {
        return 0.0;
    };
    let mut trips = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        std::thread::sleep(PAUSE);
        let since = Instant::now();
        if there.send(()).is_err() || home.recv().is_err() {
            break;
        }
        trips.push(since.elapsed().as_secs_f64() / 2.0);
    }
    drop(there);
    // It ends with its channel, and cannot panic.
    drop(thread.join());
    trips.sort_by(f64::total_cmp);
    trips.get(trips.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn waking_takes_time_but_not_long() {
        assert!((1e-7..0.1).contains(&super::seconds()));
    }
}
