//! A peer that is killed, which needs a process to kill.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::node;
use crate::Cause;

const ADDRESS: &str = "CAIRN_NET_TEST_ADDRESS";

#[test]
fn a_killed_peer_is_gone_at_once() {
    let a = node(1);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::process::child",
            "--ignored",
            "--nocapture",
        ])
        .env(ADDRESS, a.address().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let peer = node(2).id();
    a.connected(peer);
    let linked = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("linked"));
    assert!(linked, "the child said so");
    let killed = Instant::now();
    child.kill().unwrap();
    assert_eq!(a.disconnected(peer), Cause::There);
    let took = killed.elapsed();
    child.wait().unwrap();
    assert!(took < Duration::from_millis(500), "{took:?}");
}

/// Not a test: the process that the one above kills.
#[test]
#[ignore = "run by a_killed_peer_is_gone_at_once"]
fn child() {
    let address: SocketAddr = std::env::var(ADDRESS).unwrap().parse().unwrap();
    let b = node(2);
    b.net.dial(address, None);
    let parent = node(1).id();
    b.connected(parent);
    println!("linked");
    // The parent kills this process, or dies itself.
    b.disconnected(parent);
}
