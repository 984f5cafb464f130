//! Carrying out what the machines of a host order: at once, or as a job that takes a while.

use std::sync::Arc;

use cairn_machine::placement::Seen;
use cairn_machine::plan::standby_of;
use cairn_machine::view::View;
use cairn_machine::{Machine, Tick, capability, member, pipeline, placement, shard};
use cairn_wire::control::{Control, NodeStatus, Plan, Standing};
use cairn_wire::id::PlanId;

use super::{Answer, Host, Job, Mail, Memory, Order};
use crate::engine;

impl Host {
    pub(super) fn drain_member(&mut self) {
        while let Some(output) = self.member.poll() {
            match output {
                member::Output::Dial {
                    dial,
                    node,
                    addresses,
                } => self.orders.push_back(Order::Dial {
                    dial,
                    node,
                    addresses,
                }),
                member::Output::Close { peer } => {
                    self.links.remove(&peer);
                    self.orders.push_back(Order::Close { peer });
                }
                member::Output::SendHeartbeat { peer, heartbeat } => {
                    self.send_control(peer, &Control::Heartbeat(heartbeat));
                }
                member::Output::SendPeers { peer, list } => {
                    self.send_control(peer, &Control::Peers(list));
                }
                member::Output::SendLeave { peer } => self.send_control(peer, &Control::Leave),
                member::Output::PersistTerm(number) => {
                    self.orders.push_back(Order::PersistTerm(number));
                }
                member::Output::MembersChanged(members) => self.members_changed(&members),
                member::Output::Event(event) => self.orders.push_back(Order::Event(event)),
            }
        }
    }

    pub(super) fn members_changed(&mut self, members: &member::Members) {
        let view = View::from(members);
        self.post(Mail::Capability(capability::Input::Members(view.clone())));
        self.post(Mail::Placement(placement::Input::Members(view.clone())));
        self.post(Mail::Shard(shard::Input::Members(view.clone())));
        self.post(Mail::Pipeline(pipeline::Input::Members(view)));
    }

    pub(super) fn drain_capability(&mut self, now: Tick) {
        while let Some(output) = self.capability.poll() {
            match output {
                capability::Output::TakeStatus => {
                    let Seen { stage, links } = self.seen(now);
                    let status = NodeStatus {
                        stage,
                        links,
                        standing: self.standing.clone(),
                        ..NodeStatus::default()
                    };
                    let taken = capability::Input::StatusTaken(status);
                    self.post(Mail::Capability(taken));
                }
                // Only what was disturbed is measured again, and nothing disturbs this.
                capability::Output::Measure(_) => {}
                capability::Output::Send { to, message } => self.send_control(to, &message),
                capability::Output::Changed(capabilities) => {
                    let changed = placement::Input::Capabilities(capabilities);
                    self.post(Mail::Placement(changed));
                }
            }
        }
    }

    pub(super) fn drain_placement(&mut self, now: Tick) {
        while let Some(output) = self.placement.poll() {
            match output {
                placement::Output::Describe { name } => {
                    let facts = Ok(engine::facts());
                    let described = placement::Input::Described { name, facts };
                    let millis = self.rng.between(1, 50);
                    self.later(now, millis, Job::Mail(Box::new(Mail::Placement(described))));
                }
                placement::Output::Solve {
                    question,
                    mut request,
                } => {
                    // The proof of optimality is the planner's own tests' business.
                    request.search_steps = 100;
                    let plan = cairn_planner::plan(&request).map_err(|error| error.to_string());
                    let solved = placement::Input::Solved { question, plan };
                    let millis = self.rng.between(1, 50);
                    self.later(now, millis, Job::Mail(Box::new(Mail::Placement(solved))));
                }
                placement::Output::Look => {
                    let (from, seen) = (self.me, self.seen(now));
                    self.post(Mail::Placement(placement::Input::Seen { from, seen }));
                }
                placement::Output::Judge(mut question) => {
                    question.request.search_steps = 100;
                    let number = question.number;
                    let result = question.judge().map(Box::new);
                    let judged = placement::Input::Judged { number, result };
                    let millis = self.rng.between(1, 50);
                    self.later(now, millis, Job::Mail(Box::new(Mail::Placement(judged))));
                }
                placement::Output::Send { to, message } => self.send_control(to, &message),
                placement::Output::Load { plan, stage } => {
                    self.post(Mail::Shard(shard::Input::Load { plan, stage }));
                }
                placement::Output::Unload { plan } => {
                    self.post(Mail::Shard(shard::Input::Unload { plan }));
                }
                placement::Output::Probe { plan } => {
                    self.post(Mail::Pipeline(pipeline::Input::Probe(plan)));
                }
                placement::Output::Adopted { plan } => {
                    let standby = standby_of(&plan, self.me);
                    self.post(Mail::Shard(shard::Input::Adopted {
                        plan: Arc::clone(&plan),
                        standby,
                    }));
                    self.post(Mail::Pipeline(pipeline::Input::Adopted(plan)));
                }
                placement::Output::Note(note) => self.orders.push_back(Order::Note(note)),
            }
        }
    }

