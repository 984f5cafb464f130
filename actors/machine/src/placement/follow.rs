//! The follower's half: stage what is proposed, adopt what is announced, never go back.

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_wire::control::{Control, LoadFailed, Loaded, Plan};
use cairn_wire::id::{NodeId, PlanId};

use super::Output;

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

    /// Answers a proposal that was heard before: the first answer may have been lost.
    pub(super) fn repeat(
        &self,
        me: NodeId,
        to: NodeId,
        plan: PlanId,
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(staged) = self.staged.as_ref().filter(|staged| staged.plan.id == plan) else {
            return;
        };
        let (Some(stage), Load::Done(result)) = (staged.mine, &staged.load) else {
            return;
        };
        if to == me {
            return;
        }
        let message = match result.clone() {
            Ok(weight_bytes) => Control::Loaded(Loaded {
                plan,
                stage,
                weight_bytes,
            }),
            Err(detail) => Control::LoadFailed(LoadFailed {
                plan,
                stage,
                detail,
            }),
        };
        outputs.push_back(Output::Send { to, message });
    }

    /// Notes the outcome of a load; the stage's index if it was waited for.
    pub(super) fn loaded(&mut self, plan: PlanId, result: &Result<u64, String>) -> Option<u16> {
        let staged = self
            .staged
            .as_mut()
            .filter(|staged| staged.plan.id == plan)?;
        staged.load = Load::Done(result.clone());
        staged.mine
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
