//! The demo's nodes: real processes that cannot outlive it.
//!
//! Each holds the read end of a pipe whose other end only this process has.
//! When this process ends, however it ends, they leave and remove their
//! directories.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use tempfile::TempDir;

use crate::cli::DemoArgs;
use crate::exit::{Exit, Failure};
use crate::home::{NodeDir, NodeFile};
use crate::join::fresh_secret;
use crate::signals::Signals;

/// A node that has not left by then is killed.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(7);
/// How often a file or a process is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a failed node's log that are repeated.
const LAST_LINES: usize = 6;
/// Variables that mean the same for the nodes as for the demo.
const KEPT_VARIABLES: [&str; 3] = ["CAIRN_CACHE", "CAIRN_HOME", "CAIRN_MDNS_PORT"];

/// Running nodes; dropped, they are gone.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Running>,
    dir: TempDir,
}

#[derive(Debug)]
struct Running {
    name: String,
    dir: PathBuf,
    child: Child,
    /// Closed to make the node leave.
    stdin: Option<ChildStdin>,
}

impl Cluster {
    /// Starts the nodes; they find each other by themselves.
    pub(crate) fn start(args: &DemoArgs) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let dir = tempfile::Builder::new()
            .prefix("cairn-demo-")
            .tempdir()
            .context("cannot make a directory for the nodes")?;
        let secret = fresh_secret().context("the system gives no random numbers")?;
        // Random, so that two demos on one network do not meet.
        let cluster = format!("demo-{}", &secret[..8]);
        let mut started = Self {
            nodes: Vec::new(),
            dir,
        };
        for number in 1..=args.nodes {
            let name = format!("node-{number}");
            let dir = started.dir.path().join(&name);
            std::fs::create_dir(&dir)
                .with_context(|| format!("cannot create {}", dir.display()))?;
            let node = spawn(&program, args, &name, &cluster, &secret, dir)?;
            started.nodes.push(node);
        }
        Ok(started)
    }

    /// The name of the node that is asked.
    pub(crate) fn first_name(&self) -> &str {
        &self.nodes[0].name
    }

    /// The HTTP address of the first node, once it tells.
    pub(crate) fn http(&mut self, signals: &Signals, deadline: Instant) -> Result<String, Failure> {
        let path = NodeDir::node_file(&self.nodes[0].dir);
        while Instant::now() < deadline {
            self.check(signals)?;
            // The file appears whole, so what cannot be read is not there yet.
            let file = std::fs::read(&path).ok();
            let file = file.and_then(|json| serde_json::from_slice::<NodeFile>(&json).ok());
            if let Some(file) = file {
                return Ok(file.http.to_string());
            }
            std::thread::sleep(LOOK);
        }
        let text = format!("{} does not say where it is", self.nodes[0].name);
        Err(Failure::text(Exit::Failure, text))
    }

    /// Whether all nodes run and nobody wants to stop.
    pub(crate) fn check(&mut self, signals: &Signals) -> Result<(), Failure> {
        if signals.came() {
            return Err(Failure::interrupted());
        }
        for node in &mut self.nodes {
            let ended = node.child.try_wait().context("cannot look at a node")?;
            if let Some(status) = ended {
                let log = last_lines(&log_path(&node.dir));
                return Err(Failure::text(
                    Exit::Failure,
                    format!("{} ended ({status}); its last words:\n{log}", node.name),
                ));
            }
        }
        Ok(())
    }

    /// Lets all nodes leave at once, and kills those that do not.
    pub(crate) fn stop(&mut self) {
        for node in &mut self.nodes {
            node.stdin = None;
        }
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        for node in &mut self.nodes {
            while matches!(node.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(LOOK);
            }
            // Of a node that left both are errors, and both are fine.
            node.child.kill().ok();
            node.child.wait().ok();
        }
        self.nodes.clear();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(
    program: &Path,
    args: &DemoArgs,
    name: &str,
    cluster: &str,
    secret: &str,
    dir: PathBuf,
) -> anyhow::Result<Running> {
    let log = File::create(log_path(&dir)).context("cannot create a node's log")?;
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        let key_text = key.to_string_lossy();
        if key_text.starts_with("CAIRN_") && !KEPT_VARIABLES.contains(&key_text.as_ref()) {
            command.env_remove(&key);
        }
    }
    command
        .args(["up", "--ephemeral", "--json", "--name", name])
        .args(["--cluster", cluster, "--strategy", &args.strategy])
        .args(["--model", &args.model])
        .args(["--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(&dir)
        // Not on the command line, where every user of the machine could read it.
        .env("CAIRN_SECRET", secret)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log);
    // A group of its own, so that Ctrl-C reaches only the demo, which then ends the nodes in order.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("cannot start a node")?;
    Ok(Running {
        name: name.to_owned(),
        stdin: child.stdin.take(),
        dir,
        child,
    })
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("stderr.log")
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LAST_LINES);
    lines[first..].join("\n")
}
