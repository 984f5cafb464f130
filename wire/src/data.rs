//! The data plane: rows going down the stages, tokens coming home. Read in place.
//!
//! Every frame but [`Credit`] costs its sender one credit. Frames of a plan that
//! the receiver does not run are stale: counted and dropped, never an error.

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::{NodeId, PlanId, SequenceId};

/// What an element of a payload is.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`DType`]."), derive(Debug))]
#[repr(u8)]
pub enum DType {
    /// 4 bytes, little endian. Bit-exact between stages of one kind of device.
    F32 = 0,
}

impl DType {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
        }
    }
}

impl ArchivedDType {
    /// Bytes of one element.
    pub const fn size_bytes(&self) -> usize {
        match self {
            ArchivedDType::F32 => DType::F32.size_bytes(),
        }
    }
}

/// Rows for a stage: token ids for the first, hidden rows for the others.
///
/// The payload is (rows, width) row-major, spans in order; empty for stage 0,
/// which embeds `tokens` itself. Rows arrive in order of position within a
/// sequence; a row at a position that the stage already has is a replay and is
/// dropped, a gap fails the sequence.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(attr(doc = "Archived [`Rows`]."))]
pub struct Rows {
    /// The plan whose stage this is for.
    pub plan: PlanId,
    /// Index of the receiving stage.
    pub stage: u16,
    /// Element type of the payload.
    pub dtype: DType,
    /// Hidden width; 0 when the payload is empty.
    pub width: u32,
    /// Which sequences and positions the rows belong to, in payload order.
    pub spans: Vec<Span>,
    /// The token id of every row: the last stage needs them for penalties.
    pub tokens: Vec<u32>,
}

/// Consecutive rows of one sequence.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Span`]."))]
pub struct Span {
    /// Whose rows.
    pub sequence: SequenceId,
    /// Position of the first row.
    pub position: u32,
    /// How many rows; never 0.
    pub rows: u32,
    /// What the last stage shall make of them.
    pub ask: Ask,
}

impl ArchivedSpan {
    /// The same, copied out.
    pub fn to_native(&self) -> Span {
        Span {
            sequence: self.sequence.to_native(),
            position: self.position.to_native(),
            rows: self.rows.to_native(),
            ask: match self.ask {
                ArchivedAsk::Nothing => Ask::Nothing,
                ArchivedAsk::Token => Ask::Token,
            },
        }
    }
}

/// What the driver wants back for a span.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(
    attr(doc = "Archived [`Ask`]."),
    derive(Debug, Clone, Copy, PartialEq, Eq)
)]
#[repr(u8)]
pub enum Ask {
    /// Nothing: an inner chunk of a prefill, or the replay of a known token.
    Nothing = 0,
    /// The token that follows the span's last row.
    Token = 1,
}

/// Opens a sequence on a stage; goes down the stages ahead of its rows.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(attr(doc = "Archived [`Open`]."))]
pub struct Open {
    /// The plan whose stage this is for.
    pub plan: PlanId,
    /// Index of the receiving stage.
    pub stage: u16,
    /// The new sequence.
    pub sequence: SequenceId,
    /// Rows that its KV cache must hold: prompt and answer.
    pub rows_max: u32,
    /// How the last stage picks tokens.
    pub sampling: Sampling,
    /// Tokens that end the answer: the first stage does not go on with one of them.
    pub end_tokens: Vec<u32>,
    /// Rows that it starts with: its own first rows are those of an earlier sequence.
    pub prefix: Option<Prefix>,
}

/// The first rows of a sequence that a stage may still hold. Their tokens are those of the new
/// sequence, which only the driver of both can know.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Prefix`]."))]
pub struct Prefix {
    /// The earlier sequence, of the same driver under the same plan.
    pub sequence: SequenceId,
    /// How many of its rows; at least one, fewer than the new sequence holds.
    pub rows: u32,
}

/// How a token is picked from logits: a pure function of these, the position and the tokens so far.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[rkyv(attr(doc = "Archived [`Sampling`]."))]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep this many of the most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set with at least this mass; 1 keeps all.
    pub top_p: f32,
    /// Drop what is less likely than this fraction of the most likely; 0 keeps all.
    pub min_p: f32,
    /// Divides the logits of tokens seen lately; 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens the penalty looks at.
    pub repetition_window: u32,
    /// Randomness is a function of (seed, position).
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token, no penalty.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        repetition_window: 0,
        seed: 0,
    };
}

/// Ends a sequence on a stage; goes down the stages. Its cache and retained rows are freed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Close`]."))]
pub struct Close {
    /// The plan whose stage this is for.
    pub plan: PlanId,
    /// Index of the receiving stage.
    pub stage: u16,
    /// The sequence that ends.
    pub sequence: SequenceId,
}

/// Sampled tokens, from the last stage straight to the first, which goes on with them, and to
/// their drivers, which tell their clients.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(attr(doc = "Archived [`Sampled`]."))]
pub struct Sampled {
    /// The plan under which they were computed.
    pub plan: PlanId,
    /// The receiver runs the first stage, and these are the tokens of all drivers. Otherwise it
    /// is a driver, and they are its own.
    pub goes_on: bool,
    /// At most one per sequence and position; repeats are dropped.
    pub tokens: Vec<SampledToken>,
}

impl Sampled {
    /// Whether any of the tokens are those of sequences that this node drives.
    pub fn is_for(&self, driver: NodeId) -> bool {
        self.tokens
            .iter()
            .any(|token| token.sequence.driver == driver)
    }
}

/// One token of one sequence.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[rkyv(attr(doc = "Archived [`SampledToken`]."))]
pub struct SampledToken {
    /// Whose token.
    pub sequence: SequenceId,
    /// The position that the token takes: one past the row it was computed from.
    pub position: u32,
    /// The token id.
    pub token: u32,
    /// Natural log of its probability before penalties and truncation.
    pub logprob: f32,
}

/// A stage cannot go on with a sequence; from any stage straight to the driver.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Failed`]."))]
pub struct Failed {
    /// The plan under which it failed.
    pub plan: PlanId,
    /// Index of the stage that failed it.
    pub stage: u16,
    /// The sequence.
    pub sequence: SequenceId,
    /// What kind of failure: decides whether the driver tries again.
    pub why: FailedWhy,
    /// The same for a person, bounded.
    pub detail: String,
}

/// Kinds of failure of a sequence on a stage.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`FailedWhy`]."), derive(Debug))]
#[repr(u8)]
pub enum FailedWhy {
    /// Every KV slot is taken; trying later may succeed.
    Busy = 0,
    /// The stage does not know the sequence, or a row is missing before this one.
    Gap = 1,
    /// The engine failed.
    Engine = 2,
    /// More rows than the sequence was opened for.
    Overflow = 3,
    /// This node, which holds other layers of the plan, is out of the stage's reach.
    Lost(NodeId) = 4,
    /// The stage does not hold the prefix any more; without it, the sequence can be opened.
    Forgotten = 5,
}

/// Grants the peer that many more frames on this stream. Costs nothing itself.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Credit`]."))]
pub struct Credit {
    /// How many frames; never 0, never past the window.
    pub frames: u32,
}
