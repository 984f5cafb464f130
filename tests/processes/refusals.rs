//! Bad input: each has its own message and code, and the others go on serving.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use cairn_engine::fixtures::{Meta, TinyModel};
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE, PROMPT};
use crate::http::{Answer, question};
use crate::node::program;

/// Two ready nodes over a made-up model of four layers, and what they answer.
#[track_caller]
fn two() -> (Cluster, Answer) {
    let mut cluster = Cluster::tiny(4);
    cluster.start_many(2);
    cluster.wait_ready(PATIENCE);
    let answer = cluster.node("n1").http().ask(PROMPT, 12);
    (cluster, answer.expect("an answer"))
}

/// Sees that both nodes answer as they did, under a plan of the two.
#[track_caller]
fn assert_serves(cluster: &mut Cluster, before: &Answer) {
    for name in ["n1", "n2"] {
        let after = cluster.node(name).http().ask(PROMPT, 12);
        assert_eq!(after.as_ref(), Ok(before), "through {name}");
    }
}

/// Exit code and stderr of a command that must end by itself.
#[track_caller]
fn ends(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("the program starts");
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    (output.status.code(), said)
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::tiny(4);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    for flag in ["--http", "--listen"] {
        let mut up = program(&[]);
        up.args([
            "up",
            "--ephemeral",
            "--cluster",
            &cluster.name,
            flag,
            &address,
        ])
        .args(["--no-mdns", "--data-dir"])
        .arg(cluster.data_dir("taken"))
        .env("CAIRN_SECRET", &cluster.secret);
        if flag == "--listen" {
            up.args(["--http", "127.0.0.1:0"]);
        }
        let (code, said) = ends(up);
        assert_eq!(code, Some(1), "{flag}: {said}");
        let port = address.rsplit(':').next().expect("a port");
        assert!(
            said.contains(port) && said.contains("use"),
            "{flag}: {said}"
        );
    }
}

#[test]
fn a_node_that_is_not_there_is_said_so() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let mut ask = program(&[]);
    ask.args(["ask", "--http", &address, PROMPT]);
    let (code, said) = ends(ask);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains(&address), "{said}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    for command in [&["up", "--ephemeral"][..], &["bench", "engine"]] {
        let mut wrong = program(&[]);
        wrong.args(command).args(["--device", "cuda:99"]);
        let (code, said) = ends(wrong);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("cuda:99"), "{said}");
    }
}

#[test]
fn a_data_directory_has_one_node() {
    let (mut cluster, before) = two();
    let (code, said) = ends(cluster.up("n1", &[]));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("another node uses the data directory"),
        "{said}"
    );
    assert_serves(&mut cluster, &before);
}

/// A model file with a fault, and what must be said of it.
fn faulty_models(cluster: &Cluster) -> Vec<(String, &'static str)> {
    let good = TinyModel::new(4);
    let mut foreign = good.writer();
    foreign.meta("general.architecture", Meta::String("mamba".into()));
    let bytes = good.gguf();
    let mut damaged = bytes.clone();
    // A count of metadata that no file can have.
    damaged[16..24].fill(0xff);
    let table = [
        ("damaged", damaged, "corrupt at byte"),
        ("truncated", bytes[..bytes.len() / 2].to_vec(), "truncated"),
        (
            "foreign",
            foreign.bytes(),
            "model family `mamba` is not supported",
        ),
    ];
    let write = |(name, bytes, said): (&str, Vec<u8>, &'static str)| {
        let path = cluster.dir.path().join(format!("{name}.gguf"));
        std::fs::write(&path, bytes).expect("a temporary directory can be written");
        (path.display().to_string(), said)
    };
    table.into_iter().map(write).collect()
}

