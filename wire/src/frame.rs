//! Frames as programs hold them: rows read in place, everything else owned.
//!
//! Nothing here reaches a caller before its header passed validation and `check`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use rkyv::rancor::Failure;

use crate::check;
use crate::codec::{self, Kind, Plane, RawFrame};
use crate::control::{ArchivedControl, Control};
use crate::data::{
    ArchivedClose, ArchivedCredit, ArchivedFailed, ArchivedOpen, ArchivedRows, ArchivedSampled,
    Close, Credit, Failed, Open, Rows, Sampled, Span,
};
use crate::id::PlanId;
use crate::violation::Violation;

/// Anything that the data plane carries.
#[derive(Clone, Debug, PartialEq)]
pub enum DataFrame {
    /// Rows for a stage.
    Rows(RowsFrame),
    /// A sequence begins.
    Open(Open),
    /// A sequence ends.
    Close(Close),
    /// Tokens for a driver.
    Sampled(Sampled),
    /// A sequence cannot go on.
    Failed(Failed),
    /// More frames may come.
    Credit(Credit),
}

impl DataFrame {
    /// The bytes to put on a stream.
    ///
    /// # Errors
    /// A bound that the value breaks; the peer would close the link for it.
    pub fn encode(&self) -> Result<Encoded, Violation> {
        let raw = match self {
            DataFrame::Rows(rows) => return Ok(Encoded::Rows(rows.clone())),
            DataFrame::Open(open) => {
                check::open(open)?;
                codec::encode(Kind::Open, open, &[])
            }
            DataFrame::Close(close) => codec::encode(Kind::Close, close, &[]),
            DataFrame::Sampled(sampled) => {
                check::sampled(sampled)?;
                codec::encode(Kind::Sampled, sampled, &[])
            }
            DataFrame::Failed(failed) => {
                check::failed(failed)?;
                codec::encode(Kind::Failed, failed, &[])
            }
            DataFrame::Credit(credit) => {
                check::credit(*credit)?;
                codec::encode(Kind::Credit, credit, &[])
            }
        };
        raw.map(Encoded::Owned)
    }

    /// Reads a frame out of exactly its bytes; copies them.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        Self::from_raw(RawFrame::copy_from(bytes, Plane::Data)?).map_err(|(violation, _)| violation)
    }

    /// Validates a frame; rows keep its buffer.
    ///
    /// # Errors
    /// The first rule that it breaks, and the frame.
    pub(crate) fn from_raw(raw: RawFrame) -> Result<Self, (Violation, RawFrame)> {
        if raw.kind() == Kind::Rows {
            return RowsFrame::from_raw(raw).map(DataFrame::Rows);
        }
        Self::owned(&raw).map_err(|violation| (violation, raw))
    }

    /// Validates any kind but rows.
    pub(crate) fn owned(raw: &RawFrame) -> Result<Self, Violation> {
        match raw.kind() {
            Kind::Open => {
                let open: Open = owned::<ArchivedOpen, _>(raw)?;
                check::open(&open)?;
                Ok(DataFrame::Open(open))
            }
            Kind::Close => owned::<ArchivedClose, _>(raw).map(DataFrame::Close),
            Kind::Sampled => {
                let sampled: Sampled = owned::<ArchivedSampled, _>(raw)?;
                check::sampled(&sampled)?;
                Ok(DataFrame::Sampled(sampled))
            }
            Kind::Failed => {
                let failed: Failed = owned::<ArchivedFailed, _>(raw)?;
                check::failed(&failed)?;
                Ok(DataFrame::Failed(failed))
            }
            Kind::Credit => {
                let credit: Credit = owned::<ArchivedCredit, _>(raw)?;
                check::credit(credit)?;
                Ok(DataFrame::Credit(credit))
            }
            kind @ (Kind::Rows | Kind::Control) => Err(Violation::Kind {
                number: kind as u16,
            }),
        }
    }
}

impl Control {
    /// The bytes to put on a stream.
    ///
    /// # Errors
    /// A bound that the value breaks; the peer would close the link for it.
    pub fn encode(&self) -> Result<Encoded, Violation> {
        check::control(self)?;
        codec::encode(Kind::Control, self, &[]).map(Encoded::Owned)
    }

    /// Reads a message out of exactly its bytes.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        Self::from_raw(&RawFrame::copy_from(bytes, Plane::Control)?)
    }

    pub(crate) fn from_raw(raw: &RawFrame) -> Result<Self, Violation> {
        let control: Control = owned::<ArchivedControl, _>(raw)?;
        check::control(&control)?;
        Ok(control)
    }
}

