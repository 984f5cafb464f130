//! One stage of one plan: the sequences that it holds and where each stands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cairn_wire::control::Plan;
use cairn_wire::data::{Ask, FailedWhy, Open, Prefix, Sampled, SampledToken, Span};
use cairn_wire::frame::RowsFrame;
use cairn_wire::id::SequenceId;

use super::queue::is_decode;
use super::room::{Room, page_count};
use super::{Groups, PassItem, Queue};
use crate::Tick;
use crate::rows::token_rows;

/// Fewer rows are not worth keeping once their sequence has ended.
const RETAIN_ROWS_MIN: u32 = 16;

/// A stage that this node owns.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) plan: Arc<Plan>,
    pub(super) index: u16,
    pub(super) queue: Queue,
    held: BTreeMap<SequenceId, Held>,
    /// Ended sequences whose rows others may start with; the one unused for longest is first.
    retained: VecDeque<Retained>,
    /// The pages of both.
    room: Room,
    /// On the first stage: the groups that go round all of them.
    groups: Option<Groups>,
}

/// Where a sequence stands on a stage.
#[derive(Debug)]
struct Held {
    rows_max: u32,
    /// It does not go on with one of these.
    end_tokens: Vec<u32>,
    /// Rows before this position are computed or queued.
    next: u32,
    /// Rows before this position are computed, or will be by the pass under way.
    ordered: u32,
}

/// What is left of a sequence that has ended.
#[derive(Clone, Copy, Debug)]
struct Retained {
    sequence: SequenceId,
    rows: u32,
}

/// The answer to an `Open`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is new and has a slot.
    Taken,
    /// It is open already: the frame is a repeat.
    Known,
    /// It cannot be opened.
    Refused(FailedWhy, String),
}

/// What stays of a sequence that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Its rows, for others to start with.
    Rows,
    /// Nothing: they were too few.
    Nothing,
}

impl Stage {
    pub(super) fn new(plan: Arc<Plan>, index: u16) -> Self {
        let groups = (index == 0).then(|| Groups::new(plan.stages.len(), plan.groups.into()));
        Self {
            plan,
            index,
            queue: Queue::default(),
            held: BTreeMap::new(),
            retained: VecDeque::new(),
            room: Room::default(),
            groups,
        }
    }

    pub(super) fn sequences(&self) -> usize {
        self.held.len()
    }

    pub(super) fn open(&mut self, open: &Open) -> Admission {
        let (sequence, rows_max, prefix) = (open.sequence, open.rows_max, open.prefix);
        if self.held.contains_key(&sequence) {
            return Admission::Known;
        }
        if rows_max == 0 || rows_max > self.plan.context {
            let detail = format!(
                "{rows_max} rows asked for, the context holds {}",
                self.plan.context
            );
            return Admission::Refused(FailedWhy::Overflow, detail);
        }
        if self.held.len() >= self.plan.sequences as usize {
            let detail = format!("all {} sequences are in use", self.plan.sequences);
            return Admission::Refused(FailedWhy::Busy, detail);
        }
        let mut next = 0;
        if let Some(prefix) = prefix {
            if !self.use_prefix(sequence, prefix) {
                let detail = format!("the rows of {} are gone", prefix.sequence);
                return Admission::Refused(FailedWhy::Forgotten, detail);
            }
            next = prefix.rows;
        }
        let held = Held {
            rows_max,
            end_tokens: open.end_tokens.clone(),
            next,
            ordered: next,
        };
        self.held.insert(sequence, held);
        self.room.take(sequence, rows_max, prefix);
        Admission::Taken
    }

    /// Whether the rows of the prefix are here. A driver gets no rows but its own.
    fn use_prefix(&mut self, sequence: SequenceId, prefix: Prefix) -> bool {
        if prefix.sequence.driver != sequence.driver {
            return false;
        }
        if let Some(held) = self.held.get(&prefix.sequence) {
            return held.ordered >= prefix.rows;
        }
        let found = |kept: &Retained| kept.sequence == prefix.sequence && kept.rows >= prefix.rows;
        let Some(index) = self.retained.iter().position(found) else {
            return false;
        };
        let used = self.retained.remove(index).expect("found there");
        self.retained.push_back(used);
        true
    }

    /// Takes retained sequences away, the one unused for longest first, until the rest fits into
    /// the room that the plan has counted.
    pub(super) fn evict(&mut self) -> Option<SequenceId> {
        if self.room.used() <= page_count(self.plan.context) * self.plan.sequences as usize {
            return None;
        }
        let oldest = self.retained.pop_front()?.sequence;
        self.room.give_back(oldest);
        Some(oldest)
    }

    /// Ends a sequence; `None` when it is not here.
    pub(super) fn close(&mut self, now: Tick, sequence: SequenceId) -> Option<Kept> {
        self.queue
            .remove_where(|item| item.span.sequence == sequence);
        self.came_back(now, sequence);
        let rows = self.held.remove(&sequence)?.ordered;
        if rows < RETAIN_ROWS_MIN {
            self.room.give_back(sequence);
            return Some(Kept::Nothing);
        }
        self.room.trim(sequence, rows);
        self.retained.push_back(Retained { sequence, rows });
        Some(Kept::Rows)
    }

