//! What a peer can do wrong with a frame. No repair: the link is closed and the breach counted.

/// A broken rule of the protocol: the sender's fault, whatever the cause.
///
/// *Effect*: whoever reads this from a peer closes the link to it. Whoever gets
/// it for a frame of their own has a bug, and nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The stream does not carry Cairn frames, or has lost its place.
    #[error("not a frame: it starts with {found:02x?}")]
    Magic {
        /// The four bytes in its place.
        found: [u8; 4],
    },
    /// Frames of another format; the handshake should have refused the peer.
    #[error("frame format {found}, not {expected}", expected = crate::codec::MAJOR)]
    Major {
        /// The number that the frame carries.
        found: u8,
    },
    /// Bits that must be zero are set.
    #[error("reserved bits are set")]
    Reserved,
    /// A kind number that no frame has, or that does not belong on this stream.
    #[error("frame kind {number} does not belong here")]
    Kind {
        /// The number.
        number: u16,
    },
    /// A frame that belongs on this plane, but not at this point.
    #[error("{what} at a point where it may not come")]
    Unexpected {
        /// What came.
        what: &'static str,
    },
    /// A header that is empty or too large for its kind.
    #[error("a header of {bytes} bytes; at most {bytes_max}, at least one")]
    HeaderBytes {
        /// As claimed.
        bytes: u64,
        /// The kind's bound.
        bytes_max: u64,
    },
    /// A payload that is too large, or on a kind that has none.
    #[error("a payload of {bytes} bytes; at most {bytes_max}")]
    PayloadBytes {
        /// As claimed.
        bytes: u64,
        /// The kind's bound.
        bytes_max: u64,
    },
    /// The bytes end before or after the frame does.
    #[error("{found} bytes where the frame has {expected}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes that the prelude announces.
        expected: u64,
    },
    /// The header is no archive of the kind's type.
    #[error("the header is not a valid archive")]
    Archive,
    /// Rows, width and payload do not agree.
    #[error("{rows} rows of width {width} do not make a payload of {payload_bytes} bytes")]
    Shape {
        /// Rows by the header's token ids.
        rows: u64,
        /// Width by the header.
        width: u32,
        /// Payload by the prelude.
        payload_bytes: u64,
    },
    /// Spans and token ids do not count the same rows.
    #[error("spans of {span_rows} rows for {tokens} token ids")]
    SpanRows {
        /// Sum over the spans.
        span_rows: u64,
        /// Token ids.
        tokens: u64,
    },
    /// Something that must not be empty is.
    #[error("{what} is empty")]
    Empty {
        /// What.
        what: &'static str,
    },
    /// More of something than one frame may hold.
    #[error("{count} {what}; at most {count_max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The bound.
        count_max: u64,
    },
    /// A text past its bound.
    #[error("{what} of {bytes} bytes; at most {bytes_max}")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// A number outside its range, not finite included.
    #[error("{what} is out of range")]
    Range {
        /// Which number.
        what: &'static str,
    },
    /// The stages do not cover the model's layers once each, in order.
    #[error("the stages do not cover every layer once")]
    Cover,
    /// A frame that its sender had no credit for.
    #[error("a frame without a credit")]
    Uncredited,
    /// Credits past the window.
    #[error("a grant of {frames} frames past the window")]
    Overgranted {
        /// As granted.
        frames: u32,
    },
}
