//! Starts, deaths and cuts: what faults do to a world.

use std::collections::{BTreeMap, BTreeSet};

use cairn_machine::Tick;
use cairn_machine::member::Input;
use cairn_wire::id::BootId;

use super::{ANNOUNCE_MILLIS, Happening, LEAVE_MILLIS, Running, Sabotage, State, World};
use crate::fault::{Discovery, Fault};
use crate::host::{Birth, Device, Fact, Host, Memory};
use crate::net::{ConnId, Packet, Seat, Way};

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Start(seat) => self.start(seat),
            Fault::Kill(seat) => self.kill(seat),
            Fault::PowerLoss(seat) => self.lose_power(seat),
            Fault::Leave(seat) => {
                if let Some(run) = self.run_at(seat) {
                    let boot = run.boot;
                    self.tell(seat, boot, Fact::Member(Input::LeaveOrdered));
                    self.after(LEAVE_MILLIS, Happening::Fault(Fault::Kill(seat)));
                }
            }
            Fault::Ask(seat) => self.ask(seat),
            Fault::Freeze(seat, millis) => {
                let until = self.now.after_millis(millis);
                if let Some(run) = self.run_at(seat) {
                    run.frozen_until = run.frozen_until.max(until);
                }
            }
            Fault::CutOneWay(from, to) => self.net.cut(from, to),
            Fault::CutBothWays(one, other) => {
                self.net.cut(one, other);
                self.net.cut(other, one);
            }
            Fault::Split(bits) => self.split(bits),
            Fault::Slow(seat, permille) => {
                if let Some(run) = self.run_at(seat) {
                    run.host.set_slowness(permille);
                }
            }
            Fault::Noise(seat, permille) => {
                if let Some(run) = self.run_at(seat) {
                    run.host.set_noise(permille);
                }
            }
            Fault::Heal => {
                self.net.heal();
                for (conn, way, lane, at, packets) in self.net.waiting() {
                    for _ in 0..packets {
                        self.at(at, Happening::Deliver(conn, way, lane));
                    }
                }
            }
        }
    }

    pub(super) fn split(&mut self, bits: u64) {
        for one in 0..self.seats.len() {
            for other in 0..self.seats.len() {
                if (bits >> one) & 1 != (bits >> other) & 1 {
                    self.net.cut(Seat(one), Seat(other));
                }
            }
        }
    }

    pub(super) fn start(&mut self, seat: Seat) {
        let now = self.now;
        let chair = &mut self.seats[seat.0];
        if let State::Running(_) = chair.state {
            return;
        }
        chair.boots += 1;
        let boot = BootId(chair.boots);
        let first_term = match self.sabotage {
            Sabotage::Nothing | Sabotage::DialOnce | Sabotage::LoseData => chair.disk_term,
            Sabotage::ForgetTerms => 0,
        };
        let memory = if self.overstated == Some(seat) {
            Memory::Overstated
        } else {
            Memory::AsStated
        };
        let drawn = Device {
            memory_bytes: 1 << 30,
            bytes_per_second: self.rng.between(1, 9) << 30,
            slowness_permille: 1_000,
            noise_permille: 0,
        };
        let birth = Birth {
            strategy: self.strategy.clone(),
            device: self.device.unwrap_or(drawn),
            me: chair.id,
            boot,
            first_term,
            memory,
            rng: self.rng.fork(),
        };
        chair.state = State::Running(Box::new(Running {
            boot,
            born: now,
            frozen_until: now,
            woken_at: None,
            host: Host::new(birth, Tick(0)),
            dials: BTreeSet::new(),
            conns: BTreeMap::new(),
        }));
        let addresses = vec![self.address(seat)];
        self.tell(seat, boot, Fact::Member(Input::Listening { addresses }));
        self.introduce(seat, boot);
    }

    /// Lets a new run be found, and find the others.
    pub(super) fn introduce(&mut self, seat: Seat, boot: BootId) {
        let named = match self.discovery {
            Discovery::Multicast => {
                for other in (0..self.seats.len())
                    .map(Seat)
                    .filter(|other| *other != seat)
                {
                    for (from, to) in [(seat, other), (other, seat)] {
                        let millis = self.rng.between(20, 1_100);
                        self.after(millis, Happening::Announced { from, to });
                    }
                }
                return;
            }
            Discovery::NamedChain => Seat(seat.0.saturating_sub(1)),
            Discovery::NamedFirst => Seat(0),
        };
        let address = format!("seat{}:4000", named.0);
        self.tell(seat, boot, Fact::Member(Input::Named { address }));
    }

    pub(super) fn announced(&mut self, from: Seat, to: Seat) {
        let there = matches!(self.seats[from.0].state, State::Running(_));
        if there && self.net.passes(from, to) && self.net.passes(to, from) {
            let input = Input::Found {
                node: self.seats[from.0].id,
                addresses: vec![self.address(from)],
            };
            if let Some(run) = self.run_at(to) {
                let boot = run.boot;
                self.tell(to, boot, Fact::Member(input));
            }
        }
        if there {
            let alike = |queued: &Happening| matches!(queued, Happening::Announced { from: f, to: t } if (*f, *t) == (from, to));
            if !self.happenings.values().any(alike) {
                self.after(ANNOUNCE_MILLIS, Happening::Announced { from, to });
            }
        }
    }

    /// Where a seat's present run listens. With multicast every run takes a new port, so that
    /// old announcements lead nowhere; a named address has to stay.
    pub(super) fn address(&self, seat: Seat) -> String {
        let port = match self.discovery {
            Discovery::Multicast => 4_000 + self.seats[seat.0].boots,
            Discovery::NamedChain | Discovery::NamedFirst => 4_000,
        };
        format!("seat{}:{port}", seat.0)
    }

    pub(super) fn kill(&mut self, seat: Seat) {
        self.end(seat, State::Stopped, |world, conn, away| {
            world.send(conn, away, Packet::Reset);
        });
    }

    pub(super) fn lose_power(&mut self, seat: Seat) {
        self.end(seat, State::Dark, |_, _, _| {});
    }

    pub(super) fn end(
        &mut self,
        seat: Seat,
        state: State,
        farewell: impl Fn(&mut World, ConnId, Way),
    ) {
        self.seats[seat.0].state = state;
        // The clients of a node go with it.
        self.asked.retain(|(asked, _, _), _| *asked != seat);
        for (conn, way) in self.net.ends_at(seat) {
            farewell(self, conn, way.turned());
            self.net.close_end(conn, way);
        }
    }
}
