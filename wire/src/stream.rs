//! Frames on a byte stream, one contiguous write and one flush each.
//!
//! No queue, no deadline, no runtime. Vectored writes were rejected: the
//! multiplexer below takes only the first slice of one, and two writes per frame
//! cost a third of a small frame's round trip.

use std::io;
use std::time::{Duration, Instant};

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::codec::{Buffer, Kind, PRELUDE_BYTES, Plane, Prelude, RawFrame};
use crate::control::Control;
use crate::frame::DataFrame;
use crate::violation::Violation;

/// A buffer grows by at most this much ahead of the bytes that have arrived.
const GROWTH_BYTES: usize = 1 << 20;
/// A larger buffer is not kept for the next frame.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// Smaller frames are not timed: most of one is there before it is looked for.
const TIMED_BYTES_MIN: usize = 32 << 10;

/// How long a large frame took to come, from its first bytes to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes of the frame.
    pub bytes: usize,
    /// Time since its prelude was read.
    pub took: Duration,
}

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer broke the protocol. *Effect*: the stream's place is lost; close the link.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The peer ended the stream between two frames. *Effect*: nothing was lost.
    #[error("the peer closed the stream")]
    Closed,
    /// The stream broke, possibly inside a frame. *Effect*: a part of a frame is dropped.
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
}

/// Reads the frames of one plane.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    plane: Plane,
    spare: Buffer,
    transfer: Option<Transfer>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads `plane`'s frames from the start of one.
    pub fn new(stream: R, plane: Plane) -> Self {
        Self {
            stream,
            plane,
            spare: Buffer::new(),
            transfer: None,
        }
    }

    /// How fast the last frame came, if it was large enough to tell; told once.
    pub fn take_transfer(&mut self) -> Option<Transfer> {
        self.transfer.take()
    }

    /// The next message of a control stream. Cancelling loses bytes: the stream is then spent.
    ///
    /// # Errors
    /// See [`ReadError`]; after any of them the stream is spent.
    pub async fn control(&mut self) -> Result<Control, ReadError> {
        let raw = self.raw().await?;
        let control = Control::from_raw(&raw)?;
        self.keep(raw);
        Ok(control)
    }

    /// The next frame of a data stream. Cancelling loses bytes: the stream is then spent.
    ///
    /// # Errors
    /// See [`ReadError`]; after any of them the stream is spent.
    pub async fn data(&mut self) -> Result<DataFrame, ReadError> {
        let raw = self.raw().await?;
        if raw.kind() == Kind::Rows {
            // The frame keeps the buffer: rows are read where they arrived.
            return DataFrame::from_raw(raw).map_err(|(violation, _)| violation.into());
        }
        let frame = DataFrame::owned(&raw)?;
        self.keep(raw);
        Ok(frame)
    }

    async fn raw(&mut self) -> Result<RawFrame, ReadError> {
        let prelude_bytes = self.prelude().await?;
        let frame_bytes = Prelude::parse(&prelude_bytes, self.plane)?.frame_bytes();
        let since = (frame_bytes >= TIMED_BYTES_MIN).then(Instant::now);
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        buffer.extend_from_slice(&prelude_bytes);
        // A claim is not an arrival: memory follows the bytes, a step at a time.
        while buffer.len() < frame_bytes {
            let filled = buffer.len();
            let step = (frame_bytes - filled).min(GROWTH_BYTES);
            buffer.reserve(step);
            buffer.resize(filled + step, 0);
            self.stream.read_exact(&mut buffer[filled..]).await?;
        }
        self.transfer = since.map(|since| Transfer {
            bytes: frame_bytes,
            took: since.elapsed(),
        });
        Ok(RawFrame::new(buffer, self.plane)?)
    }

    async fn prelude(&mut self) -> Result<[u8; PRELUDE_BYTES], ReadError> {
        let mut bytes = [0; PRELUDE_BYTES];
        let read = self.stream.read(&mut bytes).await?;
        if read == 0 {
            return Err(ReadError::Closed);
        }
        self.stream.read_exact(&mut bytes[read..]).await?;
        Ok(bytes)
    }

    fn keep(&mut self, raw: RawFrame) {
        let buffer = raw.into_buffer();
        if buffer.capacity() <= SPARE_BYTES_MAX {
            self.spare = buffer;
        }
    }
}

/// Writes frames, all of one plane.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes from the start of a frame.
    pub fn new(stream: W) -> Self {
        Self { stream }
    }

    /// Writes one encoded frame and flushes it. Cancelling may leave a part of it
    /// on the stream, which is then spent.
    ///
    /// # Errors
    /// Whatever the stream says; it is then spent.
    pub async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// Whatever the stream says.
    pub async fn close(&mut self) -> io::Result<()> {
        self.stream.close().await
    }
}

#[cfg(test)]
mod tests;
