//! What the shard machine is told and what it orders. Words only, no decisions.

use std::sync::Arc;

use cairn_wire::control::{LayerRange, Plan};
use cairn_wire::data::{Prefix, SampledToken, Sampling, Span};
use cairn_wire::frame::{DataFrame, RowsFrame};
use cairn_wire::id::{NodeId, PlanId, SequenceId};

use crate::Tick;
use crate::outbox::Order;
use crate::view::View;

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
        /// The plan, checked.
        plan: Arc<Plan>,
        /// The layers that this node stands by with.
        standby: Vec<LayerRange>,
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
    /// Keep these layers in memory for others, and no more those of earlier orders. What is there
    /// is kept before [`Output::DropLayers`] takes it away; nobody waits for the rest.
    KeepLayers {
        /// The plan that asks for it.
        plan: Arc<Plan>,
        /// Which layers, in order.
        standby: Vec<LayerRange>,
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
        /// The rows of another sequence that it starts with. The engine has computed them, or
        /// will by passes already ordered.
        prefix: Option<Prefix>,
    },
    /// A sequence has ended and gets no more rows, but others may start with those that it has.
    RetainSlot {
        /// Under which plan.
        plan: PlanId,
        /// The sequence.
        sequence: SequenceId,
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
    /// How long the first of them waited for the engine.
    pub waited_millis: u64,
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
    /// When they came.
    pub arrived: Tick,
}

impl Pass {
    /// Rows of all sequences.
    pub fn rows(&self) -> u64 {
        let rows = self.items.iter().map(|item| u64::from(item.span.rows));
        rows.sum()
    }

    /// Whether it is one decode row, or anything like it: what a stage's time is told for.
    pub fn is_one_row(&self) -> bool {
        matches!(&self.items[..], [item] if item.span.rows == 1)
    }
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassOutput {
    /// (rows that were computed, width) in the order of the pass; empty on the last stage.
    pub hidden: Vec<f32>,
    /// Width of a hidden row.
    pub width: u32,
    /// On the last stage, one for each item that asked for a token.
    pub sampled: Vec<SampledToken>,
    /// Sequences whose rows could not be computed, and why; the others' were.
    pub failed: Vec<(SequenceId, String)>,
}

impl Order for Output {
    fn send(to: NodeId, frame: DataFrame) -> Self {
        Output::Send { to, frame }
    }

    fn into_send(self) -> Result<(NodeId, DataFrame), Self> {
        match self {
            Output::Send { to, frame } => Ok((to, frame)),
            other => Err(other),
        }
    }
}
