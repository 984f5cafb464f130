//! What a stage does with the rows that reach it: admit, batch, compute, pass on.
//!
//! Holds no tensor: rows stay in the frames they came in, the engine computes on
//! order. A stage takes every waiting row that fits its budget in one pass,
//! whatever sequences they belong to; there is no central scheduler to lose.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_wire::control::{LayerRange, Plan};
use cairn_wire::data::{Close, DType, Failed, FailedWhy, Open, Rows, Sampled, SampledToken, Span};
use cairn_wire::frame::{DataFrame, RowsFrame};
use cairn_wire::id::{NodeId, PlanId, SequenceId};

use crate::outbox::Outbox;
use crate::plan::{last_stage, owner};
use crate::view::View;
use crate::{Machine, Tick};

mod fact;
mod groups;
mod queue;
mod room;
mod stage;

#[cfg(test)]
mod tests;

pub use fact::{Input, Output, Pass, PassItem, PassOutput};
use groups::Groups;
use queue::Queue;
pub use room::PAGE_ROWS;
use stage::{Admission, Kept, Stage};

/// Frames that may wait for credits towards one neighbour before the stage stops computing.
const OUTBOX_MAX: usize = 16;

/// Counters of a node's stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames of plans that are not run here.
    pub stale: u64,
    /// Frames from a node that has no business sending them.
    pub refused: u64,
    /// Rows that were here already.
    pub replayed_rows: u64,
    /// Sequences that started with rows of an earlier one.
    pub prefix_hits: u64,
    /// Rows that were not computed for it.
    pub prefix_rows: u64,
}

/// Runs the stages of this node: that of the plan in force, and for a while its neighbours in time.
#[derive(Debug, Default)]
pub struct ShardMachine {
    view: View,
    stages: BTreeMap<PlanId, Stage>,
    adopted: Option<PlanId>,
    running: Option<Running>,
    counters: Counters,
    outbox: Outbox<Output>,
}

/// The pass that the engine works on.
#[derive(Debug)]
struct Running {
    plan: PlanId,
    spans: Vec<Span>,
    tokens: Vec<u32>,
}

impl Running {
    /// Takes a sequence's span out, and its tokens.
    fn take_out(&mut self, sequence: SequenceId) -> Option<Span> {
        let of = |span: &Span| span.sequence == sequence;
        let place = self.spans.iter().position(of)?;
        let before = self.spans[..place].iter().map(|span| span.rows as usize);
        let first: usize = before.sum();
        let span = self.spans.remove(place);
        self.tokens.drain(first..first + span.rows as usize);
        Some(span)
    }
}

impl ShardMachine {
    /// What was dropped so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sequences held now, over all plans.
    pub fn sequences(&self) -> usize {
        self.stages.values().map(Stage::sequences).sum()
    }

    /// Rows waiting for the engine now.
    pub fn queue_rows(&self) -> u64 {
        self.stages.values().map(|stage| stage.queue.rows()).sum()
    }

    fn members_changed(&mut self, now: Tick, view: View) {
        let gone: Vec<NodeId> = self.view.nodes.difference(&view.nodes).copied().collect();
        self.view = view;
        for node in &gone {
            self.outbox.forget(*node);
        }
        let broken: Vec<(PlanId, NodeId)> = self
            .stages
            .iter()
            .filter_map(|(id, stage)| Some((*id, self.view.missing_owner(&stage.plan)?)))
            .collect();
        for (plan, node) in broken {
            self.fail_all(now, plan, node);
            if self.adopted != Some(plan) {
                self.unload(plan);
            }
        }
        let plans: Vec<PlanId> = self.stages.keys().copied().collect();
        for plan in plans {
            for sequence in self.close_where(now, plan, |sequence| gone.contains(&sequence.driver))
            {
                self.close_below(plan, sequence);
            }
            self.retire_if_done(plan);
        }
        self.compute(now);
    }

    fn unload(&mut self, plan: PlanId) {
        if self.stages.remove(&plan).is_some() {
            self.outbox.push(Output::DropLayers { plan });
        }
    }

    /// Ends all sequences of a plan that has lost an owner. Their drivers are told: one that
    /// still hears that owner would wait for ever.
    fn fail_all(&mut self, now: Tick, plan: PlanId, node: NodeId) {
        let Some(stage) = self.stages.get(&plan) else {
            return;
        };
        let index = stage.index;
        for sequence in self.close_where(now, plan, |_| true) {
            self.close_below(plan, sequence);
            if self.view.nodes.contains(&sequence.driver) {
                self.fail(plan, index, sequence, FailedWhy::Lost(node), String::new());
            }
        }
    }

