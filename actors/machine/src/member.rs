//! Who is in and who leads: the decisions of the `discovery` actor.
//!
//! Knows nothing of models or plans, and measures no links.

mod fact;

pub use fact::{
    Config, DialFailure, DialId, Event, Health, Input, LossCause, Member, Members, MyRole,
    NobodyCause, Output, Timing,
};

use std::collections::VecDeque;

use crate::{Machine, Tick};

/// The membership machine. Wakes once per heartbeat.
#[derive(Debug)]
pub struct Membership {
    config: Config,
    next_tick: Tick,
    orders: VecDeque<Output>,
}

impl Membership {
    /// A machine that has met nobody yet.
    pub fn new(config: Config, now: Tick) -> Membership {
        Membership {
            config,
            next_tick: now,
            orders: VecDeque::new(),
        }
    }
}

impl Machine for Membership {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, _now: Tick, _input: Input) {}

    fn wake(&mut self, now: Tick) {
        self.next_tick = now.after_millis(self.config.timing.heartbeat_millis);
    }

    fn poll(&mut self) -> Option<Output> {
        self.orders.pop_front()
    }

    fn deadline(&self) -> Option<Tick> {
        Some(self.next_tick)
    }
}
