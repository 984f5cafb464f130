//! The `discovery` actor: who is in and who leads. Connects the membership machine to the network.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_machine::member::{
    DialFailure, DialId, Event as MemberEvent, Input, LossCause, Members, Membership, Output,
};
use cairn_machine::view::View;
use cairn_machine::{capability, pipeline, placement, shard};
use cairn_net::{CloseCause, Event, Origin, Refusal};
use cairn_wire::control::{Control, Pong};
use cairn_wire::id::NodeId;

use crate::pings::Pings;
use crate::shell::Role;
use crate::wiring::Wiring;

/// Where the last term is kept, in the data directory.
pub(crate) const TERM_FILE: &str = "term";

/// Effects of membership.
pub(crate) struct DiscoveryRole {
    wiring: Arc<Wiring>,
    data_dir: PathBuf,
    dials: BTreeMap<DialId, Dialing>,
    pings: Pings,
}

/// A dial in progress: one address at a time.
struct Dialing {
    node: Option<NodeId>,
    now: SocketAddr,
    rest: VecDeque<SocketAddr>,
}

/// What the network and the neighbours say, before it is put into the machine's words.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of it is the network's news, and each lives for a moment"
)]
pub(crate) enum Talk {
    /// The network's own news.
    News(Event),
    /// A neighbour asks for the round trip.
    Ping { peer: NodeId, number: u64 },
    /// A neighbour answers.
    Pong { peer: NodeId, number: u64 },
}

impl DiscoveryRole {
    pub(crate) fn new(wiring: Arc<Wiring>, data_dir: PathBuf) -> Self {
        Self {
            wiring,
            data_dir,
            dials: BTreeMap::new(),
            pings: Pings::default(),
        }
    }

    fn dial(&mut self, id: DialId, node: Option<NodeId>, addresses: &[String]) -> Option<Input> {
        let parsed = addresses.iter().filter_map(|text| text.parse().ok());
        self.dial_next(id, node, parsed.collect())
    }

    fn dial_next(
        &mut self,
        dial: DialId,
        node: Option<NodeId>,
        mut rest: VecDeque<SocketAddr>,
    ) -> Option<Input> {
        let (Some(now), Some(net)) = (rest.pop_front(), self.wiring.net()) else {
            let failure = DialFailure::Unreachable;
            return Some(Input::DialFailed { dial, failure });
        };
        net.dial(now, node);
        self.dials.insert(dial, Dialing { node, now, rest });
        None
    }

    fn take_dial(&mut self, address: SocketAddr) -> Option<(DialId, Dialing)> {
        let found = self
            .dials
            .iter()
            .find(|(_, dialing)| dialing.now == address);
        let id = *found?.0;
        let dialing = self.dials.remove(&id)?;
        Some((id, dialing))
    }

    fn refused(
        &mut self,
        peer: Option<NodeId>,
        address: SocketAddr,
        reason: &Refusal,
    ) -> Option<Input> {
        let Some((dial, dialing)) = self.take_dial(address) else {
            match reason {
                Refusal::AlreadyLinked | Refusal::SelfDial => {}
                reason => tracing::warn!(%address, %reason, "refused a peer"),
            }
            return None;
        };
        let failure = match reason {
            Refusal::WrongSecret => DialFailure::WrongSecret,
            Refusal::WrongCluster => DialFailure::OtherCluster,
            Refusal::WrongVersion { .. } => DialFailure::OtherVersion,
            Refusal::DuplicateIdentity => DialFailure::Twin,
            Refusal::SelfDial => DialFailure::Myself,
            Refusal::AlreadyLinked => match peer.or(dialing.node) {
                Some(peer) => DialFailure::AlreadyConnected(peer),
                None => DialFailure::Unreachable,
            },
            Refusal::WrongIdentity { .. }
            | Refusal::NotCairn { .. }
            | Refusal::Silent
            | Refusal::Other(_) => {
                tracing::debug!(%address, %reason, "a dial was refused");
                return self.dial_next(dial, dialing.node, dialing.rest);
            }
        };
        Some(Input::DialFailed { dial, failure })
    }

    fn members_changed(&self, members: &Members) {
        let view = View::from(members);
        let wiring = &self.wiring;
        wiring.view.send_replace(view.clone());
        wiring.to_capability(capability::Input::Members(view.clone()));
        wiring.to_planner(placement::Input::Members(view.clone()));
        wiring.to_shard(shard::Input::Members(view.clone()));
        wiring.to_pipeline(pipeline::Input::Members(view));
    }

    fn persist_term(&self, term: u64) {
        let path = self.data_dir.join(TERM_FILE);
        let new = self.data_dir.join("term.new");
        let written =
            std::fs::write(&new, term.to_string()).and_then(|()| std::fs::rename(&new, &path));
        if let Err(error) = written {
            tracing::error!(path = %path.display(), %error, "cannot keep the term");
        }
    }

