//! The machines of one node, joined as the actors join them. Knows no network and no faults.
//!
//! Each machine has a mailbox; which of them goes next is drawn, as threads would have it.
//! What takes time on a real node (loading, planning, a pass) comes back later as a fact.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cairn_machine::capability::{self, CapabilityMachine};
use cairn_machine::member::{self, Membership, Timing};
use cairn_machine::pipeline::{self, PipelineMachine, Request, RequestId};
use cairn_machine::placement::{self, PlacementMachine};
use cairn_machine::shard::{self, ShardMachine};
use cairn_machine::view::View;
use cairn_machine::{Machine, Tick};
use cairn_planner::Strategy;
use cairn_wire::codec::Plane;
use cairn_wire::control::{Capability, Control, NodeStatus, Plan};
use cairn_wire::data::Credit;
use cairn_wire::frame::DataFrame;
use cairn_wire::id::{BootId, NodeId, PlanId};

use crate::engine::{self, Engine};
use crate::link::Link;
use crate::rng::Rng;

/// Sequences that a plan holds at once.
pub const SEQUENCES: u32 = 4;
/// KV rows of a sequence.
pub const CONTEXT: u32 = 256;
/// Facts that a mailbox may hold: all that peers can send without waiting, and some.
const MAILBOX_MAX: usize = 4_096;

/// What a run of a node starts from.
#[derive(Clone, Debug)]
pub struct Birth {
    /// The node.
    pub me: NodeId,
    /// This run of it.
    pub boot: BootId,
    /// What its disk holds of earlier runs.
    pub first_term: u64,
    /// Whether its memory is what it says.
    pub memory: Memory,
    /// Draws times and orders.
    pub rng: Rng,
}

/// Whether a node's memory is what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It loads what it is given.
    AsStated,
    /// Every load fails.
    Overstated,
}

/// What the world tells a host.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Something about discovery or a connection.
    Member(member::Input),
    /// The bytes of a frame from a connected peer.
    Arrived {
        /// From whom.
        peer: NodeId,
        /// On which stream.
        plane: Plane,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// A client asks.
    Submit(RequestId, Request),
}

/// What a host orders from the world.
#[derive(Clone, Debug)]
pub enum Order {
    /// Connect.
    Dial {
        /// Comes back in the answer.
        dial: member::DialId,
        /// Who must answer; anyone if `None`.
        node: Option<NodeId>,
        /// Where.
        addresses: Vec<String>,
    },
    /// End a connection.
    Close {
        /// To whom.
        peer: NodeId,
    },
    /// Put a frame on a stream.
    Send {
        /// To whom.
        peer: NodeId,
        /// On which stream.
        plane: Plane,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Write to the disk.
    PersistTerm(u64),
    /// Show to people.
    Event(member::Event),
    /// Show to people.
    Note(placement::Note),
    /// Tell a client.
    Answer(RequestId, Answer),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One more token.
    Token(u32),
    /// That was all.
    Finished,
    /// There is no more, and why.
    Aborted(pipeline::Abort),
}

/// A fact on its way to a machine of this node.
#[derive(Debug)]
enum Mail {
    Member(member::Input),
    Capability(capability::Input),
    Placement(placement::Input),
    Shard(shard::Input),
    Pipeline(pipeline::Input),
}

/// What takes time, and what comes of it.
#[derive(Debug)]
enum Job {
    Mail(Mail),
    Load { plan: Arc<Plan>, stage: u16 },
}

/// One run of a node.
#[derive(Debug)]
pub struct Host {
    me: NodeId,
    memory: Memory,
    rng: Rng,
    member: Membership,
    capability: CapabilityMachine,
    placement: PlacementMachine,
    shard: ShardMachine,
    pipeline: PipelineMachine,
    engine: Engine,
    links: BTreeMap<NodeId, Link>,
    mailboxes: [VecDeque<Mail>; 5],
    jobs: BTreeMap<(Tick, u64), Job>,
    job_number: u64,
    orders: VecDeque<Order>,
}

impl Host {
    /// A node that has just started.
    pub fn new(mut birth: Birth, now: Tick) -> Host {
        let config = member::Config {
            me: birth.me,
            boot: birth.boot,
            timing: Timing::lan(),
            first_term: birth.first_term,
        };
        let placement = placement::Config {
            me: birth.me,
            strategy: Strategy::Uniform,
            default_model: "hash".into(),
            context: CONTEXT,
            sequences: SEQUENCES,
        };
        let measured = Capability {
            name: birth.me.to_string(),
            version: "0".into(),
            memory_bytes: 1 << 30,
            threads: 1,
            decode_bytes_per_second: birth.rng.between(1, 9) << 30,
            prefill_macs_per_second: birth.rng.between(1, 9) << 30,
            wish: None,
        };
        let mut host = Host {
            me: birth.me,
            memory: birth.memory,
            rng: birth.rng,
            member: Membership::new(config, now),
            capability: CapabilityMachine::new(birth.me),
            placement: PlacementMachine::new(placement),
            shard: ShardMachine::default(),
            pipeline: PipelineMachine::new(birth.me, birth.boot),
            engine: Engine::default(),
            links: BTreeMap::new(),
            mailboxes: Default::default(),
            jobs: BTreeMap::new(),
            job_number: 0,
            orders: VecDeque::new(),
        };
        let measured = Mail::Capability(capability::Input::Measured(measured));
        host.later(now, 100, Job::Mail(measured));
        host
    }

