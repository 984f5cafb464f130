//! The directory of model files, and receipts that spare a second hashing.
//!
//! A receipt says "this path had this content at this size and time of change".
//! It covers files outside the cache too. Downloads nothing.

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::part::{Whole, feed};
use super::trouble::Trouble;
use super::{Cancel, Tell};
use crate::home::parse_hex;

/// How often a process that waits for another's download looks again.
const LOCK_LOOK: Duration = Duration::from_millis(100);

/// A SHA-256; 64 hexadecimal digits in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Sha(pub(crate) [u8; 32]);

/// What a file was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// What it was asked for as.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its content.
    pub(crate) sha256: Sha,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its time of change, nanoseconds since 1970.
    modified_ns: u64,
    /// Where it came from.
    pub(crate) source: String,
}

/// A directory of model files.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// A cache in `dir`, which need not exist.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Where a download of this key grows.
    pub(crate) fn part_path(&self, key: &str) -> PathBuf {
        self.dir.join("parts").join(format!("{key}.part"))
    }

    /// All receipts whose files still look the same, by name.
    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        let entries = std::fs::read_dir(self.dir.join("receipts"));
        let mut receipts: Vec<Receipt> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| read_receipt(&entry.path()))
            .filter(Receipt::is_current)
            .collect();
        receipts.sort_by(|one, other| one.name.cmp(&other.name));
        receipts
    }

    /// The file of this content, checked.
    pub(crate) fn by_content(
        &self,
        sha: Sha,
        cancel: &Cancel,
        tell: Tell<'_>,
    ) -> Result<Option<Receipt>, Trouble> {
        if let Some(receipt) = self.receipts().into_iter().find(|one| one.sha256 == sha) {
            return Ok(Some(receipt));
        }
        // A file without a current receipt: touched, copied here, or from a lost receipt.
        let path = self.model_path(sha);
        if !path.is_file() {
            return Ok(None);
        }
        let receipt = self.check(&path, &sha.to_string(), "the cache", cancel, tell)?;
        if receipt.sha256 == sha {
            return Ok(Some(receipt));
        }
        tracing::warn!(path = %path.display(), "a file of the cache is damaged; fetching it again");
        std::fs::remove_file(&path).map_err(|source| Trouble::io(&path, source))?;
        Ok(None)
    }

    /// The file that was asked for as `name`, checked.
    pub(crate) fn by_name(
        &self,
        name: &str,
        cancel: &Cancel,
        tell: Tell<'_>,
    ) -> Result<Option<Receipt>, Trouble> {
        match self.receipts().into_iter().find(|one| one.name == name) {
            Some(receipt) => self.by_content(receipt.sha256, cancel, tell),
            None => Ok(None),
        }
    }

    /// The receipt of a file on disk; hashes it unless a current receipt says what it is.
    pub(crate) fn check(
        &self,
        path: &Path,
        name: &str,
        source: &str,
        cancel: &Cancel,
        tell: Tell<'_>,
    ) -> Result<Receipt, Trouble> {
        if let Some(known) = read_receipt(&self.receipt_path(path))
            && known.is_current()
        {
            return Ok(known);
        }
        let trouble = |source| Trouble::io(path, source);
        let (bytes, modified_ns) = stamp(path).map_err(trouble)?;
        let mut file = File::open(path).map_err(trouble)?;
        let mut hasher = Sha256::new();
        let mut done = 0;
        feed(&mut file, |chunk| {
            hasher.update(chunk);
            done += chunk.len() as u64;
            tell(done, bytes);
            cancel
                .check()
                .map_err(|trouble| std::io::Error::other(trouble.to_string()))
        })
        .map_err(|source| match cancel.check() {
            Err(cancelled) => cancelled,
            Ok(()) => trouble(source),
        })?;
        let receipt = Receipt {
            name: name.to_owned(),
            path: path.to_owned(),
            sha256: Sha(hasher.finalize().into()),
            bytes,
            modified_ns,
            source: source.to_owned(),
        };
        self.write_receipt(&receipt);
        Ok(receipt)
    }

    /// Gives a whole download its final name, in one step.
    pub(crate) fn install(
        &self,
        whole: Whole,
        name: &str,
        source: &str,
    ) -> Result<Receipt, Trouble> {
        let path = self.model_path(whole.sha256);
        let dir = self.dir.join("models");
        std::fs::create_dir_all(&dir).map_err(|source| Trouble::io(&dir, source))?;
        std::fs::rename(&whole.path, &path).map_err(|source| Trouble::io(&path, source))?;
        let (bytes, modified_ns) = stamp(&path).map_err(|source| Trouble::io(&path, source))?;
        let receipt = Receipt {
            name: name.to_owned(),
            path,
            sha256: whole.sha256,
            bytes,
            modified_ns,
            source: source.to_owned(),
        };
        self.write_receipt(&receipt);
        Ok(receipt)
    }

    /// Keeps other processes from the same download until the result is dropped.
    ///
    /// `waiting` is called while another process has it.
    pub(crate) fn lock(
        &self,
        key: &str,
        cancel: &Cancel,
        waiting: &mut dyn FnMut(),
    ) -> Result<File, Trouble> {
        let path = self.dir.join("parts").join(format!("{key}.lock"));
        let dir = self.dir.join("parts");
        std::fs::create_dir_all(&dir).map_err(|source| Trouble::io(&dir, source))?;
        let file = File::create(&path).map_err(|source| Trouble::io(&path, source))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    cancel.check()?;
                    waiting();
                    // Polled, because a blocking lock could not be cancelled.
                    std::thread::sleep(LOCK_LOOK);
                }
                Err(TryLockError::Error(source)) => return Err(Trouble::io(&path, source)),
            }
        }
    }

    fn model_path(&self, sha: Sha) -> PathBuf {
        self.dir.join("models").join(format!("{sha}.gguf"))
    }

    fn receipt_path(&self, path: &Path) -> PathBuf {
        let key = Sha::of(path.as_os_str().as_encoded_bytes());
        self.dir.join("receipts").join(format!("{key}.json"))
    }

    /// A receipt that cannot be written costs a hashing next time, so it is no error.
    fn write_receipt(&self, receipt: &Receipt) {
        let path = self.receipt_path(&receipt.path);
        let write = || -> std::io::Result<()> {
            let dir = self.dir.join("receipts");
            std::fs::create_dir_all(&dir)?;
            let file = tempfile::NamedTempFile::new_in(&dir)?;
            serde_json::to_writer_pretty(&file, receipt)?;
            file.persist(&path)?;
            Ok(())
        };
        if let Err(source) = write() {
            tracing::debug!(path = %path.display(), %source, "cannot write a receipt");
        }
    }
}

impl Receipt {
    /// Whether the file still has the size and time that it had when it was hashed.
    fn is_current(&self) -> bool {
        stamp(&self.path).is_ok_and(|found| found == (self.bytes, self.modified_ns))
    }
}

impl Sha {
    /// The hash of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl From<Sha> for String {
    fn from(sha: Sha) -> Self {
        sha.to_string()
    }
}

impl TryFrom<String> for Sha {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        parse_hex(&text)
            .map(Sha)
            .ok_or("64 hexadecimal digits are expected")
    }
}

fn read_receipt(path: &Path) -> Option<Receipt> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Size and time of change.
fn stamp(path: &Path) -> std::io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    let age = metadata.modified()?.duration_since(UNIX_EPOCH);
    let nanoseconds = age.map_or(0, |age| age.as_nanos());
    let modified_ns = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
    Ok((metadata.len(), modified_ns))
}
