//! What the pipeline machine is told and what it orders. Words only, no decisions.

use std::sync::Arc;

use cairn_wire::control::Plan;
use cairn_wire::data::{Failed, Sampled, Sampling};
use cairn_wire::frame::DataFrame;
use cairn_wire::id::{NodeId, PlanId};

use crate::outbox::Order;
use crate::view::View;

/// One request of this node, named by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Token ids of the prompt, at least one.
    pub tokens: Vec<u32>,
    /// Most tokens of the answer, at least one.
    pub tokens_max: u32,
    /// Tokens that end the answer and are not part of it.
    pub end_tokens: Vec<u32>,
    /// How tokens are picked.
    pub sampling: Sampling,
}

/// Facts for the pipeline machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The membership changed.
    Members(View),
    /// A plan is in force.
    Adopted(Arc<Plan>),
    /// Let a plan that is not in force yet produce a token.
    Probe(Arc<Plan>),
    /// A prompt arrived.
    Submit {
        /// Its name from now on.
        id: RequestId,
        /// What is asked for.
        request: Request,
    },
    /// Nobody waits for this answer any more.
    Cancel(RequestId),
    /// Tokens from a last stage.
    Sampled {
        /// Who sent them.
        from: NodeId,
        /// The tokens.
        sampled: Sampled,
    },
    /// A stage gave a sequence up.
    Failed {
        /// Who says so.
        from: NodeId,
        /// Which and why.
        failed: Failed,
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

/// Orders of the pipeline machine.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send to a node, which may be this one.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        frame: DataFrame,
    },
    /// The next token of an answer.
    Token {
        /// Whose.
        id: RequestId,
        /// The token.
        token: u32,
        /// Natural log of its probability.
        logprob: f32,
    },
    /// The answer is whole. Nothing follows for this request.
    Finished {
        /// Which.
        id: RequestId,
        /// Why it ended.
        finish: Finish,
    },
    /// There is no (more) answer. Nothing follows for this request.
    Aborted {
        /// Which.
        id: RequestId,
        /// Why.
        cause: Abort,
    },
    /// How a probe went.
    Probed {
        /// Of which plan.
        plan: PlanId,
        /// Whether a token came out, or why not.
        result: Result<(), String>,
    },
}

/// Why an answer is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    EndToken,
    /// The limit asked for, or the context, is reached.
    Length,
}

/// Why there is no (more) answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abort {
    /// No plan came into force while it waited.
    NoPlan,
    /// No place came free while it waited, or too many wait already.
    Busy,
    /// The prompt fills the context.
    ContextOverflow {
        /// Rows that the context holds.
        context: u32,
    },
    /// A node that held a stage left.
    NodeLost(NodeId),
    /// A stage failed.
    Stage {
        /// Its index.
        stage: u16,
        /// What it said.
        detail: String,
    },
    /// No token came for too long.
    Stalled,
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
