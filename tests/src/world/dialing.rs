//! Dials, connections and packets between the seats of a world. Decides no fault.

use cairn_machine::member::{DialFailure, DialId, Input};
use cairn_wire::id::{BootId, NodeId};

use super::{Call, DIAL_TIMEOUT_MILLIS, Happening, Running, Sabotage, State, World};
use crate::host::Fact;
use crate::net::{ConnId, Lane, Packet, Seat, Way};

impl World {
    pub(super) fn dial(
        &mut self,
        seat: Seat,
        boot: BootId,
        dial: DialId,
        node: Option<NodeId>,
        addresses: &[String],
    ) {
        if self.sabotage == Sabotage::DialOnce && dial.0 >= self.seats.len() as u64 {
            return;
        }
        if let Some(run) = self.run_of(seat, boot) {
            run.dials.insert(dial);
        }
        let target = (0..self.seats.len()).map(Seat).find(|other| {
            let id = self.seats[other.0].id;
            addresses.contains(&self.address(*other)) && node.is_none_or(|node| node == id)
        });
        let refused = |failure| Happening::DialRefused {
            seat,
            boot,
            dial,
            failure,
        };
        match target {
            Some(to) if to == seat => self.after(0, refused(DialFailure::Myself)),
            Some(to) => {
                let there = self.net.delay_millis(seat, to);
                let millis = 2 * there + self.net.delay_millis(to, seat);
                let from = seat;
                self.after(
                    millis,
                    Happening::Accept(Call {
                        from,
                        boot,
                        dial,
                        to,
                    }),
                );
                let timed_out = Happening::DialTimedOut { seat, boot, dial };
                self.after(DIAL_TIMEOUT_MILLIS, timed_out);
            }
            None => self.after(10, refused(DialFailure::Unreachable)),
        }
    }

    pub(super) fn accept(&mut self, call: Call) {
        let Call {
            from,
            boot,
            dial,
            to,
        } = call;
        let passes = self.net.passes(from, to) && self.net.passes(to, from);
        let caller = self.seats[from.0].id;
        let callee = self.seats[to.0].id;
        let pending = self
            .run_of(from, boot)
            .is_some_and(|run| run.dials.contains(&dial));
        if !passes || !pending {
            return;
        }
        let failure = |failure| Happening::DialRefused {
            seat: from,
            boot,
            dial,
            failure,
        };
        let back = self.net.delay_millis(to, from);
        let (acceptor, known) = match &self.seats[to.0].state {
            State::Stopped => {
                self.after(back, failure(DialFailure::Unreachable));
                return;
            }
            State::Dark => return,
            State::Running(run) => (run.boot, run.conns.get(&caller).copied()),
        };
        let whole = |(conn, way): &(ConnId, Way)| {
            let conn = self.net.conn(*conn);
            conn.is_some_and(|conn| conn.is_whole() && conn.sender(*way) == (from, boot))
        };
        let waits_for_mine = self.net.between(to, from).is_some_and(|end| whole(&end));
        if known.as_ref().is_some_and(whole) || waits_for_mine {
            self.after(back, failure(DialFailure::AlreadyConnected(callee)));
            return;
        }
        let conn = self.net.open((from, boot), (to, acceptor), dial);
        self.send(conn, Way::Back, Packet::Opened);
        self.attach(to, conn, Way::Out, None);
    }

    /// Makes a connection the one that a seat has with its peer, and tells the host.
    pub(super) fn attach(&mut self, seat: Seat, conn: ConnId, way: Way, dial: Option<DialId>) {
        let Some((other, other_boot)) = self.net.conn(conn).map(|conn| conn.sender(way)) else {
            return;
        };
        let peer = self.seats[other.0].id;
        let Some(run) = self.run_at(seat) else {
            return;
        };
        let boot = run.boot;
        if let Some((old, old_way)) = run.conns.insert(peer, (conn, way)) {
            self.send(old, old_way.turned(), Packet::Reset);
            self.net.close_end(old, old_way);
            self.tell(seat, boot, Fact::Member(Input::Disconnected { peer }));
        }
        let connected = Input::Connected {
            peer,
            boot: other_boot,
            dial,
        };
        self.tell(seat, boot, Fact::Member(connected));
    }

    pub(super) fn dial_failed(
        &mut self,
        seat: Seat,
        boot: BootId,
        dial: DialId,
        failure: DialFailure,
    ) {
        let pending = self
            .run_of(seat, boot)
            .is_some_and(|run| run.dials.remove(&dial));
        if pending {
            let failed = Input::DialFailed { dial, failure };
            self.tell(seat, boot, Fact::Member(failed));
        }
    }

    /// Closes the caller's end of a connection that was never answered in time.
    pub(super) fn abandon_dial(&mut self, seat: Seat, boot: BootId, dial: DialId) {
        let pending = self
            .run_of(seat, boot)
            .is_some_and(|run| run.dials.contains(&dial));
        let end = self.net.ends_at(seat).into_iter().find(|(conn, way)| {
            let conn = self.net.conn(*conn);
            *way == Way::Back && conn.is_some_and(|conn| conn.dial == dial)
        });
        if let (true, Some((conn, way))) = (pending, end) {
            self.send(conn, way.turned(), Packet::Reset);
            self.net.close_end(conn, way);
        }
    }

    pub(super) fn send(&mut self, conn: ConnId, way: Way, packet: Packet) {
        let lane = packet.lane();
        if self.sabotage == Sabotage::LoseData && lane == Lane::Data && self.rng.chance(10) {
            return;
        }
        if let Some(at) = self.net.send(conn, way, self.now, packet) {
            self.at(at, Happening::Deliver(conn, way, lane));
        }
    }

    pub(super) fn deliver(&mut self, id: ConnId, way: Way, lane: Lane) {
        let Some(conn) = self.net.conn(id) else {
            return;
        };
        let ((seat, boot), dial) = (conn.receiver(way), conn.dial);
        let receives = conn.receives(way);
        let peer = self.seats[conn.sender(way).0.0].id;
        let attached = self.run_of(seat, boot).is_some_and(|run| {
            let ours = run.conns.get(&peer);
            ours.is_some_and(|(conn, _)| *conn == id)
        });
        if lane == Lane::Data && receives && !attached {
            // The streams begin once the connection stands; `Opened` sees to what waits.
            return;
        }
        let Some(packet) = self.net.take(id, way, lane, self.now) else {
            return;
        };
        if !receives {
            // Nobody is there: a device that runs says so, one that is off does not.
            if !matches!(self.seats[seat.0].state, State::Dark) {
                self.send(id, way.turned(), Packet::Reset);
            }
            return;
        }
        match packet {
            Packet::Opened => {
                if self
                    .run_of(seat, boot)
                    .is_some_and(|run| run.dials.remove(&dial))
                {
                    self.attach(seat, id, way, Some(dial));
                    for _ in 0..self.net.count(id, way, Lane::Data) {
                        self.at(self.now, Happening::Deliver(id, way, Lane::Data));
                    }
                }
            }
            Packet::Frame(plane, bytes) => {
                self.tell(seat, boot, Fact::Arrived { peer, plane, bytes });
            }
            Packet::Reset => {
                self.net.close_end(id, way);
                let ours = |run: &mut Running| {
                    let ours = run.conns.get(&peer).is_some_and(|(conn, _)| *conn == id);
                    ours && run.conns.remove(&peer).is_some()
                };
                if self.run_of(seat, boot).is_some_and(ours) {
                    self.tell(seat, boot, Fact::Member(Input::Disconnected { peer }));
                }
            }
        }
    }
}
