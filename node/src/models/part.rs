//! A file on its way to being whole: appended to, hashed as it grows, resumed.
//!
//! Never seen by anyone under its final name before its content is checked.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::Sha;
use super::trouble::Trouble;

/// Large enough that the calls do not count, small enough for any device.
pub(crate) const CHUNK_BYTES: usize = 1 << 18;

/// The beginning of a file.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    bytes: u64,
}

/// A whole file with the right content, still under its temporary name.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its hash.
    pub(crate) sha256: Sha,
}

impl Part {
    /// Starts at nothing, whatever was there.
    pub(crate) fn fresh(path: &Path) -> Result<Self, Trouble> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(|source| Trouble::io(dir, source))?;
        let file = File::create(path).map_err(|source| Trouble::io(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            hasher: Sha256::new(),
            bytes: 0,
        })
    }

    /// Goes on where an earlier download ended; a piece longer than `bytes_max` is thrown away.
    pub(crate) fn resume(path: &Path, bytes_max: u64) -> Result<Self, Trouble> {
        if !(1..=bytes_max).contains(&length(path)) {
            return Self::fresh(path);
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Trouble::io(path, source))?;
        let mut hasher = Sha256::new();
        let bytes = feed(&mut file, |chunk| {
            hasher.update(chunk);
            Ok(())
        })
        .map_err(|source| Trouble::io(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            hasher,
            bytes,
        })
    }

    /// How much is there.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Throws away what is there.
    pub(crate) fn restart(&mut self) -> Result<(), Trouble> {
        *self = Self::fresh(&self.path)?;
        Ok(())
    }

    /// Adds the next bytes.
    pub(crate) fn append(&mut self, chunk: &[u8]) -> Result<(), Trouble> {
        self.file
            .write_all(chunk)
            .map_err(|source| Trouble::io(&self.path, source))?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Checks the content against its hash, if that is known, and makes it durable.
    ///
    /// A wrong content is removed.
    pub(crate) fn finish(self, expected: Option<Sha>) -> Result<Whole, Trouble> {
        let found = Sha(self.hasher.finalize().into());
        if let Some(sha) = expected
            && sha != found
        {
            // A file that cannot be removed is overwritten by the next try.
            std::fs::remove_file(&self.path).ok();
            return Err(Trouble::WrongHash {
                path: self.path,
                expected: sha,
                found,
            });
        }
        self.file
            .sync_all()
            .map_err(|source| Trouble::io(&self.path, source))?;
        Ok(Whole {
            path: self.path,
            sha256: found,
        })
    }
}

/// The size of a file; 0 when there is none.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Gives everything that `from` has to `take`, piece by piece, and counts it.
pub(crate) fn feed(
    from: &mut impl Read,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => {
                take(&buffer[..count])?;
                bytes += count as u64;
            }
            Err(source) if source.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(source),
        }
    }
}
