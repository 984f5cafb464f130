//! The handshake: both ends prove the cluster secret before anything else is spoken.
//!
//! Frozen: a later version must still be able to say why it refuses this one. So
//! it has an encoding of its own, no frames, and nothing here computes a hash.

use std::io;

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::id::{BootId, NodeId};
use crate::limits;

/// Version of everything behind the handshake. Nodes of different versions refuse each other by name.
pub const PROTOCOL_VERSION: u32 = 7;
/// First bytes of every handshake message.
pub const MAGIC: [u8; 4] = *b"CRNH";
/// Bytes of a message body at most; later versions may append fields within it.
pub const BODY_BYTES_MAX: usize = 512;
/// Bytes of the program's version in a [`Hello`].
pub const SOFTWARE_BYTES_MAX: usize = 64;

const START_BYTES: usize = 8;
const HELLO_FIXED_BYTES: usize = 4 + 8 + 32 + 32 + 1;

/// A keyed hash over a [`transcript`].
pub type Mac = [u8; 32];

/// What each end says of itself, before any proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The sender's run.
    pub boot: BootId,
    /// Fresh from the operating system for every connection.
    pub nonce: [u8; 32],
    /// A hash of the cluster's name and of nothing else.
    pub cluster: [u8; 32],
    /// The program's version, for people; at most [`SOFTWARE_BYTES_MAX`].
    pub software: String,
}

/// Everything that is said before a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Dialer first, then the acceptor.
    Hello(Hello),
    /// The sender knows the secret. Dialer first: who merely connects learns nothing.
    Proof(Mac),
    /// The sender will not go on; the last message on the stream.
    Refuse(Refusal),
    /// Acceptor to dialer, when both streams are proven: the session stands.
    Ready,
    /// First on the data stream: it belongs to the session of this proof.
    Bind(Mac),
}

/// Why one end will not go on with the other. The numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The proof does not verify: the two have different secrets.
    #[error("the cluster secrets differ")]
    WrongSecret,
    /// The two belong to clusters of different names.
    #[error("the cluster names differ")]
    WrongCluster,
    /// The two speak different versions.
    #[error("the protocol versions differ")]
    WrongVersion,
    /// Another run with the same identity is linked.
    #[error("another live node has the same identity")]
    DuplicateIdentity,
    /// The two have a session, or one under way that takes precedence.
    #[error("the two nodes are already linked")]
    AlreadyLinked,
    /// A reason that a later version added.
    #[error("refused for a reason of a later version, number {0}")]
    Other(u8),
}

impl Refusal {
    fn number(self) -> u8 {
        match self {
            Refusal::WrongSecret => 1,
            Refusal::WrongCluster => 2,
            Refusal::WrongVersion => 3,
            Refusal::DuplicateIdentity => 4,
            Refusal::AlreadyLinked => 5,
            Refusal::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Refusal::WrongSecret,
            2 => Refusal::WrongCluster,
            3 => Refusal::WrongVersion,
            4 => Refusal::DuplicateIdentity,
            5 => Refusal::AlreadyLinked,
            other => Refusal::Other(other),
        }
    }
}

/// What a proof is for; a proof for one purpose is none for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The dialer knows the secret.
    Dialer,
    /// The acceptor knows the secret.
    Acceptor,
    /// The data stream belongs to this session.
    Data,
}

/// One end of the connection as the transport and its [`Hello`] know it.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// Proven by the transport's own handshake.
    pub node: NodeId,
    /// What it said.
    pub hello: &'a Hello,
}

