//! The words nodes say to each other, and the limits on them, over any byte stream.
//!
//! No runtime, no sockets, no decisions: who sends what and when is the
//! `machine` crate's business, carrying it is `net`'s.
#![forbid(unsafe_code)]

mod check;
pub mod codec;
pub mod control;
pub mod data;
pub mod frame;
pub mod hello;
pub mod id;
pub mod limits;
pub mod stream;
pub mod violation;

pub use frame::{DataFrame, Encoded, RowsFrame};
pub use violation::Violation;
