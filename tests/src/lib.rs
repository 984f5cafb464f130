//! A simulated world for whole clusters: virtual time, seeded faults, checked after each step.
//!
//! Nothing in here opens a socket, starts a thread or looks at a clock, so a seed is the
//! whole of a run. `docs/simulation.md` tells how to use it.
#![forbid(unsafe_code)]

pub mod check;
pub mod engine;
pub mod fault;
pub mod host;
pub mod link;
pub mod net;
pub mod rng;
pub mod world;