    /// Tells the stages below that a sequence has ended here, as its driver may be unable to.
    fn close_below(&mut self, plan: PlanId, sequence: SequenceId) {
        let (Some(to), Some(stage)) = (self.next_owner(plan), self.stages.get(&plan)) else {
            return;
        };
        if self.view.nodes.contains(&to) {
            let stage = stage.index + 1;
            let close = Close {
                plan,
                stage,
                sequence,
            };
            self.outbox.send(to, DataFrame::Close(close));
        }
    }

    fn close_where(
        &mut self,
        now: Tick,
        plan: PlanId,
        matches: impl Fn(&SequenceId) -> bool,
    ) -> Vec<SequenceId> {
        let Some(stage) = self.stages.get_mut(&plan) else {
            return Vec::new();
        };
        let (live, ended) = stage.remove_where(now, matches);
        for sequence in live.iter().chain(&ended) {
            let sequence = *sequence;
            self.outbox.push(Output::CloseSlot { plan, sequence });
        }
        live
    }

    fn adopted(&mut self, plan: Arc<Plan>, standby: Vec<LayerRange>) {
        let newest = plan.id;
        self.adopted = Some(newest);
        self.outbox.push(Output::KeepLayers { plan, standby });
        let older: Vec<PlanId> = self.stages.range(..newest).map(|(id, _)| *id).collect();
        for old in older {
            self.retire_if_done(old);
        }
    }

    /// A plan that is no longer in force is dropped with its last sequence.
    fn retire_if_done(&mut self, plan: PlanId) {
        let Some(stage) = self.stages.get(&plan) else {
            return;
        };
        let computing = self.running.as_ref().is_some_and(|run| run.plan == plan);
        if self.adopted > Some(plan) && stage.sequences() == 0 && !computing {
            self.unload(plan);
        }
    }

    fn arrived(&mut self, now: Tick, from: NodeId, frame: DataFrame) {
        match frame {
            DataFrame::Rows(rows) => self.rows_arrived(now, from, rows),
            DataFrame::Open(open) => self.open_arrived(from, open),
            DataFrame::Close(close) => self.close_arrived(now, from, close),
            DataFrame::Sampled(sampled) => self.tokens_arrived(now, from, &sampled),
            // These are for drivers and links; a peer that sends them to a stage errs.
            DataFrame::Failed(_) | DataFrame::Credit(_) => {
                self.counters.refused += 1;
            }
        }
    }

    /// The stage that a frame is for, if the sender may send it.
    fn admit(&mut self, from: NodeId, plan: PlanId, index: u16, driver: NodeId) -> bool {
        let Some(stage) = self.stages.get(&plan) else {
            self.counters.stale += 1;
            return false;
        };
        let rightful = match index.checked_sub(1) {
            None => from == driver,
            Some(before) => owner(&stage.plan, before) == Some(from),
        };
        if stage.index != index || !rightful {
            self.counters.refused += 1;
            return false;
        }
        true
    }

    fn open_arrived(&mut self, from: NodeId, open: Open) {
        let sequence = open.sequence;
        if !self.stages.contains_key(&open.plan) {
            // A driver that was cut off may not know yet that another plan is in force. Were it
            // not told, it would wait for a token that nobody computes.
            self.counters.stale += 1;
            let detail = format!("the plan {} is not run here", open.plan);
            self.fail(open.plan, open.stage, sequence, FailedWhy::Busy, detail);
            return;
        }
        if !self.admit(from, open.plan, open.stage, sequence.driver) {
            return;
        }
        let stage = self.stages.get_mut(&open.plan).expect("admitted");
        if let Some(node) = self.view.missing_owner(&stage.plan) {
            let why = FailedWhy::Lost(node);
            self.fail(open.plan, open.stage, sequence, why, String::new());
            return;
        }
        match stage.open(&open) {
            Admission::Known => {}
            Admission::Refused(why, detail) => {
                self.fail(open.plan, open.stage, sequence, why, detail);
            }
            Admission::Taken => {
                self.outbox.push(Output::OpenSlot {
                    plan: open.plan,
                    sequence,
                    rows_max: open.rows_max,
                    sampling: open.sampling,
                    prefix: open.prefix,
                });
                while let Some(sequence) = stage.evict() {
                    let plan = open.plan;
                    self.outbox.push(Output::CloseSlot { plan, sequence });
                }
                if let Some(prefix) = open.prefix {
                    self.counters.prefix_hits += 1;
                    self.counters.prefix_rows += u64::from(prefix.rows);
                }
                if let Some(to) = self.next_owner(open.plan) {
                    let stage = open.stage + 1;
                    self.outbox
                        .send(to, DataFrame::Open(Open { stage, ..open }));
                }
            }
        }
    }

