//! What work does to the thread that it is done on: how long passes took, and who serves the
//! thread's runtime meanwhile.

use std::time::Duration;

use tokio::task::block_in_place;

/// A pass that takes no longer may hold the thread: peers wait for a heartbeat for hundreds of
/// milliseconds, and people do not see when in 3 a token came.
const BRIEF: Duration = Duration::from_millis(3);

/// More rows count as these.
const ROWS_MAX: u64 = (1 << SIZES) - 1;
const SIZES: usize = 16;

/// The last pass of each size, a size being a power of two of rows.
#[derive(Debug, Default)]
pub(crate) struct Pace([Option<Duration>; SIZES]);

impl Pace {
    /// Whether a pass is short for all that is known. Of what was never computed nothing is.
    pub(crate) fn is_brief(&self, rows: u64) -> bool {
        self.0[size(rows)].is_some_and(|took| took <= BRIEF)
    }

    /// A pass is done.
    pub(crate) fn took(&mut self, rows: u64, took: Duration) {
        self.0[size(rows)] = Some(took);
    }
}

/// Does some work on this thread; unless that is brief, another serves its runtime meanwhile.
pub(crate) fn run<T>(is_brief: bool, work: impl FnOnce() -> T) -> T {
    if is_brief {
        work()
    } else {
        block_in_place(work)
    }
}

fn size(rows: u64) -> usize {
    rows.clamp(1, ROWS_MAX).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pass_of_a_size_tells_of_the_next() {
        let mut pace = Pace::default();
        assert!(!pace.is_brief(1), "never computed");
        pace.took(1, BRIEF);
        pace.took(300, BRIEF * 100);
        assert!(pace.is_brief(1));
        assert!(!pace.is_brief(2), "never computed");
        assert!(!pace.is_brief(257));
        pace.took(256, BRIEF);
        assert!(pace.is_brief(511));
        pace.took(1, BRIEF + Duration::from_micros(1));
        assert!(!pace.is_brief(1));
        assert!(!pace.is_brief(0) && !pace.is_brief(u64::MAX));
    }

    #[test]
    fn long_work_leaves_the_runtime_to_others() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .expect("a runtime");
        let (tell, told) = std::sync::mpsc::channel();
        let work = async move {
            tokio::spawn(async move { tell.send(()) });
            run(false, || told.recv_timeout(Duration::from_secs(10)))
        };
        let told = runtime.block_on(runtime.spawn(work)).expect("no panic");
        assert_eq!(told, Ok(()), "the other task has its turn");
    }
}
