//! What a driver does with prompts: open a sequence, send its rows, take its tokens, end it.
//!
//! The node where a prompt arrives drives it. It holds the token ids, sends the prompt's rows
//! to the first stage, and takes each token from the last: one per position. From the first
//! token on the stages go on without it, until it closes the sequence.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cairn_wire::control::Plan;
use cairn_wire::data::{Ask, Close, Failed, FailedWhy, Open, Prefix, Sampled, Sampling, Span};
use cairn_wire::frame::DataFrame;
use cairn_wire::id::{BootId, NodeId, PlanId, SequenceId};
use cairn_wire::limits::END_TOKENS_MAX;

use crate::outbox::Outbox;
use crate::plan::{last_stage, owner};
use crate::rows::token_rows;
use crate::view::View;
use crate::{Machine, Tick};

mod chunk;
mod fact;
mod past;
#[cfg(test)]
mod tests;

pub use chunk::CHUNK_ROWS;
use chunk::chunk_rows;
pub use fact::{Abort, Finish, Input, Output, Request, RequestId};
use past::Past;

/// Requests that may wait for a place; more are refused as busy.
pub const WAITING_MAX: usize = 64;
/// A request waits so long for a plan that is on its way, or for a place.
pub const WAIT_MILLIS: u64 = 30_000;
/// A stage that was full is asked again after so long.
const BUSY_RETRY_MILLIS: u64 = 50;
/// A sequence without a token for so long has failed, whatever the cause.
const STALL_MILLIS: u64 = 300_000;
/// The same for the token that proves a plan.
const PROBE_STALL_MILLIS: u64 = 30_000;

/// Drives the sequences of this node.
#[derive(Debug)]
pub struct PipelineMachine {
    me: NodeId,
    view: View,
    plan: Option<Arc<Plan>>,
    running: BTreeMap<SequenceId, Sequence>,
    waiting: VecDeque<Waiting>,
    /// After a stage said that it is full, nothing new is opened before this.
    retry_at: Option<Tick>,
    next_number: u64,
    /// Whose rows the stages of the plan in force may hold.
    past: Past,
    outbox: Outbox<Output>,
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: Request,
    until: Tick,
}

/// A sequence under way.
#[derive(Debug)]
struct Sequence {
    purpose: Purpose,
    plan: Arc<Plan>,
    request: Request,
    prefix: Option<Prefix>,
    /// The tokens of the answer that go down the stages again.
    fed: Vec<u32>,
    /// Positions taken so far, prompt and answer.
    length: u32,
    /// Positions that it may take.
    length_max: u32,
    arrived: Tick,
    progress: Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Answer(RequestId),
    Probe,
}

impl PipelineMachine {
    /// Drives nothing yet. `boot` makes sequence numbers differ from those of earlier runs.
    pub fn new(me: NodeId, boot: BootId) -> Self {
        Self {
            me,
            view: View::default(),
            plan: None,
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
            retry_at: None,
            next_number: boot.0 << 32,
            past: Past::default(),
            outbox: Outbox::default(),
        }
    }

