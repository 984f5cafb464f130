//! Measures this device: one node of a machine at a time, again when disturbed, and not at
//! all where the same was measured before.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_engine::kernel::Isa;
use cairn_engine::probe::{self, Speeds, Workload};
use cairn_engine::{Clock, Device, EngineError, ModelFile, ShardOptions};

use super::kept;
use super::limits::Limits;

/// How long another node's measurement is waited for. Longer than several of them take,
/// and short enough that whoever holds the lock for no good reason delays one start.
const LOCK_WAIT: Duration = Duration::from_secs(20);
/// How often a taken lock is tried again: it cannot be waited for with an end.
const LOCK_LOOK: Duration = Duration::from_millis(20);
/// Timings whose middle half lies further apart than this, in thousandths of their median,
/// were disturbed.
const SPREAD_PERMILLE_MAX: u32 = 150;
/// The engine's thread ran for less of the time than this, in thousandths: others did too.
const BUSY_PERMILLE_MIN: u32 = 930;
/// Speeds that were disturbed serve the nodes that start within this time too; each of them
/// measures again when it is idle.
const DISTURBED_AGE_MAX: Duration = Duration::from_secs(30);
/// With less of its threads' time than this, in thousandths, a node does not run layers to
/// measure itself. Layers take about a second of all threads, so ten with as much.
const SHARE_PERMILLE_MIN: u32 = 100;
/// How often everything is timed.
const ROUNDS: usize = 5;
/// Rows in the cache of a sequence in the middle of its life.
const CACHED_ROWS: usize = 512;

/// What the speeds of a device depend on, and where they are kept.
#[derive(Clone, Debug)]
pub(crate) struct Measurer {
    /// Names the build of the program.
    pub(crate) build: String,
    /// Speeds are kept under it.
    pub(crate) cache_dir: PathBuf,
    /// How the node will run stages: what computes, and with how many threads.
    pub(crate) options: ShardOptions,
}

/// What was found, and whether it may be believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) speeds: Speeds,
    /// Nothing else ran meanwhile.
    pub(crate) calm: bool,
}

/// Whether what was kept may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Yes.
    Kept,
    /// No: reality was seen to disagree.
    Anew,
}

impl Measurer {
    /// The speeds with the layers of the model at `sample`; without a model, or when it
    /// cannot be run, those of a large matrix. Blocks for some seconds at the most, beside
    /// the wait for other nodes.
    pub(crate) fn speeds(&self, sample: Option<&Path>, trust: Trust) -> Option<Found> {
        let file = sample.and_then(|path| match ModelFile::open(path) {
            Ok(file) => Some(Arc::new(file)),
            Err(error) => {
                tracing::debug!(%error, "cannot measure with the model's own layers");
                None
            }
        });
        let shape = file
            .as_ref()
            .map_or("none".to_owned(), |file| probe::describe(file));
        let key = self.key(&shape);
        let look = || match trust {
            Trust::Kept => self.kept(&key),
            Trust::Anew => None,
        };
        if let Some(found) = look() {
            return Some(found);
        }
        let lock = hold(&std::env::temp_dir().join("cairn-measure.lock"), LOCK_WAIT);
        // Another node of this machine may have measured meanwhile.
        if let Some(found) = look() {
            return Some(found);
        }
        // Who is stopped most of the time would need a minute to run a model's layers.
        let share = Limits::read().share_permille(threads(&self.options));
        let file = file.filter(|_| share >= SHARE_PERMILLE_MIN);
        let speeds = match self.once(file.as_ref()) {
            Ok(speeds) => speeds,
            Err(error) => {
                tracing::warn!(error, "cannot measure this device");
                return None;
            }
        };
        if share >= SHARE_PERMILLE_MIN {
            kept::write(&self.cache_dir, &key, &speeds);
        }
        drop(lock);
        tracing::info!(
            layer_micros = speeds.layer_nanos / 1000,
            decode_mb_per_second = speeds.decode_bytes_per_second / 1_000_000,
            spread_permille = speeds.spread_permille,
            busy_permille = speeds.busy_permille,
            "measured this device"
        );
        Some(self.found(speeds))
    }

    /// What was measured before, if it was left alone, or else only a moment ago: nodes that
    /// start together on a busy machine would only disturb each other further.
    fn kept(&self, key: &str) -> Option<Found> {
        let (speeds, age) = kept::read(&self.cache_dir, key)?;
        let found = self.found(speeds);
        (found.calm || age < DISTURBED_AGE_MAX).then_some(found)
    }

    fn once(&self, file: Option<&Arc<ModelFile>>) -> Result<Speeds, String> {
        match file {
            Some(file) => self.with_model(file).map_err(|error| error.to_string()),
            None => probe::measure_without_model(&self.options, clock(&self.options))
                .map_err(|error| error.to_string()),
        }
    }

