//! What this process may take of its machine, and by whose word.
//!
//! Reads what the system tells; measures nothing.

use std::path::{Path, PathBuf};

use cairn_engine::Device;
use serde::Serialize;
use sysinfo::{MemoryRefreshKind, System};

/// Kept free for the rest of the system, in thousandths of what is available.
const HEADROOM_PERMILLE: u64 = 100;
/// Offered where the system does not say what it has.
const UNKNOWN_MEMORY_BYTES: u64 = 1 << 30;

/// What a process may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Cores that its threads may run on, whatever their time is limited to.
    pub cores: usize,
    /// Cores' worth of time that its control group grants in the long run, if it limits that.
    pub quota: Option<f64>,
    /// Memory that it may take now, headroom taken off.
    pub memory_bytes: u64,
    /// Who sets the memory's limit.
    pub memory_by: MemoryLimit,
}

/// Who limits memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLimit {
    /// What the machine has left.
    Machine,
    /// A control group, such as a container's.
    ControlGroup,
    /// The GPU that computes, which has memory of its own.
    Accelerator,
    /// Nobody tells; a guess.
    Unknown,
}

impl Limits {
    /// The limits of this process now.
    pub fn read() -> Limits {
        let (memory_bytes, memory_by) = available();
        let cores = cairn_engine::kernel::cores_allowed();
        let known = || std::thread::available_parallelism().map_or(1, usize::from);
        Limits {
            cores: cores.unwrap_or_else(known),
            quota: quota(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
            memory_bytes,
            memory_by,
        }
    }

    /// The same for a process that computes on `device` and holds `held_bytes` of layers and
    /// caches there already. A GPU with memory of its own limits it, whatever the machine has; one
    /// that does not answer has none to offer.
    pub fn of(device: Device, held_bytes: u64) -> Limits {
        let limits = Limits::read();
        let free_bytes = match device.accelerator() {
            Ok(accelerator) => match accelerator.and_then(|gpu| gpu.memory) {
                None => return limits,
                Some(memory) => memory.free_bytes,
            },
            Err(error) => {
                tracing::error!(%error, "the GPU does not tell its memory");
                0
            }
        };
        Limits {
            memory_bytes: less_headroom(free_bytes.saturating_add(held_bytes)),
            memory_by: MemoryLimit::Accelerator,
            ..limits
        }
    }

    /// Memory to offer, where the user set a limit to it. That may exceed what the system says is
    /// free, which can be freed; a GPU's memory is all there is.
    pub fn offered_bytes(&self, most_bytes: Option<u64>) -> u64 {
        match (most_bytes, self.memory_by) {
            (None, _) => self.memory_bytes,
            (Some(most), MemoryLimit::Accelerator) => most.min(self.memory_bytes),
            (
                Some(most),
                MemoryLimit::Machine | MemoryLimit::ControlGroup | MemoryLimit::Unknown,
            ) => most,
        }
    }

    /// Time that so many threads get in the long run, in thousandths of what they could use.
    pub fn share_permille(&self, threads: usize) -> u32 {
        let cores = self.quota.unwrap_or(f64::INFINITY);
        let share = cores / threads.min(self.cores).max(1) as f64;
        // Between one and a thousand.
        (share.min(1.0) * 1e3).max(1.0) as u32
    }
}

/// A number for the machine that this process runs on, the same for all of its processes
/// until it starts anew. Where the system does not tell, of this process only, as if it
/// were alone.
pub(crate) fn host() -> u64 {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
    let bytes = boot.unwrap_or_else(|_| std::process::id().to_le_bytes().to_vec());
    super::kept::hash(&bytes)
}

/// What the machine or the container has left, less headroom.
fn available() -> (u64, MemoryLimit) {
    let Ok(mut system) = System::new() else {
        tracing::warn!(
            "the system does not tell its free memory; say how much to use with --memory"
        );
        return (UNKNOWN_MEMORY_BYTES, MemoryLimit::Unknown);
    };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let machine = system.available_memory();
    let group = system.cgroup_limits().map(|limits| limits.free_memory);
    let (bytes, by) = match group {
        Some(group) if group < machine => (group, MemoryLimit::ControlGroup),
        Some(_) | None => (machine, MemoryLimit::Machine),
    };
    (less_headroom(bytes), by)
}

fn less_headroom(bytes: u64) -> u64 {
    bytes - bytes / 1000 * HEADROOM_PERMILLE
}

/// Cores' worth of time that the control groups of a process grant: the least of its own
/// and of all above it. `None` where no group limits it, or on systems without groups.
fn quota(membership: &Path, mount: &Path) -> Option<f64> {
    let membership = std::fs::read_to_string(membership).ok()?;
    let limits = membership.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (root, read): (PathBuf, fn(&Path) -> Option<f64>) = match controllers {
            "" => (mount.to_owned(), quota_v2),
            _ if controllers.split(',').any(|name| name == "cpu") => {
                (mount.join(controllers), quota_v1)
            }
            _ => return None,
        };
        let own = root.join(path.trim_start_matches('/'));
        let groups = own.ancestors().take_while(|group| group.starts_with(&root));
        groups.filter_map(read).min_by(f64::total_cmp)
    });
    limits.min_by(f64::total_cmp)
}

