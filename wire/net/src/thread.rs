//! The network thread, before and while a host runs on it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::config::StartError;

/// What keeps the thread running.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A thread with a runtime of its own, for a host. Heartbeats are answered there, so
/// whatever else runs on it may neither wait nor compute.
pub struct Thread {
    runtime: Handle,
    work: oneshot::Sender<Work>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").finish_non_exhaustive()
    }
}

impl Thread {
    /// Starts it. It ends with its host, or when it is dropped without one.
    ///
    /// # Errors
    /// [`StartError::System`].
    pub fn start() -> Result<Self, StartError> {
        let system = |what, source| StartError::System { what, source };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| system("a runtime", source))?;
        let handle = runtime.handle().clone();
        let (work, to_do) = oneshot::channel::<Work>();
        let body = move || {
            runtime.block_on(async {
                if let Ok(work) = to_do.await {
                    work.await;
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("cairn-net".to_owned())
            .spawn(body)
            .map_err(|source| system("a thread", source))?;
        Ok(Self {
            runtime: handle,
            work,
            thread,
        })
    }

    /// Where a task runs that is woken by frames most of the time: here it saves the wake-up
    /// of another thread.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `work` for as long as it lasts, and then ends.
    pub(crate) fn run(self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // It waits for nothing else.
        drop(self.work.send(Box::pin(work)));
        self.thread
    }
}
