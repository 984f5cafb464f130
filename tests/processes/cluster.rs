//! Nodes that belong together: one secret, one discovery domain, one temporary directory.
//!
//! Waits are bounded, and a wait that fails shows what each node said last.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::model::{self, Model};
use crate::node::{LOOK, Node, program};
use crate::quota::Quota;

/// What a small cluster takes for anything, times ten: machines that test are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for a prompt to be read, short enough to wait for.
pub(crate) const PROMPT: &str = "hello the hello";

/// Room for answers that last, and little work for the machine.
const TINY_FLAGS: [&str; 4] = ["--threads", "1", "--context", "32768"];

/// Only one test at a time has processes.
pub(crate) fn gate() -> MutexGuard<'static, ()> {
    static GATE: Mutex<()> = Mutex::new(());
    // A test that failed has cleaned up all the same.
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cluster of its own; dropped, its nodes are gone.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// Flags of every node.
    pub(crate) flags: Vec<String>,
    pub(crate) model: Model,
    pub(crate) name: String,
    pub(crate) secret: String,
    pub(crate) dir: TempDir,
    /// None for a cluster beside another of the same test.
    _gate: Option<MutexGuard<'static, ()>>,
}

impl Cluster {
    /// No node yet; serves a made-up model of this many layers.
    pub(crate) fn tiny(layers: u32) -> Self {
        let dir = temporary();
        let model = model::tiny(dir.path(), layers);
        let port = free_udp_port().to_string();
        let here = ["--listen", "127.0.0.1:0", "--mdns-port", &port];
        Self::of(model, dir, &[&here[..], &TINY_FLAGS].concat())
    }

    /// No node yet; its nodes shall run on hosts of their own, and find each other as users' do.
    pub(crate) fn on_hosts(layers: u32) -> Self {
        let dir = temporary();
        let model = model::tiny(dir.path(), layers);
        Self::of(model, dir, &TINY_FLAGS)
    }

    /// No node yet; serves the real model.
    pub(crate) fn real() -> Self {
        let port = free_udp_port().to_string();
        let here = ["--listen", "127.0.0.1:0", "--mdns-port", &port];
        Self::of(model::real(), temporary(), &here)
    }

    /// A second cluster in the same test, with the same model and a strategy of its own.
    pub(crate) fn beside(&self, strategy: &str) -> Self {
        let port = free_udp_port().to_string();
        let here = ["--listen", "127.0.0.1:0", "--mdns-port", &port];
        let mut cluster = Self::gated(self.model.clone(), temporary(), &here, None);
        cluster.name = format!("{}-{strategy}", self.name);
        cluster.set_strategy(strategy);
        cluster
    }

    /// Of the nodes that are started from now on.
    pub(crate) fn set_strategy(&mut self, strategy: &str) {
        self.flags[1] = strategy.to_owned();
    }

    fn of(model: Model, dir: TempDir, flags: &[&str]) -> Self {
        Self::gated(model, dir, flags, Some(gate()))
    }

    fn gated(
        model: Model,
        dir: TempDir,
        flags: &[&str],
        gate: Option<MutexGuard<'static, ()>>,
    ) -> Self {
        let common = ["--strategy", "uniform", "--log-level", "debug"];
        let flags = [&common, flags].concat();
        Self {
            nodes: Vec::new(),
            flags: flags.into_iter().map(str::to_owned).collect(),
            model,
            name: format!("test-{}", std::process::id()),
            secret: "a secret for tests, well known".to_owned(),
            dir,
            _gate: gate,
        }
    }

    /// Starts a node and waits until it serves HTTP.
    #[track_caller]
    pub(crate) fn start(&mut self, name: &str) -> &mut Node {
        self.start_with(name, &[])
    }

    /// The same with more flags.
    #[track_caller]
    pub(crate) fn start_with(&mut self, name: &str, flags: &[&str]) -> &mut Node {
        let node = self.spawn(name, flags, Vec::new());
        node.wait_started();
        node
    }

    /// Starts `count` nodes named `n1`, `n2`, … together.
    #[track_caller]
    pub(crate) fn start_many(&mut self, count: usize) {
        for number in 1..=count {
            self.spawn(&format!("n{number}"), &[], Vec::new());
        }
        self.nodes_started();
    }

    /// Waits until every node serves HTTP.
    #[track_caller]
    pub(crate) fn nodes_started(&mut self) {
        self.nodes.iter_mut().for_each(Node::wait_started);
    }

    /// Starts a node through `launcher`, and does not wait.
    pub(crate) fn spawn(&mut self, name: &str, flags: &[&str], launcher: Vec<String>) -> &mut Node {
        let dir = self.data_dir(name);
        let mut command = self.up(name, &launcher);
        command.args(flags);
        let node = Node::spawn(name, &dir, launcher, &mut command);
        self.nodes.push(node);
        self.nodes.last_mut().expect("one was just added")
    }

