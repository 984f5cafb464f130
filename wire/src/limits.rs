//! The bounds on everything a peer chooses. Constants of the protocol, never settings.
//!
//! Each is checked before memory is spent on it. Senders are held to the same
//! numbers, so a frame that encodes is a frame that decodes.

/// Nodes that one message may name.
pub const NODES_MAX: usize = 2048;
/// Stages of one plan.
pub const STAGES_MAX: usize = NODES_MAX;
/// Standbys of one stage.
pub const STANDBYS_MAX: usize = 8;
/// Ranges of layers that one node tells it stands by with.
pub const STANDING_MAX: usize = 256;
/// Layers of one model.
pub const LAYERS_MAX: u32 = 4096;
/// Addresses of one node.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of one address: an IPv6 address with scope and port fits.
pub const ADDRESS_BYTES_MAX: usize = 64;
/// Bytes of a name: a node's, a model's, a version's, a module's.
pub const NAME_BYTES_MAX: usize = 256;
/// Bytes of a text for people: a failure's detail, a plan's reason.
pub const TEXT_BYTES_MAX: usize = 512;
/// Log lines in one message.
pub const LOG_LINES_MAX: usize = 128;
/// Bytes of one log line's text.
pub const LOG_TEXT_BYTES_MAX: usize = 4096;
/// Links that one status tells of, and devices that one plan calls slower than they told.
pub const SEEN_MAX: usize = 256;
/// Filler of one ping: enough to time, little enough that at a megabit per second it does not
/// hold a heartbeat up for as long as silence lasts.
pub const PING_BYTES_MAX: usize = 64 << 10;
/// Rows of one frame.
pub const ROWS_MAX: usize = 4096;
/// Spans of one frame.
pub const SPANS_MAX: usize = 256;
/// Tokens of one [`crate::data::Sampled`].
pub const SAMPLED_MAX: usize = 256;
/// Tokens that end an answer.
pub const END_TOKENS_MAX: usize = 64;
/// Hidden width of a model.
pub const WIDTH_MAX: u32 = 65_536;

/// What a node may say that a layer or a pass takes it: an hour.
pub const MEASURED_NANOS_MAX: u64 = 3_600_000_000_000;

/// Bytes of a control message: the largest that keeps every bound above fits.
pub const CONTROL_HEADER_BYTES_MAX: usize = 2 << 20;
/// Bytes of a data frame's header: [`ROWS_MAX`] token ids and [`SPANS_MAX`] spans fit.
pub const DATA_HEADER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a payload. Senders cut a prefill into far smaller ones (256 KiB), so
/// that decode rows and heartbeats find gaps between them.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// Frames that a sender may have under way on one data stream.
///
/// Deep enough that a prefill's chunks cover the round trip of any LAN, shallow
/// enough that a dead receiver strands little.
pub const CREDIT_WINDOW_FRAMES: u32 = 64;

/// The longest prefix of `text` within `bytes_max` that ends between characters.
pub fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clip_keeps_characters_whole() {
        for (text, bytes_max, expect) in [
            ("abc", 8, "abc"),
            ("abc", 2, "ab"),
            ("aé", 2, "a"),
            ("é", 0, ""),
        ] {
            assert_eq!(clip(text, bytes_max), expect, "{text} in {bytes_max}");
        }
    }
}
