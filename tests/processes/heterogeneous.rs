//! Nodes of unequal speed: the optimal plan against equal shares, and a node that grows slow.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, PATIENCE, assert_covers, gate};
use crate::http::Events;
use crate::model::{self, Model};
use crate::node::program;
use crate::quota::Quota;

/// No node can hold the model alone, two can.
const MEMORY: &str = "200MiB";
/// What the optimal plan must gain over equal shares.
const GAIN_MIN: f64 = 1.3;
/// From a node's slowdown to the plan without it.
const RELIEF: Duration = Duration::from_secs(30);
/// Longer than the pause after a move, so that a second would show.
const PAUSE: Duration = Duration::from_secs(35);
const PROMPT: &str = "Tell a long story about a river and a mountain.";

/// Quotas in hundredths of a core; none where the system does not allow them, which is told.
#[expect(
    clippy::print_stdout,
    reason = "whoever reads the log must see what was not run"
)]
fn quotas(percents: &[u64]) -> Option<Vec<Quota>> {
    match percents
        .iter()
        .map(|percent| Quota::new(*percent))
        .collect()
    {
        Ok(quotas) => Some(quotas),
        Err(why) => {
            println!("skipped, no quotas of processor time here: {why}");
            None
        }
    }
}

/// Starts `n1`, `n2`, … under these quotas and waits for the plan of all.
fn start(cluster: &mut Cluster, quotas: &[Quota]) -> Value {
    for (number, quota) in (1..).zip(quotas) {
        let flags = ["--memory", MEMORY, "--context", "512"];
        cluster.spawn_under(quota, &format!("n{number}"), &flags);
    }
    cluster.nodes_started();
    settled(cluster, quotas.len())
}

/// The status once all are members of one served plan, whoever has a stage in it.
fn settled(cluster: &mut Cluster, members: usize) -> Value {
    cluster.wait("all members under one plan", PATIENCE * 2, |cluster| {
        let all: Option<Vec<Value>> = cluster.nodes().iter().map(|node| node.status()).collect();
        let all = all?;
        let first = all.first()?.clone();
        let alike = all.iter().all(|status| {
            let here = status["nodes"].as_array().map_or(0, Vec::len);
            // Reasons name every device that the plan was made with.
            let known = status["plan"]["reasons"].as_array().map_or(0, Vec::len);
            let ready = status["state"] == "ready" && status["plan"]["id"] == first["plan"]["id"];
            ready && here == members && known == members
        });
        alike.then_some(first)
    })
}

/// The text of an answer and its tokens per second after the first.
fn read(events: Events) -> (String, f64) {
    let (mut text, mut first, mut tokens) = (String::new(), None, 0);
    for event in events {
        let choice = &event["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        if choice["logprobs"].is_object() {
            first.get_or_insert_with(Instant::now);
            tokens += 1;
        }
        assert!(event["error"].is_null(), "{event}");
    }
    let took = first.expect("an answer has a token").elapsed();
    (text, f64::from(tokens - 1) / took.as_secs_f64())
}

fn ask(cluster: &mut Cluster, max_tokens: u32) -> (String, f64) {
    let http = cluster.node("n1").http();
    read(http.stream(PROMPT, max_tokens).expect("an answer begins"))
}

