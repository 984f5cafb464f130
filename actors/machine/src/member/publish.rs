//! What the other machines and the people are told of the membership, and when.

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::control::Role;
use cairn_wire::id::NodeId;

use super::{Event, Health, Link, LossCause, Member, Members, Membership, Output, is_mutual};
use crate::Tick;

impl Membership {
    /// Tells the other machines and the people what has changed since the last time.
    pub(super) fn publish(&mut self, now: Tick) {
        let members = self.members_at(now);
        let old = std::mem::replace(&mut self.published, members);
        let new = &self.published;
        for (node, member) in &old.members {
            if new.members.get(node).map(|kept| kept.boot) != Some(member.boot) {
                let cause = self.causes.remove(node).unwrap_or(LossCause::Deaf);
                self.orders
                    .push_back(Output::Event(Event::MemberLost { node: *node, cause }));
            }
        }
        self.causes.retain(|node, _| self.links.contains_key(node));
        for (node, member) in &new.members {
            let was_in = old.members.get(node).map(|known| known.boot) == Some(member.boot);
            if !was_in && *node != self.config.me {
                let (node, boot) = (*node, member.boot);
                self.orders
                    .push_back(Output::Event(Event::MemberJoined { node, boot }));
            }
        }
        if (old.leader(), old.term) != (new.leader(), new.term) {
            self.orders.push_back(Output::Event(Event::LeaderChanged {
                term: new.term,
                leader: new.leader(),
            }));
        }
        if old != *new {
            self.orders.push_back(Output::MembersChanged(new.clone()));
        }
    }

    pub(super) fn members_at(&self, now: Tick) -> Members {
        let suspect = self.config.timing.suspect_millis;
        let me = Member {
            boot: self.config.boot,
            health: Health::Sound,
        };
        let mutual = |link: &&Link| is_mutual(link, self.config.me);
        let others = self.links.iter().filter(|(_, link)| mutual(link));
        let members: BTreeMap<NodeId, Member> = others
            .map(|(peer, link)| {
                let health = if now.millis_since(link.heard) < suspect {
                    Health::Sound
                } else {
                    Health::Suspect
                };
                let boot = link.boot;
                (*peer, Member { boot, health })
            })
            .chain([(self.config.me, me)])
            .collect();
        let role = self.leadership.role;
        Members {
            term: self.leadership.term,
            role,
            deaf: match role {
                Role::Leading => self.deaf_among(&members),
                Role::Following | Role::Seeking => BTreeSet::new(),
            },
            members,
        }
    }

    /// The pairs of `members` of which one has not said that it hears the other.
    fn deaf_among(&self, members: &BTreeMap<NodeId, Member>) -> BTreeSet<(NodeId, NodeId)> {
        let mut deaf = BTreeSet::new();
        for (node, link) in &self.links {
            let Some(said) = link.said.as_ref().filter(|_| members.contains_key(node)) else {
                continue;
            };
            let hears: BTreeSet<&NodeId> = said.hears.iter().collect();
            for other in members.keys().filter(|other| *other != node) {
                if *other != self.config.me && !hears.contains(other) {
                    deaf.insert((*node.min(other), *node.max(other)));
                }
            }
        }
        deaf
    }
}
