//! The `planner` actor: which plan is in force. Runs the planner and opens model files for its machine.

use std::sync::Arc;

use cairn_machine::placement::{Input, ModelFacts, Note, Output, PlacementMachine, Question};
use cairn_machine::plan::{left_out, standby_of};
use cairn_machine::{capability, pipeline, shard};
use cairn_wire::control::Plan;
use ractor::RpcReplyPort;

use crate::models::Wanted;
use crate::shell::Role;
use crate::wiring::Wiring;

/// Effects of placement.
pub(crate) struct PlannerRole {
    wiring: Arc<Wiring>,
}

/// What this node waits for, in words.
pub(crate) struct AskWaiting(pub(crate) RpcReplyPort<String>);

impl PlannerRole {
    pub(crate) fn new(wiring: Arc<Wiring>) -> Self {
        Self { wiring }
    }

    fn describe(&self, name: String) {
        let wiring = Arc::clone(&self.wiring);
        tokio::task::spawn_blocking(move || {
            let facts = describe(&wiring, &name);
            wiring.to_planner(Input::Described { name, facts });
        });
    }

    fn solve(&self, question: u64, request: Box<cairn_planner::Request>) {
        let wiring = Arc::clone(&self.wiring);
        tokio::task::spawn_blocking(move || {
            let plan = cairn_planner::plan(&request).map_err(|error| error.to_string());
            wiring.to_planner(Input::Solved { question, plan });
        });
    }

    fn judge(&self, question: Box<Question>) {
        let wiring = Arc::clone(&self.wiring);
        tokio::task::spawn_blocking(move || {
            let number = question.number;
            let result = question.judge().map(Box::new);
            wiring.to_planner(Input::Judged { number, result });
        });
    }

    fn adopted(&self, plan: Arc<Plan>) {
        let split: Vec<String> = plan
            .stages
            .iter()
            .map(|stage| {
                let name = self.wiring.name(stage.node);
                format!("{}..{} on {name}", stage.first, stage.end)
            })
            .collect();
        tracing::info!(plan = %plan.id, model = plan.model.name, "serving layers {}", split.join(", "));
        for line in left_out(&plan) {
            tracing::info!("{line}");
        }
        self.wiring.plan.send_replace(Some(Arc::clone(&plan)));
        if let Some(book) = self.wiring.library.held(&plan.model.sha256)
            && self.wiring.sample_with(book.file.path())
        {
            self.wiring.to_capability(capability::Input::OtherModel);
        }
        self.wiring.to_shard(shard::Input::Adopted {
            plan: Arc::clone(&plan),
            standby: standby_of(&plan, self.wiring.me),
        });
        self.wiring.to_pipeline(pipeline::Input::Adopted(plan));
    }

    fn say(&self, note: &Note) {
        match note {
            Note::Proposing { plan, stages } => {
                tracing::info!(%plan, stages, "proposing a plan");
            }
            Note::TakingOver { lost } => {
                let lost = self.wiring.name(*lost);
                tracing::info!("{lost} is gone; the others have its layers in memory");
            }
            Note::Replanning { why } => tracing::info!("moving layers: {why}"),
            Note::NotJudged { cause } => {
                tracing::warn!(cause, "cannot judge the plan in force; it stays");
            }
            Note::NoPlan { cause } => tracing::error!("no plan: {cause}"),
            Note::Abandoned { plan, cause } => tracing::warn!(%plan, cause, "gave a plan up"),
            Note::Excluded { node, cause } => {
                tracing::warn!(
                    node = self.wiring.name(*node),
                    cause,
                    "leaving a node out for a while"
                );
            }
            Note::Refused { from, cause } => {
                tracing::warn!(from = self.wiring.name(*from), cause, "ignored a plan")
            }
        }
    }
}

impl Role for PlannerRole {
    type Machine = PlacementMachine;
    type Other = AskWaiting;

    fn perform(&mut self, order: Output) -> Option<Input> {
        match order {
            Output::Describe { name } => self.describe(name),
            Output::Solve { question, request } => self.solve(question, request),
            Output::Look => {
                let (from, seen) = (self.wiring.me, self.wiring.gauges.seen());
                return Some(Input::Seen { from, seen });
            }
            Output::Judge(question) => self.judge(question),
            Output::Send { to, message } => self.wiring.send_control(to, &message),
            Output::Load { plan, stage } => {
                self.wiring.to_shard(shard::Input::Load { plan, stage });
            }
            Output::Unload { plan } => self.wiring.to_shard(shard::Input::Unload { plan }),
            Output::Probe { plan } => self.wiring.to_pipeline(pipeline::Input::Probe(plan)),
            Output::Adopted { plan } => self.adopted(plan),
            Output::Note(note) => self.say(&note),
        }
        None
    }

    fn other(
        &mut self,
        machine: &PlacementMachine,
        AskWaiting(reply): AskWaiting,
    ) -> Option<Input> {
        // Whoever asked may have gone.
        drop(reply.send(machine.waiting_for()));
        None
    }
}

fn describe(wiring: &Wiring, name: &str) -> Result<ModelFacts, String> {
    let wanted = Wanted::Name(name.to_owned());
    let book = wiring.library.get(&wanted, &mut |done, total| {
        wiring.gauges.loading(done, total)
    })?;
    Ok(book.facts(name))
}