    /// Starts a node under a quota of processor time, and does not wait.
    pub(crate) fn spawn_under(&mut self, quota: &Quota, name: &str, flags: &[&str]) {
        let dir = self.data_dir(name);
        let mut command = self.up(name, &quota.launcher());
        command.args(flags);
        // Only the node runs under the quota, not the clients that ask it.
        let node = Node::spawn(name, &dir, Vec::new(), &mut command);
        self.nodes.push(node);
    }

    /// `cairn up` with everything that a node of this cluster needs.
    pub(crate) fn up(&self, name: &str, launcher: &[String]) -> Command {
        let mut command = program(launcher);
        command
            .args(["up", "--ephemeral", "--json", "--name", name])
            .args(["--cluster", &self.name, "--http", "127.0.0.1:0"])
            .args(&self.flags)
            .arg("--model")
            .arg(&self.model.name)
            .arg("--data-dir")
            .arg(self.data_dir(name))
            .env("CAIRN_SECRET", &self.secret)
            .env("CAIRN_HOME", self.dir.path().join("home"));
        if let Some(cache) = &self.model.cache {
            command.env("CAIRN_CACHE", cache);
        }
        command
    }

    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join("nodes").join(name)
    }

    #[track_caller]
    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.expect("the test started it")
    }

    /// Kills a node, if it lives still, and forgets it.
    pub(crate) fn remove(&mut self, name: &str) {
        self.nodes.retain(|node| node.name != name);
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Waits until all nodes are ready under one plan that has a stage on each of them.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, timeout: Duration) -> Value {
        let names: BTreeSet<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.wait_ready_among(&names, timeout)
    }

    /// The same for some of the nodes; the others are not asked and must not be in the plan.
    #[track_caller]
    pub(crate) fn wait_ready_among(
        &mut self,
        names: &BTreeSet<String>,
        timeout: Duration,
    ) -> Value {
        let what = format!("{names:?} ready under one plan");
        self.wait(&what, timeout, |cluster| {
            let mut plan = None;
            for node in cluster.nodes.iter().filter(|n| names.contains(&n.name)) {
                let status = node.status()?;
                let members = names_of(&status["nodes"], "name");
                let owners = names_of(&status["plan"]["stages"], "node");
                let id = status["plan"]["id"].clone();
                let same = plan.get_or_insert_with(|| id.clone()) == &id;
                if status["state"] != "ready" || members != *names || owners != *names || !same {
                    return None;
                }
            }
            cluster
                .nodes
                .iter()
                .find(|node| names.contains(&node.name))?
                .status()
        })
    }

    /// Waits until `look` finds something.
    #[track_caller]
    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        look: impl Fn(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if Instant::now() > deadline {
                self.fail(&format!("not after {timeout:?}: {what}"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Fails the test, and shows what each node said last.
    #[track_caller]
    pub(crate) fn fail(&mut self, what: &str) -> ! {
        let mut text = what.to_owned();
        for node in &mut self.nodes {
            let health = match node.is_running() {
                true => node.status().map_or(Value::Null, |mut status| {
                    status["plan"]["reasons"].take();
                    status
                }),
                false => Value::String("has ended".to_owned()),
            };
            let tail = node.output.tail(25);
            text.push_str(&format!("\n--- {}: {health}\n{tail}", node.name));
        }
        panic!("{text}");
    }
}

/// The values of `key` in a list of objects.
pub(crate) fn names_of(list: &Value, key: &str) -> BTreeSet<String> {
    let names = list.as_array().into_iter().flatten();
    names
        .filter_map(|one| one[key].as_str().map(str::to_owned))
        .collect()
}

/// The (first, end) layers of each stage, in order.
pub(crate) fn layers_of(stages: &Value) -> Vec<(u64, u64)> {
    let number = |value: &Value| value.as_u64().expect("a layer is a number");
    let stages = stages.as_array().into_iter().flatten();
    stages
        .map(|stage| (number(&stage["layers"][0]), number(&stage["layers"][1])))
        .collect()
}

/// Checks that stages cover `0..layers` once, in order.
#[track_caller]
pub(crate) fn assert_covers(stages: &Value, layers: u64) {
    let mut next = 0;
    for (first, end) in layers_of(stages) {
        assert!(first == next && end > first, "{stages}");
        next = end;
    }
    assert_eq!(next, layers, "{stages}");
}

/// A directory that goes away with the test.
pub(crate) fn temporary() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let made = builder.prefix("cairn-test-").tempdir();
    made.expect("there is room for a temporary directory")
}

/// A port for a discovery domain of one's own.
pub(crate) fn free_udp_port() -> u16 {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("there is a free port");
    socket.local_addr().expect("a socket has an address").port()
}
