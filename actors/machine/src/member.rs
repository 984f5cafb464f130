//! Who is in and who leads: the decisions of the `discovery` actor.
//!
//! Knows nothing of models or plans, and measures no links.
//!
//! Every node is connected to every other and sends it ten heartbeats a second. A gossip
//! protocol such as SWIM would carry thousands of nodes, but at this cluster's size it was
//! slower to notice a death and quicker to invent one, and it elects nobody.

mod dial;
mod fact;
mod lead;
mod publish;
mod talk;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_wire::control::{Heartbeat, PeerAddress, Role};
use cairn_wire::id::{BootId, NodeId};
use cairn_wire::limits::{ADDRESSES_MAX, NODES_MAX};

use crate::{Machine, Tick};
use dial::Dialer;
pub use fact::{
    Config, DialFailure, DialId, Event, Health, Input, LossCause, Member, Members, NobodyCause,
    Output, Timing,
};
use lead::{Leadership, Verdict, Voice};

/// Nodes in one message of addresses; the rest follows with the next.
pub const PEERS_MAX: usize = 256;
/// Names of other clusters that are remembered for the account of why nobody was found.
const OTHER_CLUSTERS_MAX: usize = 16;

/// The membership machine. Wakes once per heartbeat.
#[derive(Debug)]
pub struct Membership {
    config: Config,
    stage: Stage,
    next_tick: Tick,
    next_gossip: Tick,
    links: BTreeMap<NodeId, Link>,
    listening: Vec<String>,
    dialer: Dialer,
    leadership: Leadership,
    nobody: Nobody,
    published: Members,
    /// Why links went since the last publication.
    causes: BTreeMap<NodeId, LossCause>,
    orders: VecDeque<Output>,
}

/// What this node is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has not met anyone.
    Lonely,
    /// It has met someone, now or before.
    Sociable,
    /// Its user stopped it.
    Leaving,
}

/// One connected peer.
#[derive(Debug)]
struct Link {
    boot: BootId,
    heard: Tick,
    /// Its last heartbeat on this connection.
    said: Option<Heartbeat>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    In,
    Leaving,
}

/// What is known for the account of why nobody was found.
#[derive(Debug)]
struct Nobody {
    since: Tick,
    said: Told,
    multicast_missing: Option<String>,
    other_clusters: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    NotYet,
    Already,
}

impl Membership {
    /// A machine that has met nobody yet.
    pub fn new(config: Config, now: Tick) -> Membership {
        Membership {
            config,
            stage: Stage::Lonely,
            next_tick: now,
            next_gossip: now,
            links: BTreeMap::new(),
            listening: Vec::new(),
            dialer: Dialer::new(config.me, config.timing),
            leadership: Leadership::new(config.me, config.first_term, now),
            nobody: Nobody {
                since: now,
                said: Told::NotYet,
                multicast_missing: None,
                other_clusters: BTreeSet::new(),
            },
            published: Members::nobody(),
            causes: BTreeMap::new(),
            orders: VecDeque::new(),
        }
    }

    /// Who is in and who leads, as last published.
    pub fn members(&self) -> &Members {
        &self.published
    }

    /// Panics if this machine contradicts itself. For tests and the simulated world.
    pub fn check_invariants(&self) {
        let me = self.config.me;
        assert!(!self.links.contains_key(&me), "linked to itself");
        assert!(self.dialer.len() <= dial::KNOWN_MAX + self.dialer.named_count());
        assert!(self.leadership.number_max >= self.leadership.term.number);
        let leads = self.leadership.role == Role::Leading;
        assert!(
            !leads || self.leadership.term.leader == me,
            "leads another's term"
        );
        let published = &self.published;
        assert!(
            published.term <= self.leadership.term,
            "published a later term"
        );
        if self.orders.is_empty() && !published.members.is_empty() {
            assert_eq!(published.term, self.leadership.term);
            assert_eq!(published.role, self.leadership.role);
            assert!(published.members.contains_key(&me));
            let leader = published.leader();
            assert!(
                leader.is_none_or(|leader| published.members.contains_key(&leader)),
                "led by a node that is out"
            );
        }
    }

    fn connected(&mut self, now: Tick, peer: NodeId, boot: BootId, dial: Option<DialId>) {
        if peer == self.config.me {
            self.orders.push_back(Output::Close { peer });
            return;
        }
        if let Some(old) = self.links.remove(&peer) {
            let cause = if old.boot == boot {
                LossCause::Disconnected
            } else {
                LossCause::Restarted
            };
            self.causes.insert(peer, cause);
            self.publish(now);
        }
        self.links.insert(
            peer,
            Link {
                boot,
                heard: now,
                said: None,
                standing: Standing::In,
            },
        );
        self.dialer.linked(now, peer, dial);
        self.send_heartbeat(peer);
    }