/// The bytes under a proof's keyed hash.
///
/// Both identities are in it, which the transport has proven, so a proof cannot be
/// relayed through a third node; both nonces, so it cannot be replayed.
pub fn transcript(purpose: Purpose, dialer: Party<'_>, acceptor: Party<'_>) -> Vec<u8> {
    let mut bytes = b"cairn handshake 1\0".to_vec();
    bytes.push(match purpose {
        Purpose::Dialer => 1,
        Purpose::Acceptor => 2,
        Purpose::Data => 3,
    });
    for Party { node, hello } in [dialer, acceptor] {
        bytes.extend_from_slice(&node.0);
        bytes.extend_from_slice(&hello.version.to_le_bytes());
        bytes.extend_from_slice(&hello.boot.0.to_le_bytes());
        bytes.extend_from_slice(&hello.nonce);
        bytes.extend_from_slice(&hello.cluster);
    }
    bytes
}

impl Message {
    /// The bytes to put on a stream: magic, tag, zero, body length, body.
    pub fn encode(&self) -> Vec<u8> {
        let (tag, body) = match self {
            Message::Hello(hello) => (1, hello.encode()),
            Message::Proof(mac) => (2, mac.to_vec()),
            Message::Refuse(refusal) => (3, vec![refusal.number()]),
            Message::Ready => (4, Vec::new()),
            Message::Bind(mac) => (5, mac.to_vec()),
        };
        let body_bytes = u16::try_from(body.len()).expect("every body is within BODY_BYTES_MAX");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[tag, 0]);
        bytes.extend_from_slice(&body_bytes.to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Reads one message.
    ///
    /// # Errors
    /// `InvalidData` when it is none; otherwise whatever the stream says.
    pub async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Self> {
        let mut start = [0; START_BYTES];
        stream.read_exact(&mut start).await?;
        let [m0, m1, m2, m3, tag, zero, b0, b1] = start;
        let body_bytes = usize::from(u16::from_le_bytes([b0, b1]));
        if [m0, m1, m2, m3] != MAGIC || zero != 0 || body_bytes > BODY_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut body = [0; BODY_BYTES_MAX];
        let body = &mut body[..body_bytes];
        stream.read_exact(body).await?;
        Self::decode(tag, body).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Writes one message and flushes it.
    ///
    /// # Errors
    /// Whatever the stream says.
    pub async fn write<W: AsyncWrite + Unpin>(&self, stream: &mut W) -> io::Result<()> {
        stream.write_all(&self.encode()).await?;
        stream.flush().await
    }

    fn decode(tag: u8, body: &[u8]) -> Option<Self> {
        match tag {
            1 => Hello::decode(body).map(Message::Hello),
            2 => body.try_into().ok().map(Message::Proof),
            3 => body
                .first()
                .map(|&number| Message::Refuse(Refusal::from_number(number))),
            4 => Some(Message::Ready),
            5 => body.try_into().ok().map(Message::Bind),
            _ => None,
        }
    }
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let software = limits::clip(&self.software, SOFTWARE_BYTES_MAX);
        let mut body = Vec::with_capacity(HELLO_FIXED_BYTES + software.len());
        body.extend_from_slice(&self.version.to_le_bytes());
        body.extend_from_slice(&self.boot.0.to_le_bytes());
        body.extend_from_slice(&self.nonce);
        body.extend_from_slice(&self.cluster);
        body.push(software.len() as u8);
        body.extend_from_slice(software.as_bytes());
        body
    }

    /// Bytes past the known fields are a later version's and are left alone.
    fn decode(body: &[u8]) -> Option<Self> {
        let (version, body) = body.split_first_chunk()?;
        let (boot, body) = body.split_first_chunk()?;
        let (nonce, body) = body.split_first_chunk()?;
        let (cluster, body) = body.split_first_chunk()?;
        let (&software_bytes, body) = body.split_first()?;
        let software = body.get(..usize::from(software_bytes))?;
        if software.len() > SOFTWARE_BYTES_MAX {
            return None;
        }
        Some(Self {
            version: u32::from_le_bytes(*version),
            boot: BootId(u64::from_le_bytes(*boot)),
            nonce: *nonce,
            cluster: *cluster,
            software: std::str::from_utf8(software).ok()?.to_owned(),
        })
    }
}
