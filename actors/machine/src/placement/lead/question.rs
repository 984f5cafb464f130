//! What the planner is asked: for whom, for which model, with which figures.

use std::collections::VecDeque;

use cairn_planner::{Request, Strategy};
use cairn_wire::id::NodeId;

use super::super::takeover::takeover;
use super::super::watch::follows_speed;
use super::super::{Note, Output, candidates, to_request};
use super::Leader;
use super::making::{Basis, Kind, Making};
use crate::Tick;
use crate::view::View;

impl Leader {
    /// Whether a plan now would be made without knowing all the links that it may use, and
    /// nobody waits for it because layers have lost their owner.
    pub(super) fn may_wait_for_links(&self, now: Tick, view: &View) -> bool {
        let in_force = self.in_force.as_ref();
        let is_urgent = in_force.is_some_and(|plan| view.missing_owner(plan).is_some());
        !is_urgent && !self.watch.knows_links(now, &self.basis(view).nodes)
    }

    pub(super) fn begin(&mut self, now: Tick, view: &View, outputs: &mut VecDeque<Output>) {
        let basis = self.basis(view);
        let known = self.facts.as_ref().map(|facts| &facts.model.name);
        if known == Some(&basis.model) {
            self.solve(now, view, basis, outputs);
        } else {
            let name = basis.model.clone();
            outputs.push_back(Output::Describe { name });
            self.making = Making::Describe { basis };
        }
    }

    pub(super) fn solve(
        &mut self,
        now: Tick,
        view: &View,
        basis: Basis,
        outputs: &mut VecDeque<Output>,
    ) {
        let mut request = self.corrected(now, view, &basis);
        let mut kind = Kind::Usual;
        if let Some(plan) = self.in_force.as_ref()
            && plan.model.name == basis.model
            && let Some(lost) = view.missing_owner(plan)
            && let Some(split) = takeover(plan, view, basis.nodes.iter().copied(), &self.standing)
        {
            outputs.push_back(Output::Note(Note::TakingOver { lost }));
            request.strategy = Strategy::Custom(split);
            kind = Kind::Takeover;
        }
        self.order_plan(basis, kind, request, outputs);
    }

    pub(super) fn order_plan(
        &mut self,
        basis: Basis,
        kind: Kind,
        request: Request,
        outputs: &mut VecDeque<Output>,
    ) {
        self.question += 1;
        let (question, request) = (self.question, Box::new(request));
        outputs.push_back(Output::Solve { question, request });
        let basis = Basis { kind, ..basis };
        self.making = Making::Solve { basis, question };
    }

    /// The planner's question for the present members, by their own figures and measured links.
    pub(super) fn request(&self, now: Tick, view: &View, basis: &Basis) -> Request {
        let facts = self.facts.as_ref().expect("there is a description");
        let members = self
            .capabilities
            .iter()
            .filter(|(node, _)| basis.nodes.contains(node) && view.nodes.contains(node));
        let mut request = to_request(&self.config, facts, members);
        request.links = self.watch.links(now, &request);
        request
    }

    /// The question with what was seen of the devices.
    pub(super) fn corrected(&self, now: Tick, view: &View, basis: &Basis) -> Request {
        let told = self.request(now, view, basis);
        // A device that was seen to be slow is slow for whoever joins, too.
        match follows_speed(&self.config.strategy) {
            true => self.watch.history.correct(&told),
            false => told,
        }
    }

    pub(super) fn basis(&self, view: &View) -> Basis {
        Basis {
            nodes: candidates(self.config.me, view, &self.capabilities, &self.excluded),
            model: self.model(view),
            kind: Kind::Usual,
        }
    }

    /// This node's wish, else the wish of the first member that has one, else the default.
    fn model(&self, view: &View) -> String {
        let wish = |node: &NodeId| self.capabilities.get(node)?.wish.clone();
        wish(&self.config.me)
            .or_else(|| view.nodes.iter().find_map(wish))
            .unwrap_or_else(|| self.config.default_model.clone())
    }
}
