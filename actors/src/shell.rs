//! The one driver of machines: feed a fact, drain the orders, re-arm one timer.
//!
//! Decides nothing. Carrying out an order never waits: what would wait is started
//! elsewhere and comes back as a fact.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use cairn_machine::{Machine, Tick};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

/// Something that must live until a fact has been dealt with: its sender's credit.
pub(crate) type Guard = Option<Box<dyn Any + Send>>;

/// What one actor does around its machine.
pub(crate) trait Role: Send + Sync + 'static {
    /// Its decisions.
    type Machine: Machine<Input: Send, Output: Send> + Send + Sync;
    /// Questions, and news that must be put into the machine's words first.
    type Other: Send;

    /// Carries out an order; an order that cannot be carried out comes back as a fact.
    fn perform(
        &mut self,
        order: <Self::Machine as Machine>::Output,
    ) -> Option<<Self::Machine as Machine>::Input>;

    /// Whether other actors of this thread have their turn before something is dealt with that
    /// takes a while.
    fn gives_way(_: &Self::Other) -> bool {
        false
    }

    /// Answers a question, or turns news into a fact.
    fn other(
        &mut self,
        machine: &Self::Machine,
        other: Self::Other,
    ) -> Option<<Self::Machine as Machine>::Input>;

    /// Looks at the machine when all orders of a fact are carried out.
    fn settled(&mut self, _machine: &Self::Machine) {}
}

/// What every actor of a node understands.
pub(crate) enum Msg<R: Role> {
    /// A fact for the machine.
    Fact(<R::Machine as Machine>::Input, Guard),
    /// The machine's deadline has come.
    Wake,
    /// Anything else.
    Other(R::Other, Guard),
}

impl<R: Role> fmt::Debug for Msg<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Msg::Fact(..) => "Fact",
            Msg::Wake => "Wake",
            Msg::Other(..) => "Other",
        })
    }
}

/// Milliseconds since the node started, the same for all of its actors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Tick {
        let millis = self.0.elapsed().as_millis();
        Tick(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    fn instant(self, tick: Tick) -> Instant {
        self.0 + Duration::from_millis(tick.0)
    }
}

/// The actor: a machine in a role.
pub(crate) struct Shell<R>(PhantomData<fn() -> R>);

impl<R> Shell<R> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

/// What an actor is spawned with.
pub(crate) struct Start<R: Role> {
    pub(crate) role: R,
    pub(crate) machine: R::Machine,
    pub(crate) clock: Clock,
}

/// A running actor's state.
pub(crate) struct Running<R: Role> {
    role: R,
    machine: R::Machine,
    clock: Clock,
    alarm: Option<(Tick, AbortHandle)>,
}

impl<R: Role> Actor for Shell<R> {
    type Msg = Msg<R>;
    type State = Running<R>;
    type Arguments = Start<R>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg<R>>,
        start: Start<R>,
    ) -> Result<Running<R>, ActorProcessingErr> {
        let mut running = Running {
            role: start.role,
            machine: start.machine,
            clock: start.clock,
            alarm: None,
        };
        running.arm(&myself);
        Ok(running)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg<R>>,
        message: Msg<R>,
        state: &mut Running<R>,
    ) -> Result<(), ActorProcessingErr> {
        let (fact, guard) = match message {
            Msg::Fact(fact, guard) => (Some(fact), guard),
            Msg::Wake => {
                state.alarm = None;
                state.machine.wake(state.clock.now());
                (None, None)
            }
            Msg::Other(other, guard) => {
                if R::gives_way(&other) {
                    tokio::task::yield_now().await;
                }
                (state.role.other(&state.machine, other), guard)
            }
        };
        if let Some(fact) = fact {
            state.machine.handle(state.clock.now(), fact);
        }
        state.drain();
        state.role.settled(&state.machine);
        state.arm(&myself);
        drop(guard);
        Ok(())
    }
}

impl<R: Role> Running<R> {
    fn drain(&mut self) {
        while let Some(order) = self.machine.poll() {
            if let Some(returned) = self.role.perform(order) {
                self.machine.handle(self.clock.now(), returned);
            }
        }
    }

    fn arm(&mut self, myself: &ActorRef<Msg<R>>) {
        let deadline = self.machine.deadline();
        if self.alarm.as_ref().map(|(at, _)| *at) == deadline {
            return;
        }
        if let Some((_, handle)) = self.alarm.take() {
            handle.abort();
        }
        self.alarm = deadline.map(|at| {
            let at_instant = tokio::time::Instant::from_std(self.clock.instant(at));
            let myself = myself.clone();
            let sleep = tokio::spawn(async move {
                tokio::time::sleep_until(at_instant).await;
                // An actor that has ended needs no waking.
                drop(myself.cast(Msg::Wake));
            });
            (at, sleep.abort_handle())
        });
    }
}

impl<R: Role> Drop for Running<R> {
    fn drop(&mut self) {
        if let Some((_, handle)) = self.alarm.take() {
            handle.abort();
        }
    }
}
