//! Where model files come from: the seam that the `node` crate fills.

use std::path::PathBuf;

/// Which model is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By a name of the catalogue, a Hub repository or a path.
    Name(String),
    /// By content, as a plan names it; the name says where to look.
    Exact {
        /// What the planning node called it.
        name: String,
        /// SHA-256 of the file.
        sha256: [u8; 32],
    },
}

/// A model file on this node's disk, whole and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The name that others may ask for it by.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Its size.
    pub file_bytes: u64,
}

/// Why a model cannot be had, for people: names the cause and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// A source of model files.
pub trait Models: Send + Sync {
    /// Finds the file on disk or downloads it. Blocks, so it is called on a blocking thread.
    ///
    /// `progress` is told (bytes done, bytes in all) from time to time.
    fn locate(
        &self,
        wanted: &Wanted,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Located, FetchError>;
}
