//! What goes wrong and when: a script made from a seed. Carries nothing out.

use cairn_machine::Tick;
use cairn_planner::Strategy;

use crate::host::Device;
use crate::net::Seat;
use crate::rng::Rng;

/// One thing that happens to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node is started on a seat without one.
    Start(Seat),
    /// The process dies; the host resets its connections.
    Kill(Seat),
    /// The device dies without a word.
    PowerLoss(Seat),
    /// The user stops the node.
    Leave(Seat),
    /// A client asks the node, if there is one.
    Ask(Seat),
    /// The process does not run for a while, and then sees all that came meanwhile.
    Freeze(Seat, u64),
    /// Nothing passes from the first to the second.
    CutOneWay(Seat, Seat),
    /// Nothing passes between the two.
    CutBothWays(Seat, Seat),
    /// Nothing passes between seats of unequal bits.
    Split(u64),
    /// Every cut ends.
    Heal,
    /// A node's passes take so many thousandths of what it told.
    Slow(Seat, u64),
    /// A node's passes vary by so many thousandths, up and down.
    Noise(Seat, u64),
}

/// How nodes learn of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Multicast works.
    Multicast,
    /// Multicast is blocked; every node is given the address of the one before it.
    NamedChain,
    /// Multicast is blocked; every node is given the same address, that of the first.
    NamedFirst,
}

/// A world's shape and its misfortunes.
#[derive(Clone, Debug)]
pub struct Script {
    /// How many nodes.
    pub seats: usize,
    /// How they find each other.
    pub discovery: Discovery,
    /// How layers are shared out.
    pub strategy: Strategy,
    /// What every node runs on; drawn for each if none.
    pub device: Option<Device>,
    /// A seat whose node cannot load what it says it can.
    pub overstated: Option<Seat>,
    /// In order of time.
    pub faults: Vec<(Tick, Fault)>,
    /// When the last fault has happened.
    pub quiet_at: Tick,
}

impl Script {
    /// The misfortunes of that generator.
    pub fn chaos(rng: &mut Rng) -> Script {
        let seats = match rng.below(10) {
            0 => 1,
            1 | 2 => 2,
            3..7 => rng.between(3, 5) as usize,
            _ => rng.between(6, 10) as usize,
        };
        let discovery = match rng.below(4) {
            0 => Discovery::NamedChain,
            1 => Discovery::NamedFirst,
            _ => Discovery::Multicast,
        };
        let mut faults: Vec<(Tick, Fault)> = all(seats)
            .map(|seat| (Tick(rng.below(3_000)), Fault::Start(seat)))
            .collect();
        let chaos_millis = rng.between(5_000, 30_000);
        for _ in 0..rng.between(1, 20) {
            let at = Tick(rng.between(500, chaos_millis));
            faults.push((at, Script::misfortune(seats, rng)));
        }
        for _ in 0..rng.between(0, 20) {
            let seat = Seat(rng.below(seats as u64) as usize);
            let at = Tick(rng.between(1_000, chaos_millis));
            faults.push((at, Fault::Ask(seat)));
        }
        let quiet_at = Tick(chaos_millis + 5_000);
        let overstates = rng.below(8) == 0 && seats > 2;
        let overstated = overstates.then(|| Seat(rng.below(seats as u64) as usize));
        faults.push((quiet_at, Fault::Heal));
        let missing = rng.below(4) == 0 && seats > 1;
        for seat in all(seats) {
            // Whoever is down comes back, but in some worlds the last one stays away.
            let stays_away = missing && seat.0 + 1 == seats;
            let last = if stays_away {
                Fault::PowerLoss(seat)
            } else {
                Fault::Start(seat)
            };
            faults.push((quiet_at, last));
        }
        faults.sort_by_key(|(at, _)| *at);
        Script {
            seats,
            discovery,
            strategy: Strategy::Uniform,
            device: None,
            overstated,
            faults,
            quiet_at,
        }
    }

    /// Nodes that start one after another and are then left alone.
    pub fn calm(seats: usize, apart_millis: u64) -> Script {
        let start = |seat: Seat| (Tick(seat.0 as u64 * apart_millis), Fault::Start(seat));
        Script {
            seats,
            discovery: Discovery::Multicast,
            strategy: Strategy::Uniform,
            device: None,
            overstated: None,
            faults: all(seats).map(start).collect(),
            quiet_at: Tick(seats as u64 * apart_millis),
        }
    }

    fn misfortune(seats: usize, rng: &mut Rng) -> Fault {
        let seat = Seat(rng.below(seats as u64) as usize);
        let other = Seat(rng.below(seats as u64) as usize);
        match rng.below(16) {
            0..4 => Fault::Start(seat),
            4 | 5 => Fault::Kill(seat),
            6 => Fault::PowerLoss(seat),
            7 => Fault::Leave(seat),
            8 | 9 => Fault::Freeze(seat, rng.between(100, 3_000)),
            10 => Fault::CutOneWay(seat, other),
            11 | 12 => Fault::CutBothWays(seat, other),
            13 => Fault::Split(rng.word()),
            _ => Fault::Heal,
        }
    }
}

fn all(seats: usize) -> impl Iterator<Item = Seat> {
    (0..seats).map(Seat)
}
