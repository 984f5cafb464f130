//! The binary from outside: help, faults, exit codes, and commands that need no cluster.

use std::path::Path;
use std::process::{Command, Output};

/// The binary with directories of its own and nothing of the caller's environment.
fn cairn(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    for (key, _) in std::env::vars_os() {
        let text = key.to_string_lossy();
        if text.starts_with("CAIRN_") || text.starts_with("HF_") {
            command.env_remove(&key);
        }
    }
    command
        .args(args)
        .env("CAIRN_HOME", dir.join("home"))
        .env("CAIRN_CACHE", dir.join("cache"))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the binary runs")
}

fn check(args: &[&str], code: i32, says: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a temporary directory");
    check_in(dir.path(), args, code, says)
}

fn check_in(dir: &Path, args: &[&str], code: i32, says: &[&str]) -> Output {
    let output = cairn(dir, args);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{args:?} said {said}");
    for text in says {
        assert!(
            said.contains(text),
            "{args:?} does not say {text:?}: {said}"
        );
    }
    output
}

/// A port of loopback where nobody listens.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .local_addr()
        .expect("a socket has an address")
        .to_string()
}

#[test]
fn help_teaches() {
    check(
        &["--help"],
        0,
        &["Examples:", "cairn up --join", "Exit codes:"],
    );
    for command in ["up", "demo", "ask", "logs", "models"] {
        check(
            &[command, "--help"],
            0,
            &["Examples:", &format!("cairn {command}")],
        );
    }
    for command in ["ask", "chat", "status", "plan", "logs"] {
        check(&[command, "--help"], 0, &["--http", "CAIRN_HTTP"]);
    }
    check(&["--version"], 0, &[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn a_wrong_command_line_is_2() {
    let table: [&[&str]; 9] = [
        &[],
        &["fly"],
        &["up", "--colour", "red"],
        &["up", "--join", "cairn1-x", "--secret", "y"],
        &["demo", "--nodes", "0"],
        &["demo", "--strategy", "best"],
        &["demo", "--prompt", " "],
        &["ask"],
        &["ask", " "],
    ];
    for args in table {
        check(args, 2, &[]);
    }
}

#[test]
fn all_faults_of_a_configuration_are_told_at_once() {
    let args = [
        "up",
        "--context",
        "0",
        "--strategy",
        "best",
        "--memory",
        "lots",
        "--peer",
        "nowhere",
    ];
    check(
        &args,
        2,
        &["4 faults", "context:", "strategy:", "memory:", "peer:"],
    );
    check(&["up", "--join", "cairn1-zzzz"], 2, &["join:"]);
}

#[test]
fn a_configuration_file_is_read_and_its_faults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let args = ["up", "--config", file.to_str().unwrap()];
    check_in(dir.path(), &args, 2, &["c.toml"]);
    std::fs::write(&file, "modle = 'x'").unwrap();
    check_in(dir.path(), &args, 2, &["c.toml", "modle"]);
    std::fs::write(&file, "strategy = 'best'").unwrap();
    check_in(dir.path(), &args, 2, &["strategy:"]);
}

#[test]
fn nobody_there_is_4() {
    let nobody = free_address();
    for command in [
        &["ask", "hi"][..],
        &["chat"],
        &["status"],
        &["plan"],
        &["logs"],
    ] {
        let args = [command, &["--http", &nobody]].concat();
        check(&args, 4, &["no node answers", &nobody, "cairn up"]);
    }
}

#[test]
fn models_that_cannot_be_had_are_5() {
    check(&["models", "pull", "nope"], 5, &["nope", "smollm2"]);
    check(&["models", "pull", "./missing.gguf"], 5, &["missing.gguf"]);
    check(&["models", "pull", "hf:a/b/c.gguf"], 5, &["HF_HUB_OFFLINE"]);
    check(&["up", "--model", "nope"], 5, &["nope"]);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    check(&["up", "--model", page], 5, &["Cargo.toml", "GGUF"]);
    check(&["demo", "--model", "nope"], 5, &["nope"]);
}

#[test]
fn models_are_listed_and_a_local_file_is_pulled_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    check_in(dir.path(), &["models", "list"], 0, &["smollm2", "no"]);
    let file = dir.path().join("own.gguf");
    std::fs::write(&file, "GGUF").unwrap();
    let path = file.to_str().unwrap();
    check_in(dir.path(), &["models", "pull", path], 0, &[path]);
    let output = check_in(dir.path(), &["models", "list", "--json"], 0, &[]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed[0]["name"], "smollm2");
    assert_eq!(listed[0]["path"], serde_json::Value::Null);
    assert_eq!(listed[1]["name"], path);
    assert_eq!(listed[1]["bytes"], 4);
}

#[test]
fn a_port_in_use_and_a_directory_in_use_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check_in(
        dir.path(),
        &["up", "--http", &address],
        1,
        &[&address, "another program uses it"],
    );
    let node = dir.path().join("node");
    std::fs::create_dir(&node).unwrap();
    let lock = std::fs::File::create(node.join("lock")).unwrap();
    lock.try_lock().unwrap();
    check_in(
        dir.path(),
        &["up", "--data-dir", node.to_str().unwrap()],
        1,
        &["another node uses the data directory"],
    );
}
