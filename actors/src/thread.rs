//! An actor on a thread of its own, where it may compute for as long as it likes.

use cairn_engine::{Threads, kernel::bind_caller};
use ractor::ActorRef;
use tokio::sync::oneshot;

use crate::api::StartError;
use crate::shell::{Msg, Role};

/// Starts a thread, and the actor there. The thread ends with the actor.
///
/// # Errors
/// The system gives no thread, or the actor does not start.
pub(crate) async fn own<R: Role>(
    actor: &'static str,
    binding: Threads,
    start: impl Future<Output = Result<ActorRef<Msg<R>>, StartError>> + Send + 'static,
) -> Result<ActorRef<Msg<R>>, StartError> {
    let failed = move |error: std::io::Error| StartError::Actor {
        actor,
        detail: error.to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(failed)?;
    let (started, is_started) = oneshot::channel();
    let thread = std::thread::Builder::new().name("cairn-engine".to_owned());
    let work = async move {
        let result = start.await;
        let running = result.as_ref().ok().cloned();
        // Whoever asked for it may have gone.
        drop(started.send(result));
        if let Some(running) = running {
            drop(running.wait(None).await);
        }
    };
    let body = move || {
        if binding == Threads::Pinned {
            bind_caller();
        }
        runtime.block_on(work);
    };
    thread.spawn(body).map_err(failed)?;
    let ended = |_| failed(std::io::Error::other("its thread has ended"));
    is_started.await.map_err(ended)?
}
