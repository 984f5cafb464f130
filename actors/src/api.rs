//! What a node is started with, asked and answered. Words only; see [`crate::Node`].

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_engine::{CacheFormat, Device, SamplerParams};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::logs::LogBook;
use crate::models::Models;

/// Everything a node needs to know to start.
#[derive(Clone)]
pub struct Config {
    /// Name shown to people.
    pub name: String,
    /// Program version shown to people.
    pub version: String,
    /// ed25519 seed: who this node is. Secret.
    pub identity: [u8; 32],
    /// Nodes of other clusters are invisible.
    pub cluster: String,
    /// What both ends of a connection prove that they know.
    pub secret: Vec<u8>,
    /// Where to listen for peers; port 0 lets the system pick.
    pub listen: SocketAddr,
    /// Peers to dial besides those that mDNS finds.
    pub peers: Vec<SocketAddr>,
    /// UDP port of mDNS; `None` turns it off. 5353 but for isolated tests.
    pub mdns_port: Option<u16>,
    /// Where the node keeps what must survive a restart.
    pub data_dir: PathBuf,
    /// Where the node keeps what may be lost: what it measured of itself.
    pub cache_dir: PathBuf,
    /// Names the build of the program: what another build measured does not count.
    pub build: String,
    /// A model file on this disk whose layers the node measures itself with: the one that it
    /// will probably serve.
    pub sample: Option<PathBuf>,
    /// The model that this node's user asked for.
    pub model: Option<String>,
    /// The model to serve when no member asked for one.
    pub default_model: String,
    /// How the leader splits layers.
    pub strategy: cairn_planner::Strategy,
    /// KV rows per sequence; capped by the model.
    pub context: u32,
    /// Sequences that the cluster holds at once.
    pub sequences: u32,
    /// Engine threads.
    pub threads: usize,
    /// What the engine computes on.
    pub device: Device,
    /// What the engine keeps keys and values as, on a CPU.
    pub kv_cache: CacheFormat,
    /// Cap on the memory offered; `None` offers what the system has available.
    pub memory_bytes: Option<u64>,
    /// Where model files come from.
    pub models: Arc<dyn Models>,
    /// Where log lines are kept for followers.
    pub logs: LogBook,
}

impl fmt::Debug for Config {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("cluster", &self.cluster)
            .field("listen", &self.listen)
            .field("data_dir", &self.data_dir)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// Who speaks in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What.
    pub content: String,
}

/// What to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The text, before or after templating.
    pub text: PromptText,
    /// Stop after so many tokens; `None` goes on to the end of the context.
    pub max_tokens: Option<u32>,
    /// How tokens are picked.
    pub sampling: SamplerParams,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
}

/// A prompt's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptText {
    /// Goes through the model's chat template.
    Chat(Vec<Message>),
    /// Goes to the tokenizer as it is.
    Raw(String),
    /// Goes to the model as it is.
    Tokens(Vec<u32>),
}

/// An answer under way. Dropping `events` cancels it at its next token.
#[derive(Debug)]
pub struct Answer {
    /// Names the request in logs.
    pub id: String,
    /// Tokens in the prompt after templating.
    pub prompt_tokens: u32,
    /// Tokens, then exactly one of `Done` and `Failed`.
    pub events: mpsc::Receiver<AnswerEvent>,
}

/// What happens to an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerEvent {
    /// One more token.
    Token(TokenEvent),
    /// The answer is whole.
    Done(Done),
    /// The answer cannot go on.
    Failed(AnswerError),
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// Its id.
    pub token: u32,
    /// The text that it completes; may be empty inside a multi-byte character or a possible stop text.
    pub text: String,
    /// Natural log of its probability.
    pub logprob: f32,
}

/// How an answer ended and how fast it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Why it ended.
    pub finish: Finish,
    /// Text held back that turned out not to be a stop text.
    pub text: String,
    /// Tokens in the prompt.
    pub prompt_tokens: u32,
    /// Tokens in the answer.
    pub completion_tokens: u32,
    /// Time to first token in ms.
    pub ttft_ms: f64,
    /// Decode speed after the first token.
    pub tokens_per_second: f64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop text did.
    Stop,
    /// `max_tokens` or the context is reached.
    Length,
}

/// Why there is no (more) answer. Each names its cause for the person asking.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No plan is adopted yet, or a stage is gone.
    #[error("the cluster is not ready: {0}")]
    NotReady(String),
    /// The prompt cannot be used; `field` names the part.
    #[error("{message}")]
    BadPrompt {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The prompt and the answer's first token do not fit the context.
    #[error(
        "the prompt has {prompt_tokens} tokens, the context holds {context}: shorten it by {}, or start the cluster with a longer --context",
        (prompt_tokens + 1).saturating_sub(*context)
    )]
    ContextOverflow {
        /// Tokens in the prompt.
        prompt_tokens: u32,
        /// Tokens that fit.
        context: u32,
    },
    /// Too many requests wait already.
    #[error("too many requests are waiting; try again in {retry_after_seconds} s")]
    Busy {
        /// A guess at when it is worth trying again.
        retry_after_seconds: u32,
    },
    /// A node that held a stage went away during the answer.
    #[error("node {node} left the cluster during the answer: {detail}")]
    NodeLost {
        /// Its name.
        node: String,
        /// What is known.
        detail: String,
    },
    /// No token came for a long time, and nobody said why.
    #[error("no token came for five minutes after {tokens} tokens")]
    Stalled {
        /// Tokens answered before.
        tokens: u32,
    },
    /// A stage failed.
    #[error("stage {stage} failed: {detail}")]
    StageFailed {
        /// Index of the stage.
        stage: u16,
        /// What it said.
        detail: String,
    },
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The network cannot be set up.
    #[error("{0}")]
    Net(String),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An actor did not start.
    #[error("cannot start the {actor} actor: {detail}")]
    Actor {
        /// Which.
        actor: &'static str,
        /// Why.
        detail: String,
    },
}
