//! The handshake: both ends prove the cluster secret before anything else is spoken.
//!
//! Frozen: a later version must still be able to say why it refuses this one.

/// Version of everything behind the handshake. Nodes of different versions refuse each other by name.
pub const PROTOCOL_VERSION: u32 = 1;