/// A frame ready to be written.
#[derive(Debug)]
pub enum Encoded {
    /// Shares the bytes of the frame that it was made from.
    Rows(RowsFrame),
    /// Its own bytes.
    Owned(RawFrame),
}

impl Encoded {
    /// Prelude to payload: what goes on the stream.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Encoded::Rows(rows) => rows.bytes(),
            Encoded::Owned(raw) => raw.bytes(),
        }
    }
}

/// A [`Rows`] frame: immutable, cheap to clone, read where it lies.
#[derive(Clone)]
pub struct RowsFrame {
    raw: Arc<RawFrame>,
    guard: Option<Arc<dyn Any + Send + Sync>>,
}

impl RowsFrame {
    /// Lays out `rows` and its `payload`, (rows, width) row-major.
    ///
    /// # Panics
    /// When the two disagree or a bound of [`crate::limits`] is passed: the
    /// caller made both, so it is a bug and not a condition.
    pub fn build(rows: &Rows, payload: &[f32]) -> Self {
        codec::encode(Kind::Rows, rows, bytemuck::cast_slice(payload))
            .and_then(|raw| Self::from_raw(raw).map_err(|(violation, _)| violation))
            .unwrap_or_else(|violation| {
                panic!("a frame of our own breaks the protocol: {violation}")
            })
    }

    /// The same rows, with something that lives exactly as long as the last clone
    /// of the result; whatever was attached before is let go.
    pub fn with_guard(self, guard: Box<dyn Any + Send + Sync>) -> Self {
        Self {
            guard: Some(Arc::from(guard)),
            ..self
        }
    }

    /// The header, in place. Validated again, which costs tens of nanoseconds:
    /// hold on to the reference where many fields are read.
    pub fn header(&self) -> &ArchivedRows {
        rkyv::access::<_, Failure>(self.raw.header())
            .expect("from_raw() accepted these very bytes, which nobody can change")
    }

    /// The plan whose stage this is for.
    pub fn plan(&self) -> PlanId {
        self.header().plan.to_native()
    }

    /// Index of the receiving stage.
    pub fn stage(&self) -> u16 {
        self.header().stage.to_native()
    }

    /// Hidden width; 0 when the payload is empty.
    pub fn width(&self) -> usize {
        self.header().width.to_native() as usize
    }

    /// Which sequences and positions the rows belong to, in payload order.
    pub fn spans(&self) -> impl ExactSizeIterator<Item = Span> + '_ {
        self.header().spans.iter().map(|span| span.to_native())
    }

    /// The token id of every row.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.header().tokens.iter().map(|token| token.to_native())
    }

    /// Rows, whether or not they have a payload.
    pub fn rows(&self) -> usize {
        self.header().tokens.len()
    }

    /// (rows, width) row-major, in place; empty for stage 0.
    pub fn payload(&self) -> &[f32] {
        bytemuck::cast_slice(self.raw.payload())
    }

    /// Prelude to payload: what goes on the stream.
    pub fn bytes(&self) -> &[u8] {
        self.raw.bytes()
    }

    pub(crate) fn from_raw(raw: RawFrame) -> Result<Self, (Violation, RawFrame)> {
        let checked = rkyv::access::<ArchivedRows, Failure>(raw.header())
            .map_err(|_| Violation::Archive)
            .and_then(|header| check::rows(header, raw.payload().len()));
        match checked {
            Ok(()) => Ok(Self {
                raw: Arc::new(raw),
                guard: None,
            }),
            Err(violation) => Err((violation, raw)),
        }
    }
}

impl fmt::Debug for RowsFrame {
    /// Counts only: rows are what somebody typed, and logs are read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowsFrame")
            .field("plan", &self.plan())
            .field("stage", &self.stage())
            .field("rows", &self.rows())
            .field("width", &self.width())
            .field("guarded", &self.guard.is_some())
            .finish_non_exhaustive()
    }
}

impl PartialEq for RowsFrame {
    /// By bytes; guards do not count.
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

/// Validates a header and copies it out.
fn owned<A, T>(raw: &RawFrame) -> Result<T, Violation>
where
    T: rkyv::Archive<Archived = A>,
    A: rkyv::Portable
        + for<'a> rkyv::bytecheck::CheckBytes<rkyv::api::high::HighValidator<'a, Failure>>
        + rkyv::Deserialize<T, rkyv::api::high::HighDeserializer<Failure>>,
{
    let archived = rkyv::access::<A, Failure>(raw.header()).map_err(|_| Violation::Archive)?;
    rkyv::deserialize::<T, Failure>(archived).map_err(|_| Violation::Archive)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod tests;
