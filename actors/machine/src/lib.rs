//! The decisions of a node as state machines: facts in, orders out.
//!
//! No tokio, no sockets, no candle, no clock, no randomness. The actors carry
//! the orders out; the simulated world in `tests` does it without any hardware.
#![forbid(unsafe_code)]

pub mod capability;
#[cfg(test)]
mod fixture;
pub mod member;
mod outbox;
pub mod pipeline;
pub mod placement;
pub mod plan;
mod rows;
pub mod seen;
pub mod shard;
pub mod view;

/// Milliseconds since the driver started; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick that many milliseconds later.
    pub const fn after_millis(self, millis: u64) -> Tick {
        Tick(self.0 + millis)
    }

    /// Milliseconds from `earlier` to this; 0 when it is not earlier.
    pub const fn millis_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One actor's decisions.
///
/// The driver feeds one fact (or wakes it), then drains `poll` to `None` and
/// carries each order out, then looks at `deadline`. An order that comes back
/// (a full link) is fed as a fact before the next `poll`; any other fact waits
/// until the orders of the first are drained.
pub trait Machine {
    /// Facts. A bad fact is answered with an order, never with a panic.
    type Input;
    /// Orders.
    type Output;

    /// Takes in one fact.
    fn handle(&mut self, now: Tick, input: Self::Input);
    /// Advances timers; called at or after `deadline`.
    fn wake(&mut self, now: Tick);
    /// The next order, if any.
    fn poll(&mut self) -> Option<Self::Output>;
    /// When to wake this machine next, if ever.
    fn deadline(&self) -> Option<Tick>;
}
