//! `cairn demo` from outside: its result, and that nothing outlives it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{PATIENCE, assert_covers, gate, temporary};
use crate::model::{self, Model};
use crate::node::{LOOK, Signal, process_runs, program, send_signal};
use crate::output::Output;

/// `cairn demo` with its nodes' directories in `dir`.
fn demo(dir: &Path, model: &Model, flags: &[&str]) -> Command {
    let mut command = program(&[]);
    command
        .args(["demo", "--json", "--model"])
        .arg(&model.name)
        .args(flags)
        .env("TMPDIR", dir)
        .env("CAIRN_HOME", dir.join("home"));
    if let Some(cache) = &model.cache {
        command.env("CAIRN_CACHE", cache);
    }
    command
}

/// The object on the demo's last line.
#[track_caller]
fn result(flags: &[&str]) -> Value {
    let dir = temporary();
    let output = demo(dir.path(), &model::real(), flags)
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(leftovers(&dir), Vec::<String>::new(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let last = stdout.lines().last().expect("a result");
    serde_json::from_str(last).expect("the last line is an object")
}

/// What the demo left in its directory for temporary files.
fn leftovers(dir: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path()).expect("the directory is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("cairn-demo-"))
        .collect()
}

#[test]
fn three_nodes_answer_what_one_node_answers() {
    let _gate = gate();
    let flags = ["--max-tokens", "40"];
    let three = result(&flags);
    assert_covers(&three["stages"], 30);
    let stages = three["stages"].as_array().expect("stages");
    assert_eq!(stages.len(), 3, "{three}");
    for stage in stages {
        assert!(stage["node"].is_string(), "{stage}");
        assert!(stage["memory_bytes"].as_u64() > Some(0), "{stage}");
    }
    assert!(three["ttft_ms"].as_f64() > Some(0.0), "{three}");
    assert!(three["tokens_per_second"].as_f64() > Some(0.0), "{three}");
    assert!(
        three["answer"]
            .as_str()
            .is_some_and(|text| text.contains(' '))
    );
    let tokens = three["tokens"].as_array().map_or(0, Vec::len);
    assert!((20..=40).contains(&tokens), "{three}");
    let one = result(&[&flags[..], &["--nodes", "1"]].concat());
    assert_eq!(one["stages"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["tokens"], three["tokens"]);
    assert_eq!(one["answer"], three["answer"]);
}

/// A demo in mid-answer, and the processes of its nodes.
struct Running {
    demo: Child,
    output: Output,
    nodes: Vec<u32>,
    dir: TempDir,
}

impl Running {
    fn start() -> Self {
        let dir = temporary();
        let model = model::tiny(dir.path(), 6);
        // Far more tokens than are ever waited for.
        let mut child = demo(dir.path(), &model, &["--max-tokens", "100000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = Output::default();
        output.keep(child.stdout.take().expect("stdout is a pipe"));
        output.keep(child.stderr.take().expect("stderr is a pipe"));
        let mut running = Self {
            demo: child,
            output,
            nodes: Vec::new(),
            dir,
        };
        let serving = |line: &Value| line.as_str()?.contains("serving layers").then_some(());
        let served = running.output.wait(PATIENCE, serving);
        assert!(served.is_some(), "{}", running.output.tail(20));
        running.nodes = running.pids();
        assert_eq!(running.nodes.len(), 3, "{}", running.output.tail(20));
        assert!(running.nodes.iter().all(|pid| process_runs(*pid)));
        running
    }

    /// What each node says of itself in its directory.
    fn pids(&self) -> Vec<u32> {
        let demo = leftovers(&self.dir)
            .pop()
            .expect("the demo has a directory");
        let nodes = std::fs::read_dir(self.dir.path().join(demo)).expect("it can be read");
        let files =
            nodes.filter_map(|node| std::fs::read(node.ok()?.path().join("node.json")).ok());
        files
            .filter_map(|json| serde_json::from_slice::<Value>(&json).ok()?["pid"].as_u64())
            .map(|pid| u32::try_from(pid).expect("a process number"))
            .collect()
    }

    /// Waits until demo, nodes and directories are gone; gives the exit code.
    #[track_caller]
    fn wait_gone(mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut code = None;
        loop {
            if let Ok(Some(status)) = self.demo.try_wait() {
                code = status.code();
            }
            let running: Vec<&u32> = self
                .nodes
                .iter()
                .filter(|pid| process_runs(**pid))
                .collect();
            let ended = matches!(self.demo.try_wait(), Ok(Some(_)));
            let left = leftovers(&self.dir);
            if ended && running.is_empty() && left.is_empty() {
                return code;
            }
            assert!(
                Instant::now() < deadline,
                "demo ended: {ended}, nodes running: {running:?}, left: {left:?}\n{}",
                self.output.tail(20)
            );
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.demo.kill().ok();
        self.demo.wait().ok();
    }
}

#[test]
fn whatever_ends_a_demo_its_nodes_end_too() {
    let _gate = gate();
    for (signal, expected) in [
        (Signal::Interrupt, Some(130)),
        (Signal::Terminate, Some(130)),
        // Nobody is left to give a code.
        (Signal::Kill, None),
    ] {
        let running = Running::start();
        send_signal(running.demo.id(), signal);
        assert_eq!(running.wait_gone(), expected, "{signal:?}");
    }
}

#[test]
fn a_demo_whose_node_dies_says_so_and_ends() {
    let _gate = gate();
    let running = Running::start();
    send_signal(running.nodes[1], Signal::Kill);
    let output = running.output.clone();
    assert_eq!(running.wait_gone(), Some(1));
    // Whichever it notices first: the process that ended or the answer that broke off.
    let said = output.has("ended (signal: 9") || output.has("left the cluster during the answer");
    assert!(said, "{}", output.tail(20));
}