    /// Answers under way.
    pub fn running(&self) -> usize {
        let answers = self.running.values();
        answers
            .filter(|sequence| sequence.purpose != Purpose::Probe)
            .count()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The plan in force, while all owners of its stages are members.
    fn whole_plan(&self) -> Option<&Arc<Plan>> {
        let plan = self.plan.as_ref()?;
        self.view.missing_owner(plan).is_none().then_some(plan)
    }

    fn members_changed(&mut self, now: Tick, view: View) {
        for node in self.view.nodes.difference(&view.nodes) {
            self.outbox.forget(*node);
        }
        self.view = view;
        let lost: Vec<(SequenceId, NodeId)> = self
            .running
            .iter()
            .filter_map(|(id, sequence)| Some((*id, self.view.missing_owner(&sequence.plan)?)))
            .collect();
        for (id, node) in lost {
            self.abort(id, Abort::NodeLost(node));
        }
        self.start_waiting(now);
    }

    fn submit(&mut self, now: Tick, id: RequestId, request: Request) {
        assert!(!request.tokens.is_empty() && request.tokens_max > 0);
        if self.waiting.len() >= WAITING_MAX {
            let cause = Abort::Busy;
            self.outbox.push(Output::Aborted { id, cause });
            return;
        }
        let until = now.after_millis(WAIT_MILLIS);
        self.waiting.push_back(Waiting { id, request, until });
        self.start_waiting(now);
    }

    /// Opens as many waiting requests as there are places.
    fn start_waiting(&mut self, now: Tick) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        let Some(plan) = self.whole_plan().cloned() else {
            return;
        };
        while self.running() < plan.sequences as usize {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            let prompt = waiting.request.tokens.len();
            if prompt >= plan.context as usize {
                let (id, context) = (waiting.id, plan.context);
                let cause = Abort::ContextOverflow { context };
                self.outbox.push(Output::Aborted { id, cause });
                continue;
            }
            let prefix = self.past.longest_prefix(&waiting.request.tokens);
            let purpose = Purpose::Answer(waiting.id);
            self.open(now, purpose, Arc::clone(&plan), waiting.request, prefix);
        }
    }

    fn open(
        &mut self,
        now: Tick,
        purpose: Purpose,
        plan: Arc<Plan>,
        request: Request,
        prefix: Option<Prefix>,
    ) {
        let sequence = SequenceId {
            driver: self.me,
            number: self.next_number,
        };
        self.next_number += 1;
        let prompt = u32::try_from(request.tokens.len()).expect("shorter than the context");
        let length_max = prompt.saturating_add(request.tokens_max).min(plan.context);
        let first = owner(&plan, 0).expect("a plan has stages");
        // One that is left out costs a row that nobody wants.
        let end_tokens = request.end_tokens.iter().copied().take(END_TOKENS_MAX);
        self.outbox.send(
            first,
            DataFrame::Open(Open {
                plan: plan.id,
                stage: 0,
                sequence,
                rows_max: length_max,
                sampling: request.sampling,
                end_tokens: end_tokens.collect(),
                prefix,
            }),
        );
        let start = prefix.map_or(0, |prefix| prefix.rows);
        self.send_prompt(&plan, sequence, &request.tokens, start);
        self.running.insert(
            sequence,
            Sequence {
                purpose,
                plan,
                request,
                prefix,
                fed: Vec::new(),
                length: prompt,
                length_max,
                arrived: now,
                progress: now,
            },
        );
    }

    /// Sends the rows of a prompt from position `start` on.
    fn send_prompt(&mut self, plan: &Plan, sequence: SequenceId, tokens: &[u32], start: u32) {
        let to = owner(plan, 0).expect("a plan has stages");
        let mut position = start;
        let tokens = &tokens[start as usize..];
        let rows = u32::try_from(tokens.len()).expect("shorter than the context");
        let chunks = tokens.chunks(chunk_rows(plan, rows) as usize);
        let mut chunks = chunks.peekable();
        while let Some(chunk) = chunks.next() {
            let rows = u32::try_from(chunk.len()).expect("a chunk is short");
            let ask = match chunks.peek() {
                Some(_) => Ask::Nothing,
                None => Ask::Token,
            };
            let span = Span {
                sequence,
                position,
                rows,
                ask,
            };
            self.outbox.send(
                to,
                DataFrame::Rows(token_rows(plan.id, vec![span], chunk.to_vec())),
            );
            position += rows;
        }
    }

    fn sampled(&mut self, now: Tick, from: NodeId, sampled: Sampled) {
        for token in sampled.tokens {
            let Some(sequence) = self.running.get_mut(&token.sequence) else {
                continue;
            };
            let plan = &sequence.plan;
            let rightful = plan.id == sampled.plan && owner(plan, last_stage(plan)) == Some(from);
            // One token per position: a repeat is dropped, a token out of turn too.
            if rightful && token.position == sequence.length {
                sequence.progress = now;
                self.take_token(now, token.sequence, token.token, token.logprob);
            }
        }
    }