    pub(super) fn drain_shard(&mut self, now: Tick) {
        while let Some(output) = self.shard.poll() {
            match output {
                shard::Output::LoadLayers { plan, stage } => {
                    let millis = self.rng.between(20, 500);
                    self.later(now, millis, Job::Load { plan, stage });
                }
                shard::Output::DropLayers { plan } => {
                    self.engine.drop_layers(plan);
                    self.times.forget(plan);
                }
                shard::Output::KeepLayers { plan, standby } => {
                    self.keeps = Some(plan.id);
                    self.tell_standing(None);
                    if !standby.is_empty() && self.memory == Memory::AsStated {
                        let (plan, layers) = (plan.id, standby);
                        let millis = self.rng.between(20, 500);
                        self.later(now, millis, Job::Keep(Standing { plan, layers }));
                    }
                }
                shard::Output::StageLoaded { plan, result } => {
                    let loaded = placement::Input::StageLoaded { plan, result };
                    self.post(Mail::Placement(loaded));
                }
                shard::Output::OpenSlot {
                    plan,
                    sequence,
                    rows_max,
                    sampling: _,
                    prefix,
                } => self.engine.open(plan, sequence, rows_max, prefix),
                shard::Output::RetainSlot { plan, sequence } => {
                    self.engine.retain(plan, sequence);
                }
                shard::Output::CloseSlot { plan, sequence } => self.engine.close(plan, sequence),
                shard::Output::Forward(pass) => {
                    let plan = pass.plan;
                    let result = self.engine.forward(&pass);
                    let done = shard::Input::PassDone { plan, result };
                    let micros = self.pass_micros(plan);
                    if pass.is_one_row() {
                        let waited_micros = pass.waited_millis * 1_000;
                        self.times.decoded(now, plan, micros, waited_micros);
                    }
                    let millis = micros.div_ceil(1_000).max(self.rng.between(1, 5));
                    self.later(now, millis, Job::Mail(Box::new(Mail::Shard(done))));
                }
                shard::Output::Send { to, frame } => {
                    if let Some(frame) = self.send(to, frame) {
                        self.shard.handle(now, shard::Input::Unsent { to, frame });
                    }
                }
            }
        }
    }

    /// What a pass over the layers of a plan takes: its weights at the device's true speed.
    fn pass_micros(&mut self, plan: PlanId) -> u64 {
        let device = self.device;
        let bytes = u64::from(self.engine.layers(plan)) * engine::LAYER_BYTES;
        let told = bytes * 1_000_000 / device.bytes_per_second;
        let least = 1_000 - device.noise_permille;
        let noise = self.rng.between(least, 1_000 + device.noise_permille);
        told * device.slowness_permille / 1_000 * noise / 1_000
    }

    /// Standby layers are in memory, unless a later plan has other wishes by now.
    pub(super) fn kept(&mut self, standing: Standing) {
        if self.keeps == Some(standing.plan) {
            self.tell_standing(Some(standing));
        }
    }

    /// Whether a layer is in memory, for whatever plan.
    fn has(&self, layer: u32) -> bool {
        let standing = self.standing.iter().flat_map(|standing| &standing.layers);
        let mut kept = standing.map(|range| range.first..range.end);
        self.engine.has(layer) || kept.any(|range| range.contains(&layer))
    }

    fn tell_standing(&mut self, standing: Option<Standing>) {
        self.standing.clone_from(&standing);
        let from = self.me;
        let told = placement::Input::Standing { from, standing };
        self.post(Mail::Placement(told));
    }

    pub(super) fn loaded(&mut self, plan: &Plan, stage: u16) {
        let result = match self.memory {
            Memory::AsStated => {
                let range = &plan.stages[usize::from(stage)];
                let read = (range.first..range.end).filter(|layer| !self.has(*layer));
                self.layers_read += read.count() as u64;
                self.engine.install(plan, stage);
                Ok(1)
            }
            Memory::Overstated => Err("there is less memory than was stated".to_owned()),
        };
        let plan = plan.id;
        self.post(Mail::Shard(shard::Input::LayersLoaded { plan, result }));
    }

    pub(super) fn drain_pipeline(&mut self, now: Tick) {
        while let Some(output) = self.pipeline.poll() {
            match output {
                pipeline::Output::Send { to, frame } => {
                    if let Some(frame) = self.send(to, frame) {
                        let unsent = pipeline::Input::Unsent { to, frame };
                        self.pipeline.handle(now, unsent);
                    }
                }
                pipeline::Output::Token { id, token, .. } => {
                    self.orders
                        .push_back(Order::Answer(id, Answer::Token(token)));
                }
                pipeline::Output::Finished { id, .. } => {
                    self.orders.push_back(Order::Answer(id, Answer::Finished));
                }
                pipeline::Output::Aborted { id, cause } => {
                    self.orders
                        .push_back(Order::Answer(id, Answer::Aborted(cause)));
                }
                pipeline::Output::Probed { plan, result } => {
                    let probed = placement::Input::Probed { plan, result };
                    self.post(Mail::Placement(probed));
                }
            }
        }
    }
}
