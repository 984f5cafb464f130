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
    /// Multiply-accumulates per second with weights, over a chunk of rows in prefill.
    pub prefill_macs_per_second: u64,
    /// What else was measured.
    pub detail: Detail,
}

impl Device {
    /// Bytes per second of the output projection in decode.
    pub(crate) fn head_bytes_per_second(&self) -> u64 {
        let head = self.detail.head_bytes_per_second;
        head.unwrap_or(self.decode_bytes_per_second)
    }

    /// Cache bytes per second of attention in decode.
    pub(crate) fn cache_bytes_per_second(&self) -> u64 {
        let cache = self.detail.cache_bytes_per_second;
        cache.unwrap_or(self.decode_bytes_per_second)
    }

    /// Memory of keys and values that the model tells to take so many bytes.
    pub(crate) fn kv_bytes(&self, told: u64) -> u64 {
        let permille = u128::from(self.detail.kv_permille.unwrap_or(1000));
        let bytes = (u128::from(told) * permille).div_ceil(1000);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Multiply-accumulates per second of attention in prefill.
    pub(crate) fn attention_macs_per_second(&self) -> u64 {
        let attention = self.detail.attention_macs_per_second;
        attention.unwrap_or(self.prefill_macs_per_second)
    }
}

/// What a measurement knows of a device beyond its two speeds. The default suits a device
/// of which only those are known: nothing takes time but weights, cache and arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Time of one layer that its bytes do not account for: norms, handing work to
    /// threads and waiting for the last of them.
    pub layer_nanos: u64,
    /// Bytes per second of the output projection in decode; `None` means as layers.
    pub head_bytes_per_second: Option<u64>,
    /// Cache bytes per second of attention in decode; `None` means as weights.
    pub cache_bytes_per_second: Option<u64>,
    /// Multiply-accumulates per second of attention in prefill; `None` means as weights.
    pub attention_macs_per_second: Option<u64>,
    /// Memory of its keys and values, in thousandths of what the model tells: it may keep them in
    /// fewer bits. `None` means all of it. Its speed counts the bytes that the model tells.
    pub kv_permille: Option<u32>,
    /// What else runs on its machine; `None` means that it is a machine of its own, all of
    /// which it may use. Forecasts look at it, decisions do not.
    pub sharing: Option<Sharing>,
}

/// A device's place on a machine that it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Names the machine: devices of one machine have the same.
    pub host: u64,
    /// Cores of the machine.
    pub host_cores: u32,
    /// Of them, those that the device computes on.
    pub threads: u32,
    /// For a moment it is so many thousandths as fast as its figures say, which hold in the
    /// long run: more than 1000 where its time on the cores is limited.
    pub burst_permille: u32,
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
