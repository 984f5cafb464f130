//! What a cluster costs: memory by node, and the time until it is ready. With the real model.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, PATIENCE, names_of};

/// What a node may need besides its tensors and its cache.
const OVERHEAD_BYTES: u64 = 60_000_000;
/// A machine that tests is busy; the figure to watch is the one that is printed.
const READY_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_node_needs_little_more_than_its_tensors_and_its_cache() {
    let mut cluster = Cluster::real();
    cluster.start_many(3);
    cluster.wait_ready(PATIENCE * 2);
    let prompt = "Name the planets, and say one thing about each of them.";
    let answer = cluster.node("n1").http().ask(prompt, 64);
    assert!(answer.is_ok(), "{answer:?}");
    let pids: Vec<(String, u32)> = cluster
        .nodes()
        .iter()
        .map(|node| (node.name.clone(), node.pid()))
        .collect();
    // Members tell their figures from time to time, so the first may be from before the load;
    // and while standby layers load, they grow.
    let status = cluster.wait("figures of all nodes", PATIENCE, |cluster| {
        let status = cluster.nodes()[0].status()?;
        let nodes = status["nodes"].as_array()?;
        let survives = status["plan"]["survives"].as_array()?;
        let covered = survives.iter().all(|one| one["loss"] == "covered");
        let told = covered
            && nodes.iter().all(|node| {
                node["weight_bytes"].as_u64() > Some(0) && node["rows_total"].as_u64() > Some(60)
            });
        told.then_some(status)
    });
    for (name, pid) in pids {
        let nodes = status["nodes"].as_array().expect("a list");
        let node = nodes.iter().find(|node| node["name"] == name.as_str());
        let node = node.expect("a member");
        let bytes = |key: &str| node[key].as_u64().expect("bytes");
        let resident = resident_bytes(pid);
        let own = bytes("weight_bytes") + bytes("kv_bytes");
        println!(
            "{name}: layers {}, weights {} B, cache {} B, resident {resident} B, told {} B",
            node["layers"],
            bytes("weight_bytes"),
            bytes("kv_bytes"),
            bytes("resident_bytes"),
        );
        assert!(
            resident <= own + OVERHEAD_BYTES,
            "{name} has {resident} B resident for {own} B of its own"
        );
        let difference = resident.abs_diff(bytes("resident_bytes"));
        assert!(
            difference < 20_000_000,
            "{name} tells {difference} B too many or too few"
        );
    }
}

/// Resident memory as the system counts it.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).expect("a size in kB");
    kib * 1024
}

#[test]
fn keys_and_values_in_half_the_bits_fit_into_less_memory() {
    let started = |flags: &[&str]| {
        let mut cluster = Cluster::tiny(4);
        cluster.start_with("n1", flags);
        cluster
    };
    let planned = |flags: &[&str]| {
        let mut cluster = started(flags);
        cluster.wait_ready(PATIENCE);
        let status = cluster.node("n1").status().expect("it answers");
        let stage = &status["plan"]["stages"][0];
        stage["planned_memory_bytes"].as_u64().expect("bytes")
    };
    let (all, half) = (planned(&[]), planned(&["--kv-cache", "f16"]));
    println!("planned: {all} B, with keys and values in half precision {half} B");
    assert!(half < all);
    let between = format!("{} B", all.midpoint(half));
    let memory = ["--memory", &between];
    assert_eq!(
        planned(&[&memory[..], &["--kv-cache", "f16"]].concat()),
        half
    );
    let mut cluster = started(&memory);
    let detail = cluster.wait("the shortfall", PATIENCE, |cluster| {
        let (_, health) = cluster.nodes()[0].http().get("/health").ok()?;
        let detail = health["detail"].as_str()?.to_owned();
        detail.contains("does not fit").then_some(detail)
    });
    assert!(detail.contains("--kv-cache"), "{detail}");
}

#[test]
fn three_nodes_are_ready_soon_after_the_third_starts() {
    let mut cluster = Cluster::real();
    cluster.spawn("n1", &[], Vec::new());
    cluster.spawn("n2", &[], Vec::new());
    let since = Instant::now();
    let third = cluster.spawn("n3", &[], Vec::new());
    let ready = |line: &Value| {
        let stages = names_of(&line["stages"], "node");
        (line["event"] == "ready" && stages.len() == 3).then_some(())
    };
    let found = third.output.wait(READY_MAX, ready);
    let took = since.elapsed();
    if found.is_none() {
        cluster.nodes_started();
        cluster.fail(&format!("not ready {READY_MAX:?} after the third start"));
    }
    println!("ready {took:?} after the third start");
}
