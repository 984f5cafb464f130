//! The words nodes say to each other, and the limits on them, over any byte stream.
//!
//! No runtime, no sockets, no decisions: who sends what and when is the
//! `machine` crate's business, carrying it is `net`'s.
#![forbid(unsafe_code)]

pub mod control;
pub mod data;
pub mod hello;
pub mod id;
