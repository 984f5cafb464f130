//! The command line: what may be asked, and the help that teaches it.
//!
//! Types and texts only; every value is checked where it is used.

use std::path::PathBuf;

use cairn_engine::{CacheFormat, Device};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Wishes;

const AFTER_HELP: &str = "\
Examples:
  cairn demo                              three nodes on this machine, one answer
  cairn up                                start a node; do it on each device
  cairn up --join cairn1-…                start a node on the next device (the line is shown by the first)
  cairn ask \"Why is the sky blue?\"        ask from any device
  curl http://127.0.0.1:4747/v1/chat/completions \\
    -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Exit codes:
  0    done
  1    failed
  2    the command line or the configuration is wrong
  3    the cluster is not ready to answer
  4    no node answers at the address
  5    the model cannot be had or used
  6    the node refused the request
  130  ended by Ctrl-C or SIGTERM before it was done";

/// One language model, split by layers over the devices you already own.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, about, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a node on this device; it finds the others and stays until Ctrl-C
    #[command(after_help = UP_HELP)]
    Up(Box<UpArgs>),
    /// Run a whole cluster on this machine: several nodes, one prompt, the merged log
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArgs),
    /// Ask one question and print the answer as it is made
    #[command(after_help = ASK_HELP)]
    Ask(AskArgs),
    /// Talk with the model; /reset forgets, /exit ends, Ctrl-C stops an answer
    Chat(ChatArgs),
    /// Show who is in the cluster, who leads and what is served
    Status(ViewArgs),
    /// Show which layers are where, and why; or plan for devices that you do not own yet
    #[command(after_help = PLAN_HELP)]
    Plan(Box<PlanArgs>),
    /// Show the merged log of all nodes
    #[command(after_help = LOGS_HELP)]
    Logs(LogsArgs),
    /// List or download models
    #[command(after_help = MODELS_HELP)]
    Models(ModelsArgs),
    /// Measure how fast this machine runs a model, without a cluster
    Bench(BenchArgs),
}

const UP_HELP: &str = "\
Examples:
  cairn up                                the default model, found and shared by all nodes of this user
  cairn up --model ./my-model.gguf        another model
  cairn up --name kitchen --memory 2GiB   a name to recognise, a cap on memory
  cairn up --peer 192.168.1.20:4801       where multicast is blocked

Each node of one user on one machine gets its own data directory and HTTP port.
Every flag can stand in the environment (CAIRN_MODEL, CAIRN_NAME, …) or in the
configuration file (`model = \"…\"`, `name = \"…\"`, …); a flag wins over the
environment, the environment over the file.";

/// Flags of `cairn up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// What the user wishes; the configuration file may wish the same things.
    #[command(flatten)]
    pub(crate) wishes: Wishes,
    /// Join the cluster that this line names (`cairn up` on another device shows it)
    #[arg(long, value_name = "LINE", env = "CAIRN_JOIN", hide_env_values = true, conflicts_with_all = ["cluster", "secret"])]
    pub(crate) join: Option<String>,
    /// Configuration file; the default place is read when it exists
    #[arg(long, value_name = "FILE", env = "CAIRN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Write the log and the ready line as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave when stdin closes, and remove the data directory: a node of a demo or a test
    #[arg(long, hide = true)]
    pub(crate) ephemeral: bool,
}

const DEMO_HELP: &str = "\
Examples:
  cairn demo
  cairn demo --nodes 5 --prompt \"Name three rivers.\"
  cairn demo --json | tail -1 | jq .stages

The answer goes to stdout and the log to stderr. With --json the last line of
stdout is one object: answer, tokens, ttft_ms, tokens_per_second, stages.";

/// Flags of `cairn demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many nodes to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// What to ask
    #[arg(long, default_value = "Explain in two sentences why the sky is blue.")]
    pub(crate) prompt: String,
    /// Longest answer
    #[arg(long, default_value_t = 96, value_name = "COUNT")]
    pub(crate) max_tokens: u32,
    /// 0 picks the most probable token each time
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temperature: f32,
    /// Which model to split
    #[arg(long, default_value = crate::models::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// How layers are split: uniform, memory, compute, balanced or optimal; `cairn up` is optimal
    /// by default, but on one machine that would leave all nodes out but one
    #[arg(long, default_value = "uniform")]
    pub(crate) strategy: String,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which node to ask.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// HTTP address of the node to ask
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAIRN_HTTP",
        default_value = "127.0.0.1:4747"
    )]
    pub(crate) http: String,
}

