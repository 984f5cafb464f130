//! Whom to dial and when. Does not know what a connection is for.

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::control::PeerAddress;
use cairn_wire::id::NodeId;
use cairn_wire::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, NODES_MAX};

use super::fact::{DialFailure, DialId, Timing};
use crate::Tick;

/// Nodes known by address; further ones are not noted until others are forgotten.
pub(super) const KNOWN_MAX: usize = 2 * NODES_MAX;

/// One due dial.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dial {
    pub(super) dial: DialId,
    pub(super) node: Option<NodeId>,
    pub(super) addresses: Vec<String>,
}

/// What the failures of the dials say, in order of the targets.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) refused: Vec<(Vec<String>, DialFailure)>,
    pub(super) unreachable: Vec<String>,
}

/// The address book with its retries.
#[derive(Debug)]
pub(super) struct Dialer {
    me: NodeId,
    timing: Timing,
    dials: u64,
    linked: BTreeSet<NodeId>,
    targets: BTreeMap<Target, Entry>,
}

/// What a retry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// A node, wherever it listens.
    Node(NodeId),
    /// An address, whoever answers there.
    Named(String),
}

#[derive(Debug)]
struct Entry {
    /// Latest first. A named target has its one address.
    addresses: Vec<String>,
    /// For a named target: who answered there last.
    answered: Option<NodeId>,
    /// When discovery, a peer or a connection last spoke of it.
    seen: Tick,
    attempts: u32,
    state: State,
    failure: Option<DialFailure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting {
        until: Tick,
    },
    Dialing {
        dial: DialId,
        since: Tick,
    },
    /// The address is this node: never dialled again.
    Retired,
}

impl Dialer {
    pub(super) fn new(me: NodeId, timing: Timing) -> Dialer {
        Dialer {
            me,
            timing,
            dials: 0,
            linked: BTreeSet::new(),
            targets: BTreeMap::new(),
        }
    }

    /// A node was announced. True if that taught new addresses.
    pub(super) fn found(&mut self, now: Tick, node: NodeId, addresses: &[String]) -> bool {
        // What cannot be passed on is not noted: a named address may be longer.
        let mut addresses = addresses.to_vec();
        addresses.retain(|address| fits(address));
        if node == self.me || addresses.is_empty() {
            return false;
        }
        let first = now.after_millis(self.patience(node));
        let target = Target::Node(node);
        let known = self.targets.len();
        if !self.targets.contains_key(&target) {
            if known >= KNOWN_MAX {
                return false;
            }
            self.targets.insert(target.clone(), Entry::new(now, first));
        }
        let entry = self
            .targets
            .get_mut(&target)
            .expect("present or just inserted");
        entry.seen = now;
        let news = entry.learn(&addresses);
        if news && let State::Waiting { until } = entry.state {
            entry.attempts = 0;
            entry.state = State::Waiting {
                until: until.min(first),
            };
        }
        news
    }

    /// The user named an address.
    pub(super) fn named(&mut self, now: Tick, address: String) {
        let entry = self
            .targets
            .entry(Target::Named(address.clone()))
            .or_insert_with(|| Entry::new(now, now));
        entry.learn(&[address]);
    }

    /// A peer is connected; `dial` tells which of the dials did it.
    pub(super) fn linked(&mut self, now: Tick, node: NodeId, dial: Option<DialId>) {
        self.linked.insert(node);
        let through = dial.and_then(|dial| self.settle(dial));
        if let Some(Target::Named(address)) = through {
            self.answered_at(now, address, node);
        }
        if let Some(entry) = self.targets.get_mut(&Target::Node(node)) {
            entry.attempts = 0;
            entry.failure = None;
            entry.seen = now;
        }
    }

    /// A connection is over: one redial at once, by the lower id.
    pub(super) fn lost(&mut self, now: Tick, node: NodeId) {
        self.unlinked(now, node, now.after_millis(self.patience(node)));
    }

    /// A connection was closed because the peer is silent or broke a rule.
    pub(super) fn lost_for_long(&mut self, now: Tick, node: NodeId) {
        let pause = self.patience(node) + self.timing.redial_min_millis;
        self.unlinked(now, node, now.after_millis(pause));
    }

    /// The peer left on purpose: where it was is no hint any more.
    pub(super) fn left(&mut self, node: NodeId) {
        self.targets.remove(&Target::Node(node));
    }

    /// A dial failed. The addresses, if this is a refusal not yet told to anyone.
    pub(super) fn failed(
        &mut self,
        now: Tick,
        dial: DialId,
        failure: DialFailure,
    ) -> Option<Vec<String>> {
        let target = self.settle(dial)?;
        if let DialFailure::AlreadyConnected(node) = failure {
            let until = now.after_millis(self.timing.redial_min_millis);
            self.targets.get_mut(&target)?.state = State::Waiting { until };
            if let Target::Named(address) = target {
                self.answered_at(now, address, node);
            }
            return None;
        }
        let timing = self.timing;
        let entry = self.targets.get_mut(&target)?;
        entry.attempts = entry.attempts.saturating_add(1);
        let news = entry.failure != Some(failure);
        entry.failure = Some(failure);
        entry.state = match failure {
            DialFailure::Myself => State::Retired,
            DialFailure::Unreachable | DialFailure::AlreadyConnected(_) => State::Waiting {
                until: now.after_millis(pause_millis(&timing, entry.attempts)),
            },
            // Only a person can mend these; until then the slowest pace will do.
            DialFailure::Twin
            | DialFailure::WrongSecret
            | DialFailure::OtherCluster
            | DialFailure::OtherVersion => State::Waiting {
                until: now.after_millis(timing.redial_max_millis),
            },
        };
        (news && is_refusal(failure)).then(|| entry.addresses.clone())
    }