    fn heartbeat_arrived(&mut self, now: Tick, peer: NodeId, heartbeat: Heartbeat) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if let Some(rule) = broken_rule(peer, link.boot, &heartbeat) {
            self.misbehaved(now, peer, rule);
            return;
        }
        link.heard = now;
        let first = link.said.replace(heartbeat).is_none();
        if self.stage == Stage::Lonely {
            self.stage = Stage::Sociable;
            // The time it waited alone is no time in which it looked among others.
            self.leadership.seek_if_leaderless(now);
        }
        // Judged before the answer: a newcomer that has to step down must have done so before
        // the peer learns that it is heard, which is when it could follow.
        self.judge(now);
        if first {
            self.send_heartbeat(peer);
            let list = self.lacking(peer, self.own_address());
            self.send_peers(peer, list);
        }
    }

    fn peers_arrived(&mut self, now: Tick, peer: NodeId, list: &[PeerAddress]) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if list.len() > PEERS_MAX {
            self.misbehaved(
                now,
                peer,
                "more addresses in one message than the protocol allows",
            );
            return;
        }
        link.heard = now;
        for entry in list {
            self.found(now, entry.node, &entry.addresses);
        }
        self.dial_due(now);
    }

    /// Notes addresses, and tells those members that do not hear the node yet.
    fn found(&mut self, now: Tick, node: NodeId, addresses: &[String]) {
        let news = self.dialer.found(now, node, addresses);
        if !news || !self.links.contains_key(&node) {
            return;
        }
        let Some(entry) = self.dialer.addresses(node) else {
            return;
        };
        let lacking: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in lacking {
            if self.is_lacked_by(node, peer) {
                self.send_peers(peer, vec![entry.clone()]);
            }
        }
    }

    fn leave_arrived(&mut self, now: Tick, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.standing = Standing::Leaving;
            self.causes.insert(peer, LossCause::Left);
            self.dialer.left(peer);
            self.judge(now);
        }
    }

    fn leave(&mut self, now: Tick) {
        let peers: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in peers {
            self.orders.push_back(Output::SendLeave { peer });
            self.causes.insert(peer, LossCause::WeLeave);
        }
        self.links.clear();
        self.leadership.seek(now);
        self.stage = Stage::Leaving;
        self.publish(now);
    }

    fn misbehaved(&mut self, now: Tick, peer: NodeId, rule: &'static str) {
        self.links.remove(&peer);
        self.causes.insert(peer, LossCause::Misbehaved);
        self.orders.push_back(Output::Close { peer });
        self.orders
            .push_back(Output::Event(Event::PeerMisbehaved { node: peer, rule }));
        self.dialer.lost_for_long(now, peer);
        self.judge(now);
    }

    fn close_silent(&mut self, now: Tick) {
        let down = self.config.timing.down_millis;
        let silent: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(_, link)| now.millis_since(link.heard) >= down)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in silent {
            self.links.remove(&peer);
            // A peer that said it leaves is gone for that reason, however quietly it went.
            self.causes.entry(peer).or_insert(LossCause::Silent);
            self.orders.push_back(Output::Close { peer });
            self.dialer.lost_for_long(now, peer);
        }
    }

    /// Judges the leadership by what everyone said last, and publishes what came of it.
    fn judge(&mut self, now: Tick) {
        let verdict = self
            .leadership
            .judge(now, &voices(&self.links, self.config.me));
        self.conclude(now, verdict);
    }

    fn stand(&mut self, now: Tick) {
        let patience_millis = match self.stage {
            Stage::Lonely => self.config.timing.lonely_millis,
            Stage::Sociable => self.config.timing.settle_millis,
            Stage::Leaving => return,
        };
        let voices = voices(&self.links, self.config.me);
        let verdict = self.leadership.stand(now, &voices, patience_millis);
        self.conclude(now, verdict);
    }

    fn conclude(&mut self, now: Tick, verdict: Verdict) {
        match verdict {
            Verdict::Quiet => self.publish(now),
            Verdict::Followed => {
                self.publish(now);
                // A leader that hears of no follower may take itself for a newcomer.
                self.send_heartbeat(self.leadership.term.leader);
            }
            Verdict::Claimed => {
                self.orders
                    .push_back(Output::PersistTerm(self.leadership.term.number));
                self.publish(now);
                self.send_heartbeats();
            }
        }
    }

    fn tell_nobody_found(&mut self, now: Tick) {
        if !self.links.is_empty() {
            self.nobody.since = now;
            self.nobody.said = Told::NotYet;
            return;
        }
        let due = now.millis_since(self.nobody.since) >= self.config.timing.nobody_millis;
        if due && self.nobody.said == Told::NotYet {
            self.nobody.said = Told::Already;
            let causes = self.nobody.causes(&self.dialer);
            self.orders
                .push_back(Output::Event(Event::NobodyFound { causes }));
        }
    }

    fn dial_due(&mut self, now: Tick) {
        for due in self.dialer.due(now) {
            self.orders.push_back(Output::Dial {
                dial: due.dial,
                node: due.node,
                addresses: due.addresses,
            });
        }
    }
}

