//! What a host is started with, and why it may not start. Reads no file, no environment.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use cairn_wire::id::{BootId, NodeId};
use libp2p::identity::{Keypair, ed25519};
use sha2::{Digest, Sha256};

/// Everything a host needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub identity: Identity,
    /// Which of its runs this is.
    pub boot: BootId,
    /// The cluster's name: nodes of other names are invisible.
    pub cluster: String,
    /// What every node of the cluster knows and nobody else.
    pub secret: Secret,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether and where to look for others.
    pub mdns: Mdns,
    /// The program's version, for the logs of both ends.
    pub version: String,
}

/// The node's ed25519 seed.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity([u8; 32]);

impl Identity {
    /// A fresh one.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate() -> io::Result<Self> {
        random().map(Self)
    }

    /// The one that `seed` stands for.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// What to keep so that [`Identity::from_seed`] gives the same node again.
    pub fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its public name.
    pub fn node(&self) -> NodeId {
        NodeId(self.ed25519().public().to_bytes())
    }

    pub(crate) fn keypair(&self) -> Keypair {
        Keypair::from(self.ed25519())
    }

    fn ed25519(&self) -> ed25519::Keypair {
        let seed = ed25519::SecretKey::try_from_bytes(self.0).expect("any 32 bytes are a seed");
        ed25519::Keypair::from(seed)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.node())
    }
}

/// The cluster secret. Never on the wire, never in a log.
///
/// A short one that a person made up can be guessed offline by whoever this node
/// dials; [`Secret::generate`] gives one that cannot.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A fresh one.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate() -> io::Result<Self> {
        random().map(|bytes| Self(bytes.to_vec()))
    }

    /// The one that is spelt so.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Its spelling, for the place where it is kept and the line that others join with.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Discovery on the local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mdns {
    /// Addresses come from elsewhere.
    Off,
    /// Announce this node and look for others.
    On {
        /// [`MDNS_PORT`]; another makes a discovery domain of its own, for tests.
        port: u16,
        /// Where.
        interfaces: Interfaces,
    },
}

/// The port of multicast DNS.
pub const MDNS_PORT: u16 = 5353;

/// Network interfaces to announce and look on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// All but container bridges. Loopback too: a host without multicast on its
    /// network still finds its own nodes, and nodes of one host prefer it.
    Auto,
    /// Only this host.
    Loopback,
    /// These.
    Named(Vec<String>),
}

/// Why a host did not start. *Effect* of each: nothing listens, no thread is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody listens there already.
    #[error("port {port} of {ip} is in use", port = .0.port(), ip = .0.ip())]
    PortInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The operating system refused something that every host needs.
    #[error("the operating system refused {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Its words.
        source: io::Error,
    },
}

/// 32 bytes of the system's randomness.
pub(crate) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// What stands for the cluster's name on the wire and in announcements. The secret
/// has no part in it, so it is no help in guessing the secret.
pub(crate) fn cluster_tag(cluster: &str) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"cairn cluster name\0")
        .chain_update(cluster.as_bytes())
        .finalize()
        .into()
}
