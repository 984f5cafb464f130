//! From any node: the same answer, the merged log, OpenAI's shapes.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE, PROMPT};
use crate::http::question;
use crate::output::Output;

/// Three ready nodes over a made-up model of six layers.
#[track_caller]
fn three() -> Cluster {
    let mut cluster = Cluster::tiny(6);
    cluster.start_many(3);
    cluster.wait_ready(PATIENCE);
    cluster
}

#[test]
fn every_node_gives_the_same_answer() {
    let mut cluster = three();
    let mut answers = BTreeSet::new();
    for name in ["n1", "n2", "n3"] {
        let asked = cluster
            .node(name)
            .client(&["ask", "--json", "--temperature", "0", "--max-tokens", "16"])
            .arg(PROMPT)
            .output()
            .expect("the program starts");
        let stderr = String::from_utf8_lossy(&asked.stderr);
        assert!(asked.status.success(), "through {name}: {stderr}");
        let answer: Value = serde_json::from_slice(&asked.stdout).expect("an object");
        assert_eq!(answer["tokens"].as_array().map(Vec::len), Some(16));
        answers.insert((answer["answer"].to_string(), answer["tokens"].to_string()));
        let status = cluster.node(name).client(&["status", "--json"]).output();
        let status: Value =
            serde_json::from_slice(&status.expect("it starts").stdout).expect("an object");
        assert_eq!(
            status["nodes"].as_array().map(Vec::len),
            Some(3),
            "{status}"
        );
        let plan = cluster.node(name).client(&["plan", "--json"]).output();
        let plan: Value =
            serde_json::from_slice(&plan.expect("it starts").stdout).expect("an object");
        assert_eq!(plan["id"], status["plan"]["id"]);
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn answers_have_the_shapes_of_openai() {
    let mut cluster = three();
    let http = cluster.node("n2").http();
    let (status, models) = http.get("/v1/models").expect("a list");
    assert_eq!((status, &models["object"]), (200, &json!("list")));
    let model = models["data"][0]["id"].clone();

    let mut body = question(PROMPT, 12);
    body["model"] = model.clone();
    let bytes = body.to_string();
    let (status, whole) = http
        .post("/v1/chat/completions", bytes.as_bytes())
        .expect("an answer");
    assert_eq!((status, &whole["object"]), (200, &json!("chat.completion")));
    assert_eq!(whole["model"], model);
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["role"], "assistant");
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    let sum = usage["prompt_tokens"].as_u64().expect("a count") + 12;
    assert_eq!(usage["total_tokens"], sum);

    let events: Vec<Value> = http.stream(PROMPT, 12).expect("a stream").collect();
    assert_eq!(events.last(), Some(&json!("[DONE]")));
    let pieces = &events[..events.len() - 1];
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    let mut text = String::new();
    for piece in pieces {
        assert_eq!(piece["object"], "chat.completion.chunk", "{piece}");
        assert_eq!(piece["id"], pieces[0]["id"]);
        text.push_str(
            piece["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default(),
        );
    }
    assert_eq!(json!(text), choice["message"]["content"]);
    let last = pieces.last().expect("pieces");
    assert_eq!(last["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_client_that_goes_away_ends_its_answer() {
    let mut cluster = three();
    let http = cluster.node("n1").http();
    let mut events = http.stream(PROMPT, 30_000).expect("a stream");
    assert!(events.nth(3).is_some(), "the answer is under way");
    drop(events);
    cluster.wait("no request running", PATIENCE, |cluster| {
        let status = cluster.nodes()[0].status()?;
        (status["requests_running"] == 0).then_some(())
    });
    for node in ["n1", "n2", "n3"] {
        cluster.wait("no sequence held", PATIENCE, |cluster| {
            let node = cluster.nodes().iter().find(|one| one.name == node)?;
            let status = node.status()?;
            let nodes = status["nodes"].as_array()?.clone();
            nodes.iter().all(|one| one["sequences"] == 0).then_some(())
        });
    }
}

#[test]
fn the_log_of_all_nodes_is_one_in_order_of_time() {
    let mut cluster = three();
    let mut follower = cluster
        .node("n3")
        .client(&["logs", "-f", "--json", "--level", "debug"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let log = Output::default();
    log.keep(follower.stdout.take().expect("stdout is a pipe"));
    // Each node logs the prompts that it drives.
    let mut found = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let answer = cluster.node(name).http().ask(PROMPT, 4);
        assert!(answer.is_ok(), "{answer:?}");
        let answered = |line: &Value| {
            let text = line["text"].as_str()?;
            (line["node"] == name && text.starts_with("answered")).then(|| line.clone())
        };
        found.push(log.wait(Duration::from_secs(10), answered));
    }
    follower.kill().ok();
    follower.wait().ok();
    assert!(
        found.iter().all(Option::is_some),
        "{found:?}\n{}",
        log.tail(60)
    );
    let times: Vec<u64> = log
        .parsed()
        .iter()
        .map(|line| line["unix_micros"].as_u64().expect("a time"))
        .collect();
    assert!(times.is_sorted(), "out of order:\n{}", log.tail(200));

    let only = cluster
        .node("n1")
        .client(&["logs", "--json", "--node", "n2"])
        .output()
        .expect("the program starts");
    let only = String::from_utf8(only.stdout).expect("JSON is UTF-8");
    assert!(only.lines().count() > 0);
    for line in only.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON lines");
        assert_eq!(line["node"], "n2", "{line}");
    }
}

#[test]
fn the_second_turn_of_a_chat_computes_only_what_is_new() {
    let mut cluster = three();
    let http = cluster.node("n1").http();
    let first = json!({"role": "user", "content": "a first question ".repeat(20)});
    let talk = |messages: Vec<Value>| {
        let body = json!({"messages": messages, "max_tokens": 8, "temperature": 0});
        let answer = http.post("/v1/chat/completions", body.to_string().as_bytes());
        let (status, answer) = answer.expect("an answer");
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["message"].clone()
    };
    let said = talk(vec![first.clone()]);
    let second = json!({"role": "user", "content": "and a second one"});
    let turns = vec![first, said, second];
    let again = talk(turns.clone());
    let status = cluster.wait("every stage to count the hit", PATIENCE, |cluster| {
        let status = cluster.nodes()[0].status()?;
        let mut nodes = status["nodes"].as_array()?.iter();
        nodes
            .all(|node| node["prefix_hits_total"] == 1)
            .then_some(status)
    });
    let rows = status["nodes"][0]["prefix_rows_total"].as_u64();
    assert!(rows > Some(100), "{rows:?}");
    // A node that knows nothing of the first turn says the same to both.
    let elsewhere = cluster.node("n2").http();
    let body = json!({"messages": turns, "max_tokens": 8, "temperature": 0});
    let fresh = elsewhere.post("/v1/chat/completions", body.to_string().as_bytes());
    let (_, fresh) = fresh.expect("an answer");
    assert_eq!(fresh["choices"][0]["message"], again);
}