    fn say(&self, event: &MemberEvent) {
        match event {
            MemberEvent::MemberJoined { node, .. } => {
                if *node != self.wiring.me {
                    tracing::info!(node = self.wiring.name(*node), "a node joined");
                }
            }
            MemberEvent::MemberLost {
                node,
                cause: LossCause::WeLeave,
            } => tracing::debug!(node = self.wiring.name(*node), "left it"),
            MemberEvent::MemberLost { node, cause } => {
                tracing::warn!(node = self.wiring.name(*node), ?cause, "a node is gone");
            }
            MemberEvent::LeaderChanged {
                term,
                leader: Some(leader),
            } => tracing::info!(
                leader = self.wiring.name(*leader),
                term = term.number,
                "a leader is elected"
            ),
            MemberEvent::LeaderChanged { term, leader: None } => {
                tracing::info!(term = term.number, "looking for a leader");
            }
            MemberEvent::PeerRefused { addresses, failure } => {
                let where_to = addresses.join(", ");
                tracing::warn!(at = where_to, "not let in: {}", in_words(*failure));
                if *failure == DialFailure::Twin {
                    self.wiring.fail(format!(
                        "another running node at {where_to} has this node's identity: give each node its own --data-dir"
                    ));
                }
            }
            MemberEvent::PeerMisbehaved { node, rule } => {
                tracing::warn!(%node, rule, "a peer broke a rule and is cut off");
            }
            MemberEvent::NobodyFound { causes } => {
                let text: Vec<String> = causes.iter().map(cause_in_words).collect();
                tracing::info!("no other node found yet: {}", text.join("; "));
            }
        }
    }
}

impl Role for DiscoveryRole {
    type Machine = Membership;
    type Other = Talk;

    fn perform(&mut self, order: Output) -> Option<Input> {
        match order {
            Output::Dial {
                dial,
                node,
                addresses,
            } => return self.dial(dial, node, &addresses),
            Output::Close { peer } => {
                if let Some(net) = self.wiring.net() {
                    net.close(peer, CloseCause::Silent);
                }
            }
            Output::SendHeartbeat { peer, heartbeat } => {
                self.wiring
                    .send_control(peer, &Control::Heartbeat(heartbeat));
                if let Some(ping) = self.pings.due(peer) {
                    self.wiring.send_control(peer, &Control::Ping(ping));
                }
            }
            Output::SendPeers { peer, list } => {
                self.wiring.send_control(peer, &Control::Peers(list));
            }
            Output::SendLeave { peer } => self.wiring.send_control(peer, &Control::Leave),
            Output::PersistTerm(term) => self.persist_term(term),
            Output::MembersChanged(members) => self.members_changed(&members),
            Output::Event(event) => self.say(&event),
        }
        None
    }

    fn other(&mut self, _machine: &Membership, talk: Talk) -> Option<Input> {
        let event = match talk {
            Talk::News(event) => event,
            Talk::Ping { peer, number } => {
                self.wiring
                    .send_control(peer, &Control::Pong(Pong { number }));
                return None;
            }
            Talk::Pong { peer, number } => {
                if let Some(took) = self.pings.answered(peer, number) {
                    let net = self.wiring.net();
                    let speed = net.and_then(|net| net.received_bytes_per_second(peer));
                    self.wiring.gauges.round_trip(peer, took, speed);
                }
                return None;
            }
        };
        match event {
            Event::Found {
                node, addresses, ..
            } => Some(Input::Found {
                node,
                addresses: addresses.iter().map(ToString::to_string).collect(),
            }),
            Event::Connected {
                peer,
                boot,
                address,
                origin,
                version,
            } => {
                tracing::debug!(%peer, %address, version, "connected");
                let dial = match origin {
                    Origin::Dialled => self.take_dial(address).map(|(dial, _)| dial),
                    Origin::Accepted => None,
                };
                Some(Input::Connected { peer, boot, dial })
            }
            Event::Disconnected { peer, cause } => {
                tracing::debug!(%peer, %cause, "disconnected");
                self.pings.forget(peer);
                self.wiring.gauges.unlinked(peer);
                Some(Input::Disconnected { peer })
            }
            Event::Refused {
                peer,
                address,
                reason,
            } => self.refused(peer, address, &reason),
            Event::Unreachable {
                address, detail, ..
            } => {
                tracing::debug!(%address, detail, "unreachable");
                let (dial, dialing) = self.take_dial(address)?;
                self.dial_next(dial, dialing.node, dialing.rest)
            }
            Event::DiscoveryFailed { detail } => Some(Input::MulticastMissing { detail }),
            // The router hands these to whom they are for.
            Event::Control { .. } | Event::Data { .. } | Event::LinkReady { .. } => None,
        }
    }
}

fn in_words(failure: DialFailure) -> String {
    match failure {
        DialFailure::Unreachable => "nothing answers as a node does".to_owned(),
        DialFailure::AlreadyConnected(node) => format!("{node} is connected already"),
        DialFailure::Myself => "the address is this node's own".to_owned(),
        DialFailure::Twin => "another running node has this node's identity".to_owned(),
        DialFailure::WrongSecret => {
            "the cluster secrets differ: join with the line that `cairn up` prints there".to_owned()
        }
        DialFailure::OtherCluster => "it belongs to a cluster of another name".to_owned(),
        DialFailure::OtherVersion => "it speaks another protocol version: update one".to_owned(),
    }
}

fn cause_in_words(cause: &cairn_machine::member::NobodyCause) -> String {
    use cairn_machine::member::NobodyCause;
    match cause {
        NobodyCause::Refused { addresses, failure } => {
            format!("{} answers, but {}", addresses.join(", "), in_words(*failure))
        }
        NobodyCause::Unreachable { addresses } => format!(
            "nothing answers at {} (a firewall, or the node is gone)",
            addresses.join(", ")
        ),
        NobodyCause::OtherCluster { cluster } => {
            format!("nodes of the cluster {cluster:?} are there (--cluster)")
        }
        NobodyCause::MulticastMissing { detail } => {
            format!("this device cannot use multicast ({detail}): name a node with --peer")
        }
        NobodyCause::NothingAnnounced => {
            "nothing is announced on this network: no other node runs, or multicast is blocked (name a node with --peer)".to_owned()
        }
    }
}
