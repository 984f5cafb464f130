//! Connections between seats: ordered, delayed, cut, half-open. Delivers nothing by itself.
//!
//! Modelled on TCP: a cut loses no byte, it stalls the direction until it heals, and then
//! the old bytes arrive; an end that was closed, or whose host died, answers with a reset.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_machine::Tick;
use cairn_machine::member::DialId;
use cairn_wire::codec::Plane;
use cairn_wire::id::BootId;

use crate::rng::Rng;

/// Packets that one direction may hold before the world calls it a leak: a stalled direction
/// takes heartbeats for `down_millis` and is then closed.
pub const IN_FLIGHT_MAX: usize = 4_096;

/// A place where one node after another runs; its address stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat(pub usize);

/// One connection, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Which way: from the dialer or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Dialer to acceptor.
    Out,
    /// Acceptor to dialer.
    Back,
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Packet {
    /// The acceptor took the connection; always the first on its way back.
    Opened,
    /// A frame.
    Frame(Plane, Vec<u8>),
    /// The sending end is closed, or never was.
    Reset,
}

/// One connection and what is under way in it.
#[derive(Debug)]
pub struct Conn {
    /// Who dialled and who accepted, with their runs.
    ends: [(Seat, BootId); 2],
    open: [bool; 2],
    /// The dial that it answers.
    pub dial: DialId,
    /// By way, then by lane.
    queues: [[VecDeque<(Tick, Packet)>; 2]; 2],
}

/// The streams of a connection. Each is in order; between them there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Control frames, and the beginning and end of the connection itself.
    Control,
    /// Data frames.
    Data,
}

/// All connections, delays and cuts.
#[derive(Debug)]
pub struct Net {
    conns: BTreeMap<ConnId, Conn>,
    next: u64,
    cuts: BTreeSet<(Seat, Seat)>,
    delays: BTreeMap<(Seat, Seat), u64>,
    rng: Rng,
}

impl Conn {
    /// The seat at the receiving end, and its run.
    pub fn receiver(&self, way: Way) -> (Seat, BootId) {
        self.ends[way.to()]
    }

    /// The seat at the sending end, and its run.
    pub fn sender(&self, way: Way) -> (Seat, BootId) {
        self.ends[way.from()]
    }

    /// Whether the receiving end still takes packets.
    pub fn receives(&self, way: Way) -> bool {
        self.open[way.to()]
    }

    /// Whether both ends are open.
    pub fn is_whole(&self) -> bool {
        self.open == [true, true]
    }
}

impl Packet {
    /// The stream that carries it.
    pub fn lane(&self) -> Lane {
        match self {
            Packet::Opened | Packet::Reset | Packet::Frame(Plane::Control, _) => Lane::Control,
            Packet::Frame(Plane::Data, _) => Lane::Data,
        }
    }
}

impl Way {
    /// The other way.
    pub fn turned(self) -> Way {
        match self {
            Way::Out => Way::Back,
            Way::Back => Way::Out,
        }
    }

    fn from(self) -> usize {
        match self {
            Way::Out => 0,
            Way::Back => 1,
        }
    }

    fn to(self) -> usize {
        self.turned().from()
    }
}

impl Net {
    /// Delays between that many seats, from the generator.
    pub fn new(seats: usize, mut rng: Rng) -> Net {
        let mut delays = BTreeMap::new();
        for from in 0..seats {
            for to in 0..seats {
                let far = rng.chance(100);
                let millis = if far {
                    rng.between(20, 80)
                } else {
                    rng.between(0, 5)
                };
                delays.insert((Seat(from), Seat(to)), millis);
            }
        }
        Net {
            conns: BTreeMap::new(),
            next: 0,
            cuts: BTreeSet::new(),
            delays,
            rng,
        }
    }

    /// Nothing passes that way any more.
    pub fn cut(&mut self, from: Seat, to: Seat) {
        self.cuts.insert((from, to));
    }

    /// Everything passes again.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Whether a packet would pass.
    pub fn passes(&self, from: Seat, to: Seat) -> bool {
        !self.cuts.contains(&(from, to))
    }

