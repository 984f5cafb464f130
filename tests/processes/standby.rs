//! Standbys: layers that are kept for a node that may be lost, and what they spare when it is.

use serde_json::Value;

use crate::cluster::{Cluster, PATIENCE, PROMPT, assert_covers};
use crate::node::Signal;

/// The text of a log line.
fn text(line: &Value) -> &str {
    line["text"].as_str().unwrap_or_default()
}

/// The value of `key` in a log line's text.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_whitespace()
        .find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn a_lost_node_is_replaced_without_reading_a_layer() {
    let mut cluster = Cluster::tiny(6);
    cluster.start_many(3);
    cluster.wait_ready(PATIENCE);
    let before = cluster
        .node("n1")
        .http()
        .ask(PROMPT, 12)
        .expect("an answer");
    let status = cluster.wait("every loss to be covered", PATIENCE, |cluster| {
        let status = cluster.nodes()[0].status()?;
        let survives = status["plan"]["survives"].as_array()?;
        let covered = |one: &Value| one["loss"] == "covered";
        (survives.len() == 3 && survives.iter().all(covered)).then_some(status)
    });
    for stage in status["plan"]["stages"].as_array().expect("stages") {
        assert_ne!(stage["standbys"], Value::Array(Vec::new()), "{stage}");
    }
    let held = status["nodes"].as_array().expect("nodes").iter();
    let held: u64 = held
        .filter_map(|node| node["standby_layers"].as_u64())
        .sum();
    assert_eq!(held, 6, "each layer once besides its owner");

    let old = status["plan"]["id"].clone();
    let lost = status["plan"]["stages"][1]["node"]
        .as_str()
        .expect("a name");
    let lost = lost.to_owned();
    cluster.node(&lost).signal(Signal::Kill);
    cluster.node(&lost).wait_end(PATIENCE);
    cluster.remove(&lost);
    cluster.wait("a plan of the other two", PATIENCE, |cluster| {
        let status = cluster.nodes()[0].status()?;
        (status["state"] == "ready" && status["plan"]["id"] != old).then_some(())
    });
    let status = cluster.wait_ready(PATIENCE);
    assert_covers(&status["plan"]["stages"], 6);
    for name in ["n1", "n2", "n3"].into_iter().filter(|name| *name != lost) {
        let after = cluster.node(name).http().ask(PROMPT, 12);
        assert_eq!(after, Ok(before.clone()), "through {name}");
    }

    let lines: Vec<Value> = cluster
        .nodes()
        .iter()
        .flat_map(|node| node.output.parsed())
        .collect();
    let said = lines.iter().position(|line| {
        text(line) == format!("{lost} is gone; the others have its layers in memory")
    });
    let Some(said) = said else {
        cluster.fail("the leader does not say that the others take over");
    };
    let proposed = |line: &Value| {
        let plan = field(text(line).strip_prefix("proposing a plan")?, "plan")?;
        Some(plan.to_owned())
    };
    let stopgap = lines[said..].iter().find_map(proposed).expect("a plan");
    let loads: Vec<&str> = lines
        .iter()
        .map(text)
        .filter(|text| text.starts_with("layers loaded"))
        .filter(|text| field(text, "plan") == Some(&stopgap))
        .collect();
    assert!(!loads.is_empty(), "nobody loaded {stopgap}");
    for load in loads {
        assert_eq!(field(load, "read"), Some("0"), "{load}");
    }
}
