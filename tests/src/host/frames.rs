//! Frames in and out of a host: encoded, decoded, paid for, put into the right mailbox.

use cairn_machine::{Tick, capability, member, pipeline, placement, shard};
use cairn_wire::codec::Plane;
use cairn_wire::control::Control;
use cairn_wire::data::Credit;
use cairn_wire::frame::DataFrame;
use cairn_wire::id::NodeId;

use super::{Host, Mail, Order};
use crate::link::Link;

impl Host {
    /// A new connection starts with a full window.
    pub(super) fn note_link(&mut self, now: Tick, input: &member::Input) {
        match input {
            member::Input::Connected { peer, .. } => {
                self.links.insert(*peer, Link::new(now));
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

    pub(super) fn arrived(&mut self, peer: NodeId, plane: Plane, bytes: &[u8]) {
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

    pub(super) fn control_arrived(&mut self, from: NodeId, message: Control) {
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
                let seen = placement::Seen {
                    stage: status.stage,
                    links: status.links.clone(),
                };
                self.post(Mail::Placement(placement::Input::Seen { from, seen }));
                let standing = status.standing.clone();
                self.post(Mail::Placement(placement::Input::Standing {
                    from,
                    standing,
                }));
                Mail::Capability(capability::Input::StatusArrived { from, status })
            }
            Control::Propose(plan) => {
                let plan = *plan;
                Mail::Placement(placement::Input::Proposed { from, plan })
            }
            Control::Loaded(loaded) => Mail::Placement(placement::Input::Loaded { from, loaded }),
            Control::LoadFailed(failed) => {
                Mail::Placement(placement::Input::LoadFailed { from, failed })
            }
            Control::Adopt(plan) => Mail::Placement(placement::Input::Adopt { from, plan }),
            Control::Abandon(abandon) => {
                Mail::Placement(placement::Input::Abandon { from, abandon })
            }
            // Hosts see no round trips: their time is the world's.
            Control::Ping(_) | Control::Pong(_) | Control::LogsWanted(_) | Control::Logs(_) => {
                return;
            }
        };
        self.post(mail);
    }

    pub(super) fn data_arrived(&mut self, peer: NodeId, frame: DataFrame) {
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

    pub(super) fn deliver(&mut self, from: NodeId, frame: DataFrame) {
        match frame {
            DataFrame::Sampled(sampled) => {
                if sampled.goes_on {
                    let frame = DataFrame::Sampled(sampled.clone());
                    self.post(Mail::Shard(shard::Input::Arrived { from, frame }));
                }
                if sampled.is_for(self.me) {
                    self.post(Mail::Pipeline(pipeline::Input::Sampled { from, sampled }));
                }
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
    pub(super) fn send(&mut self, to: NodeId, frame: DataFrame) -> Option<DataFrame> {
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

    pub(super) fn put(&mut self, peer: NodeId, frame: &DataFrame) {
        let encoded = frame.encode().expect("machines keep the wire's bounds");
        self.orders.push_back(Order::Send {
            peer,
            plane: Plane::Data,
            bytes: encoded.bytes().to_vec(),
        });
    }

    pub(super) fn grant(&mut self) {
        let grants = self.links.iter_mut();
        let grants: Vec<(NodeId, u32)> = grants
            .filter_map(|(peer, link)| Some((*peer, link.grant()?)))
            .collect();
        for (peer, frames) in grants {
            self.put(peer, &DataFrame::Credit(Credit { frames }));
        }
    }

    pub(super) fn send_control(&mut self, peer: NodeId, message: &Control) {
        let frame = message.encode().expect("machines keep the wire's bounds");
        self.orders.push_back(Order::Send {
            peer,
            plane: Plane::Control,
            bytes: frame.bytes().to_vec(),
        });
    }
}
