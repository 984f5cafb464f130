//! Processor time by cgroup: makes one machine's nodes as unequal as several machines are.
//!
//! Needs root and a cgroup hierarchy with the `cpu` controller, of version 2 or 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Short, so that a quota slows each pass alike instead of stopping one of many, and long enough
/// that a twentieth of it is still a quota: the kernel takes none below a millisecond.
const PERIOD_MICROS: u64 = 20_000;

/// A share of one core for the processes in it; gone when dropped, which is after they are.
#[derive(Debug)]
pub(crate) struct Quota {
    dir: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    One,
    Two,
}

impl Quota {
    /// So many hundredths of a core.
    ///
    /// # Errors
    /// Why there can be none here.
    pub(crate) fn new(percent: u64) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cairn-test-{}-{number}", std::process::id());
        let (root, version) = hierarchy()?;
        let dir = root.join(name);
        fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let quota = Self { dir, version };
        quota
            .try_set(percent)
            .map_err(|error| format!("{}: {error}", quota.dir.display()))?;
        Ok(quota)
    }

    /// From now on so many hundredths of a core.
    #[track_caller]
    pub(crate) fn set(&self, percent: u64) {
        self.try_set(percent).expect("the quota is ours");
    }

    /// Put before a command: runs it under the quota.
    pub(crate) fn launcher(&self) -> Vec<String> {
        let procs = self.dir.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$@\"", procs.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    fn try_set(&self, percent: u64) -> io::Result<()> {
        let micros = PERIOD_MICROS * percent / 100;
        let write = |file: &str, text: String| fs::write(self.dir.join(file), text);
        match self.version {
            Version::Two => write("cpu.max", format!("{micros} {PERIOD_MICROS}")),
            Version::One => {
                write("cpu.cfs_period_us", PERIOD_MICROS.to_string())?;
                write("cpu.cfs_quota_us", micros.to_string())
            }
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A directory that stays is empty and bothers nobody.
        fs::remove_dir(&self.dir).ok();
    }
}

/// Where groups with a `cpu` controller are made.
fn hierarchy() -> Result<(PathBuf, Version), String> {
    let unified = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|one| one == "cpu") {
        let enable = unified.join("cgroup.subtree_control");
        fs::write(&enable, "+cpu").map_err(|error| format!("{}: {error}", enable.display()))?;
        return Ok((unified.to_owned(), Version::Two));
    }
    ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]
        .map(PathBuf::from)
        .into_iter()
        .find(|dir| dir.join("cpu.cfs_quota_us").exists() || dir.join("cgroup.procs").exists())
        .map(|dir| (dir, Version::One))
        .ok_or_else(|| "no cgroup hierarchy has the cpu controller".to_owned())
}
