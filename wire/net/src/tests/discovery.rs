//! Nodes of one host find each other, and only those they should.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use cairn_wire::id::BootId;

use super::harness::{Node, config};
use crate::{Config, Event, Interfaces, Mdns, Refusal};

/// A port of its own keeps one test's nodes from seeing another's, and the host's.
fn private_port() -> u16 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.local_addr().unwrap().port()
}

fn announced(number: u8, port: u16) -> Config {
    let mut config = config(number);
    config.mdns = Mdns::On {
        port,
        interfaces: Interfaces::Loopback,
    };
    config
}

fn found(here: &Node, there: &Node) {
    here.wait("Found", |event| match event {
        Event::Found {
            node, addresses, ..
        } if node == there.id() => Some(assert_eq!(addresses, [there.address()])),
        _ => None,
    });
}

/// Which of two nodes sees the other first does not matter: it dials.
#[test]
fn every_pair_of_one_host_can_meet_within_a_second() {
    const NODES: u8 = 4;
    let port = private_port();
    let mut took = Vec::new();
    for round in 0..3 {
        let begin = Instant::now();
        let nodes: Vec<Node> = (0..NODES)
            .map(|number| Node::start(announced(1 + round * NODES + number, port)))
            .collect();
        let mut met = BTreeSet::new();
        while met.len() < usize::from(NODES * (NODES - 1) / 2) {
            assert!(begin.elapsed() < Duration::from_secs(20), "{met:?}");
            for here in &nodes {
                if let Ok(Event::Found { node: there, .. }) = here.events.try_recv()
                    && nodes.iter().any(|node| node.id() == there)
                {
                    met.insert((here.id().min(there), here.id().max(there)));
                }
            }
            std::thread::yield_now();
        }
        took.push(begin.elapsed());
    }
    took.sort();
    println!("every pair met after {took:?}");
    assert!(took[1] <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn other_clusters_are_invisible() {
    let port = private_port();
    let mut other = announced(3, port);
    other.cluster = "other".to_owned();
    let other = Node::start(other);
    let (a, b) = (
        Node::start(announced(1, port)),
        Node::start(announced(2, port)),
    );
    found(&a, &b);
    found(&b, &a);
    while let Ok(event) = a.events.try_recv() {
        assert!(
            !matches!(event, Event::Found { node, .. } if node == other.id()),
            "{event:?}"
        );
    }
}

#[test]
fn a_second_run_of_one_identity_is_noticed() {
    let port = private_port();
    let first = Node::start(announced(1, port));
    let mut again = announced(1, port);
    again.boot = BootId(99);
    let second = Node::start(again);
    // Whoever hears the other first; one of the two is enough to act on.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let events = [&first, &second].map(|node| node.events.try_recv().ok());
        let noticed = events.into_iter().flatten().any(|event| {
            matches!(
                event,
                Event::Refused { reason: Refusal::DuplicateIdentity, peer, .. }
                    if peer == Some(first.id())
            )
        });
        if noticed {
            break;
        }
        assert!(Instant::now() < deadline, "nobody noticed");
        std::thread::yield_now();
    }
}

#[test]
fn a_node_that_comes_back_is_found_at_its_new_port() {
    let port = private_port();
    let a = Node::start(announced(1, port));
    let b = Node::start(announced(2, port));
    found(&a, &b);
    b.net.shutdown();
    let mut again = announced(2, port);
    again.boot = BootId(99);
    let b = Node::start(again);
    a.wait("Found", |event| match event {
        Event::Found {
            boot: BootId(99),
            addresses,
            ..
        } => Some(assert_eq!(addresses, [b.address()])),
        _ => None,
    });
}