    /// Takes in one fact.
    pub fn handle(&mut self, now: Tick, fact: Fact) {
        match fact {
            Fact::Member(input) => {
                self.note_link(&input);
                self.post(Mail::Member(input));
            }
            Fact::Arrived { peer, plane, bytes } => self.arrived(peer, plane, &bytes),
            Fact::Submit(id, request) => {
                self.post(Mail::Pipeline(pipeline::Input::Submit { id, request }));
            }
        }
        self.settle(now);
    }

    /// Advances timers and ends jobs.
    pub fn wake(&mut self, now: Tick) {
        while let Some(entry) = self.jobs.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Job::Mail(mail) => self.post(mail),
                Job::Load { plan, stage } => self.loaded(&plan, stage),
            }
        }
        let is_due = |due: Option<Tick>| due.is_some_and(|due| due <= now);
        if is_due(self.member.deadline()) {
            self.member.wake(now);
        }
        if is_due(self.capability.deadline()) {
            self.capability.wake(now);
        }
        if is_due(self.placement.deadline()) {
            self.placement.wake(now);
        }
        if is_due(self.shard.deadline()) {
            self.shard.wake(now);
        }
        if is_due(self.pipeline.deadline()) {
            self.pipeline.wake(now);
        }
        self.settle(now);
    }

    /// The next order.
    pub fn poll(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// When to wake it.
    pub fn deadline(&self) -> Option<Tick> {
        let machines = [
            self.member.deadline(),
            self.capability.deadline(),
            self.placement.deadline(),
            self.shard.deadline(),
            self.pipeline.deadline(),
        ];
        let job = self.jobs.first_key_value().map(|((at, _), _)| *at);
        machines.into_iter().flatten().chain(job).min()
    }

    /// Who is in and who leads, as this node sees it.
    pub fn members(&self) -> &member::Members {
        self.member.members()
    }

    /// The plan in force here.
    pub fn adopted(&self) -> Option<&Arc<Plan>> {
        self.placement.adopted()
    }

    /// The plans whose layers are in memory here.
    pub fn loaded_plans(&self) -> impl Iterator<Item = PlanId> {
        self.engine.plans()
    }

    /// What the leader waits for, for whoever reads a failure.
    pub fn waiting_for(&self) -> String {
        self.placement.waiting_for()
    }

    /// Panics if a machine contradicts itself or a queue is out of bounds.
    pub fn check_invariants(&self) {
        self.member.check_invariants();
        assert!(self.pipeline.running() <= SEQUENCES as usize);
        assert!(self.pipeline.waiting() <= pipeline::WAITING_MAX + SEQUENCES as usize);
    }

    fn post(&mut self, mail: Mail) {
        let mailbox = match &mail {
            Mail::Member(_) => 0,
            Mail::Capability(_) => 1,
            Mail::Placement(_) => 2,
            Mail::Shard(_) => 3,
            Mail::Pipeline(_) => 4,
        };
        self.mailboxes[mailbox].push_back(mail);
        assert!(
            self.mailboxes[mailbox].len() <= MAILBOX_MAX,
            "a mailbox overflows"
        );
    }

    fn later(&mut self, now: Tick, millis: u64, job: Job) {
        let at = now.after_millis(millis);
        self.jobs.insert((at, self.job_number), job);
        self.job_number += 1;
    }

    /// Lets the machines work until all mailboxes are empty.
    fn settle(&mut self, now: Tick) {
        self.drain_member();
        self.drain_capability();
        self.drain_placement(now);
        self.drain_shard(now);
        self.drain_pipeline(now);
        loop {
            let full: Vec<usize> = (0..5).filter(|i| !self.mailboxes[*i].is_empty()).collect();
            let Some(chosen) = self.rng.pick(&full) else {
                break;
            };
            let mail = self.mailboxes[*chosen].pop_front();
            match mail.expect("a mailbox with mail was chosen") {
                Mail::Member(input) => {
                    self.member.handle(now, input);
                    self.drain_member();
                }
                Mail::Capability(input) => {
                    self.capability.handle(now, input);
                    self.drain_capability();
                }
                Mail::Placement(input) => {
                    self.placement.handle(now, input);
                    self.drain_placement(now);
                }
                Mail::Shard(input) => {
                    self.shard.handle(now, input);
                    self.drain_shard(now);
                }
                Mail::Pipeline(input) => {
                    self.pipeline.handle(now, input);
                    self.drain_pipeline(now);
                }
            }
        }
        self.grant();
    }

    /// A new connection starts with a full window.
    fn note_link(&mut self, input: &member::Input) {
        match input {
            member::Input::Connected { peer, .. } => {
                self.links.insert(*peer, Link::default());
            }
            member::Input::Disconnected { peer } => {
                self.links.remove(peer);
            }
            member::Input::Listening { .. }
            | member::Input::Found { .. }
            | member::Input::Named { .. }
            | member::Input::MulticastMissing { .. }
            | member::Input::OtherClusterFound { .. }
            | member::Input::DialFailed { .. }
            | member::Input::HeartbeatArrived { .. }
            | member::Input::PeersArrived { .. }
            | member::Input::LeaveArrived { .. }
            | member::Input::LeaveOrdered => {}
        }
    }

    fn arrived(&mut self, peer: NodeId, plane: Plane, bytes: &[u8]) {
        match plane {
            Plane::Control => {
                let message = Control::decode(bytes).expect("hosts send only what they encoded");
                self.control_arrived(peer, message);
            }
            Plane::Data => {
                let frame = DataFrame::decode(bytes).expect("hosts send only what they encoded");
                self.data_arrived(peer, frame);
            }
        }
    }

    fn control_arrived(&mut self, from: NodeId, message: Control) {
        let peer = from;
        let mail = match message {
            Control::Heartbeat(heartbeat) => {
                Mail::Member(member::Input::HeartbeatArrived { peer, heartbeat })
            }
            Control::Peers(list) => Mail::Member(member::Input::PeersArrived { peer, list }),
            Control::Leave => Mail::Member(member::Input::LeaveArrived { peer }),
            Control::Capability(capability) => {
                Mail::Capability(capability::Input::CapabilityArrived { from, capability })
            }
            Control::Status(status) => {
                Mail::Capability(capability::Input::StatusArrived { from, status })
            }
            Control::Propose(plan) => Mail::Placement(placement::Input::Proposed { from, plan }),
            Control::Loaded(loaded) => Mail::Placement(placement::Input::Loaded { from, loaded }),
            Control::LoadFailed(failed) => {
                Mail::Placement(placement::Input::LoadFailed { from, failed })
            }
            Control::Adopt(plan) => Mail::Placement(placement::Input::Adopt { from, plan }),
            Control::Abandon(abandon) => {
                Mail::Placement(placement::Input::Abandon { from, abandon })
            }
            Control::LogsWanted(_) | Control::Logs(_) => return,
        };
        self.post(mail);
    }

    fn data_arrived(&mut self, peer: NodeId, frame: DataFrame) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if let DataFrame::Credit(credit) = &frame {
            if link.granted(credit.frames) {
                self.post(Mail::Shard(shard::Input::LinkReady { peer }));
                self.post(Mail::Pipeline(pipeline::Input::LinkReady { peer }));
            }
            return;
        }
        let frame = link.take(frame);
        self.deliver(peer, frame);
    }

    fn deliver(&mut self, from: NodeId, frame: DataFrame) {
        match frame {
            DataFrame::Sampled(sampled) => {
                self.post(Mail::Pipeline(pipeline::Input::Sampled { from, sampled }));
            }
            DataFrame::Failed(failed) => {
                self.post(Mail::Pipeline(pipeline::Input::Failed { from, failed }));
            }
            frame @ (DataFrame::Rows(_) | DataFrame::Open(_) | DataFrame::Close(_)) => {
                self.post(Mail::Shard(shard::Input::Arrived { from, frame }));
            }
            DataFrame::Credit(_) => {}
        }
    }

    /// Sends a frame, to this node itself if it is for it; gives it back when the link is full.
    fn send(&mut self, to: NodeId, frame: DataFrame) -> Option<DataFrame> {
        if to == self.me {
            self.deliver(to, frame);
            return None;
        }
        let link = self.links.get_mut(&to)?;
        if !link.spend() {
            return Some(frame);
        }
        self.put(to, &frame);
        None
    }

    fn put(&mut self, peer: NodeId, frame: &DataFrame) {
        let encoded = frame.encode().expect("machines keep the wire's bounds");
        self.orders.push_back(Order::Send {
            peer,
            plane: Plane::Data,
            bytes: encoded.bytes().to_vec(),
        });
    }

    fn grant(&mut self) {
        let grants = self.links.iter_mut();
        let grants: Vec<(NodeId, u32)> = grants
            .filter_map(|(peer, link)| Some((*peer, link.grant()?)))
            .collect();
        for (peer, frames) in grants {
            self.put(peer, &DataFrame::Credit(Credit { frames }));
        }
    }

    fn send_control(&mut self, peer: NodeId, message: &Control) {
        let frame = message.encode().expect("machines keep the wire's bounds");
        self.orders.push_back(Order::Send {
            peer,
            plane: Plane::Control,
            bytes: frame.bytes().to_vec(),
        });
    }

    fn drain_member(&mut self) {
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

    fn members_changed(&mut self, members: &member::Members) {
        let view = View {
            term: members.term,
            leader: members.leader(),
            nodes: members.members.keys().copied().collect(),
        };
        self.post(Mail::Capability(capability::Input::Members(view.clone())));
        self.post(Mail::Placement(placement::Input::Members(view.clone())));
        self.post(Mail::Shard(shard::Input::Members(view.clone())));
        self.post(Mail::Pipeline(pipeline::Input::Members(view)));
    }

    fn drain_capability(&mut self) {
        while let Some(output) = self.capability.poll() {
            match output {
                capability::Output::TakeStatus => {
                    let status = capability::Input::StatusTaken(NodeStatus::default());
                    self.post(Mail::Capability(status));
                }
                capability::Output::Send { to, message } => self.send_control(to, &message),
                capability::Output::Changed(capabilities) => {
                    let changed = placement::Input::Capabilities(capabilities);
                    self.post(Mail::Placement(changed));
                }
            }
        }
    }

    fn drain_placement(&mut self, now: Tick) {
        while let Some(output) = self.placement.poll() {
            match output {
                placement::Output::Describe { name } => {
                    let facts = Ok(engine::facts());
                    let described = placement::Input::Described { name, facts };
                    let millis = self.rng.between(1, 50);
                    self.later(now, millis, Job::Mail(Mail::Placement(described)));
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
                    self.later(now, millis, Job::Mail(Mail::Placement(solved)));
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
                    self.post(Mail::Shard(shard::Input::Adopted { plan: plan.id }));
                    self.post(Mail::Pipeline(pipeline::Input::Adopted(plan)));
                }
                placement::Output::Note(note) => self.orders.push_back(Order::Note(note)),
            }
        }
    }

    fn drain_shard(&mut self, now: Tick) {
        while let Some(output) = self.shard.poll() {
            match output {
                shard::Output::LoadLayers { plan, stage } => {
                    let millis = self.rng.between(20, 500);
                    self.later(now, millis, Job::Load { plan, stage });
                }
                shard::Output::DropLayers { plan } => self.engine.drop_layers(plan),
                shard::Output::StageLoaded { plan, result } => {
                    let loaded = placement::Input::StageLoaded { plan, result };
                    self.post(Mail::Placement(loaded));
                }
                shard::Output::OpenSlot {
                    plan,
                    sequence,
                    rows_max,
                    sampling: _,
                } => self.engine.open(plan, sequence, rows_max),
                shard::Output::CloseSlot { plan, sequence } => self.engine.close(plan, sequence),
                shard::Output::Forward(pass) => {
                    let plan = pass.plan;
                    let result = self.engine.forward(&pass);
                    let done = shard::Input::PassDone { plan, result };
                    let millis = self.rng.between(1, 5);
                    self.later(now, millis, Job::Mail(Mail::Shard(done)));
                }
                shard::Output::Send { to, frame } => {
                    if let Some(frame) = self.send(to, frame) {
                        self.shard.handle(now, shard::Input::Unsent { to, frame });
                    }
                }
            }
        }
    }

    fn loaded(&mut self, plan: &Plan, stage: u16) {
        let result = match self.memory {
            Memory::AsStated => {
                self.engine.install(plan, stage);
                Ok(1)
            }
            Memory::Overstated => Err("there is less memory than was stated".to_owned()),
        };
        let plan = plan.id;
        self.post(Mail::Shard(shard::Input::LayersLoaded { plan, result }));
    }

    fn drain_pipeline(&mut self, now: Tick) {
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
