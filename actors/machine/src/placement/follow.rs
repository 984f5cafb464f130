//! The follower's half: stage what is proposed, adopt what is announced, never go back.

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_wire::control::Plan;
use cairn_wire::id::{NodeId, PlanId};

use super::Output;
use crate::view::View;

/// The plans that a node holds: one in force, one staged.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// In force.
    pub(super) adopted: Option<Arc<Plan>>,
    /// A proposal that came before its leader's claim.
    pub(super) early: Option<(NodeId, Plan)>,
    staged: Option<Staged>,
}

#[derive(Debug)]
struct Staged {
    plan: Arc<Plan>,
    mine: Option<u16>,
    load: Load,
}

#[derive(Debug)]
enum Load {
    Running,
    Done(Result<u64, String>),
}

impl Follower {
    /// The newest plan that was staged or adopted.
    pub(super) fn newest(&self) -> Option<PlanId> {
        let staged = self.staged.as_ref().map(|staged| staged.plan.id);
        staged.max(self.adopted.as_ref().map(|plan| plan.id))
    }

    /// Takes a new plan in and loads this node's stage of it.
    pub(super) fn stage_new(
        &mut self,
        plan: Arc<Plan>,
        mine: Option<u16>,
        outputs: &mut VecDeque<Output>,
    ) {
        self.drop_staged(outputs);
        if let Some(stage) = mine {
            let plan = Arc::clone(&plan);
            outputs.push_back(Output::Load { plan, stage });
        }
        let load = Load::Running;
        self.staged = Some(Staged { plan, mine, load });
    }

    /// What the leader is to be told: a failure at once, a load only when this node reaches
    /// every owner. The leader reaches them all; its probe's rows go from each to the next.
    pub(super) fn answer(&self, view: &View) -> Option<(PlanId, u16, Result<u64, String>)> {
        let staged = self.staged.as_ref()?;
        let (Some(stage), Load::Done(result)) = (staged.mine, &staged.load) else {
            return None;
        };
        if result.is_ok() && view.missing_owner(&staged.plan).is_some() {
            return None;
        }
        Some((staged.plan.id, stage, result.clone()))
    }

    /// Notes the outcome of a load.
    pub(super) fn loaded(&mut self, plan: PlanId, result: Result<u64, String>) {
        let staged = self.staged.as_mut();
        if let Some(staged) = staged.filter(|staged| staged.plan.id == plan) {
            staged.load = Load::Done(result);
        }
    }

    /// The staged plan is in force now. Anything else is stale and ignored.
    pub(super) fn adopt(&mut self, plan: PlanId, outputs: &mut VecDeque<Output>) {
        let matches = |staged: &mut Staged| staged.plan.id == plan && staged.usable();
        if let Some(staged) = self.staged.take_if(matches) {
            assert!(self.adopted.as_ref().is_none_or(|old| old.id < plan));
            self.adopted = Some(Arc::clone(&staged.plan));
            outputs.push_back(Output::Adopted { plan: staged.plan });
        }
    }

    /// The staged plan will not be adopted.
    pub(super) fn abandon(&mut self, plan: PlanId, outputs: &mut VecDeque<Output>) {
        if self
            .staged
            .as_ref()
            .is_some_and(|staged| staged.plan.id == plan)
        {
            self.drop_staged(outputs);
        }
    }

    fn drop_staged(&mut self, outputs: &mut VecDeque<Output>) {
        if let Some(staged) = self.staged.take()
            && staged.mine.is_some()
        {
            let plan = staged.plan.id;
            outputs.push_back(Output::Unload { plan });
        }
    }
}

impl Staged {
    /// Whether this node could run its part of the plan.
    fn usable(&self) -> bool {
        match (&self.mine, &self.load) {
            (None, _) | (Some(_), Load::Done(Ok(_))) => true,
            (Some(_), Load::Running | Load::Done(Err(_))) => false,
        }
    }
}
