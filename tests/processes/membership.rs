//! Who is in the next plan: nodes that join, leave, die and fall silent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, PATIENCE, PROMPT, assert_covers};
use crate::node::Signal;

/// Seconds, as a user would say: losing a node and planning anew take under two on an idle machine.
const RECOVERY: Duration = Duration::from_secs(15);

/// The name of the node that leads, by the status of a member.
fn leader(status: &Value) -> String {
    let nodes = status["nodes"].as_array().expect("a list of nodes");
    let leader = nodes.iter().find(|node| node["leader"] == true);
    let name = leader.and_then(|node| node["name"].as_str());
    name.expect("a ready cluster has a leader").to_owned()
}

/// The owners of the stages, in order.
fn owners(status: &Value) -> Vec<String> {
    let stages = status["plan"]["stages"].as_array().expect("stages");
    let owner = |stage: &Value| stage["node"].as_str().expect("an owner").to_owned();
    stages.iter().map(owner).collect()
}

#[test]
fn a_node_that_joins_is_in_the_next_plan() {
    let mut cluster = Cluster::tiny(6);
    cluster.start("a");
    let status = cluster.wait_ready(PATIENCE);
    let alone = cluster.node("a").http().ask(PROMPT, 12).expect("an answer");
    let leads = leader(&status);
    for (name, count) in [("b", 2), ("c", 3)] {
        cluster.start(name);
        let status = cluster.wait_ready(PATIENCE);
        assert_covers(&status["plan"]["stages"], 6);
        assert_eq!(owners(&status).len(), count);
        assert_eq!(leader(&status), leads, "a newcomer never deposes a leader");
        let joined = cluster.node(name).http().ask(PROMPT, 12);
        assert_eq!(joined, Ok(alone.clone()), "through {name}");
    }
}

/// Takes one node out of four by `signal`, in mid-answer, and sees the others go on.
///
/// `pick` chooses the node by the status of the whole cluster.
#[track_caller]
#[expect(clippy::print_stdout, reason = "a figure for people, not a bound")]
fn lose(signal: Signal, pick: impl Fn(&Value) -> String) {
    let mut cluster = Cluster::tiny(8);
    cluster.start_many(4);
    let status = cluster.wait_ready(PATIENCE);
    let before = cluster
        .node("n1")
        .http()
        .ask(PROMPT, 12)
        .expect("an answer");
    let lost = pick(&status);
    let asked = owners(&status)
        .into_iter()
        .find(|name| *name != lost)
        .expect("three others");
    let mut answer = cluster
        .node(&asked)
        .http()
        .stream(PROMPT, 30_000)
        .expect("an answer begins");
    let first = answer.find(|event| event["choices"][0]["logprobs"].is_object());
    assert!(first.is_some(), "the answer has a first token");
    let since = Instant::now();
    cluster.node(&lost).signal(signal);
    let end = answer
        .last()
        .expect("an answer under way ends with an event");
    let message = end["error"]["message"].as_str().unwrap_or_default();
    match end["error"]["code"].as_str() {
        Some("node_lost") => assert!(message.contains(&lost), "{message} names {lost}"),
        _ => cluster.fail(&format!("the answer ended with {end} when {lost} was gone")),
    }
    cluster.node(&lost).wait_end(PATIENCE);
    cluster.remove(&lost);
    let status = cluster.wait_ready(RECOVERY);
    let took = since.elapsed();
    assert_covers(&status["plan"]["stages"], 8);
    let names: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.name.clone())
        .collect();
    for name in names {
        let after = cluster.node(&name).http().ask(PROMPT, 12);
        assert_eq!(after, Ok(before.clone()), "through {name}");
    }
    println!("{lost} gone by {signal:?}: \"{message}\"; {took:?} to the next plan in force");
}

#[test]
fn the_leader_is_killed() {
    lose(Signal::Kill, leader);
}

#[test]
fn the_first_stage_is_killed() {
    lose(Signal::Kill, |status| owners(status).remove(0));
}

#[test]
fn a_middle_stage_is_killed() {
    lose(Signal::Kill, |status| owners(status).remove(1));
}

#[test]
fn the_last_stage_is_killed() {
    lose(Signal::Kill, |status| owners(status).remove(3));
}

#[test]
fn the_leader_leaves() {
    lose(Signal::Terminate, leader);
}

#[test]
fn a_middle_stage_leaves() {
    lose(Signal::Terminate, |status| owners(status).remove(2));
}

#[test]
fn a_silent_node_is_taken_out_and_taken_back() {
    let mut cluster = Cluster::tiny(6);
    cluster.start_many(3);
    let status = cluster.wait_ready(PATIENCE);
    let before = cluster
        .node("n1")
        .http()
        .ask(PROMPT, 12)
        .expect("an answer");
    let silent = owners(&status).remove(1);
    let others: BTreeSet<String> = owners(&status)
        .into_iter()
        .filter(|name| *name != silent)
        .collect();
    cluster.node(&silent).signal(Signal::Stop);
    cluster.wait_ready_among(&others, RECOVERY);
    let asked = others.iter().next().expect("two others").clone();
    let without = cluster.node(&asked).http().ask(PROMPT, 12);
    assert_eq!(without, Ok(before.clone()));
    cluster.node(&silent).signal(Signal::Continue);
    cluster.wait_ready(RECOVERY);
    for name in ["n1", "n2", "n3"] {
        let after = cluster.node(name).http().ask(PROMPT, 12);
        assert_eq!(after, Ok(before.clone()), "through {name}");
    }
}
