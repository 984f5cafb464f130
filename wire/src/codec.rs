//! A frame's bytes: a fixed prelude, a validated header, an aligned payload.
//!
//! No meaning here beyond sizes and kinds: what a header may say is `check`'s
//! business. `docs/wire.md` has the layout; the golden tests hold it in place.

use rkyv::api::high::HighSerializer;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;

use crate::limits;
use crate::violation::Violation;

#[cfg(target_endian = "big")]
compile_error!("payloads are little endian and read in place");

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"CARN";
/// Version of the frame format, next to the handshake's: a stray frame says so by itself.
pub const MAJOR: u8 = 1;
/// Bytes before the header.
pub const PRELUDE_BYTES: usize = 32;
/// Header and payload start at multiples of this.
pub const ALIGNMENT: usize = 16;

/// Owner of a frame's bytes, aligned so that header and payload are read in place.
pub type Buffer = AlignedVec<ALIGNMENT>;

/// Which of a neighbour's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Small messages, rare, heavily checked.
    Control,
    /// Rows and tokens, paid for with credits.
    Data,
}

/// What a header is an archive of. The numbers are the wire's; none is used twice, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// [`crate::control::Control`].
    Control = 1,
    /// [`crate::data::Rows`], the only one with a payload.
    Rows = 16,
    /// [`crate::data::Open`].
    Open = 17,
    /// [`crate::data::Close`].
    Close = 18,
    /// [`crate::data::Sampled`].
    Sampled = 19,
    /// [`crate::data::Failed`].
    Failed = 20,
    /// [`crate::data::Credit`].
    Credit = 21,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 7] = [
        Kind::Control,
        Kind::Rows,
        Kind::Open,
        Kind::Close,
        Kind::Sampled,
        Kind::Failed,
        Kind::Credit,
    ];

    /// The stream that carries it.
    pub const fn plane(self) -> Plane {
        match self {
            Kind::Control => Plane::Control,
            Kind::Rows | Kind::Open | Kind::Close | Kind::Sampled | Kind::Failed | Kind::Credit => {
                Plane::Data
            }
        }
    }

    const fn number(self) -> u16 {
        self as u16
    }

    const fn header_bytes_max(self) -> usize {
        match self.plane() {
            Plane::Control => limits::CONTROL_HEADER_BYTES_MAX,
            Plane::Data => limits::DATA_HEADER_BYTES_MAX,
        }
    }

    const fn payload_bytes_max(self) -> usize {
        match self {
            Kind::Rows => limits::PAYLOAD_BYTES_MAX,
            Kind::Control
            | Kind::Open
            | Kind::Close
            | Kind::Sampled
            | Kind::Failed
            | Kind::Credit => 0,
        }
    }
}

/// A prelude that passed every check that needs no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    /// What follows.
    pub kind: Kind,
    /// Bytes of the archive, without the padding behind it.
    pub header_bytes: usize,
    /// Bytes of the payload.
    pub payload_bytes: usize,
}

impl Prelude {
    /// Reads and bounds a prelude that arrived on a stream of `plane`.
    ///
    /// # Errors
    /// The first rule that it breaks. Nothing has been allocated by then.
    pub fn parse(bytes: &[u8; PRELUDE_BYTES], plane: Plane) -> Result<Self, Violation> {
        let [
            m0,
            m1,
            m2,
            m3,
            major,
            zero,
            k0,
            k1,
            h0,
            h1,
            h2,
            h3,
            f0,
            f1,
            f2,
            f3,
            rest @ ..,
        ] = *bytes;
        let [p0, p1, p2, p3, p4, p5, p6, p7, reserved @ ..] = rest;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(Violation::Magic {
                found: [m0, m1, m2, m3],
            });
        }
        if major != MAJOR {
            return Err(Violation::Major { found: major });
        }
        if zero != 0 || [f0, f1, f2, f3] != [0; 4] || reserved != [0; 8] {
            return Err(Violation::Reserved);
        }
        let number = u16::from_le_bytes([k0, k1]);
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.number() == number && kind.plane() == plane)
            .ok_or(Violation::Kind { number })?;
        let header_bytes = bounded(u64::from(u32::from_le_bytes([h0, h1, h2, h3])), {
            kind.header_bytes_max()
        })
        .filter(|&bytes| bytes > 0)
        .ok_or(Violation::HeaderBytes {
            bytes: u64::from(u32::from_le_bytes([h0, h1, h2, h3])),
            bytes_max: kind.header_bytes_max() as u64,
        })?;
        let payload_claim = u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]);
        let payload_bytes =
            bounded(payload_claim, kind.payload_bytes_max()).ok_or(Violation::PayloadBytes {
                bytes: payload_claim,
                bytes_max: kind.payload_bytes_max() as u64,
            })?;
        Ok(Self {
            kind,
            header_bytes,
            payload_bytes,
        })
    }

    /// Where the payload starts, counted from the frame's first byte.
    pub fn payload_start(&self) -> usize {
        PRELUDE_BYTES + self.header_bytes.next_multiple_of(ALIGNMENT)
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        self.payload_start() + self.payload_bytes
    }

    fn write(&self) -> [u8; PRELUDE_BYTES] {
        let header_bytes = u32::try_from(self.header_bytes).expect("bounded by encode()");
        let mut bytes = [0; PRELUDE_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = MAJOR;
        bytes[6..8].copy_from_slice(&self.kind.number().to_le_bytes());
        bytes[8..12].copy_from_slice(&header_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.payload_bytes as u64).to_le_bytes());
        bytes
    }
}

