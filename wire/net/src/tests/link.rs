//! What an established session carries, and what it does when it is abused.

use cairn_wire::codec::{PRELUDE_BYTES, Plane, RawFrame};
use cairn_wire::data::Credit;
use cairn_wire::id::NodeId;
use cairn_wire::limits::CREDIT_WINDOW_FRAMES;
use cairn_wire::{DataFrame, Encoded, Violation};

use super::harness::{Node, message, node, pair, rows};
use crate::{Cause, CloseCause, CreditGuard, Event, Refused};

/// 256 KiB of payload.
const LARGE_WIDTH: u32 = 65_536;

fn data(node: &Node) -> (DataFrame, CreditGuard) {
    node.wait("Data", |event| match event {
        Event::Data { frame, guard, .. } => Some((frame, guard)),
        _ => None,
    })
}

/// Offers until there is a credit: they come back when the sender's thread gets to run.
fn offer(from: &Node, to: NodeId, frame: &DataFrame) {
    while let Err(returned) = from.net.offer(to, frame.clone()) {
        assert_eq!(returned.why, Refused::Full);
        ready(from);
    }
}

fn ready(node: &Node) {
    node.wait("LinkReady", |event| {
        matches!(event, Event::LinkReady { .. }).then_some(())
    });
}

#[test]
fn frames_arrive_whole_and_in_order_both_ways() {
    let (a, b) = pair();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for number in 0..300_u16 {
            let width = if number % 50 == 0 { LARGE_WIDTH } else { 256 };
            let frame = rows(width, f32::from(number));
            offer(from, to.id(), &frame);
            assert_eq!(data(to).0, frame);
        }
    }
}

#[test]
fn rows_are_aligned_where_they_arrive() {
    let (a, b) = pair();
    a.net.offer(b.id(), rows(LARGE_WIDTH, 0.5)).unwrap();
    let (DataFrame::Rows(frame), _guard) = data(&b) else {
        panic!("rows were sent");
    };
    assert_eq!(frame.payload().as_ptr() as usize % 16, 0);
    assert_eq!(frame.payload(), vec![0.5; LARGE_WIDTH as usize]);
}

#[test]
fn a_window_of_frames_and_no_more() {
    let (a, b) = pair();
    for _ in 0..CREDIT_WINDOW_FRAMES {
        a.net.offer(b.id(), rows(4, 1.0)).unwrap();
    }
    let returned = a.net.offer(b.id(), rows(4, 2.0)).unwrap_err();
    assert_eq!(returned.why, Refused::Full);
    assert_eq!(returned.frame, rows(4, 2.0));
    let mut guards: Vec<_> = (0..CREDIT_WINDOW_FRAMES).map(|_| data(&b).1).collect();
    // Still held: still full.
    assert_eq!(
        a.net.offer(b.id(), rows(4, 2.0)).unwrap_err().why,
        Refused::Full
    );
    guards.pop();
    ready(&a);
    a.net.offer(b.id(), rows(4, 3.0)).unwrap();
    let (frame, guard) = data(&b);
    assert_eq!(frame, rows(4, 3.0));
    guards.push(guard);
    assert_eq!(
        a.net.offer(b.id(), rows(4, 2.0)).unwrap_err().why,
        Refused::Full
    );
    drop(guards);
    // The batches' sizes depend on who is quicker; all come back in the end.
    for _ in 0..CREDIT_WINDOW_FRAMES {
        while a.net.offer(b.id(), rows(4, 4.0)).is_err() {
            ready(&a);
        }
        data(&b);
    }
}

#[test]
fn a_guard_kept_by_rows_goes_with_their_last_clone() {
    let (a, b) = pair();
    let mut kept = Vec::new();
    for _ in 0..CREDIT_WINDOW_FRAMES {
        a.net.offer(b.id(), rows(4, 1.0)).unwrap();
        let (DataFrame::Rows(frame), guard) = data(&b) else {
            panic!("rows were sent");
        };
        kept.push(frame.with_guard(Box::new(guard)));
    }
    assert!(a.net.offer(b.id(), rows(4, 1.0)).is_err());
    let clone = kept[0].clone();
    drop(kept.remove(0));
    assert!(a.net.offer(b.id(), rows(4, 1.0)).is_err());
    drop(clone);
    ready(&a);
    a.net.offer(b.id(), rows(4, 1.0)).unwrap();
}

