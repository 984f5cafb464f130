//! Who gets in, who does not, and what both are told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use cairn_wire::hello::PROTOCOL_VERSION;
use cairn_wire::id::{BootId, NodeId};

use super::harness::{Node, config, message, node};
use crate::{Cause, CloseCause, Event, Origin, Refusal, Secret, StartError};

#[test]
fn both_ends_learn_who_the_other_is() {
    let (a, b) = (node(1), node(2));
    a.dial(&b);
    for (here, there, number, origin) in
        [(&a, &b, 2, Origin::Dialled), (&b, &a, 1, Origin::Accepted)]
    {
        here.wait("Connected", |event| match event {
            Event::Connected {
                peer,
                boot,
                origin: found,
                version,
                ..
            } => {
                assert_eq!(peer, there.id());
                assert_eq!(boot, BootId(number));
                assert_eq!(found, origin);
                assert_eq!(version, format!("0.0.{number}"));
                Some(())
            }
            _ => None,
        });
    }
}

#[test]
fn a_dial_without_a_name_finds_out_who_answers() {
    let (a, b) = (node(1), node(2));
    a.net.dial(b.address(), None);
    a.connected(b.id());
}

#[test]
fn each_difference_is_refused_by_name_at_both_ends() {
    let mut secret = config(2);
    secret.secret = Secret::from_bytes(*b"another secret");
    let mut cluster = config(2);
    cluster.cluster = "other".to_owned();
    let next = PROTOCOL_VERSION + 1;
    let differ = |ours, theirs| Refusal::WrongVersion { ours, theirs };
    for (config_b, version_b, at_a, at_b) in [
        (
            secret,
            PROTOCOL_VERSION,
            Refusal::WrongSecret,
            Refusal::WrongSecret,
        ),
        (
            cluster,
            PROTOCOL_VERSION,
            Refusal::WrongCluster,
            Refusal::WrongCluster,
        ),
        (
            config(2),
            next,
            differ(PROTOCOL_VERSION, next),
            differ(next, PROTOCOL_VERSION),
        ),
    ] {
        for a_dials in [true, false] {
            let (a, b) = (node(1), Node::start_version(config_b.clone(), version_b));
            if a_dials {
                a.dial(&b);
            } else {
                b.dial(&a);
            }
            assert_eq!(a.refused(), at_a, "a dials: {a_dials}");
            assert_eq!(b.refused(), at_b, "a dials: {a_dials}");
            assert!(a.net.offer_control(b.id(), &message(0)).is_err());
            assert!(b.net.offer_control(a.id(), &message(0)).is_err());
        }
    }
}

#[test]
fn a_second_run_of_a_live_identity_is_refused() {
    let (a, first) = (node(1), node(2));
    first.link(&a);
    let mut again = config(2);
    again.boot = BootId(99);
    let second = Node::start(again);
    second.dial(&a);
    assert_eq!(second.refused(), Refusal::DuplicateIdentity);
    assert_eq!(a.refused(), Refusal::DuplicateIdentity);
    // The first is untouched.
    first.net.offer_control(a.id(), &message(7)).unwrap();
    assert_eq!(a.control(), message(7));
    // Once it is gone, the second is welcome.
    drop(first);
    a.disconnected(second.id());
    second.link(&a);
}

#[test]
fn two_runs_of_one_identity_that_meet_know_it() {
    let first = node(1);
    let mut again = config(1);
    again.boot = BootId(99);
    let second = Node::start(again);
    second.net.dial(first.address(), None);
    assert_eq!(second.refused(), Refusal::DuplicateIdentity);
    assert_eq!(first.refused(), Refusal::DuplicateIdentity);
}

#[test]
fn a_node_that_dials_itself_is_told_so() {
    let a = node(1);
    a.net.dial(a.address(), None);
    assert_eq!(a.refused(), Refusal::SelfDial);
}

#[test]
fn somebody_else_at_the_address_is_no_substitute() {
    let (a, b) = (node(1), node(2));
    let expected = node(3).id();
    a.net.dial(b.address(), Some(expected));
    let found = b.id();
    assert_eq!(a.refused(), Refusal::WrongIdentity { expected, found });
}

#[test]
fn an_address_where_nobody_is_says_so() {
    let a = node(1);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    a.net.dial(free.unwrap(), None);
    a.wait("Unreachable", |event| match event {
        Event::Unreachable { detail, .. } => Some(assert!(!detail.is_empty())),
        _ => None,
    });
    // No curve point has these bytes; dialling it must not panic.
    a.net.dial(a.address(), Some(NodeId([2; 32])));
    a.wait("an answer", |event| match event {
        Event::Unreachable { .. } | Event::Refused { .. } => Some(()),
        _ => None,
    });
}

#[test]
fn a_port_in_use_has_a_name() {
    let a = node(1);
    let mut taken = config(2);
    taken.listen = a.address();
    let sink = std::sync::Arc::new(|_| ());
    match crate::start(crate::Thread::start(|| ()).expect("a thread"), taken, sink) {
        Err(StartError::PortInUse(address)) => assert_eq!(address, a.address()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn garbage_on_the_port_harms_nobody() {
    let (a, b) = (node(1), node(2));
    let (http, noise) = (b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 4096]);
    for bytes in [http, noise] {
        let mut stream = TcpStream::connect(a.address()).unwrap();
        stream.write_all(&bytes).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut answer = Vec::new();
        // Closed by us, whether politely or not.
        stream.read_to_end(&mut answer).ok();
        assert!(matches!(a.refused(), Refusal::NotCairn { .. }));
    }
    a.link(&b);
}

#[test]
fn a_stranger_that_says_nothing_is_shown_out() {
    let a = node(1);
    let mut stream = TcpStream::connect(a.address()).unwrap();
    assert!(matches!(a.refused(), Refusal::NotCairn { .. }));
    let mut answer = Vec::new();
    // The end of the stream is the point, not what came before it.
    stream.read_to_end(&mut answer).ok();
}

/// The dials of both ends race; whatever wins, one session stands and carries.
#[test]
fn simultaneous_dials_end_with_one_session() {
    const ROUNDS: u64 = 60;
    let (a, b) = (node(1), node(2));
    for round in 0..ROUNDS {
        // Neither waits for anything, so both are under way before either arrives.
        a.dial(&b);
        b.dial(&a);
        for (node, other) in [(&a, &b), (&b, &a)] {
            node.connected(other.id());
            node.net.offer_control(other.id(), &message(round)).unwrap();
        }
        for node in [&a, &b] {
            // A second session would show as a second Connected, a lost one as an end.
            node.wait("the message", |event| match event {
                Event::Control { message: found, .. } => Some(assert_eq!(found, message(round))),
                Event::Refused { reason, .. } => {
                    assert_eq!(reason, Refusal::AlreadyLinked);
                    None
                }
                other => panic!("round {round}: {other:?}"),
            });
        }
        let (closer, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        closer.net.close(other.id(), CloseCause::Silent);
        // The losing dial may still be under way: whatever it reports is no session.
        assert_eq!(
            closer.disconnected(other.id()),
            Cause::Here(CloseCause::Silent)
        );
        assert_eq!(other.disconnected(closer.id()), Cause::There);
    }
}
