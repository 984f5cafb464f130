//! Everything that can be wrong with a request or a plan, by name.
//!
//! Faults are collected, never returned one at a time: whoever mends a list by hand
//! wants all of it at once.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

use crate::plan::Bytes;

/// One mistake in a plan, a custom list or a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// No stage holds these layers.
    #[error("layers {} are on no device", Layers(.layers))]
    Gap {
        /// The layers without an owner.
        layers: Range<u32>,
    },
    /// Two stages hold these layers.
    #[error("layers {} are on both {first} and {second}", Layers(.layers))]
    Overlap {
        /// The layers held twice.
        layers: Range<u32>,
        /// Name of the stage that starts earlier.
        first: String,
        /// Name of the other.
        second: String,
    },
    /// A range goes past the model.
    #[error("{device} is given layers {}, but the model has {layer_count}", Layers(.layers))]
    OutOfBounds {
        /// Name of the device.
        device: String,
        /// Its range.
        layers: Range<u32>,
        /// What the model has.
        layer_count: u32,
    },
    /// A range without a layer.
    #[error("{device} is given no layer ({}..{}); leave it out instead", .layers.start, .layers.end)]
    Empty {
        /// Name of the device.
        device: String,
        /// Its range.
        layers: Range<u32>,
    },
    /// A device that the request does not have.
    #[error("{device} is not a known device")]
    UnknownDevice {
        /// Short id of the device.
        device: String,
    },
    /// A name that more than one device has.
    #[error("{device} is the name of {device_count} devices; rename one")]
    AmbiguousName {
        /// The name.
        device: String,
        /// How many have it.
        device_count: usize,
    },
    /// A device with two ranges.
    #[error("{device} is listed more than once")]
    DuplicateDevice {
        /// Name of the device.
        device: String,
    },
    /// A range that the device cannot hold.
    #[error("{device} is {} short of memory for layers {}", Bytes(*.bytes_missing), Layers(.layers))]
    OverMemory {
        /// Name of the device.
        device: String,
        /// Its range.
        layers: Range<u32>,
        /// How much is missing.
        bytes_missing: u64,
    },
    /// Stages that are not in the order of their layers.
    #[error("the stage of {device} is out of order")]
    OutOfOrder {
        /// Name of the device.
        device: String,
    },
    /// A stage or standby that states another memory than it needs.
    #[error("{device} states {stated} bytes of memory and needs {needed}")]
    MemoryMisstated {
        /// Name of the device.
        device: String,
        /// What the plan says.
        stated: u64,
        /// What its layers need.
        needed: u64,
    },
    /// Standby layers that no other device's stage contains.
    #[error("{device} stands by for layers {}, which are no part of another's stage", Layers(.layers))]
    StrayStandby {
        /// Name of the device.
        device: String,
        /// Its standby range.
        layers: Range<u32>,
    },
    /// Stage and standbys together are more than the device can hold.
    #[error("{device} is {} short of memory for its standby layers", Bytes(*.bytes_missing))]
    StandbyOverMemory {
        /// Name of the device.
        device: String,
        /// How much is missing.
        bytes_missing: u64,
    },
    /// Two devices of the request have one id.
    #[error("{first} and {second} have the same id")]
    SameId {
        /// Name of one.
        first: String,
        /// Name of the other.
        second: String,
    },
    /// A number of the request that must not be zero.
    #[error("{what} must be more than zero")]
    Zero {
        /// Which number.
        what: String,
    },
    /// A number of the request that is beyond all reason.
    #[error("{what} is too large to be true")]
    TooLarge {
        /// Which number.
        what: String,
    },
    /// A link from or to a device that the request does not have.
    #[error("a link names {device}, which is not a known device")]
    StrayLink {
        /// Short id of the device.
        device: String,
    },
}

/// Shows a range as people count: both ends included.
struct Layers<'a>(&'a Range<u32>);

impl fmt::Display for Layers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = *self.0;
        if end == start + 1 {
            return write!(f, "{start}..={start}");
        }
        write!(f, "{start}..={}", i64::from(end) - 1)
    }
}
