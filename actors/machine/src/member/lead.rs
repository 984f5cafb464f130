//! Who leads. No timers of its own beyond one: since when nobody does.
//!
//! A term carries its leader's id, so two sides of a split can never share one and no vote
//! is needed. A consensus log was rejected: it stops the smaller side of a split, and here
//! both sides shall go on answering.

use cairn_wire::control::{Heartbeat, Role};
use cairn_wire::id::{NodeId, Term};

use crate::Tick;

/// What one connected peer said last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voice<'a> {
    pub(super) node: NodeId,
    /// Whether the peer hears this node, too. Only such peers can lead it.
    pub(super) mutual: bool,
    pub(super) said: &'a Heartbeat,
}

/// What a judgement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing that anyone must hear of before the next heartbeat.
    Quiet,
    /// This node leads, under a new term.
    Claimed,
    /// This node follows a new term.
    Followed,
}

/// This node's term and its part in it.
#[derive(Debug)]
pub(super) struct Leadership {
    me: NodeId,
    pub(super) term: Term,
    pub(super) role: Role,
    /// The highest term number seen anywhere.
    pub(super) number_max: u64,
    /// Since when this node looks for a leader. Meaningless while it has one.
    seeking_since: Tick,
}

impl Leadership {
    pub(super) fn new(me: NodeId, first_term: u64, now: Tick) -> Leadership {
        Leadership {
            me,
            term: Term::default(),
            role: Role::Seeking,
            number_max: first_term,
            seeking_since: now,
        }
    }

    /// Time in which this node itself did not run counts for nothing.
    pub(super) fn forgive(&mut self, now: Tick, lateness_millis: u64) {
        self.seeking_since = self.seeking_since.after_millis(lateness_millis).min(now);
    }

    /// Follows, steps down or claims anew, by what the peers say. Run after every fact.
    pub(super) fn judge(&mut self, now: Tick, voices: &[Voice<'_>]) -> Verdict {
        for voice in voices {
            self.number_max = self.number_max.max(voice.said.term_number_max);
        }
        let claim = voices
            .iter()
            .filter(|voice| voice.mutual && voice.said.role == Role::Leading)
            .map(|voice| voice.said.term)
            .max();
        match self.role {
            Role::Leading => {
                if let Some(claim) = claim.filter(|claim| *claim > self.term) {
                    return self.follow(claim);
                } else if self.is_without_followers(voices) && self.others_are_led(voices) {
                    self.seek(now);
                } else if voices.iter().any(|voice| {
                    voice.mutual && voice.said.role == Role::Seeking && voice.said.term > self.term
                }) {
                    // The peer cannot go back to this term, so the term has to pass the peer's.
                    // Passing every higher number ever seen instead livelocks: in a chain
                    // A–B–C whose ends do not hear each other, A and C outbid one another
                    // through B for ever.
                    self.claim();
                    return Verdict::Claimed;
                }
            }
            Role::Following | Role::Seeking => match claim {
                Some(claim) if claim >= self.term => return self.follow(claim),
                Some(_) | None if self.role == Role::Following => self.seek(now),
                Some(_) | None => {}
            },
        }
        Verdict::Quiet
    }

    /// Claims the leadership if nobody has it and it is this node's turn. Run by the clock.
    pub(super) fn stand(
        &mut self,
        now: Tick,
        voices: &[Voice<'_>],
        patience_millis: u64,
    ) -> Verdict {
        let settled = now.millis_since(self.seeking_since) >= patience_millis;
        // A node that only the leader cannot hear sits out: were it to claim, it would draw
        // followers away from a leader that does its work.
        let nobody_leads = voices.iter().all(|voice| voice.said.role == Role::Seeking);
        let lowest = voices
            .iter()
            .all(|voice| !voice.mutual || self.me < voice.node);
        if self.role == Role::Seeking && settled && nobody_leads && lowest {
            self.claim();
            return Verdict::Claimed;
        }
        Verdict::Quiet
    }

    /// Gives up any part in a leadership.
    pub(super) fn seek(&mut self, now: Tick) {
        self.role = Role::Seeking;
        self.seeking_since = now;
    }

    /// Starts to look anew, if it was looking.
    pub(super) fn seek_if_leaderless(&mut self, now: Tick) {
        match self.role {
            Role::Seeking => self.seek(now),
            Role::Following | Role::Leading => {}
        }
    }

    fn follow(&mut self, term: Term) -> Verdict {
        assert!(term >= self.term, "an adopted term never goes back");
        let known = self.role == Role::Following && self.term == term;
        self.term = term;
        self.role = Role::Following;
        self.number_max = self.number_max.max(term.number);
        if known {
            Verdict::Quiet
        } else {
            Verdict::Followed
        }
    }

    fn claim(&mut self) {
        self.number_max = self.number_max.saturating_add(1);
        self.term = Term {
            number: self.number_max,
            leader: self.me,
        };
        self.role = Role::Leading;
    }

    /// A peer that still follows an older term of this node has only not heard of the new one.
    fn is_without_followers(&self, voices: &[Voice<'_>]) -> bool {
        !voices.iter().any(|voice| {
            voice.mutual && voice.said.role == Role::Following && voice.said.term.leader == self.me
        })
    }

    /// Whether a cluster is there that this node, leading only itself, came to. It then steps
    /// down whatever the terms are, and before the others could adopt its higher one: so a
    /// newcomer, or a node that was cut off for a while, never deposes a leader.
    fn others_are_led(&self, voices: &[Voice<'_>]) -> bool {
        voices.iter().any(|voice| match voice.said.role {
            Role::Seeking => false,
            Role::Following => voice.said.term.leader != self.me,
            // Most likely it leads those that it hears.
            Role::Leading => voice.said.hears.iter().any(|heard| *heard != self.me),
        })
    }
}