#[test]
fn frames_without_credit_cut_the_link() {
    let (a, b) = pair();
    let link = a.net.shared.roster().link(&b.id()).unwrap();
    // Nothing is given back while these are held.
    let mut held = Vec::new();
    let cause = loop {
        // A sender that ignores its allowance.
        link.force_data(rows(4, 1.0).encode().unwrap()).ok();
        match b.events.try_recv() {
            Ok(Event::Data { guard, .. }) => held.push(guard),
            Ok(Event::Disconnected { cause, .. }) => break cause,
            Ok(other) => panic!("{other:?}"),
            Err(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(cause, Cause::Violation(Violation::Uncredited));
    assert_eq!(held.len(), CREDIT_WINDOW_FRAMES as usize);
    assert_eq!(a.disconnected(b.id()), Cause::There);
    // Nothing else feels it: the two may even meet again.
    a.link(&b);
}

#[test]
fn an_illegal_frame_cuts_the_link() {
    let (a, b) = pair();
    let mut bytes = DataFrame::Credit(Credit { frames: 1 })
        .encode()
        .unwrap()
        .bytes()
        .to_vec();
    bytes[PRELUDE_BYTES] = 0;
    let raw = RawFrame::copy_from(&bytes, Plane::Data).unwrap();
    let link = a.net.shared.roster().link(&b.id()).unwrap();
    link.force_data(Encoded::Owned(raw)).unwrap();
    assert_eq!(
        b.disconnected(a.id()),
        Cause::Violation(Violation::Empty { what: "the grant" })
    );
    a.disconnected(b.id());
}

#[test]
fn credits_out_of_nowhere_cut_the_link() {
    let (a, b) = pair();
    let link = a.net.shared.roster().link(&b.id()).unwrap();
    let grant = DataFrame::Credit(Credit { frames: 1 });
    link.force_data(grant.encode().unwrap()).unwrap();
    assert_eq!(
        b.disconnected(a.id()),
        Cause::Violation(Violation::Overgranted { frames: 1 })
    );
}

#[test]
fn a_lagging_actor_is_not_flooded() {
    let (a, b) = pair();
    let mut held = Vec::new();
    let mut sent = 0;
    // Until both queues, and whatever the system buffers, are full.
    loop {
        while let Ok(Event::Control { guard, .. }) = b.events.try_recv() {
            held.push(guard);
        }
        assert!(held.len() <= crate::link::CONTROL_IN_FLIGHT_MAX);
        match a.net.offer_control(b.id(), &message(sent)) {
            Ok(()) => sent += 1,
            Err(Refused::Full) if held.len() == crate::link::CONTROL_IN_FLIGHT_MAX => break,
            Err(Refused::Full) => std::thread::yield_now(),
            Err(other) => panic!("{other:?}"),
        }
    }
    drop(held);
    ready(&a);
    let last = b.wait("the last message", |event| match event {
        Event::Control { message: found, .. } if found == message(sent - 1) => Some(found),
        _ => None,
    });
    assert_eq!(last, message(sent - 1));
}

#[test]
fn close_is_seen_at_both_ends_and_the_link_can_be_made_again() {
    let (a, b) = pair();
    for _ in 0..5 {
        b.net.close(a.id(), CloseCause::Left);
        assert_eq!(b.disconnected(a.id()), Cause::Here(CloseCause::Left));
        assert_eq!(a.disconnected(b.id()), Cause::There);
        assert_eq!(
            a.net.offer_control(b.id(), &message(0)),
            Err(Refused::NoLink)
        );
        b.link(&a);
    }
    let c = node(3);
    c.link(&a);
    drop(b);
    a.wait("Disconnected", |event| {
        matches!(
            event,
            Event::Disconnected {
                cause: Cause::There,
                ..
            }
        )
        .then_some(())
    });
    c.net.offer_control(a.id(), &message(1)).unwrap();
    assert_eq!(a.control(), message(1));
}