    fn close_arrived(&mut self, now: Tick, from: NodeId, close: Close) {
        if !self.admit(from, close.plan, close.stage, close.sequence.driver) {
            return;
        }
        let stage = self.stages.get_mut(&close.plan).expect("admitted");
        let (plan, sequence) = (close.plan, close.sequence);
        match stage.close(now, sequence) {
            None => {}
            Some(Kept::Rows) => self.outbox.push(Output::RetainSlot { plan, sequence }),
            Some(Kept::Nothing) => self.outbox.push(Output::CloseSlot { plan, sequence }),
        }
        if let Some(to) = self.next_owner(close.plan) {
            let stage = close.stage + 1;
            self.outbox
                .send(to, DataFrame::Close(Close { stage, ..close }));
        }
        self.retire_if_done(close.plan);
        // Others may have waited for its next row.
        self.compute(now);
    }

    fn rows_arrived(&mut self, now: Tick, from: NodeId, frame: RowsFrame) {
        if !self.view.nodes.contains(&from) {
            // It does not know yet that this node leaves, or that their link is closed. It soon
            // will, and names the lost node itself: an answer would blame the rows.
            self.counters.refused += 1;
            return;
        }
        let (plan, index) = (frame.plan(), frame.stage());
        let mut offset = 0;
        for span in frame.spans() {
            let sequence = span.sequence;
            let at = offset;
            offset += span.rows;
            if !self.admit(from, plan, index, sequence.driver) {
                continue;
            }
            let stage = self.stages.get_mut(&plan).expect("admitted");
            match stage.take(now, span, at, &frame) {
                Ok(replayed) => self.counters.replayed_rows += u64::from(replayed),
                Err((why, detail)) => self.fail(plan, index, sequence, why, detail),
            }
        }
        self.compute(now);
    }

    /// The last stage's tokens: on the first stage, their sequences go on with them. That takes
    /// no driver, wherever it is.
    fn tokens_arrived(&mut self, now: Tick, from: NodeId, sampled: &Sampled) {
        let Some(stage) = self.stages.get_mut(&sampled.plan) else {
            self.counters.stale += 1;
            return;
        };
        let last = owner(&stage.plan, last_stage(&stage.plan));
        if stage.index != 0 || last != Some(from) || !self.view.nodes.contains(&from) {
            self.counters.refused += 1;
            return;
        }
        stage.go_on(now, sampled);
        self.compute(now);
    }

    /// Orders the next pass when the engine is free.
    fn compute(&mut self, now: Tick) {
        if self.running.is_some() {
            return;
        }
        // The newest plan first: older ones only finish what they have.
        let next = self.stages.iter_mut().rev().find_map(|(plan, stage)| {
            let next = owner(&stage.plan, stage.index + 1);
            let blocked = next.is_some_and(|to| self.outbox.waiting(to) >= OUTBOX_MAX);
            (stage.has_pass(now) && !blocked).then_some((*plan, stage))
        });
        let Some((plan, stage)) = next else {
            return;
        };
        let items = stage.next_pass(now);
        self.running = Some(Running {
            plan,
            spans: items.iter().map(|item| item.span).collect(),
            tokens: items.iter().flat_map(PassItem::tokens).collect(),
        });
        let waits = items.iter().map(|item| now.millis_since(item.arrived));
        let waited_millis = waits.max().unwrap_or(0);
        self.outbox.push(Output::Forward(Pass {
            plan,
            items,
            waited_millis,
        }));
    }

    fn pass_done(&mut self, now: Tick, plan: PlanId, result: Result<PassOutput, String>) {
        let Some(mut running) = self.running.take_if(|running| running.plan == plan) else {
            return;
        };
        match result {
            Ok(output) => {
                for (sequence, cause) in &output.failed {
                    if let Some(span) = running.take_out(*sequence) {
                        self.not_computed(plan, &span, cause);
                    }
                }
                self.send_output(plan, running, output);
            }
            Err(cause) => {
                for span in &running.spans {
                    self.not_computed(plan, span, &cause);
                }
            }
        }
        self.retire_if_done(plan);
        self.compute(now);
    }