/// What `cairn bench device` tells of one thread.
fn measured(model: &Model, launcher: &[String]) -> Value {
    let mut bench = program(launcher);
    bench.args(["bench", "device", "--json", "--threads", "1"]);
    bench.arg("--model").arg(&model.name);
    let output = bench.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn layers(status: &Value) -> Vec<(String, u64)> {
    let stages = status["plan"]["stages"].as_array().expect("stages");
    let layers = stages.iter().map(|stage| {
        let name = stage["node"].as_str().expect("an owner").to_owned();
        let [first, end] = [0, 1].map(|end| stage["layers"][end].as_u64().expect("a layer"));
        (name, end - first)
    });
    layers.collect()
}

/// What every node has said of layers that it moves.
fn moves(cluster: &Cluster) -> Vec<String> {
    let lines = cluster.nodes().iter().flat_map(|node| node.output.parsed());
    let texts = lines.filter_map(|line| line["text"].as_str().map(str::to_owned));
    texts
        .filter(|text| text.starts_with("moving layers"))
        .collect()
}

/// Asks until the plan fits what is measured: nothing has moved for as long as a pause after a
/// move lasts, or at all in the first seconds of service.
fn calm(cluster: &mut Cluster) -> Value {
    let since = Instant::now();
    let (mut count, mut changed) = (0, since);
    loop {
        ask(cluster, 50);
        let now = moves(cluster).len();
        if now != count {
            (count, changed) = (now, Instant::now());
        }
        let enough = if count == 0 { PAUSE / 2 } else { PAUSE };
        if changed.elapsed() > enough {
            let members = cluster.nodes().len();
            return settled(cluster, members);
        }
        if since.elapsed() > PAUSE * 4 {
            cluster.fail("layers move on and on");
        }
    }
}

#[test]
fn a_node_that_is_stopped_now_and_then_measures_what_it_does_while_it_runs() {
    let _gate = gate();
    let Some(quotas) = quotas(&[20]) else {
        return;
    };
    let model = model::real();
    let free = measured(&model, &[]);
    let limited = measured(&model, &quotas[0].launcher());
    let figure = |report: &Value, name: &str| report[name].as_f64().expect("a number");
    assert!(figure(&limited, "quota") < 0.25, "{limited}");
    // Beside other programs figures move by some ten percent; with its stops counted the node
    // would be five times slower.
    let slower = |name: &str| figure(&limited, name) / figure(&free, name);
    let ratios = [
        slower("decode_layer_nanos"),
        1.0 / slower("head_bytes_per_second"),
        1.0 / slower("prefill_layer_rows_per_second"),
    ];
    println!("slower under a quota by {ratios:.2?}");
    assert!(ratios.iter().all(|ratio| *ratio < 2.0), "{ratios:?}");
}

#[test]
fn the_optimal_plan_beats_equal_shares_on_unequal_nodes() {
    // A stage computes for a fraction of a token's time, and a quota counts the pauses in
    // between as well: only one well below that fraction makes a node slow.
    let percents = [90, 45, 6];
    let (Some(one), Some(other)) = (quotas(&percents), quotas(&percents)) else {
        return;
    };
    let mut uniform = Cluster::real();
    let mut optimal = uniform.beside("optimal");
    println!("uniform: {:?}", layers(&start(&mut uniform, &one)));
    println!("optimal: {:?}", layers(&start(&mut optimal, &other)));
    // Nodes that start together measure each other; the stages' times correct that.
    println!("in service: {:?}", layers(&calm(&mut optimal)));
    let (mut slow, mut fast) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let (text, rate) = ask(&mut uniform, 40);
        slow.push(rate);
        let (same, rate) = ask(&mut optimal, 40);
        fast.push(rate);
        assert_eq!(text, same, "a plan shows in an answer");
    }
    println!("uniform {slow:.1?} tokens/s, optimal {fast:.1?} tokens/s");
    let gain = median(fast) / median(slow);
    println!("gain of the medians: {gain:.2}");
    assert!(gain >= GAIN_MIN, "{gain:.2}");
}

#[test]
fn a_node_that_grows_slow_in_service_is_relieved_once() {
    let Some(quotas) = quotas(&[60, 60, 60]) else {
        return;
    };
    let mut cluster = Cluster::real();
    cluster.set_strategy("optimal");
    start(&mut cluster, &quotas);
    let (expected, _) = ask(&mut cluster, 300);
    let status = calm(&mut cluster);
    let before = layers(&status);
    println!("before: {before:?}");
    let (slow, held) = before
        .iter()
        .max_by_key(|(_, layers)| *layers)
        .expect("stages")
        .clone();
    let number: usize = slow[1..].parse().expect("a number");

    let moved_before = moves(&cluster).len();
    let http = cluster.node("n1").http();
    let answer =
        std::thread::spawn(move || read(http.stream(PROMPT, 300).expect("an answer begins")));
    cluster.wait("the answer to be under way", PATIENCE, |cluster| {
        (cluster.nodes()[0].status()?["requests_running"] == 1).then_some(())
    });
    let since = Instant::now();
    quotas[number - 1].set(15);
    let plan = status["plan"]["id"].clone();
    let moved = cluster.wait("layers to move", RELIEF, |cluster| {
        let now = cluster.nodes()[0].status()?;
        (now["state"] == "ready" && now["plan"]["id"] != plan).then_some(now)
    });
    println!(
        "{slow} slowed, moved after {:?}: {:?}",
        since.elapsed(),
        layers(&moved)
    );
    assert_covers(&moved["plan"]["stages"], 30);
    let left = layers(&moved).into_iter().find(|(name, _)| *name == slow);
    assert!(left.map_or(0, |(_, layers)| layers) < held);
    let (text, _) = answer.join().expect("the answer is read");
    assert_eq!(text, expected, "a running answer changed when layers moved");
    let (text, rate) = ask(&mut cluster, 300);
    assert_eq!(text, expected, "under the new plan");
    println!("{rate:.1} tokens/s afterwards");
    let until = Instant::now() + PAUSE;
    while Instant::now() < until {
        ask(&mut cluster, 100);
    }
    let lines = moves(&cluster);
    println!("{:#?}", &lines[moved_before..]);
    assert_eq!(lines.len() - moved_before, 1);
    let last = cluster.node("n1").status().expect("it answers");
    assert_eq!(last["plan"]["id"], moved["plan"]["id"]);
}
