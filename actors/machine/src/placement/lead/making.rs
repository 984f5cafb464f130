//! How far the plan in the making is, and what it is made for.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_wire::control::Plan;
use cairn_wire::id::NodeId;

use super::{REPEAT_MILLIS, SETTLE_MILLIS};
use crate::Tick;

/// A pair of nodes whose link is not measured yet is waited for so long at a time.
const LINK_MILLIS: u64 = 200;
/// And so often: a link needs some tenths of a second for its first round trips, more where the
/// nodes are busy measuring themselves; and who tells of its links just before that does so again
/// after a second.
const LINK_WAITS_MAX: u32 = 10;

/// What a plan was made for; a difference asks for another plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) nodes: BTreeSet<NodeId>,
    pub(super) model: String,
    pub(super) kind: Kind,
}

/// Who split the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The strategy.
    Usual,
    /// Those who have them in memory, for as long as the strategy's plan takes.
    Takeover,
}

/// How far the plan in the making is.
#[derive(Debug)]
pub(super) enum Making {
    /// Nothing to do until something changes.
    Rest,
    /// Something changed; wait for more changes.
    Settle {
        at: Tick,
        /// How often that was for the links only.
        link_waits: u32,
    },
    /// This node shall tell what it sees of its own links, as the others have.
    Look { link_waits: u32 },
    /// The model's file is being looked for.
    Describe { basis: Basis },
    /// The planner runs.
    Solve { basis: Basis, question: u64 },
    /// The stages load.
    Load {
        basis: Basis,
        plan: Arc<Plan>,
        waiting: BTreeSet<NodeId>,
        repeat_at: Tick,
    },
    /// The pipeline shall produce a token.
    Probe { basis: Basis, plan: Arc<Plan> },
}

impl Making {
    /// Waits for more changes before anything is made.
    pub(super) fn settling(now: Tick) -> Self {
        Self::waiting_until(now.after_millis(SETTLE_MILLIS))
    }

    /// The same until a given time.
    pub(super) fn waiting_until(at: Tick) -> Self {
        Self::Settle { at, link_waits: 0 }
    }

    /// The stages are told to load.
    pub(super) fn loading(now: Tick, basis: Basis, plan: Plan) -> Self {
        Self::Load {
            basis,
            waiting: plan.stages.iter().map(|stage| stage.node).collect(),
            plan: Arc::new(plan),
            repeat_at: now.after_millis(REPEAT_MILLIS),
        }
    }

    /// Something changed before anything was made: each change pushes the start back a little.
    pub(super) fn pushed_back(&self, now: Tick) -> Self {
        let link_waits = match self {
            Self::Settle { link_waits, .. } => *link_waits,
            Self::Rest
            | Self::Look { .. }
            | Self::Describe { .. }
            | Self::Solve { .. }
            | Self::Load { .. }
            | Self::Probe { .. } => 0,
        };
        let at = now.after_millis(SETTLE_MILLIS);
        Self::Settle { at, link_waits }
    }

    /// Waits once more for links that are not measured, unless that was done often enough.
    pub(super) fn waiting_for_links(now: Tick, link_waits: u32) -> Option<Self> {
        let at = now.after_millis(LINK_MILLIS);
        let again = Self::Settle {
            at,
            link_waits: link_waits + 1,
        };
        (link_waits < LINK_WAITS_MAX).then_some(again)
    }
}
