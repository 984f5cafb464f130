//! Speeds that were measured before, on disk.
//!
//! One small file per key; what does not fit its key or does not parse counts as absent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_engine::probe::Speeds;
use serde::{Deserialize, Serialize};

/// A file's content. The key is in it, because its name is only a hash of it.
#[derive(Debug, Serialize, Deserialize)]
struct Page {
    key: String,
    layer_nanos: u64,
    decode_bytes_per_second: u64,
    head_bytes_per_second: u64,
    cache_bytes_per_second: u64,
    prefill_macs_per_second: u64,
    attention_macs_per_second: u64,
    spread_permille: u32,
    busy_permille: u32,
}

/// Where the speeds for `key` are kept under `dir`.
pub(super) fn path(dir: &Path, key: &str) -> PathBuf {
    let hash = hash(key.as_bytes());
    dir.join("speeds").join(format!("{hash:016x}.json"))
}

/// FNV-1a: the same in every build of the program.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The speeds kept for `key`, and for how long they have been; a broken file is warned about
/// and taken away.
pub(super) fn read(dir: &Path, key: &str) -> Option<(Speeds, Duration)> {
    let path = path(dir, key);
    let text = std::fs::read(&path).ok()?;
    let changed = std::fs::metadata(&path).and_then(|file| file.modified());
    // A time that lies ahead is as good as now.
    let age = changed.map_or(Duration::MAX, |time| time.elapsed().unwrap_or_default());
    let page: Page = match serde_json::from_slice(&text) {
        Ok(page) => page,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "kept speeds are broken; measuring again");
            // What cannot be taken away is replaced when there is something to keep.
            drop(std::fs::remove_file(&path));
            return None;
        }
    };
    let speeds = Speeds {
        layer_nanos: page.layer_nanos,
        decode_bytes_per_second: page.decode_bytes_per_second,
        head_bytes_per_second: page.head_bytes_per_second,
        cache_bytes_per_second: page.cache_bytes_per_second,
        prefill_macs_per_second: page.prefill_macs_per_second,
        attention_macs_per_second: page.attention_macs_per_second,
        spread_permille: page.spread_permille,
        busy_permille: page.busy_permille,
    };
    (page.key == key).then_some((speeds, age))
}

/// Keeps speeds, in place of what was there. Losing them costs a second at the next start,
/// so a failure is only logged.
pub(super) fn write(dir: &Path, key: &str, speeds: &Speeds) {
    let page = Page {
        key: key.to_owned(),
        layer_nanos: speeds.layer_nanos,
        decode_bytes_per_second: speeds.decode_bytes_per_second,
        head_bytes_per_second: speeds.head_bytes_per_second,
        cache_bytes_per_second: speeds.cache_bytes_per_second,
        prefill_macs_per_second: speeds.prefill_macs_per_second,
        attention_macs_per_second: speeds.attention_macs_per_second,
        spread_permille: speeds.spread_permille,
        busy_permille: speeds.busy_permille,
    };
    let path = path(dir, key);
    let written = serde_json::to_vec_pretty(&page)
        .map_err(std::io::Error::from)
        .and_then(|bytes| replace(&path, &bytes));
    if let Err(error) = written {
        let path = path.display();
        tracing::debug!(%path, %error, "cannot keep measured speeds");
    }
}

/// Whole or not at all: another node may read it at any moment.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().expect("made by joining");
    std::fs::create_dir_all(dir)?;
    let part = path.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEEDS: Speeds = Speeds {
        layer_nanos: 2,
        decode_bytes_per_second: 3,
        head_bytes_per_second: 4,
        cache_bytes_per_second: 5,
        prefill_macs_per_second: 6,
        attention_macs_per_second: 7,
        spread_permille: 8,
        busy_permille: 9,
    };

    fn found(dir: &Path, key: &str) -> Option<Speeds> {
        read(dir, key).map(|(speeds, _)| speeds)
    }

    #[test]
    fn speeds_are_found_under_their_own_key_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(found(dir.path(), "a"), None);
        write(dir.path(), "a", &SPEEDS);
        assert_eq!(found(dir.path(), "a"), Some(SPEEDS));
        assert_eq!(found(dir.path(), "b"), None);
        // As if both keys had one hash.
        std::fs::rename(path(dir.path(), "a"), path(dir.path(), "b")).unwrap();
        assert_eq!(found(dir.path(), "b"), None);
    }

    #[test]
    fn a_broken_file_counts_as_absent_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", &SPEEDS);
        for broken in ["", "{", "[]", "{\"key\": \"a\"}"] {
            std::fs::write(path(dir.path(), "a"), broken).unwrap();
            assert_eq!(found(dir.path(), "a"), None, "{broken}");
        }
        write(dir.path(), "a", &SPEEDS);
        assert_eq!(found(dir.path(), "a"), Some(SPEEDS));
    }
}
