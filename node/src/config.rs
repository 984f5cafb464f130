//! What a node is told: flags, environment and file merged, checked once.
//!
//! All faults are reported together. Nothing here touches the network or
//! creates a file; see `home` for what is kept on disk.

mod size;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::Context;
use cairn_actors::Strategy;
use cairn_engine::{CacheFormat, Device};
use clap::Args;
use serde::Deserialize;

use crate::cli::{CacheArg, Level};
use crate::join::JoinLine;

pub(crate) use size::parse_size;

/// The port of the HTTP interface; a further node on one machine takes the next free one.
pub(crate) const HTTP_PORT: u16 = 4747;
/// The cluster of people who never named one.
pub(crate) const DEFAULT_CLUSTER: &str = "cairn";
/// The UDP port of mDNS (RFC 6762).
const MDNS_PORT: u16 = 5353;
/// KV rows per sequence: room for a long chat, small enough for a device of 2 GiB.
pub(crate) const CONTEXT: u32 = 2048;
/// Sequences at once: a household, not a service.
pub(crate) const SEQUENCES: u32 = 4;
/// Longest cluster or node name, so that it fits a DNS label.
const NAME_BYTES_MAX: usize = 63;
/// A secret shorter than this can be guessed by trying.
const SECRET_BYTES_WISE: usize = 16;

/// What the user may wish of a node, from flags, environment or file.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Wishes {
    /// Model to serve: a name, hf:OWNER/REPO/FILE.gguf, or a path
    #[arg(long, env = "CAIRN_MODEL")]
    pub(crate) model: Option<String>,
    /// Name of this node, for people; the host's name if not given
    #[arg(long, env = "CAIRN_NAME")]
    pub(crate) name: Option<String>,
    /// Name of the cluster; nodes of other clusters are invisible
    #[arg(long, env = "CAIRN_CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// What the nodes of the cluster prove to each other; made on the first start if not given
    #[arg(long, env = "CAIRN_SECRET", hide_env_values = true)]
    pub(crate) secret: Option<String>,
    /// A peer to dial where mDNS cannot find it; may be given again
    #[arg(
        long = "peer",
        value_name = "ADDR",
        env = "CAIRN_PEER",
        value_delimiter = ','
    )]
    #[serde(rename = "peers")]
    pub(crate) peers: Vec<String>,
    /// Where this node keeps its identity; one node at a time
    #[arg(long, value_name = "DIR", env = "CAIRN_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the HTTP interface; the first free port from 4747 on loopback if not given
    #[arg(long, value_name = "ADDR", env = "CAIRN_UP_HTTP")]
    pub(crate) http: Option<String>,
    /// Address to listen on for peers; any free port on all interfaces if not given
    #[arg(long, value_name = "ADDR", env = "CAIRN_LISTEN")]
    pub(crate) listen: Option<String>,
    /// How a leader splits layers: uniform, memory, compute, balanced or optimal; optimal if not
    /// given, which leaves nodes out that would slow the others down
    #[arg(long, env = "CAIRN_STRATEGY")]
    pub(crate) strategy: Option<String>,
    /// Tokens that a prompt and its answer may have together; 2048 if not given
    #[arg(long, value_name = "TOKENS", env = "CAIRN_CONTEXT")]
    pub(crate) context: Option<u32>,
    /// Answers that the cluster computes at once; 4 if not given
    #[arg(long, value_name = "COUNT", env = "CAIRN_SEQUENCES")]
    pub(crate) sequences: Option<u32>,
    /// Threads that compute; all cores if not given
    #[arg(long, value_name = "COUNT", env = "CAIRN_THREADS")]
    pub(crate) threads: Option<usize>,
    /// What computes: cpu, cuda:N, metal:N or auto; cpu if not given
    #[arg(long, value_name = "DEVICE", env = "CAIRN_DEVICE")]
    pub(crate) device: Option<String>,
    /// What a CPU keeps keys and values as; f32 if not given. The nodes of a cluster may differ
    #[arg(long, value_enum, value_name = "FORMAT", env = "CAIRN_KV_CACHE")]
    pub(crate) kv_cache: Option<CacheArg>,
    /// Most memory to offer, such as 2GiB; what is free if not given
    #[arg(long, value_name = "SIZE", env = "CAIRN_MEMORY")]
    pub(crate) memory: Option<String>,
    /// UDP port of mDNS, for tests that must not see each other
    #[arg(long, value_name = "PORT", env = "CAIRN_MDNS_PORT", hide = true)]
    pub(crate) mdns_port: Option<u16>,
    /// Do not look for peers over mDNS
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// The least severe level to log; info if not given
    #[arg(long, value_enum, value_name = "LEVEL", env = "CAIRN_LOG_LEVEL")]
    pub(crate) log_level: Option<Level>,
}