    /// Dials that are due, and an end to what is overdue.
    pub(super) fn due(&mut self, now: Tick) -> Vec<Dial> {
        let mut due = Vec::new();
        let (timing, linked) = (self.timing, &self.linked);
        self.targets.retain(|target, entry| match target {
            Target::Node(node) => {
                linked.contains(node) || now.millis_since(entry.seen) < timing.forget_millis
            }
            Target::Named(_) => true,
        });
        for (target, entry) in &mut self.targets {
            if let State::Dialing { since, .. } = entry.state
                && now.millis_since(since) >= timing.dial_timeout_millis
            {
                entry.state = State::Waiting { until: now };
            }
            let (node, met) = match target {
                Target::Node(node) => (Some(*node), linked.contains(node)),
                Target::Named(_) => (
                    None,
                    entry.answered.is_some_and(|node| linked.contains(&node)),
                ),
            };
            let State::Waiting { until } = entry.state else {
                continue;
            };
            if met || until > now || entry.addresses.is_empty() {
                continue;
            }
            let dial = DialId(self.dials);
            self.dials += 1;
            entry.state = State::Dialing { dial, since: now };
            due.push(Dial {
                dial,
                node,
                addresses: entry.addresses.clone(),
            });
        }
        due
    }

    /// Where a node can be reached, if that is known.
    pub(super) fn addresses(&self, node: NodeId) -> Option<PeerAddress> {
        let entry = self.targets.get(&Target::Node(node))?;
        (!entry.addresses.is_empty()).then(|| PeerAddress {
            node,
            addresses: entry.addresses.clone(),
        })
    }

    /// How many targets the book holds.
    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    /// How many of them the user named.
    pub(super) fn named_count(&self) -> usize {
        let named = |target: &&Target| matches!(target, Target::Named(_));
        self.targets.keys().filter(named).count()
    }

    /// What the failures say.
    pub(super) fn troubles(&self) -> Troubles {
        let mut troubles = Troubles::default();
        for entry in self.targets.values() {
            match entry.failure {
                Some(DialFailure::Unreachable) => {
                    troubles.unreachable.extend(entry.addresses.iter().cloned());
                }
                Some(failure) if is_refusal(failure) => {
                    troubles.refused.push((entry.addresses.clone(), failure));
                }
                Some(_) | None => {}
            }
        }
        troubles
    }

    /// How long to leave a dial to the other end.
    fn patience(&self, node: NodeId) -> u64 {
        if self.me < node {
            0
        } else {
            self.timing.yield_millis
        }
    }

    /// Ends the wait for a dial's answer and says whose it was.
    fn settle(&mut self, dial: DialId) -> Option<Target> {
        let (target, entry) = self.targets.iter_mut().find(
            |(_, entry)| matches!(entry.state, State::Dialing { dial: waited, .. } if waited == dial),
        )?;
        entry.state = State::Waiting { until: entry.seen };
        Some(target.clone())
    }

    fn answered_at(&mut self, now: Tick, address: String, node: NodeId) {
        if let Some(entry) = self.targets.get_mut(&Target::Named(address.clone())) {
            entry.answered = Some(node);
            entry.attempts = 0;
            entry.failure = None;
            entry.seen = now;
        }
        self.found(now, node, &[address]);
    }

    fn unlinked(&mut self, now: Tick, node: NodeId, until: Tick) {
        self.linked.remove(&node);
        // Where both are known, the node's own entry redials first and the named one, which
        // takes any answer, only if that has not helped: else there would be two connections.
        let mut named_until = now;
        if let Some(entry) = self.targets.get_mut(&Target::Node(node)) {
            entry.seen = now;
            entry.attempts = 0;
            entry.state = State::Waiting { until };
            named_until = now.after_millis(self.timing.yield_millis);
        }
        for (target, entry) in &mut self.targets {
            if matches!(target, Target::Named(_)) && entry.answered == Some(node) {
                entry.attempts = 0;
                entry.state = State::Waiting { until: named_until };
            }
        }
    }
}

impl Entry {
    fn new(seen: Tick, until: Tick) -> Entry {
        Entry {
            addresses: Vec::new(),
            answered: None,
            seen,
            attempts: 0,
            state: State::Waiting { until },
            failure: None,
        }
    }

    /// Puts addresses to the front; the ones heard of longest ago make room. True if one was new.
    fn learn(&mut self, addresses: &[String]) -> bool {
        let news = addresses
            .iter()
            .any(|found| !self.addresses.contains(found));
        if news {
            self.addresses.retain(|known| !addresses.contains(known));
            self.addresses.splice(0..0, addresses.iter().cloned());
            self.addresses.truncate(ADDRESSES_MAX);
        }
        news
    }
}

/// Whether an address may go into a message.
pub(super) fn fits(address: &str) -> bool {
    address.len() <= ADDRESS_BYTES_MAX
}

/// Doubles from the shortest to the longest pause.
fn pause_millis(timing: &Timing, attempts: u32) -> u64 {
    let doubled = timing.redial_min_millis << attempts.saturating_sub(1).min(16);
    doubled.min(timing.redial_max_millis)
}

fn is_refusal(failure: DialFailure) -> bool {
    match failure {
        DialFailure::Unreachable | DialFailure::AlreadyConnected(_) | DialFailure::Myself => false,
        DialFailure::Twin
        | DialFailure::WrongSecret
        | DialFailure::OtherCluster
        | DialFailure::OtherVersion => true,
    }
}
