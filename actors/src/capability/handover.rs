//! What a token that goes round in one node costs besides the engine's work: a message from a
//! thread to an actor, and from there to a thread.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::pipeline::Other;
use crate::shell::Msg;
use crate::wiring::Wiring;

/// How often it is measured.
const TRIPS: usize = 15;
/// Between two, so that both sides sleep: as long as the engine's own measurement lets them.
const PAUSE: Duration = Duration::from_millis(4);

/// What is finer than this is chance, and nodes of one machine shall look alike: the planner has
/// far less to search then.
const STEP_NANOS: u64 = 50_000;

/// Nanoseconds from a thread to an actor and back: the lower quartile, as it is for links. To be
/// called on a thread that may wait; `None` when the actor has ended.
pub(super) fn nanos(wiring: &Wiring) -> Option<u64> {
    let actors = wiring.actors()?;
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        std::thread::sleep(PAUSE);
        let since = Instant::now();
        let (reply, answer) = oneshot::channel();
        let question = Msg::Other(Other::AskLoad(reply.into()), None);
        actors.pipeline.cast(question).ok()?;
        answer.blocking_recv().ok()?;
        trips.push(since.elapsed());
    }
    trips.sort_unstable();
    let nanos = u64::try_from(trips[TRIPS / 4].as_nanos()).ok()?;
    Some(nanos.saturating_add(STEP_NANOS / 2) / STEP_NANOS * STEP_NANOS)
}
