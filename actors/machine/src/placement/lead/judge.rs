//! Whether another plan would be better than the one in force.

use std::collections::VecDeque;

use cairn_wire::control::Plan;
use cairn_wire::id::NodeId;

use super::super::watch::{Judgement, follows_speed};
use super::super::{Note, Output};
use super::Leader;
use super::making::Making;
use crate::Tick;
use crate::view::View;

/// A stage that takes longer than so many thousandths of its forecast is named as slow.
const SLOW_PERMILLE: u64 = 1_100;

impl Leader {
    /// Whether there is a plan in force that may be replaced by a better one.
    pub(super) fn is_watching(&self) -> bool {
        let at_rest = matches!(self.making, Making::Rest);
        let serves = self.in_force.is_some() && self.facts.is_some() && self.made_for.is_some();
        at_rest && serves && follows_speed(&self.config.strategy)
    }

    /// Asks whether another plan would be better than the one in force.
    pub(super) fn ask(&mut self, now: Tick, view: &View, outputs: &mut VecDeque<Output>) {
        let Some(plan) = self.in_force.clone().filter(|_| self.is_watching()) else {
            return;
        };
        let basis = self.basis(view);
        if self.made_for.as_ref() == Some(&basis) {
            let request = self.request(now, view, &basis);
            let question = self.watch.ask(now, &plan, request);
            outputs.push_back(Output::Judge(Box::new(question)));
        }
    }

    /// Moves layers if that was found to be better, and nothing has changed meanwhile.
    pub(in super::super) fn judged(
        &mut self,
        now: Tick,
        view: &View,
        number: u64,
        result: Result<Box<Judgement>, String>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(judged) = self.watch.answered(now, number) else {
            return;
        };
        let Judgement { better, history } = match result {
            Ok(judgement) => *judgement,
            Err(cause) => {
                if self.unjudged.as_ref() != Some(&cause) {
                    self.unjudged = Some(cause.clone());
                    outputs.push_back(Output::Note(Note::NotJudged { cause }));
                }
                return;
            }
        };
        self.unjudged = None;
        self.watch.history = history;
        let Some(plan) = self.in_force.clone().filter(|plan| plan.id == judged) else {
            return;
        };
        let basis = self.basis(view);
        let is_current = self.is_watching() && self.made_for.as_ref() == Some(&basis);
        if let Some((candidate, gain_permille)) = better.filter(|_| is_current) {
            let why = self.account(&plan, &candidate, gain_permille);
            outputs.push_back(Output::Note(Note::Replanning { why }));
            self.propose(now, view, basis, &candidate, outputs);
        }
    }

    /// Which node is how much slower than forecast, which layers move, and what that gains.
    fn account(&self, old: &Plan, candidate: &cairn_planner::Plan, gain_permille: u64) -> String {
        let share = |permille: u64| format!("{}.{}", permille / 1000, permille % 1000 / 100);
        let mut parts = Vec::new();
        for (id, known) in self.watch.history.known() {
            let node = NodeId(id.0);
            let permille = known.drift.permille();
            if old.stages.iter().any(|stage| stage.node == node) && permille > SLOW_PERMILLE {
                let (name, times) = (self.name(node), share(permille));
                parts.push(format!("{name} takes {times} times as long as expected"));
            }
        }
        let mut nodes: Vec<NodeId> = old.stages.iter().map(|stage| stage.node).collect();
        nodes.extend(candidate.stages.iter().map(|stage| NodeId(stage.device.0)));
        nodes.sort();
        nodes.dedup();
        for node in nodes {
            let before = old.stages.iter().find(|stage| stage.node == node);
            let before = before.map_or(0..0, |stage| stage.first..stage.end);
            let mut stages = candidate.stages.iter();
            let after = stages.find(|stage| stage.device.0 == node.0);
            let after = after.map_or(0..0, |stage| stage.layers.clone());
            if before != after {
                let words = |range: std::ops::Range<u32>| match range.is_empty() {
                    true => "none".to_owned(),
                    false => format!("{}..{}", range.start, range.end),
                };
                let (name, before, after) = (self.name(node), words(before), words(after));
                parts.push(format!("{name} goes from layers {before} to {after}"));
            }
        }
        let percent = gain_permille / 10;
        parts.push(format!("{percent} % less time per token expected"));
        parts.join("; ")
    }
}
