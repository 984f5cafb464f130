//! Nodes on separate hosts: found without an address, named where multicast is blocked, cut off.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, PATIENCE, PROMPT};
use crate::namespace::{Network, missing};

/// A node that is alone says why after ten seconds.
const NOBODY: Duration = Duration::from_secs(25);

/// The tokens that the node `name` answers, by its own command line.
#[track_caller]
fn ask(cluster: &mut Cluster, name: &str) -> Value {
    let asked = cluster
        .node(name)
        .client(&["ask", "--json", "--temperature", "0", "--max-tokens", "12"])
        .arg(PROMPT)
        .output()
        .expect("the program starts");
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        cluster.fail(&format!("{name} does not answer: {said}"));
    }
    let answer: Value = serde_json::from_slice(&asked.stdout).expect("an object");
    answer["tokens"].clone()
}

/// Why the test is skipped, said; or nothing.
#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
fn skipped() -> bool {
    let why = missing();
    if let Some(why) = &why {
        println!("{why}");
    }
    why.is_some()
}

#[test]
fn hosts_find_each_other_and_outlive_a_pulled_cable() {
    if skipped() {
        return;
    }
    let mut cluster = Cluster::on_hosts(6);
    let network = Network::new(3);
    for number in 1..=3 {
        cluster.spawn(&format!("h{number}"), &[], network.launcher(number));
    }
    cluster.nodes_started();
    cluster.wait_ready(PATIENCE);
    let before = ask(&mut cluster, "h1");
    assert_eq!(ask(&mut cluster, "h2"), before);
    assert_eq!(ask(&mut cluster, "h3"), before);

    network.pull(2);
    let others = BTreeSet::from(["h1".to_owned(), "h3".to_owned()]);
    cluster.wait_ready_among(&others, PATIENCE);
    assert_eq!(ask(&mut cluster, "h1"), before);
    // The host that is cut off goes on by itself: the smaller side of a split serves, too.
    let alone = BTreeSet::from(["h2".to_owned()]);
    cluster.wait_ready_among(&alone, PATIENCE);
    assert_eq!(ask(&mut cluster, "h2"), before);

    network.plug(2);
    cluster.wait_ready(PATIENCE);
    for name in ["h1", "h2", "h3"] {
        assert_eq!(ask(&mut cluster, name), before);
    }
}

#[test]
fn where_multicast_is_blocked_one_address_makes_a_full_mesh() {
    if skipped() {
        return;
    }
    let mut cluster = Cluster::on_hosts(6);
    let network = Network::new(3);
    network.block_multicast();
    for number in 1..=2 {
        cluster.spawn(&format!("h{number}"), &[], network.launcher(number));
    }
    cluster.nodes_started();
    // Proves that multicast is blocked indeed, and that the user is told what to do.
    let told = |line: &Value| {
        let text = line["text"].as_str()?;
        (text.contains("no other node found") && text.contains("--peer")).then_some(())
    };
    for name in ["h1", "h2"] {
        if cluster.node(name).output.wait(NOBODY, told).is_none() {
            cluster.fail(&format!("{name} does not say that it is alone"));
        }
    }
    let first = address(&mut cluster, "h1", 1);
    cluster.remove("h2");
    cluster.spawn("h2", &["--peer", &first], network.launcher(2));
    cluster.nodes_started();
    // The third knows only the second.
    let second = address(&mut cluster, "h2", 2);
    cluster.spawn("h3", &["--peer", &second], network.launcher(3));
    cluster.nodes_started();
    cluster.wait_ready(PATIENCE);
    let tokens = ask(&mut cluster, "h1");
    assert_eq!(ask(&mut cluster, "h2"), tokens);
    assert_eq!(ask(&mut cluster, "h3"), tokens);
}

/// Where peers reach the node of host `number`.
fn address(cluster: &mut Cluster, name: &str, number: usize) -> String {
    let listen = cluster.node(name).listen();
    let port = listen.rsplit(':').next().expect("a port");
    format!("10.77.0.{number}:{port}")
}
