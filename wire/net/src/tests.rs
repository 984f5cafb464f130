//! Hosts in one process on loopback, and what each must see.

#![expect(
    clippy::unit_arg,
    reason = "a match arm asserts and says that it was the one waited for"
)]

mod discovery;
mod handshake;
mod harness;
mod link;
mod process;
