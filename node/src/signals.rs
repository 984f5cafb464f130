//! Ctrl-C and SIGTERM for the commands that have no runtime of their own.
//!
//! `up` waits for the same signals inside its runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

use crate::exit::Exit;

/// Counts the requests to stop.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    count: Arc<AtomicU32>,
}

/// What happens at the second signal that nobody took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// The user insists: the process ends at once.
    Exits,
    /// The program goes on; it takes each signal as it comes.
    Waits,
}

impl Signals {
    /// Catches the signals from now on.
    pub(crate) fn catch(second: Second) -> anyhow::Result<Self> {
        let count = Arc::new(AtomicU32::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot wait for signals")?;
        // Registered before the thread starts, so that no signal falls between.
        let mut waiting = {
            let _inside = runtime.enter();
            StopSignal::register().context("cannot wait for signals")?
        };
        let counter = count.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        waiting.next().await;
                        let before = counter.fetch_add(1, Ordering::SeqCst);
                        if before > 0 && second == Second::Exits {
                            std::process::exit(i32::from(Exit::Interrupted as u8));
                        }
                    }
                });
            })
            .context("cannot start a thread")?;
        Ok(Self { count })
    }

    /// Whether a signal came since the last `take`.
    pub(crate) fn came(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Whether a signal came; forgets it.
    pub(crate) fn take(&self) -> bool {
        self.count.swap(0, Ordering::SeqCst) > 0
    }
}

/// The signals that mean "stop".
#[derive(Debug)]
pub(crate) struct StopSignal {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl StopSignal {
    /// Must be called inside a runtime.
    #[cfg(unix)]
    pub(crate) fn register() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Must be called inside a runtime.
    #[cfg(not(unix))]
    pub(crate) fn register() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Resolves at the next signal. Cancelling loses nothing.
    #[cfg(unix)]
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Resolves at the next signal. Cancelling loses nothing.
    #[cfg(not(unix))]
    pub(crate) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