    /// The engine has not computed a span of a pass: its sequence has failed.
    fn not_computed(&mut self, plan: PlanId, span: &Span, cause: &str) {
        if let Some(stage) = self.stages.get_mut(&plan) {
            stage.not_computed(span);
            let index = stage.index;
            self.fail(
                plan,
                index,
                span.sequence,
                FailedWhy::Engine,
                cause.to_owned(),
            );
        }
    }

    fn send_output(&mut self, plan: PlanId, running: Running, output: PassOutput) {
        let Some(stage) = self.stages.get(&plan) else {
            return;
        };
        let index = stage.index;
        if index == last_stage(&stage.plan) {
            self.send_sampled(plan, output.sampled);
        } else if !running.spans.is_empty() {
            self.send_hidden(plan, index, running, &output);
        }
    }

    /// To the first stage, which goes on with all of them, and then to their drivers.
    fn send_sampled(&mut self, plan: PlanId, sampled: Vec<SampledToken>) {
        let stage = self.stages.get(&plan);
        let Some(first) = stage.and_then(|stage| owner(&stage.plan, 0)) else {
            return;
        };
        let mut by_driver: BTreeMap<NodeId, Vec<SampledToken>> = BTreeMap::new();
        for token in &sampled {
            let driver = token.sequence.driver;
            by_driver.entry(driver).or_default().push(*token);
        }
        // As a driver too, it has its own among all of them.
        by_driver.remove(&first);
        let frame = |goes_on, tokens| {
            DataFrame::Sampled(Sampled {
                plan,
                goes_on,
                tokens,
            })
        };
        if !sampled.is_empty() {
            self.outbox.send(first, frame(true, sampled));
        }
        for (driver, tokens) in by_driver {
            self.outbox.send(driver, frame(false, tokens));
        }
    }

    fn send_hidden(&mut self, plan: PlanId, index: u16, running: Running, output: &PassOutput) {
        let Some(to) = self.next_owner(plan) else {
            return;
        };
        let header = Rows {
            plan,
            stage: index + 1,
            dtype: DType::F32,
            width: output.width,
            spans: running.spans,
            tokens: running.tokens,
        };
        let frame = RowsFrame::build(&header, &output.hidden);
        self.outbox.send(to, DataFrame::Rows(frame));
    }

    fn fail(
        &mut self,
        plan: PlanId,
        stage: u16,
        sequence: SequenceId,
        why: FailedWhy,
        detail: String,
    ) {
        let failed = Failed {
            plan,
            stage,
            sequence,
            why,
            detail,
        };
        self.outbox.send(sequence.driver, DataFrame::Failed(failed));
    }

    fn next_owner(&self, plan: PlanId) -> Option<NodeId> {
        let stage = self.stages.get(&plan)?;
        owner(&stage.plan, stage.index + 1)
    }
}

impl Machine for ShardMachine {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Members(view) => self.members_changed(now, view),
            Input::Load { plan, stage } => {
                self.stages
                    .insert(plan.id, Stage::new(Arc::clone(&plan), stage));
                self.outbox.push(Output::LoadLayers { plan, stage });
            }
            Input::LayersLoaded { plan, result } => {
                match &result {
                    Ok(_) if self.stages.contains_key(&plan) => {}
                    // The plan was given up while its layers loaded.
                    Ok(_) => self.outbox.push(Output::DropLayers { plan }),
                    Err(_) => {
                        self.stages.remove(&plan);
                    }
                }
                self.outbox.push(Output::StageLoaded { plan, result });
            }
            Input::Unload { plan } => self.unload(plan),
            Input::Adopted { plan, standby } => self.adopted(plan, standby),
            Input::Arrived { from, frame } => self.arrived(now, from, frame),
            Input::PassDone { plan, result } => self.pass_done(now, plan, result),
            Input::Unsent { to, frame } => self.outbox.unsent(to, frame),
            Input::LinkReady { peer } => {
                self.outbox.link_ready(peer);
                self.compute(now);
            }
        }
    }

    fn wake(&mut self, now: Tick) {
        self.compute(now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.outbox.poll()
    }

    fn deadline(&self) -> Option<Tick> {
        let waits = self.stages.values().filter_map(Stage::deadline);
        waits.min().filter(|_| self.running.is_none())
    }
}