#[test]
fn a_bad_model_file_is_named_with_its_fault_and_disturbs_nobody() {
    let (mut cluster, before) = two();
    let mut faulty = faulty_models(&cluster);
    for (name, content) in [("junk", "JUNKJUNKJUNK"), ("empty", "")] {
        let path = cluster.dir.path().join(format!("{name}.gguf"));
        std::fs::write(&path, content).expect("a temporary directory can be written");
        faulty.push((path.display().to_string(), "does not begin with GGUF"));
    }
    let good = cluster.model.name.clone();
    for (number, (path, fault)) in faulty.into_iter().enumerate() {
        cluster.model.name = path.clone().into();
        let (code, said) = ends(cluster.up(&format!("bad{number}"), &[]));
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains(&path) && said.contains(fault), "{said}");
    }
    cluster.model.name = good;
    assert_serves(&mut cluster, &before);
}

#[test]
fn a_model_that_does_not_fit_says_what_is_missing() {
    let mut cluster = Cluster::tiny(4);
    cluster.start_with("small", &["--memory", "1MiB"]);
    let health = cluster.wait("the shortfall", PATIENCE, |cluster| {
        let (_, health) = cluster.nodes()[0].http().get("/health").ok()?;
        let detail = health["detail"].as_str()?;
        detail.contains("does not fit").then(|| health.clone())
    });
    assert_ne!(health["status"], "ready");
    let detail = health["detail"].as_str().expect("found above");
    assert!(detail.contains("short"), "{detail}");
    let refused = cluster
        .node("small")
        .http()
        .ask(PROMPT, 4)
        .expect_err("no plan");
    assert_eq!(refused["error"]["code"], "not_ready");
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("does not fit"), "{message}");
    // A roomier node makes it fit, with or without the small one.
    cluster.start("large");
    cluster.wait("a plan with the larger node", PATIENCE, |cluster| {
        let ready = |node: &crate::node::Node| node.status().is_some_and(|s| s["state"] == "ready");
        cluster.nodes().iter().all(ready).then_some(())
    });
    for name in ["small", "large"] {
        let answer = cluster.node(name).http().ask(PROMPT, 4);
        assert!(answer.is_ok(), "through {name}: {answer:?}");
    }
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a table of refusals reads best whole"
)]
fn a_bad_request_is_named_by_its_field() {
    let (mut cluster, before) = two();
    let http = cluster.node("n1").http();
    let long = "hello ".repeat(40_000);
    let with = |field: &str, value: Value| {
        let mut body = question(PROMPT, 4);
        body[field] = value;
        body.to_string()
    };
    let table = [
        (
            "{\"messages\": [".to_owned(),
            400,
            "invalid_json",
            Value::Null,
        ),
        ("[]".to_owned(), 400, "invalid_json", Value::Null),
        ("{}".to_owned(), 400, "invalid_value", json!("messages")),
        (
            question("", 4).to_string(),
            400,
            "invalid_value",
            json!("messages"),
        ),
        (
            question(" \n ", 4).to_string(),
            400,
            "invalid_value",
            json!("messages"),
        ),
        (
            question(&long, 4).to_string(),
            400,
            "context_length_exceeded",
            json!("messages"),
        ),
        (
            with("model", json!("gpt-9")),
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            with("temperature", json!("hot")),
            400,
            "invalid_value",
            json!("temperature"),
        ),
        (
            with("temperature", json!(-1)),
            400,
            "invalid_value",
            json!("temperature"),
        ),
        (
            with("max_tokens", json!(0)),
            400,
            "invalid_value",
            json!("max_tokens"),
        ),
    ];
    for (body, status, code, param) in table {
        let shown: String = body.chars().take(80).collect();
        let (got, answer) = http
            .post("/v1/chat/completions", body.as_bytes())
            .expect("an error");
        let error = &answer["error"];
        assert_eq!(got, status, "{shown}: {answer}");
        assert_eq!(error["code"], code, "{shown}: {answer}");
        if !param.is_null() {
            assert_eq!(error["param"], param, "{shown}: {answer}");
        }
        let message = error["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "{shown}: {answer}");
    }
    let (code, said) = ends(cluster.node("n2").client(&["ask", " "]));
    assert_eq!(code, Some(2), "{said}");
    let mut ask = cluster.node("n2").client(&["ask", "-"]);
    let overflow = cluster.dir.path().join("long.txt");
    std::fs::write(&overflow, &long).expect("it can be written");
    ask.stdin(std::fs::File::open(&overflow).expect("it is there"));
    let (code, said) = ends(ask);
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("context"), "{said}");
    assert_serves(&mut cluster, &before);
}