/// What a node does, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The model that the user asked for.
    pub(crate) model: Option<String>,
    /// The node's name, if the user gave one.
    pub(crate) name: Option<String>,
    /// Where the cluster and its secret come from.
    pub(crate) cluster: ClusterWish,
    /// Addresses to dial.
    pub(crate) peers: Vec<SocketAddr>,
    /// The node's own directory, if the user gave one.
    pub(crate) data_dir: Option<PathBuf>,
    /// Where HTTP is served, if the user said so.
    pub(crate) http: Option<SocketAddr>,
    /// Where peers are listened for.
    pub(crate) listen: SocketAddr,
    /// How layers are split.
    pub(crate) strategy: Strategy,
    /// KV rows per sequence.
    pub(crate) context: u32,
    /// Sequences at once.
    pub(crate) sequences: u32,
    /// Engine threads.
    pub(crate) threads: usize,
    /// What computes.
    pub(crate) device: Device,
    /// What keys and values are kept as.
    pub(crate) kv_cache: CacheFormat,
    /// Cap on the memory offered.
    pub(crate) memory_bytes: Option<u64>,
    /// UDP port of mDNS; `None` turns it off.
    pub(crate) mdns_port: Option<u16>,
    /// Least severe level to log.
    pub(crate) log_level: Level,
    /// What works, but deserves a word.
    pub(crate) warnings: Vec<String>,
}

/// Which cluster the user wants to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClusterWish {
    /// The line of another device; remembered for the next start.
    Join(JoinLine),
    /// What was said, the rest as remembered.
    Named {
        /// The cluster's name, if said.
        cluster: Option<String>,
        /// Its secret, if said.
        secret: Option<String>,
    },
}

/// Everything that is wrong with a configuration, at once.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} fault{}:\n  {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.join("\n  "))]
pub(crate) struct Faults(pub(crate) Vec<String>);

impl Wishes {
    /// Reads the file; a missing file is a fault only where the user named it.
    pub(crate) fn read(named: Option<&Path>, usual: &Path) -> anyhow::Result<Self> {
        let path = named.unwrap_or(usual);
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .with_context(|| format!("the configuration file {} is wrong", path.display())),
            Err(source) if named.is_none() && source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(source)
                .with_context(|| format!("cannot read the configuration file {}", path.display())),
        }
    }

    /// These wishes, and those of `file` where these are silent.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            model: self.model.or(file.model),
            name: self.name.or(file.name),
            cluster: self.cluster.or(file.cluster),
            secret: self.secret.or(file.secret),
            peers: if self.peers.is_empty() {
                file.peers
            } else {
                self.peers
            },
            data_dir: self.data_dir.or(file.data_dir),
            http: self.http.or(file.http),
            listen: self.listen.or(file.listen),
            strategy: self.strategy.or(file.strategy),
            context: self.context.or(file.context),
            sequences: self.sequences.or(file.sequences),
            threads: self.threads.or(file.threads),
            device: self.device.or(file.device),
            kv_cache: self.kv_cache.or(file.kv_cache),
            memory: self.memory.or(file.memory),
            mdns_port: self.mdns_port.or(file.mdns_port),
            no_mdns: self.no_mdns || file.no_mdns,
            log_level: self.log_level.or(file.log_level),
        }
    }

    /// Checks everything and fills in the defaults.
    ///
    /// `cores` is the number of threads that the machine runs at once.
    pub(crate) fn check(self, join: Option<&str>, cores: usize) -> Result<Settings, Faults> {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        if let Some(model) = &self.model {
            check_not_empty("model", model, &mut faults);
        }
        if let Some(name) = &self.name {
            check_name("name", name, &mut faults);
        }
        let mut peers = check_peers(&self.peers, &mut faults);
        let cluster = check_cluster(
            join,
            self.cluster,
            self.secret,
            &mut peers,
            &mut faults,
            &mut warnings,
        );
        let http = self
            .http
            .and_then(|text| keep(check_address("http", &text), &mut faults));
        let listen = match self.listen {
            Some(text) => keep(check_address("listen", &text), &mut faults),
            None => Some(SocketAddr::from(([0, 0, 0, 0], 0))),
        };
        let strategy = match &self.strategy {
            Some(text) => keep(parse_strategy(text), &mut faults),
            None => Some(Strategy::Optimal),
        };
        let context = check_count("context", self.context.unwrap_or(CONTEXT), &mut faults);
        let sequences = check_count(
            "sequences",
            self.sequences.unwrap_or(SEQUENCES),
            &mut faults,
        );
        let threads = self.threads.unwrap_or(cores);
        check_count(
            "threads",
            u32::try_from(threads).unwrap_or(u32::MAX),
            &mut faults,
        );
        let device = check_device(self.device.as_deref(), &mut faults);
        let kv_cache = check_cache(self.kv_cache, device, &mut warnings);
        let memory_bytes = self.memory.and_then(|text| {
            let size = parse_size(&text).map_err(|fault| format!("memory: {fault}"));
            keep(size, &mut faults)
        });
        match (faults.is_empty(), cluster, listen, strategy, device) {
            (true, Some(cluster), Some(listen), Some(strategy), Some(device)) => Ok(Settings {
                model: self.model,
                name: self.name,
                cluster,
                peers,
                data_dir: self.data_dir,
                http,
                listen,
                strategy,
                context,
                sequences,
                threads,
                device,
                kv_cache,
                memory_bytes,
                mdns_port: (!self.no_mdns).then_some(self.mdns_port.unwrap_or(MDNS_PORT)),
                log_level: self.log_level.unwrap_or(Level::Info),
                warnings,
            }),
            (_, _, _, _, _) => Err(Faults(faults)),
        }
    }
}

