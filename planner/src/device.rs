//! The machines and the wires between them, as measured by someone else.
//!
//! Nothing here measures, guesses or knows a chip by its name.

use std::fmt;

/// Names a device: the bytes of its public key, or any other unique bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceId(pub [u8; 32]);

impl DeviceId {
    /// An id for a device that has no key yet, such as one in a what-if file.
    /// Ids made from rising indexes sort in that order.
    pub fn from_index(index: u32) -> Self {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&index.to_be_bytes());
        Self(bytes)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

/// One machine, described by what it was measured to do with the quantisation in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique among the devices of a request.
    pub id: DeviceId,
    /// What people call it; used in messages only.
    pub name: String,
    /// Memory that may be used, before the request's headroom is kept back.
    pub memory_bytes: u64,
    /// Weight bytes per second that one row streams through in decode.
    pub decode_bytes_per_second: u64,
    /// Multiply-accumulates per second over a chunk of rows in prefill.
    pub prefill_macs_per_second: u64,
}

/// A measured direction between two devices. The way back is taken to be the same
/// unless it is given too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The sender.
    pub from: DeviceId,
    /// The receiver.
    pub to: DeviceId,
    /// Round trip of an empty message; half of it is paid for a hop.
    pub round_trip_micros: u64,
    /// Bytes per second, paid for the hidden rows that cross.
    pub bytes_per_second: u64,
}

/// What a pair of devices without a [`Link`] is taken to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkSpeed {
    /// Round trip of an empty message.
    pub round_trip_micros: u64,
    /// Bytes per second.
    pub bytes_per_second: u64,
}

impl LinkSpeed {
    /// Gigabit Ethernet through one switch: 0.3 ms and 117 MB/s after headers.
    pub fn gigabit() -> Self {
        Self {
            round_trip_micros: 300,
            bytes_per_second: 117_000_000,
        }
    }
}