#[test]
fn an_unknown_model_is_refused_by_name() {
    let cluster = Cluster::tiny(4);
    let mut pull = program(&[]);
    pull.args(["models", "pull", "no-such-model"])
        .env("CAIRN_CACHE", cluster.dir.path().join("cache"));
    let (code, said) = ends(pull);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("no-such-model"), "{said}");
}

#[test]
fn a_node_with_another_secret_is_refused_and_named_on_both_sides() {
    let (mut cluster, before) = two();
    let secret = std::mem::replace(&mut cluster.secret, "quite another secret".to_owned());
    cluster.start("stranger");
    cluster.secret = secret;
    let differ = |cluster: &Cluster, name: &str| {
        let found = cluster.nodes().iter().find(|node| node.name == name);
        found.is_some_and(|node| node.output.has("secrets differ"))
    };
    cluster.wait("both sides name the secret", PATIENCE, |cluster| {
        let inside = differ(cluster, "n1") || differ(cluster, "n2");
        (inside && differ(cluster, "stranger")).then_some(())
    });
    for (name, count) in [("stranger", 1), ("n1", 2), ("n2", 2)] {
        let status = cluster.node(name).status().expect("a status");
        assert_eq!(
            status["nodes"].as_array().map(Vec::len),
            Some(count),
            "{status}"
        );
    }
    // It reads nothing of the others' log either.
    let logs = cluster
        .node("stranger")
        .client(&["logs", "--json"])
        .output();
    let logs = String::from_utf8(logs.expect("it starts").stdout).expect("JSON is UTF-8");
    assert!(!logs.contains("\"node\":\"n1\"") && !logs.contains("\"node\":\"n2\""));
    assert_serves(&mut cluster, &before);
}

#[test]
fn garbage_on_the_peer_port_disturbs_nobody() {
    let (mut cluster, before) = two();
    let address = cluster.node("n1").listen().to_owned();
    let mut noise = Vec::new();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    while noise.len() < 1 << 16 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        noise.extend(state.to_le_bytes());
    }
    let greetings: [&[u8]; 4] = [
        &noise,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0xff; 4096],
        // The transport's own greeting, and nothing after it.
        b"\x13/multistream/1.0.0\n",
    ];
    let mut open = Vec::new();
    for _ in 0..8 {
        for greeting in greetings {
            let mut stream = TcpStream::connect(&address).expect("it listens");
            // It may have closed the connection already.
            stream.write_all(greeting).ok();
            open.push(stream);
        }
    }
    assert_serves(&mut cluster, &before);
    for stream in &mut open {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout can be set");
        let mut rest = Vec::new();
        // A reset is an end as well; a connection that stays open is the fault.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    assert!(
        cluster.node("n1").output.has("does not speak the protocol"),
        "{}",
        cluster.node("n1").output.tail(40)
    );
    assert_serves(&mut cluster, &before);
}

#[test]
fn the_second_node_of_one_identity_ends_and_says_so() {
    let (mut cluster, before) = two();
    let copy = cluster.data_dir("twin");
    std::fs::create_dir_all(&copy).expect("a directory can be made");
    let identity = cluster.node("n2").dir.join("identity");
    std::fs::copy(identity, copy.join("identity")).expect("a running node has an identity");
    let twin = cluster.spawn("twin", &[], Vec::new());
    let ended = twin.wait_end(PATIENCE);
    assert_eq!(ended.code(), Some(1), "{}", twin.output.tail(20));
    let said = twin.output.has("this node's identity") && twin.output.has("--data-dir");
    assert!(said, "{}", twin.output.tail(20));
    cluster.remove("twin");
    assert_serves(&mut cluster, &before);
    let told = ["n1", "n2"].map(|name| cluster.node(name).output.has("identity"));
    assert!(
        told.contains(&true),
        "{}",
        cluster.node("n2").output.tail(20)
    );
}
