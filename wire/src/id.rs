//! Names on the wire: nodes, plans, sequences. Numbers only, no lookups.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// A node: its ed25519 public key, so that a name can be proven.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[rkyv(attr(doc = "Archived [`NodeId`]."), derive(Debug))]
pub struct NodeId(pub [u8; 32]);

/// One run of a node: a restart keeps the [`NodeId`] and changes this.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[rkyv(attr(doc = "Archived [`BootId`]."))]
pub struct BootId(pub u64);

/// A leadership: counts up over the whole cluster, with at most one leader in each.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
)]
#[rkyv(attr(doc = "Archived [`Term`]."))]
pub struct Term {
    /// Counts up with every claim.
    pub number: u64,
    /// Who claimed it: two sides of a split may pick one number, never one term.
    pub leader: NodeId,
}

/// A plan: the `epoch`-th that the leader of `term` made. Later plans compare greater.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[rkyv(attr(doc = "Archived [`PlanId`]."))]
pub struct PlanId {
    /// Who planned, and since when.
    pub term: Term,
    /// Counts up within the term.
    pub epoch: u64,
}

/// A sequence: one prompt and its answer. Unique over restarts of its driver.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[rkyv(attr(doc = "Archived [`SequenceId`]."))]
pub struct SequenceId {
    /// The node where the prompt arrived; sampled tokens go there.
    pub driver: NodeId,
    /// Chosen by the driver, never used twice.
    pub number: u64,
}

impl ArchivedNodeId {
    /// The same, copied out.
    pub fn to_native(&self) -> NodeId {
        NodeId(self.0)
    }
}

impl ArchivedTerm {
    /// The same, copied out.
    pub fn to_native(&self) -> Term {
        Term {
            number: self.number.to_native(),
            leader: self.leader.to_native(),
        }
    }
}

impl ArchivedPlanId {
    /// The same, copied out.
    pub fn to_native(&self) -> PlanId {
        PlanId {
            term: self.term.to_native(),
            epoch: self.epoch.to_native(),
        }
    }
}

impl ArchivedSequenceId {
    /// The same, copied out.
    pub fn to_native(&self) -> SequenceId {
        SequenceId {
            driver: self.driver.to_native(),
            number: self.number.to_native(),
        }
    }
}

impl Default for NodeId {
    /// The all-zero key: no node has it; it stands for "nobody yet".
    fn default() -> Self {
        Self([0; 32])
    }
}

impl fmt::Display for NodeId {
    /// The first four bytes in hex: enough to tell the nodes of one cluster apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.number, self.leader)
    }
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.epoch)
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.driver, self.number)
    }
}
