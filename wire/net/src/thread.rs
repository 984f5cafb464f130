//! The network thread, before and while a host runs on it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::config::StartError;

/// What still computes on the runtime when its work is done has so long to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

/// What keeps the thread running.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A thread with a runtime of its own, for a host. Heartbeats are answered there, so what else
/// runs on it is brief, or hands the runtime to another thread meanwhile
/// ([`tokio::task::block_in_place`]).
pub struct Thread {
    runtime: Handle,
    work: oneshot::Sender<Work>,
    keeper: JoinHandle<()>,
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").finish_non_exhaustive()
    }
}

impl Thread {
    /// Starts it; each thread that serves the runtime calls `begin` first. It ends with its
    /// host, or when it is dropped without one.
    ///
    /// # Errors
    /// [`StartError::System`].
    pub fn start(begin: impl Fn() + Send + Sync + 'static) -> Result<Self, StartError> {
        let system = |what, source| StartError::System { what, source };
        // One worker is no slower than several here. Only a runtime that might have several can
        // hand itself over.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("cairn-net")
            .on_thread_start(begin)
            .enable_all()
            .build()
            .map_err(|source| system("a runtime", source))?;
        let handle = runtime.handle().clone();
        let (work, to_do) = oneshot::channel::<Work>();
        // Sleeps until the work is done, and then ends the runtime, which nobody may do within
        // another runtime.
        let body = move || {
            runtime.block_on(async {
                if let Ok(work) = to_do.await
                    && tokio::spawn(work).await.is_err()
                {
                    tracing::error!("the network panicked");
                }
            });
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        };
        let keeper = std::thread::Builder::new()
            .name("cairn-net-end".to_owned())
            .spawn(body)
            .map_err(|source| system("a thread", source))?;
        Ok(Self {
            runtime: handle,
            work,
            keeper,
        })
    }

    /// Where a task runs that is woken by frames most of the time: here it saves the wake-up
    /// of another thread.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `work` for as long as it lasts, and then ends.
    pub(crate) fn run(self, work: impl Future<Output = ()> + Send + 'static) -> End {
        // It waits for nothing else.
        drop(self.work.send(Box::pin(work)));
        End {
            runtime: self.runtime,
            keeper: self.keeper,
        }
    }
}

/// The end of a thread that a host runs on.
#[derive(Debug)]
pub(crate) struct End {
    runtime: Handle,
    keeper: JoinHandle<()>,
}

impl End {
    /// Waits for it, unless it waits for the caller.
    pub(crate) fn wait(self) {
        let here = Handle::try_current();
        let waits_for_us = here.is_ok_and(|here| here.id() == self.runtime.id());
        if !waits_for_us {
            // Whatever it could panic with has been told.
            drop(self.keeper.join());
        }
    }
}
