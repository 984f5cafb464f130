//! One `cairn up` process. Dropped, it is killed, whatever state it is in.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::Http;
use crate::output::Output;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_cairn");
/// A process that does not say where it serves by then never will.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often something that tells nobody is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// A running node.
pub(crate) struct Node {
    pub(crate) name: String,
    /// Its data directory.
    pub(crate) dir: PathBuf,
    pub(crate) output: Output,
    child: Child,
    /// Held open: the node leaves when it closes, so that even a killed test leaves no node.
    stdin: Option<ChildStdin>,
    /// The event by which it said where it is.
    started: Option<Value>,
    /// Put before every command that must run on the node's host.
    launcher: Vec<String>,
}

/// A signal that tests send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// As Ctrl-C does.
    Interrupt,
    /// As a service manager does.
    Terminate,
    /// Takes the process away.
    Kill,
    /// Silences it.
    Stop,
    /// Lets it go on.
    Continue,
}

impl Node {
    /// Starts `command`, which runs `cairn up --ephemeral --json`.
    pub(crate) fn spawn(
        name: &str,
        dir: &Path,
        launcher: Vec<String>,
        command: &mut Command,
    ) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = Output::default();
        output.keep(child.stdout.take().expect("stdout is a pipe"));
        output.keep(child.stderr.take().expect("stderr is a pipe"));
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            output,
            stdin: child.stdin.take(),
            child,
            started: None,
            launcher,
        }
    }

    /// Waits until the node serves HTTP.
    #[track_caller]
    pub(crate) fn wait_started(&mut self) {
        let started = |line: &Value| (line["event"] == "started").then(|| line.clone());
        self.started = self.output.wait(START_TIMEOUT, started);
        if self.started.is_none() {
            panic!("{} did not start:\n{}", self.name, self.output.tail(20));
        }
    }

    /// Its HTTP interface, as `http://host:port`.
    pub(crate) fn address(&self) -> &str {
        let started = self.started.as_ref().expect("the node was waited for");
        started["http"].as_str().expect("a node names its address")
    }

    /// Where peers reach it.
    pub(crate) fn listen(&self) -> &str {
        let started = self.started.as_ref().expect("the node was waited for");
        started["listen"][0].as_str().expect("a node listens")
    }

    pub(crate) fn http(&self) -> Http {
        Http::new(self.address())
    }

    /// The cluster as this node sees it; nothing while it does not answer.
    pub(crate) fn status(&self) -> Option<Value> {
        if self.launcher.is_empty() {
            return Some(self.http().get("/cairn/status").ok()?.1);
        }
        let output = self.client(&["status", "--json"]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// A client command on the node's host that asks this node.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut command = program(&self.launcher);
        command.args(args).args(["--http", self.address()]);
        command
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process runs still.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub(crate) fn wait_end(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            if Instant::now() > deadline {
                panic!("{} does not end:\n{}", self.name, self.output.tail(20));
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Of a process that has ended both are errors, and both are fine.
        self.child.kill().ok();
        self.child.wait().ok();
        self.stdin = None;
    }
}

/// The program without the user's own settings, run through `launcher`.
pub(crate) fn program(launcher: &[String]) -> Command {
    let mut command = match launcher {
        [] => Command::new(PROGRAM),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(PROGRAM);
            command
        }
    };
    for (key, _) in std::env::vars_os() {
        let key_text = key.to_string_lossy();
        if key_text.starts_with("CAIRN_") && key_text != "CAIRN_CACHE" {
            command.env_remove(&key);
        }
    }
    command
}

/// Sends a signal by way of the shell: the standard library has none but `kill`.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let name = match signal {
        Signal::Interrupt => "INT",
        Signal::Terminate => "TERM",
        Signal::Kill => "KILL",
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
    };
    let kill = format!("kill -s {name} {pid}");
    let sent = Command::new("sh").args(["-c", &kill]).status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "{kill}: no such process"
    );
}

/// Whether a process runs; one that only waits to be reaped does not.
pub(crate) fn process_runs(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state follows the name, which may itself have brackets in it.
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.starts_with(['Z', 'X'])
}