/// How tokens are picked.
#[derive(Clone, Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Longest answer
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 picks the most probable token each time; the node's default is 0.7
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Keep the K most probable tokens
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Keep the most probable tokens up to this sum
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less probable than this share of the best
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Make recent tokens less probable; 1 changes nothing
    #[arg(long, value_name = "FACTOR")]
    pub(crate) repetition_penalty: Option<f32>,
    /// The same seed gives the same answer
    #[arg(long)]
    pub(crate) seed: Option<i64>,
    /// End the answer before this text; may be given again
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Instructions for the model
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
}

const ASK_HELP: &str = "\
Examples:
  cairn ask \"Why is the sky blue?\"
  cairn ask --temperature 0 --max-tokens 40 Name three rivers
  cat letter.txt | cairn ask -
  cairn ask --http 192.168.1.20:4747 --json Hello";

/// Flags of `cairn ask`.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// What to ask; `-` reads it from stdin
    #[arg(required = true, value_name = "PROMPT")]
    pub(crate) prompt: Vec<String>,
    /// How tokens are picked.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node to ask.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Flags of `cairn chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// How tokens are picked.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Which node to ask.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Flags of `cairn status`.
#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node to ask.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

const PLAN_HELP: &str = "\
Examples:
  cairn plan                              the plan of the running cluster
  cairn plan --what-if devices.toml       one stream of the default model, as fast as can be
  cairn plan --what-if devices.toml --model ./my-model.gguf --objective throughput --sequences 8
  cairn plan --what-if devices.toml --strategy uniform --json

devices.toml lists machines that need not exist:
  [[device]]
  name = \"desktop\"
  memory = \"12 GB\"
  bandwidth = \"100 GB/s\"
  compute = \"4 TFLOPS\"

  [[link]]                     # optional; gigabit Ethernet otherwise
  from = \"desktop\"
  to = \"laptop\"
  rtt = \"0.3 ms\"
  bandwidth = \"1 Gbit/s\"";

/// Flags of `cairn plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// What to show.
    #[command(flatten)]
    pub(crate) view: ViewArgs,
    /// Plan for the devices that this file lists; asks no node and loads nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) what_if: Option<PathBuf>,
    /// What to plan for.
    #[command(flatten)]
    pub(crate) imagined: WhatIfArgs,
}

/// Flags that go with `--what-if` only.
#[derive(Debug, Args)]
pub(crate) struct WhatIfArgs {
    /// Which model; it must be on disk
    #[arg(long, value_name = "MODEL", default_value = crate::models::DEFAULT_MODEL, requires = "what_if")]
    pub(crate) model: String,
    /// How layers are split: uniform, memory, compute, balanced or optimal
    #[arg(long, default_value = "optimal", requires = "what_if")]
    pub(crate) strategy: String,
    /// Which layers go where, instead of a strategy: `desktop:0..10,laptop:10..30`
    #[arg(
        long,
        value_name = "SPLIT",
        requires = "what_if",
        conflicts_with = "strategy"
    )]
    pub(crate) split: Option<String>,
    /// What the optimal strategy is to make best
    #[arg(long, value_enum, default_value = "latency", requires = "what_if")]
    pub(crate) objective: Goal,
    /// Tokens that each sequence may have
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 2048,
        requires = "what_if"
    )]
    pub(crate) context: u32,
    /// Sequences at once
    #[arg(long, value_name = "COUNT", default_value_t = crate::config::SEQUENCES, requires = "what_if")]
    pub(crate) sequences: u32,
    /// Length of the prompt that the forecast speaks of
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 512,
        requires = "what_if"
    )]
    pub(crate) prompt_tokens: u32,
}

/// What a plan is to make best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// The time of one token of one stream
    Latency,
    /// Tokens per second of all streams together
    Throughput,
}

impl Goal {
    /// As it is spelled.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
        }
    }
}

const LOGS_HELP: &str = "\
Examples:
  cairn logs -f
  cairn logs --level warn
  cairn logs -f --node kitchen --json | jq .text";

/// Flags of `cairn logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on with new lines until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The least severe level to show
    #[arg(long, value_enum, default_value = "info")]
    pub(crate) level: Level,
    /// Only the node with this name or id
    #[arg(long = "node", value_name = "NAME")]
    pub(crate) only_node: Option<String>,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node to ask.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// An operator must act
    Error,
    /// Degraded and recovered
    Warn,
    /// Lifecycle
    Info,
    /// Per request
    Debug,
    /// Per frame
    Trace,
}

