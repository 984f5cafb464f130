//! Hosts in one process on loopback, and what each must see.

mod discovery;
mod handshake;
mod harness;
mod link;
mod process;
