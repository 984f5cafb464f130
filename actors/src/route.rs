//! Which actor a message from the network is for. Runs on the network's thread, so it only hands on.

use std::sync::Arc;

use cairn_machine::{capability, member, placement};
use cairn_net::Event;
use cairn_wire::control::{Control, NodeStatus};
use cairn_wire::frame::DataFrame;
use cairn_wire::id::NodeId;
use tokio::runtime::Handle;

use crate::discovery::Talk;
use crate::logs::relay::Relay;
use crate::pipeline::link_ready;
use crate::shell::{Guard, Msg};
use crate::wiring::{Actors, Wiring};

/// Hands everything that the network reports to the actor that it is for.
pub(crate) struct Router {
    pub(crate) wiring: Arc<Wiring>,
    pub(crate) relay: Relay,
    pub(crate) runtime: Handle,
}

impl Router {
    pub(crate) fn route(&self, event: Event) {
        let Some(actors) = self.wiring.actors() else {
            return;
        };
        match event {
            Event::Control {
                peer,
                message,
                guard,
            } => self.control(actors, peer, message, Some(Box::new(guard))),
            Event::Data { peer, frame, guard } => match frame {
                // Rows are paid for until the engine has taken them, not just delivered.
                DataFrame::Rows(rows) => {
                    let frame = DataFrame::Rows(rows.with_guard(Box::new(guard)));
                    self.wiring.deliver(peer, frame, None);
                }
                frame => self.wiring.deliver(peer, frame, Some(Box::new(guard))),
            },
            Event::LinkReady { peer } => link_ready(&self.wiring, peer),
            news @ (Event::Found { .. }
            | Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::Refused { .. }
            | Event::Unreachable { .. }
            | Event::DiscoveryFailed { .. }) => {
                // An actor that has ended has said so already.
                drop(actors.discovery.cast(Msg::Other(Talk::News(news), None)));
            }
        }
    }

    fn control(&self, actors: &Actors, peer: NodeId, message: Control, guard: Guard) {
        let from = peer;
        match message {
            Control::Heartbeat(heartbeat) => {
                let fact = member::Input::HeartbeatArrived { peer, heartbeat };
                drop(actors.discovery.cast(Msg::Fact(fact, guard)));
            }
            Control::Peers(list) => {
                let fact = member::Input::PeersArrived { peer, list };
                drop(actors.discovery.cast(Msg::Fact(fact, guard)));
            }
            Control::Ping(ping) => {
                let number = ping.number;
                drop(
                    actors
                        .discovery
                        .cast(Msg::Other(Talk::Ping { peer, number }, guard)),
                );
            }
            Control::Pong(pong) => {
                let number = pong.number;
                drop(
                    actors
                        .discovery
                        .cast(Msg::Other(Talk::Pong { peer, number }, guard)),
                );
            }
            Control::Leave => {
                let fact = member::Input::LeaveArrived { peer };
                drop(actors.discovery.cast(Msg::Fact(fact, guard)));
            }
            Control::Capability(capability) => {
                let fact = capability::Input::CapabilityArrived { from, capability };
                drop(actors.capability.cast(Msg::Fact(fact, guard)));
            }
            Control::Status(status) => self.status(actors, from, status, guard),
            Control::Propose(plan) => {
                let plan = *plan;
                let fact = placement::Input::Proposed { from, plan };
                drop(actors.planner.cast(Msg::Fact(fact, guard)));
            }
            Control::Loaded(loaded) => {
                let fact = placement::Input::Loaded { from, loaded };
                drop(actors.planner.cast(Msg::Fact(fact, guard)));
            }
            Control::LoadFailed(failed) => {
                let fact = placement::Input::LoadFailed { from, failed };
                drop(actors.planner.cast(Msg::Fact(fact, guard)));
            }
            Control::Adopt(plan) => {
                let fact = placement::Input::Adopt { from, plan };
                drop(actors.planner.cast(Msg::Fact(fact, guard)));
            }
            Control::Abandon(abandon) => {
                let fact = placement::Input::Abandon { from, abandon };
                drop(actors.planner.cast(Msg::Fact(fact, guard)));
            }
            Control::LogsWanted(wanted) => self.relay.wanted(&self.runtime, peer, wanted),
            Control::Logs(lines) => self.relay.arrived(peer, lines),
        }
    }

    fn status(&self, actors: &Actors, from: NodeId, status: NodeStatus, guard: Guard) {
        // The leader judges its plan by it; the others may lead next.
        let seen = placement::Seen {
            stage: status.stage,
            links: status.links.clone(),
        };
        self.wiring
            .to_planner(placement::Input::Seen { from, seen });
        let standing = status.standing.clone();
        self.wiring
            .to_planner(placement::Input::Standing { from, standing });
        let fact = capability::Input::StatusArrived { from, status };
        drop(actors.capability.cast(Msg::Fact(fact, guard)));
    }
}