impl Level {
    /// As the log's own type.
    pub(crate) fn log_level(self) -> cairn_actors::LogLevel {
        match self {
            Self::Error => cairn_actors::LogLevel::Error,
            Self::Warn => cairn_actors::LogLevel::Warn,
            Self::Info => cairn_actors::LogLevel::Info,
            Self::Debug => cairn_actors::LogLevel::Debug,
            Self::Trace => cairn_actors::LogLevel::Trace,
        }
    }

    /// As a query of `/cairn/logs` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

const MODELS_HELP: &str = "\
Examples:
  cairn models list
  cairn models pull smollm2
  cairn models pull hf:bartowski/SmolLM2-360M-Instruct-GGUF/SmolLM2-360M-Instruct-Q8_0.gguf

A model is a name of the list, a file of a Hugging Face repository
(`hf:OWNER/REPO/FILE.gguf`, with `@REVISION` if not main) or a path of a GGUF
file. HF_ENDPOINT names another hub, HF_TOKEN opens private repositories,
CAIRN_CACHE is where files are kept.";

/// Flags of `cairn models`.
#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// What to do with models.
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,
}

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models known by name and those in the cache
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download a model into the cache and check it
    Pull {
        /// Which model
        #[arg(value_name = "MODEL", default_value = crate::models::DEFAULT_MODEL)]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Flags of `cairn bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Prefill and decode of a whole model in this process
    #[command(after_help = BENCH_ENGINE_HELP)]
    Engine(BenchEngineArgs),
    /// What a planner is told of this device: times per layer, speeds, memory, cores
    #[command(after_help = BENCH_DEVICE_HELP)]
    Device(BenchDeviceArgs),
}

const BENCH_DEVICE_HELP: &str = "\
Examples:
  cairn bench device
  cairn bench device --model ./my-model.gguf --threads 2
  cairn bench device --device cuda:0
  cairn bench device --json | tail -1 | jq .decode_bytes_per_second

Runs layers of the model as a node does when it starts. A stage takes for each layer a
time of its own and its bytes over the decode speed, and the last stage the head besides.
Nothing that was measured before is used, and nothing is kept.";

/// Flags of `cairn bench device`.
#[derive(Debug, Args)]
pub(crate) struct BenchDeviceArgs {
    /// Whose layers: whatever `cairn up` takes
    #[arg(long, default_value = crate::models::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Compute threads; the cores that this process may use when not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// What computes: cpu, cuda:N, metal:N or auto
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

const BENCH_ENGINE_HELP: &str = "\
Examples:
  cairn bench engine
  cairn bench engine --model ./my-model.gguf --threads 2 --prefill 512 --decode 128
  cairn bench engine --streams 8 --json | tail -1 | jq .decode_tokens_per_second

Prefill and decode each start from an empty cache, as in llama.cpp's own bench;
tests/bench/compare.py runs both in turns. With --json the last line of stdout is
one object; its speeds are medians over the rounds, of all streams together.";

/// Flags of `cairn bench engine`.
#[derive(Debug, Args)]
pub(crate) struct BenchEngineArgs {
    /// Which model: whatever `cairn up` takes
    #[arg(long, default_value = crate::models::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Compute threads; the cores that this process may use when not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Tokens of each prompt; 0 leaves prefill out
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(0..=131_072))]
    pub(crate) prefill: u32,
    /// Tokens that each stream is continued by; 0 leaves decode out
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=131_072))]
    pub(crate) decode: u32,
    /// Sequences that go through each pass together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) streams: u16,
    /// How often each is timed; 0 runs each once and times nothing
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) rounds: u16,
    /// What keys and values are kept as
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) cache: CacheArg,
    /// What computes: cpu, cuda:N, metal:N or auto
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,
    /// Bind each thread to a core of its own
    #[arg(long)]
    pub(crate) pin: bool,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub(crate) json: bool,
}

/// What keys and values are kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CacheArg {
    /// 32-bit floats
    F32,
    /// Half precision: half the memory
    F16,
    /// 16-bit integers with a unit for each head and position: half the memory, more precise than
    /// f16, and long prompts are read faster
    I16,
}

impl From<CacheArg> for CacheFormat {
    fn from(cache: CacheArg) -> Self {
        match cache {
            CacheArg::F32 => Self::F32,
            CacheArg::F16 => Self::F16,
            CacheArg::I16 => Self::I16,
        }
    }
}
