//! Every order of two nodes' attempts ends with one session.

use super::*;

const LOW: NodeId = NodeId([1; 32]);
const HIGH: NodeId = NodeId([2; 32]);
const BOOT: BootId = BootId(1);

fn stop() -> (Stop, oneshot::Receiver<Cause>) {
    oneshot::channel()
}

fn ended(receiver: &mut oneshot::Receiver<Cause>) -> bool {
    receiver.try_recv().is_ok()
}

#[test]
fn the_arbiter_refuses_the_other_while_its_own_attempt_runs() {
    let mut roster = Roster::new(LOW);
    let (own, mut own_stopped) = stop();
    roster.begin_dialled(HIGH, 1, own).unwrap();
    assert_eq!(
        roster.begin_accepted(HIGH, BOOT, 2, stop().0),
        Err(Refusal::AlreadyLinked)
    );
    assert!(!ended(&mut own_stopped));
    assert_eq!(
        roster.establish(HIGH, 1, BOOT, Link::new().0),
        Ok(Established::First)
    );
}

#[test]
fn the_other_gives_way_to_the_arbiter() {
    let mut roster = Roster::new(HIGH);
    let (own, mut own_stopped) = stop();
    roster.begin_dialled(LOW, 1, own).unwrap();
    roster.begin_accepted(LOW, BOOT, 2, stop().0).unwrap();
    assert!(ended(&mut own_stopped));
    assert_eq!(
        roster.establish(LOW, 1, BOOT, Link::new().0),
        Err(Refusal::AlreadyLinked)
    );
    assert_eq!(
        roster.establish(LOW, 2, BOOT, Link::new().0),
        Ok(Established::First)
    );
}

#[test]
fn a_link_is_replaced_only_at_the_arbiters_word_and_only_when_proven() {
    for (own, peer, expect) in [
        (LOW, HIGH, Err(Refusal::AlreadyLinked)),
        (HIGH, LOW, Ok(())),
    ] {
        let mut roster = Roster::new(own);
        let (first, mut first_stopped) = stop();
        roster.begin_accepted(peer, BOOT, 1, first).unwrap();
        roster.establish(peer, 1, BOOT, Link::new().0).unwrap();
        assert_eq!(roster.begin_accepted(peer, BOOT, 2, stop().0), expect);
        assert!(!ended(&mut first_stopped), "a claim alone ends nothing");
        if expect.is_ok() {
            let replaced = roster.establish(peer, 2, BOOT, Link::new().0);
            assert_eq!(replaced, Ok(Established::Replaced));
            assert!(ended(&mut first_stopped));
            assert!(!roster.forget(peer, 1), "the old one is not the link");
            assert!(roster.forget(peer, 2));
            assert!(!roster.has_links());
        }
    }
}

#[test]
fn another_run_is_refused_while_one_is_linked() {
    for (own, peer) in [(LOW, HIGH), (HIGH, LOW)] {
        let mut roster = Roster::new(own);
        roster.begin_accepted(peer, BOOT, 1, stop().0).unwrap();
        roster.establish(peer, 1, BOOT, Link::new().0).unwrap();
        let again = roster.begin_accepted(peer, BootId(2), 2, stop().0);
        assert_eq!(again, Err(Refusal::DuplicateIdentity));
        assert!(roster.forget(peer, 1));
        roster.begin_accepted(peer, BootId(2), 3, stop().0).unwrap();
    }
}

#[test]
fn a_link_stands_in_the_way_of_dialling() {
    let mut roster = Roster::new(LOW);
    roster.begin_dialled(HIGH, 1, stop().0).unwrap();
    assert_eq!(
        roster.begin_dialled(HIGH, 2, stop().0),
        Err(Refusal::AlreadyLinked)
    );
    roster.establish(HIGH, 1, BOOT, Link::new().0).unwrap();
    assert_eq!(
        roster.begin_dialled(HIGH, 3, stop().0),
        Err(Refusal::AlreadyLinked)
    );
    // What was refused leaves no trace.
    assert!(!roster.forget(HIGH, 3));
    assert!(roster.link(&HIGH).is_some());
}