    /// Whether timings agree and nobody else ran. Who may not run all the time is stopped
    /// now and then by the system itself, and a thread that waits for a GPU does not run.
    fn found(&self, speeds: Speeds) -> Found {
        let waits = is_limited(&self.options) || self.options.device != Device::Cpu;
        let calm = speeds.spread_permille <= SPREAD_PERMILLE_MAX
            && (waits || speeds.busy_permille >= BUSY_PERMILLE_MIN);
        Found { speeds, calm }
    }

    /// On a thread of its own, because it is bound to a core as the engine's is.
    fn with_model(&self, file: &Arc<ModelFile>) -> Result<Speeds, EngineError> {
        std::thread::scope(|scope| {
            let run = || probe::measure(file, &self.options, &workload(&self.options));
            let thread = scope.spawn(run);
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Everything that speeds depend on, in words. A quota is not in it: who is stopped now and
    /// then is as fast as others while it runs.
    fn key(&self, shape: &str) -> String {
        let limits = Limits::read();
        // Which GPU is the first may change, and so may the GPU.
        let gpu = self.options.device.accelerator().ok().flatten();
        format!(
            "{} | {} {} {} {} | {} cores | {} threads | {} | {shape}",
            self.build,
            processor(),
            Isa::detect().name(),
            self.options.device,
            gpu.map_or(String::new(), |gpu| gpu.name),
            limits.cores,
            self.options.threads,
            self.options.cache.name(),
        )
    }
}

/// What a node measures itself with.
pub fn workload(options: &ShardOptions) -> Workload {
    Workload {
        chunk_rows: cairn_machine::pipeline::CHUNK_ROWS as usize,
        cached_rows: CACHED_ROWS,
        rounds: ROUNDS,
        clock: clock(options),
    }
}

/// A node that its control group stops now and then measures what it does while it runs: its
/// share of the time is told beside its speeds. Only the processor's own threads can be timed so;
/// one that waits for a GPU does not run.
fn clock(options: &ShardOptions) -> Clock {
    match options.device {
        Device::Cpu if is_limited(options) => Clock::Pool(options.threads),
        _ => Clock::Wall,
    }
}

/// Whether the threads may not run all the time.
fn is_limited(options: &ShardOptions) -> bool {
    Limits::read().share_permille(threads(options)) < 1000
}

/// Threads that compute: a GPU is told what to do by one.
pub(crate) fn threads(options: &ShardOptions) -> usize {
    match options.device {
        Device::Cpu => options.threads,
        Device::Auto | Device::Cuda(_) | Device::Metal(_) => 1,
    }
}

/// The processor's name where the system tells it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Holds a lock between the nodes of this machine; without it after a while, or where no
/// such file can be had. The system takes it from whoever ends, so none is ever stale.
fn hold(path: &Path, wait: Duration) -> Option<File> {
    let existing = || File::open(path);
    let file = File::create_new(path).or_else(|_| existing()).ok()?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if since.elapsed() < wait => {
                std::thread::sleep(LOCK_LOOK);
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_lock_is_waited_for_and_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = hold(&path, Duration::ZERO);
        assert!(held.is_some());
        assert!(hold(&path, Duration::from_millis(50)).is_none());
        drop(held);
        assert!(hold(&path, Duration::ZERO).is_some());
        // A directory in its place is nothing to lock; the node measures all the same.
        assert!(hold(&dir.path().join("absent/lock"), Duration::ZERO).is_none());
    }

    #[test]
    fn the_same_is_not_measured_twice_unless_it_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let measurer = Measurer {
            build: "test".to_owned(),
            cache_dir: dir.path().to_owned(),
            options: ShardOptions::new(1, 1),
        };
        let kept = Speeds {
            layer_nanos: 2,
            decode_bytes_per_second: 3,
            head_bytes_per_second: 4,
            cache_bytes_per_second: 5,
            prefill_macs_per_second: 6,
            attention_macs_per_second: 7,
            spread_permille: 8,
            busy_permille: 9,
        };
        kept::write(dir.path(), &measurer.key("none"), &kept);
        let found = measurer.speeds(None, Trust::Kept).expect("speeds");
        assert_eq!(found.speeds, kept);
        let found = measurer.speeds(None, Trust::Anew).expect("speeds");
        assert_ne!(found.speeds, kept);
        // Disturbed ones, as these look, serve for a moment only.
        kept::write(dir.path(), &measurer.key("none"), &kept);
        let path = kept::path(dir.path(), &measurer.key("none"));
        let old = SystemTime::now() - DISTURBED_AGE_MAX;
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(old).unwrap();
        let found = measurer.speeds(None, Trust::Kept).expect("speeds");
        assert_ne!(found.speeds, kept);
        let other = Measurer {
            options: ShardOptions::new(1, 2),
            ..measurer
        };
        let found = other.speeds(None, Trust::Kept).expect("speeds");
        assert_ne!(found.speeds, kept);
    }
}