    /// Takes a token of a sequence. The first stage has it too, and goes on unless it ends the
    /// answer.
    fn take_token(&mut self, now: Tick, id: SequenceId, token: u32, logprob: f32) {
        let sequence = self.running.get_mut(&id).expect("the caller found it");
        let Purpose::Answer(request) = sequence.purpose else {
            self.end_probe(id, Ok(()));
            return;
        };
        if sequence.request.end_tokens.contains(&token) {
            self.finish(now, id, request, Finish::EndToken);
            return;
        }
        self.outbox.push(Output::Token {
            id: request,
            token,
            logprob,
        });
        let is_first = sequence.fed.is_empty();
        sequence.length += 1;
        if sequence.length == sequence.length_max {
            self.finish(now, id, request, Finish::Length);
            return;
        }
        sequence.fed.push(token);
        if is_first {
            // All stages have the prompt's rows: others may start with them meanwhile.
            let (plan, prompt) = (sequence.plan.id, sequence.request.tokens.clone());
            self.remember(id, plan, prompt);
        }
    }

    fn finish(&mut self, now: Tick, id: SequenceId, request: RequestId, finish: Finish) {
        if let Some(ended) = self.close(id) {
            self.remember_whole(id, ended);
        }
        let id = request;
        self.outbox.push(Output::Finished { id, finish });
        self.start_waiting(now);
    }

    /// Keeps in mind what the stages may still hold of a sequence that has ended.
    fn remember_whole(&mut self, id: SequenceId, ended: Sequence) {
        let mut tokens = ended.request.tokens;
        tokens.extend(ended.fed);
        self.remember(id, ended.plan.id, tokens);
    }

    /// Keeps in mind what the stages of a plan hold of a sequence.
    fn remember(&mut self, id: SequenceId, plan: PlanId, tokens: Vec<u32>) {
        if self.plan.as_ref().is_some_and(|held| held.id == plan) {
            self.past.remember(id, tokens);
        }
    }

    fn failed(&mut self, now: Tick, from: NodeId, failed: Failed) {
        let Some(sequence) = self.running.get(&failed.sequence) else {
            return;
        };
        if owner(&sequence.plan, failed.stage) != Some(from) || sequence.plan.id != failed.plan {
            return;
        }
        // Only before the first token: whoever has computed that has the rows.
        if failed.why == FailedWhy::Forgotten
            && sequence.fed.is_empty()
            && let Some(prefix) = sequence.prefix
        {
            self.open_whole(now, failed.sequence, prefix);
            return;
        }
        match (failed.why, sequence.purpose) {
            (FailedWhy::Busy, Purpose::Answer(id)) => self.wait_again(now, id, failed.sequence),
            (FailedWhy::Lost(node), _) => {
                self.abort(failed.sequence, Abort::NodeLost(node));
                self.start_waiting(now);
            }
            (FailedWhy::Busy, Purpose::Probe)
            | (
                FailedWhy::Gap | FailedWhy::Engine | FailedWhy::Overflow | FailedWhy::Forgotten,
                _,
            ) => {
                let (stage, detail) = (failed.stage, failed.detail);
                self.abort(failed.sequence, Abort::Stage { stage, detail });
                self.start_waiting(now);
            }
        }
    }

    /// A stage does not hold the prefix any more: the sequence starts anew, without one.
    fn open_whole(&mut self, now: Tick, id: SequenceId, prefix: Prefix) {
        self.past.forget(prefix.sequence);
        let closed = self.close(id).expect("the caller found it");
        self.open(now, closed.purpose, closed.plan, closed.request, None);
    }

    /// Another driver has the last place on a stage: this request is first in line again.
    fn wait_again(&mut self, now: Tick, id: RequestId, sequence: SequenceId) {
        let closed = self.close(sequence).expect("the caller found it");
        let until = closed.arrived.after_millis(WAIT_MILLIS);
        let request = closed.request;
        self.waiting.push_front(Waiting { id, request, until });
        self.retry_at = Some(now.after_millis(BUSY_RETRY_MILLIS));
    }