    /// How long a packet takes this time.
    pub fn delay_millis(&mut self, from: Seat, to: Seat) -> u64 {
        let base = self.delays.get(&(from, to)).copied().unwrap_or(0);
        base + self.rng.below(3)
    }

    /// Makes a connection whose acceptor is open and whose dialer waits for it.
    pub fn open(
        &mut self,
        dialer: (Seat, BootId),
        acceptor: (Seat, BootId),
        dial: DialId,
    ) -> ConnId {
        let id = ConnId(self.next);
        self.next += 1;
        self.conns.insert(
            id,
            Conn {
                ends: [dialer, acceptor],
                open: [true, true],
                dial,
                queues: Default::default(),
            },
        );
        id
    }

    /// The connection, unless both its ends are gone.
    pub fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(&id)
    }

    /// Puts a packet under way and says when it arrives, if nothing is cut.
    pub fn send(&mut self, id: ConnId, way: Way, now: Tick, packet: Packet) -> Option<Tick> {
        let conn = self.conns.get(&id)?;
        let (from, to) = (conn.sender(way).0, conn.receiver(way).0);
        let earliest = now.after_millis(self.delay_millis(from, to));
        let queue = &mut self.conns.get_mut(&id)?.queues[way.from()][packet.lane() as usize];
        let at = queue
            .back()
            .map_or(earliest, |(last, _)| earliest.max(*last));
        queue.push_back((at, packet));
        assert!(
            queue.len() <= IN_FLIGHT_MAX,
            "a direction holds too many packets"
        );
        Some(at)
    }

    /// The packet that is due that way, if nothing is cut.
    pub fn take(&mut self, id: ConnId, way: Way, lane: Lane, now: Tick) -> Option<Packet> {
        let conn = self.conns.get(&id)?;
        if !self.passes(conn.sender(way).0, conn.receiver(way).0) {
            return None;
        }
        let queue = &mut self.conns.get_mut(&id)?.queues[way.from()][lane as usize];
        if queue.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        queue.pop_front().map(|(_, packet)| packet)
    }

    /// Closes the end that receives that way; what it has not read is gone.
    pub fn close_end(&mut self, id: ConnId, way: Way) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.open[way.to()] = false;
            conn.queues[way.from()] = Default::default();
            if conn.open == [false, false] {
                self.conns.remove(&id);
            }
        }
    }

    /// Connections with an end at that seat, and the way to that end.
    pub fn ends_at(&self, seat: Seat) -> Vec<(ConnId, Way)> {
        let mut ends = Vec::new();
        for (id, conn) in &self.conns {
            for way in [Way::Out, Way::Back] {
                if conn.receiver(way).0 == seat && conn.receives(way) {
                    ends.push((*id, way));
                }
            }
        }
        ends
    }

    /// The open connection between two seats, as the first sees it: the way to it.
    pub fn between(&self, at: Seat, other: Seat) -> Option<(ConnId, Way)> {
        self.ends_at(at).into_iter().find(|(id, way)| {
            let conn = self.conns.get(id);
            conn.is_some_and(|conn| conn.sender(*way).0 == other)
        })
    }

    /// Directions in which something waits, for when a cut heals.
    pub fn waiting(&self) -> Vec<(ConnId, Way, Lane, Tick, usize)> {
        let mut waiting = Vec::new();
        for (id, conn) in &self.conns {
            for way in [Way::Out, Way::Back] {
                for lane in [Lane::Control, Lane::Data] {
                    let queue = &conn.queues[way.from()][lane as usize];
                    if let Some((at, _)) = queue.front() {
                        waiting.push((*id, way, lane, *at, queue.len()));
                    }
                }
            }
        }
        waiting
    }

    /// How many packets wait that way.
    pub fn count(&self, id: ConnId, way: Way, lane: Lane) -> usize {
        let conn = self.conns.get(&id);
        conn.map_or(0, |conn| conn.queues[way.from()][lane as usize].len())
    }
}