/// `cpu.max` of one group: `max 100000` or `50000 100000`.
fn quota_v2(group: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

/// The same of the first version: a quota of -1 is none.
fn quota_v1(group: &Path) -> Option<f64> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
    ratio(quota.trim(), period.trim())
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_counts_in_both_versions() {
        type Files = &'static [(&'static str, &'static str)];
        let table: [(&str, Files, Option<f64>); 6] = [
            ("0::/\n", &[], None),
            ("0::/a/b\n", &[("a/b/cpu.max", "max 100000\n")], None),
            (
                "0::/a/b\n",
                &[
                    ("a/b/cpu.max", "150000 100000\n"),
                    ("a/cpu.max", "50000 100000\n"),
                ],
                Some(0.5),
            ),
            (
                "2:cpu,cpuacct:/x\n",
                &[
                    ("cpu,cpuacct/x/cpu.cfs_quota_us", "25000\n"),
                    ("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
                ],
                Some(0.25),
            ),
            (
                "1:cpu:/x\n2:memory:/y\n0::/\n",
                &[
                    ("cpu/x/cpu.cfs_quota_us", "-1\n"),
                    ("cpu/x/cpu.cfs_period_us", "100000\n"),
                ],
                None,
            ),
            ("nonsense\n", &[], None),
        ];
        for (membership, files, expected) in table {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), files);
            write(dir.path(), &[("membership", membership)]);
            let found = quota(&dir.path().join("membership"), dir.path());
            assert_eq!(found, expected, "{membership}");
        }
    }

    #[test]
    fn a_wish_may_exceed_what_is_free_but_not_what_a_gpu_has() {
        let mut limits = Limits {
            cores: 4,
            quota: None,
            memory_bytes: 1000,
            memory_by: MemoryLimit::Machine,
        };
        assert_eq!(limits.offered_bytes(None), 1000);
        assert_eq!(limits.offered_bytes(Some(10)), 10);
        assert_eq!(limits.offered_bytes(Some(2000)), 2000);
        limits.memory_by = MemoryLimit::Accelerator;
        assert_eq!(limits.offered_bytes(None), 1000);
        assert_eq!(limits.offered_bytes(Some(10)), 10);
        assert_eq!(limits.offered_bytes(Some(2000)), 1000);
    }

    #[test]
    fn headroom_is_kept_of_what_a_gpu_has_and_an_absent_one_offers_nothing() {
        assert_eq!(less_headroom(80_000_000_000), 72_000_000_000);
        assert_eq!(less_headroom(0), 0);
        let limits = Limits::of(Device::Cpu, 1 << 40);
        assert_ne!(limits.memory_by, MemoryLimit::Accelerator);
        // No machine has so many.
        let absent = Limits::of(Device::Cuda(99), 0);
        assert_eq!(absent.memory_by, MemoryLimit::Accelerator);
        assert_eq!(absent.memory_bytes, 0);
    }

    #[test]
    fn a_share_is_of_what_the_threads_could_use() {
        let mut limits = Limits {
            cores: 4,
            quota: None,
            memory_bytes: 0,
            memory_by: MemoryLimit::Unknown,
        };
        assert_eq!(limits.share_permille(4), 1000);
        limits.quota = Some(1.0);
        assert_eq!(limits.share_permille(1), 1000);
        assert_eq!(limits.share_permille(2), 500);
        // Threads without a core of their own use no more than the cores.
        assert_eq!(limits.share_permille(8), 250);
    }
}
