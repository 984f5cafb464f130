//! The directory of one node: its identity, and a lock so that nobody else is it.
//!
//! Holds no configuration.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{Home, create_private_dir, warn_if_open, write_private};

/// More nodes of one user on one machine than this are a mistake.
const NODE_COUNT_MAX: u32 = 256;
/// Where a running node says how to reach it.
const NODE_FILE: &str = "node.json";

/// A directory that this process owns until it ends.
#[derive(Debug)]
pub(crate) struct NodeDir {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// ed25519 seed.
    pub(crate) identity: [u8; 32],
    /// The name of a node whose user gave none.
    pub(crate) default_name: String,
    /// What works, but deserves a word.
    pub(crate) warnings: Vec<String>,
    /// Held, never read: the system frees the lock even when the process is killed.
    _lock: File,
}

/// How to reach a running node; `node.json` in its directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeFile {
    /// Its process.
    pub(crate) pid: u32,
    /// Its id, short.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its HTTP interface.
    pub(crate) http: SocketAddr,
    /// Where peers reach it.
    pub(crate) listen: Vec<SocketAddr>,
}

impl NodeDir {
    /// Takes the user's first node directory that no running node holds.
    pub(crate) fn claim_free(home: &Home) -> anyhow::Result<Self> {
        let host = host_name();
        for number in 1..=NODE_COUNT_MAX {
            let path = home.data.join("nodes").join(number.to_string());
            let name = match number {
                1 => host.clone(),
                _ => format!("{host}-{number}"),
            };
            if let Some(dir) = Self::try_claim(&path, name)? {
                return Ok(dir);
            }
        }
        bail!(
            "{NODE_COUNT_MAX} nodes of this user run on this machine already; end one, or give --data-dir"
        )
    }

    /// Takes the directory that the user named.
    pub(crate) fn claim(path: &Path) -> anyhow::Result<Self> {
        let suffix = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let name = match suffix {
            Some(suffix) => format!("{}-{suffix}", host_name()),
            None => host_name(),
        };
        Self::try_claim(path, name)?.with_context(|| {
            format!(
                "another node uses the data directory {}{}; give each node its own --data-dir",
                path.display(),
                owner(path)
            )
        })
    }

    /// Where a running node of this directory says how to reach it.
    pub(crate) fn node_file(path: &Path) -> PathBuf {
        path.join(NODE_FILE)
    }

    /// Tells other programs of this user how to reach the node.
    pub(crate) fn publish(&self, file: &NodeFile) -> anyhow::Result<()> {
        let json = serde_json::to_vec_pretty(file).context("a node file is JSON")?;
        write_private(&Self::node_file(&self.path), &json)
    }

    /// Takes the node file back; the identity stays.
    pub(crate) fn retract(&self) {
        // A file that is gone already is what we want; any other trouble leaves a file with a dead pid.
        std::fs::remove_file(Self::node_file(&self.path)).ok();
    }

    /// Removes the directory, and the one above when this was the last in it.
    pub(crate) fn remove(self) {
        std::fs::remove_dir_all(&self.path).ok();
        if let Some(parent) = self.path.parent() {
            // Fails while another node's directory is in it, which is the point.
            std::fs::remove_dir(parent).ok();
        }
    }

    fn try_claim(path: &Path, default_name: String) -> anyhow::Result<Option<Self>> {
        create_private_dir(path)?;
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(source).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        let mut warnings = Vec::new();
        let identity = read_or_make_identity(&path.join("identity"), &mut warnings)?;
        Ok(Some(Self {
            path: path.to_owned(),
            identity,
            default_name,
            warnings,
            _lock: lock,
        }))
    }
}

fn read_or_make_identity(path: &Path, warnings: &mut Vec<String>) -> anyhow::Result<[u8; 32]> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            warn_if_open(path, warnings);
            parse_hex(text.trim()).with_context(|| {
                format!(
                    "the identity file {} is damaged (64 hexadecimal digits are expected); remove it to get a new identity",
                    path.display()
                )
            })
        }
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            let mut seed = [0u8; 32];
            getrandom::fill(&mut seed).context("the system gives no random numbers")?;
            let hex: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
            write_private(path, format!("{hex}\n").as_bytes())?;
            Ok(seed)
        }
        Err(source) => {
            Err(source).with_context(|| format!("cannot read the identity {}", path.display()))
        }
    }
}

/// Reads 64 hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

fn owner(path: &Path) -> String {
    std::fs::read(NodeDir::node_file(path))
        .ok()
        .and_then(|json| serde_json::from_slice::<NodeFile>(&json).ok())
        .map(|file| format!(" (process {}, {})", file.pid, file.name))
        .unwrap_or_default()
}

fn host_name() -> String {
    let name = sysinfo::System::host_name().unwrap_or_default();
    let short = name.split('.').next().unwrap_or_default();
    if short.is_empty() {
        "node".to_owned()
    } else {
        short.to_owned()
    }
}
