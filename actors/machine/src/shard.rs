//! What a stage does with the rows that reach it: admit, batch, compute, pass on.
//!
//! Holds no tensor: rows stay in the frames they came in, the engine computes on
//! order. A stage takes every waiting row that fits its budget in one pass,
//! whatever sequences they belong to; there is no central scheduler to lose.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cairn_wire::control::Plan;
use cairn_wire::data::{
    Ask, Close, DType, Failed, FailedWhy, Open, Rows, Sampled, SampledToken, Sampling, Span,
};
use cairn_wire::frame::{DataFrame, RowsFrame};
use cairn_wire::id::{NodeId, PlanId, SequenceId};

use crate::outbox::Outbox;
use crate::plan::{last_stage, owner};
use crate::view::View;
use crate::{Machine, Tick};

mod queue;
mod stage;

#[cfg(test)]
mod tests;

use queue::Queue;
use stage::{Admission, Stage};

/// Frames that may wait for credits towards one neighbour before the stage stops computing.
const OUTBOX_MAX: usize = 16;

/// Facts for the shard machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The membership changed.
    Members(View),
    /// Load a stage of a plan.
    Load {
        /// The plan, checked.
        plan: Arc<Plan>,
        /// The stage that this node owns.
        stage: u16,
    },
    /// The engine has loaded the layers, or cannot.
    LayersLoaded {
        /// For which plan.
        plan: PlanId,
        /// Bytes of weights, or the cause.
        result: Result<u64, String>,
    },
    /// Forget a plan that will not be adopted.
    Unload {
        /// Which.
        plan: PlanId,
    },
    /// A plan is in force: older ones end with their sequences.
    Adopted {
        /// Which.
        plan: PlanId,
    },
    /// A frame of the data plane for a stage of this node.
    Arrived {
        /// The neighbour that sent it, or this node itself.
        from: NodeId,
        /// The frame; its structure is checked, its sense is not.
        frame: DataFrame,
    },
    /// The engine has finished the pass that was ordered.
    PassDone {
        /// Of which plan.
        plan: PlanId,
        /// What came out, or the cause why nothing did.
        result: Result<PassOutput, String>,
    },
    /// A frame could not be sent: its link is full.
    Unsent {
        /// To whom.
        to: NodeId,
        /// The frame.
        frame: DataFrame,
    },
    /// A link that was full has room again.
    LinkReady {
        /// To whom.
        peer: NodeId,
    },
}

/// Orders of the shard machine.
#[derive(Clone, Debug)]
pub enum Output {
    /// Let the engine load these layers.
    LoadLayers {
        /// For which plan.
        plan: Arc<Plan>,
        /// Which stage.
        stage: u16,
    },
    /// Let the engine drop what it holds for a plan.
    DropLayers {
        /// Which plan.
        plan: PlanId,
    },
    /// Tell the planner how loading went.
    StageLoaded {
        /// Which plan.
        plan: PlanId,
        /// Bytes of weights, or the cause.
        result: Result<u64, String>,
    },
    /// Let the engine make room for a sequence, before its first pass.
    OpenSlot {
        /// Under which plan.
        plan: PlanId,
        /// The sequence.
        sequence: SequenceId,
        /// KV rows.
        rows_max: u32,
        /// How its tokens are picked, if this is the last stage.
        sampling: Sampling,
    },
    /// Let the engine free a sequence's room, after the passes already ordered.
    CloseSlot {
        /// Under which plan.
        plan: PlanId,
        /// The sequence.
        sequence: SequenceId,
    },
    /// Let the engine compute; one at a time.
    Forward(Pass),
    /// Send to a node, which may be this one.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        frame: DataFrame,
    },
}

/// Rows of one or several sequences for one pass of the engine.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Under which plan.
    pub plan: PlanId,
    /// Whose rows; no sequence twice.
    pub items: Vec<PassItem>,
}

/// Consecutive rows of one sequence, where they lie in a frame.
#[derive(Clone, Debug)]
pub struct PassItem {
    /// Whose rows, at which position, and what is wanted.
    pub span: Span,
    /// The frame that holds them. Its credit goes back when the pass has taken them.
    pub frame: RowsFrame,
    /// Index of the first row in the frame.
    pub offset: u32,
}

impl PassItem {
    /// The token ids of its rows.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let all = self.frame.tokens();
        all.skip(self.offset as usize).take(self.span.rows as usize)
    }

    /// Its hidden rows, (rows, width); empty on the first stage.
    pub fn hidden(&self) -> &[f32] {
        let width = self.frame.width();
        let start = self.offset as usize * width;
        &self.frame.payload()[start..start + self.span.rows as usize * width]
    }
}

/// What a pass yields.
#[derive(Clone, Debug, PartialEq)]
pub struct PassOutput {
    /// (all rows, width) in the order of the pass; empty on the last stage.
    pub hidden: Vec<f32>,
    /// Width of a hidden row.
    pub width: u32,
    /// On the last stage, one for each item that asked for a token.
    pub sampled: Vec<SampledToken>,
}