    fn abort(&mut self, id: SequenceId, cause: Abort) {
        let Some(sequence) = self.close(id) else {
            return;
        };
        match sequence.purpose {
            Purpose::Answer(id) => self.outbox.push(Output::Aborted { id, cause }),
            Purpose::Probe => {
                let plan = sequence.plan.id;
                let result = Err(format!("no token came out: {cause:?}"));
                self.outbox.push(Output::Probed { plan, result });
            }
        }
    }

    fn end_probe(&mut self, id: SequenceId, result: Result<(), String>) {
        if let Some(sequence) = self.close(id) {
            let plan = sequence.plan.id;
            self.outbox.push(Output::Probed { plan, result });
        }
    }

    /// Frees the sequence's room on every stage.
    fn close(&mut self, id: SequenceId) -> Option<Sequence> {
        let sequence = self.running.remove(&id)?;
        let first = owner(&sequence.plan, 0).expect("a plan has stages");
        let close = Close {
            plan: sequence.plan.id,
            stage: 0,
            sequence: id,
        };
        self.outbox.send(first, DataFrame::Close(close));
        Some(sequence)
    }

    fn cancel(&mut self, now: Tick, id: RequestId) {
        self.waiting.retain(|waiting| waiting.id != id);
        let found = self
            .running
            .iter()
            .find(|(_, sequence)| sequence.purpose == Purpose::Answer(id))
            .map(|(sequence, _)| *sequence);
        if let Some(id) = found {
            if let Some(mut ended) = self.close(id)
                // A token came, so all stages have computed what it came from. Its own row may
                // reach the first stage after the close.
                && ended.fed.pop().is_some()
            {
                self.remember_whole(id, ended);
            }
            self.start_waiting(now);
        }
    }

    fn probe(&mut self, now: Tick, plan: Arc<Plan>) {
        let request = Request {
            tokens: vec![0],
            tokens_max: 1,
            end_tokens: Vec::new(),
            sampling: Sampling::GREEDY,
        };
        self.open(now, Purpose::Probe, plan, request, None);
    }
}

impl Machine for PipelineMachine {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Members(view) => self.members_changed(now, view),
            Input::Adopted(plan) => {
                self.plan = Some(plan);
                self.past.clear();
                self.start_waiting(now);
            }
            Input::Probe(plan) => self.probe(now, plan),
            Input::Submit { id, request } => self.submit(now, id, request),
            Input::Cancel(id) => self.cancel(now, id),
            Input::Sampled { from, sampled } => self.sampled(now, from, sampled),
            Input::Failed { from, failed } => self.failed(now, from, failed),
            Input::Unsent { to, frame } => self.outbox.unsent(to, frame),
            Input::LinkReady { peer } => self.outbox.link_ready(peer),
        }
    }

    fn wake(&mut self, now: Tick) {
        let whole = self.whole_plan().is_some();
        let late = |waiting: &Waiting| now >= waiting.until;
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| late(waiting)) {
            let cause = if whole { Abort::Busy } else { Abort::NoPlan };
            let id = waiting.id;
            self.outbox.push(Output::Aborted { id, cause });
        }
        let stalled: Vec<SequenceId> = self
            .running
            .iter()
            .filter(|(_, sequence)| now >= sequence.stalls_at())
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            self.abort(id, Abort::Stalled);
        }
        self.start_waiting(now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.outbox.poll()
    }

    fn deadline(&self) -> Option<Tick> {
        let waits = self.waiting.front().map(|waiting| waiting.until);
        let stalls = self.running.values().map(Sequence::stalls_at).min();
        let retry = self.retry_at.filter(|_| !self.waiting.is_empty());
        [waits, stalls, retry].into_iter().flatten().min()
    }
}

impl Sequence {
    fn stalls_at(&self) -> Tick {
        self.progress.after_millis(match self.purpose {
            Purpose::Answer(_) => STALL_MILLIS,
            Purpose::Probe => PROBE_STALL_MILLIS,
        })
    }
}