/// A whole frame whose prelude is checked and whose header is not.
#[derive(Debug)]
pub struct RawFrame {
    prelude: Prelude,
    buffer: Buffer,
}

impl RawFrame {
    /// Takes a frame's bytes, first to last.
    ///
    /// # Errors
    /// A bad prelude, a length that is not the prelude's, padding that is not zero.
    pub fn new(buffer: Buffer, plane: Plane) -> Result<Self, Violation> {
        let length = |expected: usize| Violation::Length {
            found: buffer.len() as u64,
            expected: expected as u64,
        };
        let prelude = buffer
            .first_chunk()
            .ok_or_else(|| length(PRELUDE_BYTES))
            .and_then(|bytes| Prelude::parse(bytes, plane))?;
        if buffer.len() != prelude.frame_bytes() {
            return Err(length(prelude.frame_bytes()));
        }
        let header_end = PRELUDE_BYTES + prelude.header_bytes;
        if buffer[header_end..prelude.payload_start()]
            .iter()
            .any(|&byte| byte != 0)
        {
            return Err(Violation::Reserved);
        }
        Ok(Self { prelude, buffer })
    }

    /// Copies a frame out of a slice of any alignment.
    ///
    /// # Errors
    /// As [`RawFrame::new`].
    pub fn copy_from(bytes: &[u8], plane: Plane) -> Result<Self, Violation> {
        let mut buffer = Buffer::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        Self::new(buffer, plane)
    }

    /// What the header is an archive of.
    pub fn kind(&self) -> Kind {
        self.prelude.kind
    }

    /// The archive.
    pub fn header(&self) -> &[u8] {
        &self.buffer[PRELUDE_BYTES..PRELUDE_BYTES + self.prelude.header_bytes]
    }

    /// The payload; starts at a multiple of [`ALIGNMENT`] in memory.
    pub fn payload(&self) -> &[u8] {
        &self.buffer[self.prelude.payload_start()..]
    }

    /// The whole frame.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The buffer, for the next frame.
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

/// Lays out one frame in one buffer: nothing is copied twice.
///
/// # Errors
/// A header or payload past its bound.
pub(crate) fn encode<T>(kind: Kind, value: &T, payload: &[u8]) -> Result<RawFrame, Violation>
where
    T: for<'a> rkyv::Serialize<HighSerializer<Buffer, ArenaHandle<'a>, Failure>>,
{
    /// Fits every small header, so that only token lists and texts regrow.
    const HEADER_BYTES_GUESS: usize = 512;

    if payload.len() > kind.payload_bytes_max() {
        return Err(Violation::PayloadBytes {
            bytes: payload.len() as u64,
            bytes_max: kind.payload_bytes_max() as u64,
        });
    }
    let mut buffer = Buffer::with_capacity(PRELUDE_BYTES + HEADER_BYTES_GUESS + payload.len());
    buffer.extend_from_slice(&[0; PRELUDE_BYTES]);
    // Positions of the archive count from the buffer's start, a multiple of the alignment.
    let mut buffer = rkyv::api::high::to_bytes_in::<_, Failure>(value, buffer)
        .expect("plain data always serialises into memory");
    let prelude = Prelude {
        kind,
        header_bytes: buffer.len() - PRELUDE_BYTES,
        payload_bytes: payload.len(),
    };
    if prelude.header_bytes > kind.header_bytes_max() {
        return Err(Violation::HeaderBytes {
            bytes: prelude.header_bytes as u64,
            bytes_max: kind.header_bytes_max() as u64,
        });
    }
    buffer.resize(prelude.payload_start(), 0);
    buffer.extend_from_slice(payload);
    buffer[..PRELUDE_BYTES].copy_from_slice(&prelude.write());
    Ok(RawFrame { prelude, buffer })
}

fn bounded(claim: u64, bytes_max: usize) -> Option<usize> {
    usize::try_from(claim)
        .ok()
        .filter(|&bytes| bytes <= bytes_max)
}
