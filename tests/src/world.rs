//! Hosts, a network between them, one queue of happenings. The only clock is the queue.

mod client;
mod dialing;
mod life;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_machine::Tick;
use cairn_machine::member::{DialFailure, DialId, Event, Input, Members};
use cairn_machine::pipeline::{Abort, RequestId};
use cairn_machine::placement::Note;
use cairn_planner::Strategy;
use cairn_wire::id::{BootId, NodeId};

use crate::check::{self, Checker};
use crate::fault::{Discovery, Fault, Script};
use crate::host::{Device, Fact, Host, Order};
use crate::net::{ConnId, Lane, Net, Packet, Seat, Way};
use crate::rng::{Rng, mix};

/// How long a dial goes unanswered before the network gives up.
const DIAL_TIMEOUT_MILLIS: u64 = 3_000;
/// Between two announcements of a node, once it is known to have started. Real mDNS asks ever
/// more rarely; a machine must not need more than the first announcement and what it knows.
const ANNOUNCE_MILLIS: u64 = 10_000;
/// From the order to leave to the end of the process.
const LEAVE_MILLIS: u64 = 50;
/// Happenings that a failure shows.
const TRACE_LINES: usize = 120;

/// A rule broken on purpose, to see that the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing is broken.
    Nothing,
    /// Disks forget the terms that were claimed.
    ForgetTerms,
    /// Nobody dials a second time.
    DialOnce,
    /// One data frame in a hundred is lost without a word.
    LoseData,
}

/// A world at one moment.
#[derive(Debug)]
pub struct World {
    now: Tick,
    happenings: BTreeMap<(Tick, u64), Happening>,
    number: u64,
    discovery: Discovery,
    sabotage: Sabotage,
    seats: Vec<Chair>,
    net: Net,
    rng: Rng,
    checker: Checker,
    events: Vec<(Tick, Seat, Event)>,
    strategy: Strategy,
    device: Option<Device>,
    overstated: Option<Seat>,
    /// What people were told of plans, in order.
    notes: Vec<(Tick, Seat, Note)>,
    asked: BTreeMap<(Seat, BootId, RequestId), Asked>,
    requests: u64,
    aborts: Vec<(Tick, Seat, Abort)>,
    answered: usize,
    digest: u64,
    trace: VecDeque<String>,
}

/// What happens next.
#[derive(Clone, Debug)]
enum Happening {
    Fault(Fault),
    Wake(Seat, BootId),
    Deliver(ConnId, Way, Lane),
    Announced {
        from: Seat,
        to: Seat,
    },
    Accept(Call),
    DialRefused {
        seat: Seat,
        boot: BootId,
        dial: DialId,
        failure: DialFailure,
    },
    DialTimedOut {
        seat: Seat,
        boot: BootId,
        dial: DialId,
    },
    Ended {
        seat: Seat,
        boot: BootId,
        peer: NodeId,
    },
}

/// A request that has not ended.
#[derive(Debug)]
struct Asked {
    at: Tick,
    /// What is still to come.
    answer: VecDeque<u32>,
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
struct Call {
    from: Seat,
    boot: BootId,
    dial: DialId,
    to: Seat,
}

/// A seat, its disk, and the run on it.
#[derive(Debug)]
struct Chair {
    id: NodeId,
    boots: u64,
    disk_term: u64,
    /// What its client and the cluster have said to each other.
    talk: Vec<u32>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The device runs, the node does not: dials are refused.
    Stopped,
    /// The device is off: dials are not answered.
    Dark,
    Running(Box<Running>),
}

#[derive(Debug)]
struct Running {
    boot: BootId,
    born: Tick,
    frozen_until: Tick,
    woken_at: Option<Tick>,
    host: Host,
    dials: BTreeSet<DialId>,
    /// Connections, by peer, with the way that leads here.
    conns: BTreeMap<NodeId, (ConnId, Way)>,
}

impl World {
    /// A world before its first happening.
    pub fn new(seed: u64, script: &Script, sabotage: Sabotage) -> World {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let net = Net::new(script.seats, rng.fork());
        let seats = (0..script.seats)
            .map(|_| {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&rng.word().to_be_bytes());
                Chair {
                    id: NodeId(key),
                    boots: 0,
                    disk_term: 0,
                    talk: Vec::new(),
                    state: State::Stopped,
                }
            })
            .collect();
        let mut world = World {
            now: Tick(0),
            happenings: BTreeMap::new(),
            number: 0,
            discovery: script.discovery,
            sabotage,
            seats,
            net,
            rng,
            checker: Checker::default(),
            events: Vec::new(),
            strategy: script.strategy.clone(),
            device: script.device,
            overstated: script.overstated,
            notes: Vec::new(),
            asked: BTreeMap::new(),
            requests: 0,
            aborts: Vec::new(),
            answered: 0,
            digest: 0,
            trace: VecDeque::new(),
        };
        for (at, fault) in &script.faults {
            world.at(*at, Happening::Fault(*fault));
        }
        world
    }