/// Counters of a node's stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames of plans that are not run here.
    pub stale: u64,
    /// Frames from a node that has no business sending them.
    pub refused: u64,
    /// Rows that were here already.
    pub replayed_rows: u64,
}

/// Runs the stages of this node: that of the plan in force, and for a while its neighbours in time.
#[derive(Debug, Default)]
pub struct ShardMachine {
    view: View,
    stages: BTreeMap<PlanId, Stage>,
    adopted: Option<PlanId>,
    running: Option<Running>,
    outbox: Outbox,
    counters: Counters,
    outputs: VecDeque<Output>,
}

/// The pass that the engine works on.
#[derive(Debug)]
struct Running {
    plan: PlanId,
    spans: Vec<Span>,
    tokens: Vec<u32>,
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

    fn members_changed(&mut self, view: View) {
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
            self.fail_all(plan, node);
            if self.adopted != Some(plan) {
                self.unload(plan);
            }
        }
        let plans: Vec<PlanId> = self.stages.keys().copied().collect();
        for plan in plans {
            for sequence in self.close_where(plan, |sequence| gone.contains(&sequence.driver)) {
                self.close_below(plan, sequence);
            }
            self.retire_if_done(plan);
        }
    }

    fn unload(&mut self, plan: PlanId) {
        if self.stages.remove(&plan).is_some() {
            self.outputs.push_back(Output::DropLayers { plan });
        }
    }

    /// Ends all sequences of a plan that has lost an owner. Their drivers are told: one that
    /// still hears that owner would wait for ever.
    fn fail_all(&mut self, plan: PlanId, node: NodeId) {
        let Some(stage) = self.stages.get(&plan) else {
            return;
        };
        let index = stage.index;
        for sequence in self.close_where(plan, |_| true) {
            self.close_below(plan, sequence);
            if self.view.nodes.contains(&sequence.driver) {
                self.fail(plan, index, sequence, FailedWhy::Gap, out_of_reach(node));
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
            self.send(to, DataFrame::Close(close));
        }
    }

    fn close_where(
        &mut self,
        plan: PlanId,
        matches: impl Fn(&SequenceId) -> bool,
    ) -> Vec<SequenceId> {
        let Some(stage) = self.stages.get_mut(&plan) else {
            return Vec::new();
        };
        let closed = stage.remove_where(matches);
        for sequence in &closed {
            let sequence = *sequence;
            self.outputs.push_back(Output::CloseSlot { plan, sequence });
        }
        closed
    }

    fn adopted(&mut self, plan: PlanId) {
        self.adopted = Some(plan);
        let older: Vec<PlanId> = self.stages.range(..plan).map(|(id, _)| *id).collect();
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

    fn arrived(&mut self, from: NodeId, frame: DataFrame) {
        match frame {
            DataFrame::Rows(rows) => self.rows_arrived(from, rows),
            DataFrame::Open(open) => self.open_arrived(from, open),
            DataFrame::Close(close) => self.close_arrived(from, close),
            // These are for drivers and links; a peer that sends them to a stage errs.
            DataFrame::Sampled(_) | DataFrame::Failed(_) | DataFrame::Credit(_) => {
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
            let detail = out_of_reach(node);
            self.fail(open.plan, open.stage, sequence, FailedWhy::Gap, detail);
            return;
        }
        match stage.open(sequence, open.rows_max) {
            Admission::Known => {}
            Admission::Refused(why, detail) => {
                self.fail(open.plan, open.stage, sequence, why, detail);
            }
            Admission::Taken => {
                self.outputs.push_back(Output::OpenSlot {
                    plan: open.plan,
                    sequence,
                    rows_max: open.rows_max,
                    sampling: open.sampling,
                });
                if let Some(to) = self.next_owner(open.plan) {
                    let stage = open.stage + 1;
                    self.send(to, DataFrame::Open(Open { stage, ..open }));
                }
            }
        }
    }

    fn close_arrived(&mut self, from: NodeId, close: Close) {
        if !self.admit(from, close.plan, close.stage, close.sequence.driver) {
            return;
        }
        self.close_where(close.plan, |sequence| *sequence == close.sequence);
        if let Some(to) = self.next_owner(close.plan) {
            let stage = close.stage + 1;
            self.send(to, DataFrame::Close(Close { stage, ..close }));
        }
        self.retire_if_done(close.plan);
    }

    fn rows_arrived(&mut self, from: NodeId, frame: RowsFrame) {
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
            match stage.take(span, at, &frame) {
                Ok(replayed) => self.counters.replayed_rows += u64::from(replayed),
                Err((why, detail)) => self.fail(plan, index, sequence, why, detail),
            }
        }
        self.compute();
    }

    /// Orders the next pass when the engine is free.
    fn compute(&mut self) {
        if self.running.is_some() {
            return;
        }
        // The newest plan first: older ones only finish what they have.
        let next = self.stages.iter_mut().rev().find(|(_, stage)| {
            let next = owner(&stage.plan, stage.index + 1);
            let blocked = next.is_some_and(|to| self.outbox.len(to) >= OUTBOX_MAX);
            !stage.queue.is_empty() && !blocked
        });
        let Some((plan, stage)) = next else {
            return;
        };
        let items = stage.queue.next_pass();
        self.running = Some(Running {
            plan: *plan,
            spans: items.iter().map(|item| item.span).collect(),
            tokens: items.iter().flat_map(PassItem::tokens).collect(),
        });
        let plan = *plan;
        self.outputs
            .push_back(Output::Forward(Pass { plan, items }));
    }

    fn pass_done(&mut self, plan: PlanId, result: Result<PassOutput, String>) {
        let Some(running) = self.running.take_if(|running| running.plan == plan) else {
            return;
        };
        if let Some(stage) = self.stages.get(&plan) {
            let (index, is_last) = (stage.index, stage.index == last_stage(&stage.plan));
            match result {
                Ok(output) if is_last => self.send_sampled(plan, &output.sampled),
                Ok(output) => self.send_hidden(plan, index, running, &output),
                Err(cause) => {
                    for span in running.spans {
                        let why = FailedWhy::Engine;
                        self.fail(plan, index, span.sequence, why, cause.clone());
                    }
                }
            }
        }
        self.retire_if_done(plan);
        self.compute();
    }

    fn send_sampled(&mut self, plan: PlanId, sampled: &[SampledToken]) {
        let mut by_driver: BTreeMap<NodeId, Vec<SampledToken>> = BTreeMap::new();
        for token in sampled {
            let driver = token.sequence.driver;
            by_driver.entry(driver).or_default().push(*token);
        }
        for (driver, tokens) in by_driver {
            self.send(driver, DataFrame::Sampled(Sampled { plan, tokens }));
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
        self.send(to, DataFrame::Rows(frame));
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
        self.send(sequence.driver, DataFrame::Failed(failed));
    }

    fn next_owner(&self, plan: PlanId) -> Option<NodeId> {
        let stage = self.stages.get(&plan)?;
        owner(&stage.plan, stage.index + 1)
    }

    fn send(&mut self, to: NodeId, frame: DataFrame) {
        self.outputs.push_back(Output::Send { to, frame });
    }
}

impl Machine for ShardMachine {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, _now: Tick, input: Input) {
        match input {
            Input::Members(view) => self.members_changed(view),
            Input::Load { plan, stage } => {
                self.stages
                    .insert(plan.id, Stage::new(Arc::clone(&plan), stage));
                self.outputs.push_back(Output::LoadLayers { plan, stage });
            }
            Input::LayersLoaded { plan, result } => {
                match &result {
                    Ok(_) if self.stages.contains_key(&plan) => {}
                    // The plan was given up while its layers loaded.
                    Ok(_) => self.outputs.push_back(Output::DropLayers { plan }),
                    Err(_) => {
                        self.stages.remove(&plan);
                    }
                }
                self.outputs.push_back(Output::StageLoaded { plan, result });
            }
            Input::Unload { plan } => self.unload(plan),
            Input::Adopted { plan } => self.adopted(plan),
            Input::Arrived { from, frame } => self.arrived(from, frame),
            Input::PassDone { plan, result } => self.pass_done(plan, result),
            Input::Unsent { to, frame } => self.outbox.hold(to, frame),
            Input::LinkReady { peer } => {
                for frame in self.outbox.release(peer) {
                    self.outputs.push_back(Output::Send { to: peer, frame });
                }
                self.compute();
            }
        }
    }

    fn wake(&mut self, _now: Tick) {}

    fn poll(&mut self) -> Option<Output> {
        loop {
            match self.outputs.pop_front()? {
                Output::Send { to, frame } => {
                    if let Some(frame) = self.outbox.pass(to, frame) {
                        return Some(Output::Send { to, frame });
                    }
                }
                other => return Some(other),
            }
        }
    }

    fn deadline(&self) -> Option<Tick> {
        None
    }
}

/// Sequences named twice in one pass would race for one cache.
fn assert_distinct(items: &[PassItem]) {
    let distinct: BTreeSet<SequenceId> = items.iter().map(|item| item.span.sequence).collect();
    assert_eq!(distinct.len(), items.len(), "a sequence twice in one pass");
}

/// Whether the driver waits for this span: such rows go first.
fn is_decode(span: &Span) -> bool {
    span.rows == 1 && span.ask == Ask::Token
}

/// What a driver is told when its sequence cannot go on for want of a node.
fn out_of_reach(node: NodeId) -> String {
    format!("{node}, which holds other layers, is out of this node's reach")
}
