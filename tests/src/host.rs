//! The machines of one node, joined as the actors join them. Knows no network and no faults.
//!
//! Each machine has a mailbox; which of them goes next is drawn, as threads would have it.
//! What takes time on a real node (loading, planning, a pass) comes back later as a fact.

mod frames;
mod perform;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cairn_machine::capability::{self, CapabilityMachine};
use cairn_machine::member::{self, Membership, Timing};
use cairn_machine::pipeline::{self, PipelineMachine, Request, RequestId};
use cairn_machine::placement::{self, PlacementMachine, Seen};
use cairn_machine::seen::StageTimes;
use cairn_machine::shard::{self, ShardMachine};
use cairn_machine::{Machine, Tick};
use cairn_planner::{LinkSpeed, Strategy};
use cairn_wire::codec::Plane;
use cairn_wire::control::{Capability, LinkSeen, Plan, Standing};
use cairn_wire::id::{BootId, NodeId, PlanId};

use crate::engine::Engine;
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
    /// How layers are shared out.
    pub strategy: Strategy,
    /// How much it has and how fast it is.
    pub device: Device,
    /// Draws times and orders.
    pub rng: Rng,
}

/// A node's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Memory that it tells.
    pub memory_bytes: u64,
    /// What it tells of its speed.
    pub bytes_per_second: u64,
    /// What a pass takes in truth, in thousandths of what that speed promises.
    pub slowness_permille: u64,
    /// How far that varies from pass to pass, up and down, in thousandths.
    pub noise_permille: u64,
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
    Mail(Box<Mail>),
    Load { plan: Arc<Plan>, stage: u16 },
    Keep(Standing),
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
    device: Device,
    times: StageTimes,
    /// The plan in force, and what is loaded for others under it.
    keeps: Option<PlanId>,
    standing: Option<Standing>,
    layers_read: u64,
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
            strategy: birth.strategy,
            default_model: "hash".into(),
            context: CONTEXT,
            sequences: SEQUENCES,
        };
        let measured = Capability {
            name: birth.me.to_string(),
            version: "0".into(),
            memory_bytes: birth.device.memory_bytes,
            threads: 1,
            decode_bytes_per_second: birth.device.bytes_per_second,
            prefill_macs_per_second: birth.rng.between(1, 9) << 30,
            layer_nanos: 0,
            head_bytes_per_second: 1 << 30,
            cache_bytes_per_second: 1 << 30,
            attention_macs_per_second: 1 << 30,
            kv_permille: 1000,
            share_permille: 1000,
            host: 0,
            host_cores: 1,
            wish: None,
            accelerator: None,
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
            device: birth.device,
            times: StageTimes::default(),
            keeps: None,
            standing: None,
            layers_read: 0,
            links: BTreeMap::new(),
            mailboxes: Default::default(),
            jobs: BTreeMap::new(),
            job_number: 0,
            orders: VecDeque::new(),
        };
        let measured = Mail::Capability(capability::Input::Measured {
            capability: measured,
            calm: capability::Calm::Calm,
        });
        host.later(now, 100, Job::Mail(Box::new(measured)));
        host
    }

    /// From now on the device is so fast, whatever it told.
    pub fn set_slowness(&mut self, permille: u64) {
        self.device.slowness_permille = permille;
    }

    /// From now on its times vary so much.
    pub fn set_noise(&mut self, permille: u64) {
        self.device.noise_permille = permille;
    }

    /// What it sees of itself.
    fn seen(&self, now: Tick) -> Seen {
        Seen {
            stage: self.times.seen(now),
            links: self.links_seen(now),
        }
    }

    /// Its links that have been there for some round trips. All are the gigabit that the planner
    /// takes a link for of which it knows nothing.
    fn links_seen(&self, now: Tick) -> Vec<LinkSeen> {
        let trips_millis = 3 * Timing::lan().heartbeat_millis;
        let links = self.links.iter();
        let known = links.filter(|(_, link)| now.millis_since(link.opened) >= trips_millis);
        let seen = known.map(|(peer, _)| LinkSeen {
            peer: *peer,
            round_trip_micros: LinkSpeed::gigabit().round_trip_micros,
            bytes_per_second: 0,
        });
        seen.collect()
    }

    /// Takes in one fact.
    pub fn handle(&mut self, now: Tick, fact: Fact) {
        match fact {
            Fact::Member(input) => {
                self.note_link(now, &input);
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
                Job::Mail(mail) => self.post(*mail),
                Job::Load { plan, stage } => self.loaded(&plan, stage),
                Job::Keep(standing) => self.kept(standing),
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

    /// Layers that were loaded though they were not in memory.
    pub fn layers_read(&self) -> u64 {
        self.layers_read
    }

    /// What its stages have counted.
    pub fn counters(&self) -> shard::Counters {
        self.shard.counters()
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
        self.drain_capability(now);
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
                    self.drain_capability(now);
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
}