    /// Lets everything happen up to that moment.
    pub fn run_until(&mut self, end: Tick) {
        while let Some(entry) = self.happenings.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        self.now = self.now.max(end);
    }

    /// The moment.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// Whether all running nodes agree on who is in and who leads.
    pub fn agrees(&self) -> bool {
        check::agree(
            self.running()
                .map(|(chair, run)| (chair.id, run.boot, run.host.members())),
        )
    }

    /// Whether besides all running nodes have one plan in force, made under the present term,
    /// whose owners all run, and nothing else in memory.
    pub fn serves(&self) -> bool {
        let mut plans = self.running().map(|(_, run)| run.host.adopted());
        let first = plans.next().flatten();
        let Some(plan) = first else {
            return false;
        };
        let whole = plan.stages.iter().all(|stage| {
            let mut owners = self.running().filter(|(chair, _)| chair.id == stage.node);
            owners.any(|(_, run)| run.host.loaded_plans().eq([plan.id]))
        });
        let lean = self
            .running()
            .all(|(_, run)| run.host.loaded_plans().all(|id| id == plan.id));
        self.agrees() && plans.all(|other| other == first) && whole && lean
    }

    /// Requests that have not ended, and since when they wait.
    pub fn pending(&self) -> impl Iterator<Item = (Seat, RequestId, Tick)> {
        self.asked
            .iter()
            .map(|((seat, _, id), asked)| (*seat, *id, asked.at))
    }

    /// Requests that were answered in full.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// Requests that ended with a cause.
    pub fn aborts(&self) -> &[(Tick, Seat, Abort)] {
        &self.aborts
    }

    /// The running nodes.
    pub fn hosts(&self) -> impl Iterator<Item = (NodeId, &Host)> {
        self.running().map(|(chair, run)| (chair.id, &run.host))
    }

    /// The membership as a seat's running node sees it.
    ///
    /// # Panics
    /// When none runs there.
    pub fn members_of(&self, seat: Seat) -> &Members {
        let id = self.id(seat);
        let found = self.hosts().find(|(node, _)| *node == id);
        found.expect("a node runs there").1.members()
    }

    /// Lets something happen now.
    pub fn cause(&mut self, fault: Fault) {
        self.happen(Happening::Fault(fault));
    }

    /// What was checked so far.
    pub fn checker(&self) -> &Checker {
        &self.checker
    }

    /// What people were told, in order.
    pub fn events(&self) -> &[(Tick, Seat, Event)] {
        &self.events
    }

    /// What people were told of plans, in order.
    pub fn notes(&self) -> &[(Tick, Seat, Note)] {
        &self.notes
    }

    /// The node of a seat.
    pub fn id(&self, seat: Seat) -> NodeId {
        self.seats[seat.0].id
    }

    /// A number that differs if anything at all went differently.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The last happenings, for whoever reads a failure.
    pub fn trace(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().map(String::as_str)
    }

    fn running(&self) -> impl Iterator<Item = (&Chair, &Running)> + Clone {
        self.seats.iter().filter_map(|chair| match &chair.state {
            State::Running(run) => Some((chair, &**run)),
            State::Stopped | State::Dark => None,
        })
    }

    fn run_at(&mut self, seat: Seat) -> Option<&mut Running> {
        match &mut self.seats[seat.0].state {
            State::Running(run) => Some(run),
            State::Stopped | State::Dark => None,
        }
    }

    /// The run at a seat, if it is that one.
    fn run_of(&mut self, seat: Seat, boot: BootId) -> Option<&mut Running> {
        self.run_at(seat).filter(|run| run.boot == boot)
    }

    fn at(&mut self, at: Tick, happening: Happening) {
        self.happenings
            .insert((at.max(self.now), self.number), happening);
        self.number += 1;
    }

    fn after(&mut self, millis: u64, happening: Happening) {
        self.at(self.now.after_millis(millis), happening);
    }

    fn happen(&mut self, happening: Happening) {
        let frozen_until = self
            .seat_of(&happening)
            .and_then(|seat| self.run_at(seat))
            .map(|run| run.frozen_until);
        if let Some(until) = frozen_until.filter(|until| *until > self.now) {
            self.at(until, happening);
            return;
        }
        self.note(&happening);
        match happening {
            Happening::Fault(fault) => self.fault(fault),
            Happening::Wake(seat, boot) => self.wake(seat, boot),
            Happening::Deliver(conn, way, lane) => self.deliver(conn, way, lane),
            Happening::Announced { from, to } => self.announced(from, to),
            Happening::Accept(call) => self.accept(call),
            Happening::DialRefused {
                seat,
                boot,
                dial,
                failure,
            } => self.dial_failed(seat, boot, dial, failure),
            Happening::DialTimedOut { seat, boot, dial } => {
                self.abandon_dial(seat, boot, dial);
                self.dial_failed(seat, boot, dial, DialFailure::Unreachable);
            }
            Happening::Ended { seat, boot, peer } => {
                self.tell(seat, boot, Fact::Member(Input::Disconnected { peer }));
            }
        }
    }