fn check_peers(texts: &[String], faults: &mut Vec<String>) -> Vec<SocketAddr> {
    let mut peers = Vec::new();
    for text in texts {
        match resolve(text) {
            Ok(found) => peers.extend(found),
            Err(fault) => faults.push(format!("peer: {fault}")),
        }
    }
    peers
}

fn check_device(text: Option<&str>, faults: &mut Vec<String>) -> Option<Device> {
    let device = text.unwrap_or("cpu").parse();
    keep(device.map_err(|fault| format!("device: {fault}")), faults)
}

/// A GPU has one format only.
fn check_cache(
    wish: Option<CacheArg>,
    device: Option<Device>,
    warnings: &mut Vec<String>,
) -> CacheFormat {
    let format = wish.map_or(CacheFormat::F32, CacheFormat::from);
    if let Some(device) = device
        && device != Device::Cpu
        && format != CacheFormat::F32
    {
        warnings.push(format!(
            "kv-cache: {device} keeps 32-bit floats; {} is for CPUs",
            format.name()
        ));
        return CacheFormat::F32;
    }
    format
}

/// Reads the name of a strategy.
pub(crate) fn parse_strategy(text: &str) -> Result<Strategy, String> {
    match text {
        "uniform" => Ok(Strategy::Uniform),
        "memory" => Ok(Strategy::Memory),
        "compute" => Ok(Strategy::Compute),
        "balanced" => Ok(Strategy::Balanced),
        "optimal" => Ok(Strategy::Optimal),
        other => Err(format!(
            "strategy: `{other}` is none of uniform, memory, compute, balanced, optimal"
        )),
    }
}

fn check_cluster(
    join: Option<&str>,
    cluster: Option<String>,
    secret: Option<String>,
    peers: &mut Vec<SocketAddr>,
    faults: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Option<ClusterWish> {
    if let Some(line) = join {
        let parsed = line.parse().map_err(|fault| format!("join: {fault}"));
        let line: JoinLine = keep(parsed, faults)?;
        peers.extend(&line.peers);
        return Some(ClusterWish::Join(line));
    }
    if let Some(cluster) = &cluster {
        check_name("cluster", cluster, faults);
    }
    if let Some(secret) = &secret {
        check_not_empty("secret", secret, faults);
        if (1..SECRET_BYTES_WISE).contains(&secret.len()) {
            warnings.push(format!(
                "the secret has {} characters: whoever can reach this device can try to guess it; {SECRET_BYTES_WISE} or more are wise",
                secret.len()
            ));
        }
    }
    Some(ClusterWish::Named { cluster, secret })
}

fn keep<T>(checked: Result<T, String>, faults: &mut Vec<String>) -> Option<T> {
    checked.map_err(|fault| faults.push(fault)).ok()
}

fn check_not_empty(field: &str, text: &str, faults: &mut Vec<String>) {
    if text.trim().is_empty() {
        faults.push(format!("{field}: is empty"));
    }
}

fn check_name(field: &str, text: &str, faults: &mut Vec<String>) {
    let allowed = |character: char| character.is_alphanumeric() || "-_.".contains(character);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(allowed) {
        faults.push(format!(
            "{field}: `{text}` is not 1 to {NAME_BYTES_MAX} bytes of letters, digits, `-`, `_` and `.`"
        ));
    }
}

fn check_count(field: &str, count: u32, faults: &mut Vec<String>) -> u32 {
    if count == 0 {
        faults.push(format!("{field}: must be at least 1"));
    }
    count
}

fn check_address(field: &str, text: &str) -> Result<SocketAddr, String> {
    let first = resolve(text).map(|mut found| found.pop());
    match first {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(format!("{field}: `{text}` has no address")),
        Err(fault) => Err(format!("{field}: {fault}")),
    }
}

fn resolve(text: &str) -> Result<Vec<SocketAddr>, String> {
    text.to_socket_addrs()
        .map(Iterator::collect)
        .map_err(|source| {
            format!("`{text}` is not an address with a port, such as 192.168.1.20:4801 ({source})")
        })
}
