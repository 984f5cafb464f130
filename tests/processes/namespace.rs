//! Hosts of their own on one machine: network namespaces on a bridge.
//!
//! Leaves nothing behind even when the test is killed: a namespace has no name,
//! only a process that holds it and ends with the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Why these tests cannot run here; nothing when they can.
pub(crate) fn missing() -> Option<String> {
    let tools = ["ip", "unshare", "nsenter"];
    let lacks = |tool: &&&str| Command::new(tool).arg("--version").output().is_err();
    if let Some(tool) = tools.iter().find(lacks) {
        return Some(format!("skipped: needs root and {tool}"));
    }
    let may = Command::new("unshare").args(["--net", "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return Some("skipped: needs root and ip (no network namespace can be made)".to_owned());
    }
    None
}

/// A bridge in a namespace of its own, and hosts that hang on it.
pub(crate) struct Network {
    bridge: Namespace,
    hosts: Vec<Namespace>,
}

impl Network {
    /// Hosts `1..=count`, all of whose cables are in.
    pub(crate) fn new(count: usize) -> Self {
        let bridge = Namespace::new();
        bridge.run("ip link set lo up");
        // Without snooping no querier is needed for multicast to pass.
        bridge.run("ip link add br0 type bridge mcast_snooping 0 forward_delay 0 stp_state 0");
        bridge.run("ip link set br0 up");
        let mut hosts = Vec::new();
        for number in 1..=count {
            let host = Namespace::new();
            let pid = host.holder.id();
            bridge.run(&format!(
                "ip link add v{number} type veth peer name eth0 netns {pid}"
            ));
            bridge.run(&format!("ip link set v{number} master br0 up"));
            host.run(&format!("ip addr add 10.77.0.{number}/24 dev eth0"));
            host.run("ip link set eth0 up");
            host.run("ip link set lo up");
            hosts.push(host);
        }
        Self { bridge, hosts }
    }

    /// What runs a command on host `number`.
    pub(crate) fn launcher(&self, number: usize) -> Vec<String> {
        self.hosts[number - 1].launcher()
    }

    /// Lets no multicast through the bridge; everything else passes.
    pub(crate) fn block_multicast(&self) {
        for number in 1..=self.hosts.len() {
            self.bridge.run(&format!(
                "ip link set v{number} type bridge_slave mcast_flood off"
            ));
        }
    }

    /// Pulls a host's cable at the bridge: its own interface loses the carrier.
    pub(crate) fn pull(&self, number: usize) {
        self.bridge.run(&format!("ip link set v{number} down"));
    }

    /// Puts it back.
    pub(crate) fn plug(&self, number: usize) {
        self.bridge.run(&format!("ip link set v{number} up"));
    }
}

/// A network namespace and the process that keeps it.
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            // Waits for the end of its stdin, which comes with the end of the test.
            .args(["--net", "sh", "-c", "echo here; read nothing"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`missing` has tried it");
        let stdout = holder.stdout.take().expect("stdout is a pipe");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("a pipe can be read");
        assert_eq!(line, "here\n", "the namespace was not made");
        Self { holder }
    }

    fn launcher(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        ["nsenter", "--target", &pid, "--net"]
            .map(str::to_owned)
            .to_vec()
    }

    #[track_caller]
    fn run(&self, line: &str) {
        let launcher = self.launcher();
        let output = Command::new(&launcher[0])
            .args(&launcher[1..])
            .args(line.split(' '))
            .output()
            .expect("nsenter starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}