    /// The seat whose process must run for it to happen.
    fn seat_of(&self, happening: &Happening) -> Option<Seat> {
        match happening {
            Happening::Fault(_) => None,
            Happening::Wake(seat, _)
            | Happening::DialRefused { seat, .. }
            | Happening::DialTimedOut { seat, .. }
            | Happening::Ended { seat, .. } => Some(*seat),
            Happening::Deliver(conn, way, _) => Some(self.net.conn(*conn)?.receiver(*way).0),
            Happening::Announced { to, .. } => Some(*to),
            Happening::Accept(call) => Some(call.to),
        }
    }

    fn wake(&mut self, seat: Seat, boot: BootId) {
        let now = self.now;
        let Some(run) = self.run_of(seat, boot) else {
            return;
        };
        if run.woken_at.is_some_and(|at| at <= now) {
            run.woken_at = None;
            let local = Tick(now.millis_since(run.born));
            run.host.wake(local);
            self.carry_out(seat, boot);
        }
    }

    fn tell(&mut self, seat: Seat, boot: BootId, fact: Fact) {
        let now = self.now;
        if let Some(run) = self.run_of(seat, boot) {
            let local = Tick(now.millis_since(run.born));
            run.host.handle(local, fact);
            self.carry_out(seat, boot);
        }
    }

    /// Carries out what a host ordered, checks it, and sees to its next waking.
    fn carry_out(&mut self, seat: Seat, boot: BootId) {
        while let Some(order) = self.run_of(seat, boot).and_then(|run| run.host.poll()) {
            self.order(seat, boot, order);
        }
        let (id, disk_term) = (self.seats[seat.0].id, self.seats[seat.0].disk_term);
        let State::Running(run) = &mut self.seats[seat.0].state else {
            return;
        };
        run.host.check_invariants();
        self.checker
            .members(id, boot, disk_term, run.host.members());
        if let Some(plan) = run.host.adopted() {
            self.checker.plan(id, boot, plan);
        }
        let due = run
            .host
            .deadline()
            .map(|due| run.born.after_millis(due.0).max(self.now));
        if let Some(due) = due
            && run.woken_at.is_none_or(|at| due < at)
        {
            run.woken_at = Some(due);
            self.at(due, Happening::Wake(seat, boot));
        }
    }

    fn order(&mut self, seat: Seat, boot: BootId, order: Order) {
        match order {
            Order::Dial {
                dial,
                node,
                addresses,
            } => self.dial(seat, boot, dial, node, &addresses),
            Order::Close { peer } => {
                if let Some((conn, way)) = self
                    .run_of(seat, boot)
                    .and_then(|run| run.conns.remove(&peer))
                {
                    self.send(conn, way.turned(), Packet::Reset);
                    self.net.close_end(conn, way);
                    self.at(self.now, Happening::Ended { seat, boot, peer });
                }
            }
            Order::Send { peer, plane, bytes } => {
                let conn = self.run_of(seat, boot).and_then(|run| run.conns.get(&peer));
                if let Some((conn, way)) = conn.copied() {
                    self.send(conn, way.turned(), Packet::Frame(plane, bytes));
                }
            }
            Order::PersistTerm(number) => self.seats[seat.0].disk_term = number,
            Order::Answer(id, answer) => self.answer(seat, boot, id, answer),
            Order::Note(note) => {
                self.remember(|| format!("{seat:?} notes {note:?}"));
                assert!(
                    !matches!(note, Note::Refused { .. }),
                    "an honest node is refused"
                );
                self.notes.push((self.now, seat, note));
            }
            Order::Event(event) => {
                self.remember(|| format!("{seat:?} says {event:?}"));
                self.events.push((self.now, seat, event));
            }
        }
    }

    fn note(&mut self, happening: &Happening) {
        let what = match happening {
            Happening::Fault(_) => 1,
            Happening::Wake(seat, _) => 2 + ((seat.0 as u64) << 8),
            Happening::Deliver(conn, way, lane) => {
                3 + (conn.0 << 8) + ((*way as u64) << 4) + ((*lane as u64) << 5)
            }
            Happening::Announced { .. } => 4,
            Happening::Accept(call) => 5 + (call.dial.0 << 8),
            Happening::DialRefused { dial, .. } => 6 + (dial.0 << 8),
            Happening::DialTimedOut { dial, .. } => 7 + (dial.0 << 8),
            Happening::Ended { .. } => 8,
        };
        self.digest = mix(self.digest ^ mix(self.now.0) ^ what);
        match happening {
            Happening::Wake(..)
            | Happening::Deliver(..)
            | Happening::Announced { .. }
            | Happening::Accept(_)
            | Happening::DialTimedOut { .. } => {}
            Happening::Fault(_) | Happening::DialRefused { .. } | Happening::Ended { .. } => {
                self.remember(|| format!("{happening:?}"))
            }
        }
    }

    fn remember(&mut self, line: impl Fn() -> String) {
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        let line = line();
        self.trace.push_back(format!("{:>6} {line}", self.now.0));
    }
}