    /// Whether a pass could start now.
    pub(super) fn has_pass(&mut self, now: Tick) -> bool {
        let decode_max = self.decode_max(now);
        self.queue.has_rows(decode_max)
    }

    /// When rows may leave that wait for a group to come back.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let groups = self.groups.as_ref()?;
        let waits = self.queue.has_rows(1) && !self.queue.has_rows(0);
        groups.deadline().filter(|_| waits)
    }

    /// Decode rows that the next pass may have.
    fn decode_max(&mut self, now: Tick) -> usize {
        let open = self.held.len();
        let groups = self.groups.as_mut();
        groups.map_or(usize::MAX, |groups| groups.room(now, open))
    }

    /// The next row of a sequence is here, or none will come.
    fn came_back(&mut self, now: Tick, sequence: SequenceId) {
        if let Some(groups) = &mut self.groups {
            groups.came_back(now, sequence);
        }
    }

    /// The rows of the next pass.
    pub(super) fn next_pass(&mut self, now: Tick) -> Vec<PassItem> {
        let decode_max = self.decode_max(now);
        let items = self.queue.next_pass(decode_max);
        if let Some(groups) = &mut self.groups {
            let decode = items.iter().filter(|item| is_decode(&item.span));
            groups.left(now, decode.map(|item| item.span.sequence), self.held.len());
            if items.iter().any(|item| !is_decode(&item.span)) {
                groups.prompts_passed();
            }
        }
        for PassItem { span, .. } in &items {
            if let Some(held) = self.held.get_mut(&span.sequence) {
                held.ordered = span.position + span.rows;
            }
        }
        items
    }

    /// The pass with this span failed: its rows are not in the cache.
    pub(super) fn not_computed(&mut self, span: &Span) {
        if let Some(held) = self.held.get_mut(&span.sequence) {
            held.ordered = held.ordered.min(span.position);
        }
        for kept in &mut self.retained {
            if kept.sequence == span.sequence {
                kept.rows = kept.rows.min(span.position);
            }
        }
    }

    /// Queues the rows of a span that are new; the number of rows that were not.
    pub(super) fn take(
        &mut self,
        now: Tick,
        span: Span,
        offset: u32,
        frame: &RowsFrame,
    ) -> Result<u32, (FailedWhy, String)> {
        let Some(held) = self.held.get_mut(&span.sequence) else {
            return Err((FailedWhy::Gap, "the sequence is not open here".to_owned()));
        };
        if span.position > held.next {
            let detail = format!("row {} came before row {}", span.position, held.next);
            return Err((FailedWhy::Gap, detail));
        }
        let end = span.position.checked_add(span.rows);
        let Some(end) = end.filter(|end| *end <= held.rows_max) else {
            let detail = format!("the sequence was opened for {} rows", held.rows_max);
            return Err((FailedWhy::Overflow, detail));
        };
        let replayed = (held.next - span.position).min(span.rows);
        if replayed < span.rows {
            if let Some(groups) = &mut self.groups {
                groups.came_back(now, span.sequence);
            }
            held.next = end;
            let span = Span {
                position: span.position + replayed,
                rows: span.rows - replayed,
                ..span
            };
            self.queue.push(PassItem {
                span,
                frame: frame.clone(),
                offset: offset + replayed,
                arrived: now,
            });
        }
        Ok(replayed)
    }

    /// Queues a row for each token whose sequence goes on with it: one frame, one pass.
    pub(super) fn go_on(&mut self, now: Tick, sampled: &Sampled) {
        let on = sampled.tokens.iter().filter(|token| self.goes_on(token));
        let (spans, tokens): (Vec<Span>, Vec<u32>) = on
            .map(|token| {
                let span = Span {
                    sequence: token.sequence,
                    position: token.position,
                    rows: 1,
                    ask: Ask::Token,
                };
                (span, token.token)
            })
            .unzip();
        if spans.is_empty() {
            return;
        }
        let frame = token_rows(sampled.plan, spans, tokens);
        for (span, offset) in frame.spans().zip(0..) {
            self.take(now, span, offset, &frame)
                .expect("the next row of a sequence that has room");
        }
    }

    /// Whether a token is the next of an answer that is open here, and neither ends it.
    fn goes_on(&self, token: &SampledToken) -> bool {
        self.held.get(&token.sequence).is_some_and(|held| {
            token.position == held.next
                && held.rows_max - token.position > 1
                && !held.end_tokens.contains(&token.token)
        })
    }

    /// Forgets sequences and their waiting rows. Gives those that were under way, and those
    /// that had ended.
    pub(super) fn remove_where(
        &mut self,
        now: Tick,
        matches: impl Fn(&SequenceId) -> bool,
    ) -> (Vec<SequenceId>, Vec<SequenceId>) {
        self.queue.remove_where(|item| matches(&item.span.sequence));
        let live: Vec<SequenceId> = self.held.keys().filter(|id| matches(id)).copied().collect();
        for sequence in &live {
            self.held.remove(sequence);
            self.came_back(now, *sequence);
        }
        let kept = self.retained.iter().map(|kept| kept.sequence);
        let ended: Vec<SequenceId> = kept.filter(|id| matches(id)).collect();
        self.retained.retain(|kept| !matches(&kept.sequence));
        for sequence in live.iter().chain(&ended) {
            self.room.give_back(*sequence);
        }
        (live, ended)
    }
}
