//! What a node sees of itself lately: how long its stage takes, how fast its links are.
//!
//! Numbers that others measured, with the moment of each; no clock of its own.

mod links;
mod stage;

pub use links::LinkTimes;
pub use stage::StageTimes;