impl Machine for Membership {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Tick, input: Input) {
        if self.stage == Stage::Leaving {
            return;
        }
        match input {
            Input::Listening { addresses } => {
                self.listening = addresses;
                self.listening.retain(|address| dial::fits(address));
                self.listening.truncate(ADDRESSES_MAX);
                let own: Vec<PeerAddress> = self.own_address().into_iter().collect();
                let peers: Vec<NodeId> = self.links.keys().copied().collect();
                for peer in peers {
                    self.send_peers(peer, own.clone());
                }
            }
            Input::Found { node, addresses } => {
                self.found(now, node, &addresses);
                self.dial_due(now);
            }
            Input::Named { address } => {
                self.dialer.named(now, address);
                self.dial_due(now);
            }
            Input::MulticastMissing { detail } => self.nobody.multicast_missing = Some(detail),
            Input::OtherClusterFound { cluster } => {
                if self.nobody.other_clusters.len() < OTHER_CLUSTERS_MAX {
                    self.nobody.other_clusters.insert(cluster);
                }
            }
            Input::Connected { peer, boot, dial } => self.connected(now, peer, boot, dial),
            Input::Disconnected { peer } => {
                if let Some(link) = self.links.remove(&peer) {
                    match link.standing {
                        Standing::In => self.causes.insert(peer, LossCause::Disconnected),
                        Standing::Leaving => None,
                    };
                    self.dialer.lost(now, peer);
                    self.judge(now);
                    self.dial_due(now);
                }
            }
            Input::DialFailed { dial, failure } => {
                if let Some(addresses) = self.dialer.failed(now, dial, failure) {
                    let refused = Event::PeerRefused { addresses, failure };
                    self.orders.push_back(Output::Event(refused));
                }
            }
            Input::HeartbeatArrived { peer, heartbeat } => {
                self.heartbeat_arrived(now, peer, heartbeat);
            }
            Input::PeersArrived { peer, list } => self.peers_arrived(now, peer, &list),
            Input::LeaveArrived { peer } => self.leave_arrived(now, peer),
            Input::LeaveOrdered => self.leave(now),
        }
    }

    fn wake(&mut self, now: Tick) {
        if self.stage == Stage::Leaving || now < self.next_tick {
            return;
        }
        let heartbeat_millis = self.config.timing.heartbeat_millis;
        let lateness_millis = now.millis_since(self.next_tick);
        if lateness_millis > heartbeat_millis {
            // This process did not run, so it could not hear: that time is not the others'
            // silence, nor time in which a leader could have been found.
            for link in self.links.values_mut() {
                link.heard = link.heard.after_millis(lateness_millis).min(now);
            }
            self.leadership.forgive(now, lateness_millis);
        }
        self.next_tick = now.after_millis(heartbeat_millis);
        self.close_silent(now);
        self.judge(now);
        self.stand(now);
        self.send_heartbeats();
        self.gossip(now);
        self.dial_due(now);
        self.tell_nobody_found(now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.orders.pop_front()
    }

    fn deadline(&self) -> Option<Tick> {
        match self.stage {
            Stage::Lonely | Stage::Sociable => Some(self.next_tick),
            Stage::Leaving => None,
        }
    }
}

impl Nobody {
    fn causes(&self, dialer: &Dialer) -> Vec<NobodyCause> {
        let troubles = dialer.troubles();
        let mut causes: Vec<NobodyCause> = troubles
            .refused
            .into_iter()
            .map(|(addresses, failure)| NobodyCause::Refused { addresses, failure })
            .collect();
        if !troubles.unreachable.is_empty() {
            let addresses = troubles.unreachable;
            causes.push(NobodyCause::Unreachable { addresses });
        }
        if let Some(detail) = self.multicast_missing.clone() {
            causes.push(NobodyCause::MulticastMissing { detail });
        }
        let others = self.other_clusters.iter().cloned();
        causes.extend(others.map(|cluster| NobodyCause::OtherCluster { cluster }));
        if causes.is_empty() {
            causes.push(NobodyCause::NothingAnnounced);
        }
        causes
    }
}

/// What the members that have not left said last.
fn voices(links: &BTreeMap<NodeId, Link>, me: NodeId) -> Vec<Voice<'_>> {
    links
        .iter()
        .filter(|(_, link)| link.standing == Standing::In)
        .filter_map(|(peer, link)| {
            Some(Voice {
                node: *peer,
                mutual: is_mutual(link, me),
                said: link.said.as_ref()?,
            })
        })
        .collect()
}

/// Whether this node hears the peer and the peer says that it hears this node.
fn is_mutual(link: &Link, me: NodeId) -> bool {
    let heard = link.said.as_ref();
    link.standing == Standing::In && heard.is_some_and(|said| said.hears.contains(&me))
}

/// The rule that a heartbeat breaks, if it does.
fn broken_rule(peer: NodeId, boot: BootId, heartbeat: &Heartbeat) -> Option<&'static str> {
    if heartbeat.boot != boot {
        Some("a heartbeat of another run than the one connected")
    } else if heartbeat.role == Role::Leading && heartbeat.term.leader != peer {
        Some("leads a term of another node")
    } else if heartbeat.term.number > heartbeat.term_number_max {
        Some("a term above the highest that it has seen")
    } else if heartbeat.hears.len() > NODES_MAX {
        Some("hears more nodes than the protocol allows")
    } else {
        None
    }
}
