//! Clusters of real `cairn` processes: started, asked, killed, and gone when a test ends.
//!
//! Simulates nothing: what a test sees is what a user sees. Decisions that need
//! many seeds belong to the simulated world, not here.
//!
//! One cluster runs at a time, whatever the number of test threads: most of these
//! tests look at how long things take, and a laptop has few cores.
#![cfg(target_os = "linux")]

mod cluster;
mod http;
mod model;
mod namespace;
mod neighbours;
mod node;
mod output;
mod quota;

mod client;
mod demo;
mod footprint;
mod heterogeneous;
mod hosts;
mod membership;
mod refusals;
mod sizes;
mod standby;
mod whatif;
