//! One machine against a script. Whole clusters are the simulated world's business.

use super::*;
use cairn_wire::id::Term;

const STEP: u64 = 10;

/// A machine under test, node 5, its clock and everything that it has ordered.
struct Bench {
    machine: Membership,
    now: Tick,
    orders: Vec<Output>,
}

fn id(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn boot(number: u64) -> BootId {
    BootId(number)
}

fn term(number: u64, leader: u8) -> Term {
    let leader = id(leader);
    Term { number, leader }
}

fn says(role: Role, term: Term, hears: &[u8]) -> Heartbeat {
    Heartbeat {
        boot: boot(1),
        term,
        role,
        term_number_max: term.number,
        hears: hears.iter().map(|number| id(*number)).collect(),
    }
}

fn seeks(hears: &[u8]) -> Heartbeat {
    says(Role::Seeking, Term::default(), hears)
}

impl Bench {
    fn new() -> Bench {
        Bench::with_first_term(0)
    }

    fn with_first_term(first_term: u64) -> Bench {
        let config = Config {
            me: id(5),
            boot: boot(1),
            timing: Timing::lan(),
            first_term,
        };
        let mut bench = Bench {
            machine: Membership::new(config, Tick(0)),
            now: Tick(0),
            orders: Vec::new(),
        };
        bench.machine.wake(Tick(0));
        bench.drain();
        bench.orders.clear();
        bench
    }

    fn tell(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(order) = self.machine.poll() {
            self.orders.push(order);
        }
        self.machine.check_invariants();
    }

    /// Lets time pass while the given peers repeat themselves.
    fn pass(&mut self, millis: u64, chatter: &[(u8, Heartbeat)]) {
        let end = self.now.after_millis(millis);
        while self.now < end {
            self.now = self.now.after_millis(STEP);
            for (peer, heartbeat) in chatter {
                self.heartbeat(*peer, heartbeat.clone());
            }
            if self.machine.deadline().is_some_and(|due| due <= self.now) {
                self.machine.wake(self.now);
                self.drain();
            }
        }
    }

    fn connect(&mut self, peer: u8) {
        self.tell(Input::Connected {
            peer: id(peer),
            boot: boot(1),
            dial: None,
        });
    }

    fn heartbeat(&mut self, peer: u8, heartbeat: Heartbeat) {
        let peer = id(peer);
        self.tell(Input::HeartbeatArrived { peer, heartbeat });
    }

    fn found(&mut self, node: u8, address: &str) {
        self.tell(Input::Found {
            node: id(node),
            addresses: vec![address.into()],
        });
    }

    fn fail(&mut self, dial: DialId, failure: DialFailure) {
        self.tell(Input::DialFailed { dial, failure });
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.orders)
    }

    fn dials(&mut self) -> Vec<(DialId, Option<NodeId>, Vec<String>)> {
        let dials = self.take().into_iter().filter_map(|order| match order {
            Output::Dial {
                dial,
                node,
                addresses,
            } => Some((dial, node, addresses)),
            _ => None,
        });
        dials.collect()
    }

    fn events(&mut self) -> Vec<Event> {
        let events = self.take().into_iter().filter_map(|order| match order {
            Output::Event(event) => Some(event),
            _ => None,
        });
        events.collect()
    }

    fn role(&self) -> (Role, Term) {
        let members = self.machine.members();
        (members.role, members.term)
    }
}

#[test]
fn a_lonely_node_leads_itself_only_after_the_others_had_time_to_be_found() {
    let mut bench = Bench::with_first_term(41);
    bench.pass(1_400, &[]);
    assert_eq!(bench.role(), (Role::Seeking, Term::default()));
    bench.pass(200, &[]);
    assert_eq!(bench.role(), (Role::Leading, term(42, 5)));
}

#[test]
fn a_claim_is_persisted_before_anyone_hears_of_it() {
    let mut bench = Bench::new();
    bench.connect(7);
    bench.heartbeat(7, seeks(&[5]));
    bench.take();
    bench.pass(400, &[(7, seeks(&[5]))]);
    let orders = bench.take();
    let claim = |order: &Output| match order {
        Output::SendHeartbeat { heartbeat, .. } => heartbeat.role == Role::Leading,
        Output::MembersChanged(members) => members.role == Role::Leading,
        _ => false,
    };
    let persisted = orders
        .iter()
        .position(|order| *order == Output::PersistTerm(1));
    let claimed = orders.iter().position(claim);
    assert!(persisted.is_some() && persisted < claimed, "{orders:?}");
    assert_eq!(bench.role(), (Role::Leading, term(1, 5)));
}

#[test]
fn the_lowest_id_that_is_heard_both_ways_claims() {
    let mut bench = Bench::new();
    bench.connect(3);
    bench.pass(600, &[(3, seeks(&[5]))]);
    assert_eq!(bench.role().0, Role::Seeking, "3 is lower and hears 5");
    bench.pass(600, &[(3, seeks(&[]))]);
    assert_eq!(bench.role().0, Role::Leading, "3 does not hear 5 any more");
}

#[test]
fn nobody_claims_beside_a_leader_that_only_others_hear() {
    let mut bench = Bench::new();
    bench.connect(7);
    let follower = says(Role::Following, term(4, 2), &[5, 2]);
    bench.pass(3_000, &[(7, follower)]);
    assert_eq!(bench.role().0, Role::Seeking);
}

#[test]
fn a_follower_needs_its_leader_to_hear_it_and_to_claim_the_term() {
    let leads = says(Role::Leading, term(4, 2), &[5]);
    for (broken, what) in [
        (says(Role::Leading, term(4, 2), &[]), "deaf"),
        (says(Role::Seeking, term(4, 2), &[5]), "claims no more"),
        (says(Role::Following, term(4, 9), &[5]), "follows another"),
    ] {
        let mut bench = Bench::new();
        bench.connect(2);
        bench.heartbeat(2, leads.clone());
        assert_eq!(bench.role(), (Role::Following, term(4, 2)));
        bench.heartbeat(2, broken);
        assert_eq!(bench.role(), (Role::Seeking, term(4, 2)), "{what}");
        bench.heartbeat(2, leads.clone());
        assert_eq!(bench.role(), (Role::Following, term(4, 2)), "{what}, back");
    }
}

#[test]
fn a_leader_with_followers_keeps_its_term_against_lower_claims_and_yields_to_higher() {
    let mut bench = Bench::with_first_term(6);
    bench.connect(7);
    bench.pass(400, &[(7, seeks(&[5]))]);
    let mine = term(7, 5);
    let follower = says(Role::Following, mine, &[5]);
    bench.heartbeat(7, follower.clone());
    bench.connect(2);
    bench.heartbeat(2, says(Role::Leading, term(7, 2), &[5, 9]));
    assert_eq!(bench.role(), (Role::Leading, mine), "same number, lower id");
    bench.heartbeat(2, says(Role::Leading, term(8, 2), &[5, 9]));
    assert_eq!(bench.role(), (Role::Following, term(8, 2)));
}

#[test]
fn a_leader_of_nobody_steps_down_for_a_cluster_of_a_lower_term_before_it_can_be_followed() {
    for cluster in [
        says(Role::Following, term(3, 2), &[2]),
        says(Role::Leading, term(3, 8), &[2]),
    ] {
        let mut bench = Bench::with_first_term(10);
        bench.pass(2_000, &[]);
        assert_eq!(bench.role(), (Role::Leading, term(11, 5)));
        bench.connect(8);
        bench.take();
        bench.heartbeat(8, cluster);
        let followable = bench.take().into_iter().any(|order| match order {
            Output::SendHeartbeat { heartbeat, .. } => {
                heartbeat.role == Role::Leading && heartbeat.hears.contains(&id(8))
            }
            _ => false,
        });
        assert!(!followable);
        assert_eq!(bench.role(), (Role::Seeking, term(11, 5)));
    }
}

#[test]
fn a_leader_whose_followers_have_not_heard_of_its_new_term_is_no_newcomer() {
    let mut bench = Bench::new();
    bench.connect(7);
    bench.connect(8);
    let all = [(7, seeks(&[5, 8])), (8, seeks(&[5, 7]))];
    bench.pass(400, &all);
    bench.heartbeat(7, says(Role::Following, term(1, 5), &[5, 8]));
    bench.heartbeat(8, says(Role::Seeking, term(4, 3), &[5, 7]));
    assert_eq!(bench.role(), (Role::Leading, term(5, 5)));
    bench.heartbeat(8, says(Role::Following, term(4, 3), &[5, 7]));
    assert_eq!(bench.role(), (Role::Leading, term(5, 5)));
}

#[test]
fn a_follower_says_so_at_once() {
    let mut bench = Bench::new();
    bench.connect(2);
    bench.heartbeat(2, seeks(&[5]));
    bench.take();
    bench.heartbeat(2, says(Role::Leading, term(4, 2), &[5]));
    let said = bench.take().into_iter().any(|order| match order {
        Output::SendHeartbeat { peer, heartbeat } => {
            peer == id(2) && heartbeat.role == Role::Following
        }
        _ => false,
    });
    assert!(said);
}

#[test]
fn a_leader_passes_the_term_of_a_member_that_cannot_go_back_and_only_then() {
    let mut bench = Bench::new();
    bench.connect(7);
    bench.pass(400, &[(7, seeks(&[5]))]);
    let follower = says(Role::Following, term(1, 5), &[5]);
    bench.heartbeat(7, follower.clone());
    bench.connect(8);
    bench.heartbeat(8, says(Role::Following, term(9, 3), &[5, 3]));
    assert_eq!(bench.role(), (Role::Leading, term(1, 5)), "8 has a leader");
    bench.heartbeat(8, says(Role::Seeking, term(9, 3), &[5]));
    assert_eq!(bench.role(), (Role::Leading, term(10, 5)));
}

#[test]
fn silence_is_suspected_then_ends_in_a_closed_connection() {
    let mut bench = Bench::new();
    bench.connect(2);
    bench.heartbeat(2, says(Role::Leading, term(4, 2), &[5]));
    bench.pass(350, &[]);
    let health = |bench: &Bench| {
        bench
            .machine
            .members()
            .members
            .get(&id(2))
            .map(|m| m.health)
    };
    assert_eq!(health(&bench), Some(Health::Sound));
    bench.pass(150, &[]);
    assert_eq!(health(&bench), Some(Health::Suspect));
    bench.take();
    bench.pass(400, &[]);
    assert_eq!(health(&bench), None);
    let orders = bench.take();
    assert!(orders.contains(&Output::Close { peer: id(2) }));
    let (node, cause) = (id(2), LossCause::Silent);
    assert!(orders.contains(&Output::Event(Event::MemberLost { node, cause })));
    assert_eq!(bench.role().0, Role::Seeking);
    bench.pass(350, &[]);
    assert_eq!(bench.role().0, Role::Leading);
}

#[test]
fn time_in_which_this_node_did_not_run_is_not_the_silence_of_others() {
    let mut bench = Bench::new();
    bench.connect(2);
    bench.heartbeat(2, says(Role::Leading, term(4, 2), &[5]));
    bench.take();
    bench.now = bench.now.after_millis(5_000);
    bench.machine.wake(bench.now);
    bench.drain();
    assert!(!bench.take().contains(&Output::Close { peer: id(2) }));
    assert_eq!(bench.role().0, Role::Following);
    bench.pass(900, &[]);
    assert!(
        bench.take().contains(&Output::Close { peer: id(2) }),
        "but later is"
    );
}

#[test]
fn a_node_that_is_always_late_still_notices_a_death() {
    let mut bench = Bench::new();
    bench.connect(2);
    bench.heartbeat(2, says(Role::Leading, term(4, 2), &[5]));
    for _ in 0..12 {
        bench.now = bench.now.after_millis(250);
        bench.machine.wake(bench.now);
        bench.drain();
    }
    assert!(bench.take().contains(&Output::Close { peer: id(2) }));
}

#[test]
fn each_loss_is_told_with_its_cause() {
    let joined = |bench: &mut Bench| {
        bench.connect(7);
        bench.heartbeat(7, seeks(&[5]));
        bench.take();
    };
    let lost = |cause| Event::MemberLost { node: id(7), cause };
    let peer = id(7);
    let table: [(Vec<Input>, LossCause); 5] = [
        (vec![Input::Disconnected { peer }], LossCause::Disconnected),
        (
            vec![Input::LeaveArrived { peer }, Input::Disconnected { peer }],
            LossCause::Left,
        ),
        (vec![Input::LeaveOrdered], LossCause::WeLeave),
        (
            vec![Input::Connected {
                peer,
                boot: boot(2),
                dial: None,
            }],
            LossCause::Restarted,
        ),
        (
            vec![Input::HeartbeatArrived {
                peer,
                heartbeat: seeks(&[]),
            }],
            LossCause::Deaf,
        ),
    ];
    for (inputs, cause) in table {
        let mut bench = Bench::new();
        joined(&mut bench);
        for input in inputs {
            bench.tell(input);
        }
        let events = bench.events();
        let losses: Vec<_> = events
            .iter()
            .filter(|event| matches!(event, Event::MemberLost { .. }))
            .collect();
        assert_eq!(losses, [&lost(cause)]);
    }
}

#[test]
fn a_broken_rule_closes_the_link_by_name() {
    let honest = seeks(&[5]);
    let other_run = Heartbeat {
        boot: boot(9),
        ..honest.clone()
    };
    let thief = says(Role::Leading, term(3, 9), &[5]);
    let liar = Heartbeat {
        term_number_max: 2,
        ..says(Role::Seeking, term(3, 9), &[5])
    };
    let flood = Heartbeat {
        hears: vec![id(9); NODES_MAX + 1],
        ..honest.clone()
    };
    for heartbeat in [other_run, thief, liar, flood] {
        let mut bench = Bench::new();
        bench.connect(7);
        bench.heartbeat(7, honest.clone());
        bench.take();
        bench.heartbeat(7, heartbeat);
        let orders = bench.take();
        assert!(
            orders.contains(&Output::Close { peer: id(7) }),
            "{orders:?}"
        );
        assert_eq!(bench.machine.members().members.len(), 1);
    }
}

#[test]
fn the_lower_id_dials_at_once_and_the_higher_two_seconds_later() {
    let mut bench = Bench::new();
    bench.found(7, "b:1");
    let dials = bench.dials();
    assert_eq!(dials.len(), 1);
    assert_eq!(dials[0].1, Some(id(7)));
    assert_eq!(dials[0].2, ["b:1"]);

    let mut bench = Bench::new();
    bench.found(3, "a:1");
    bench.pass(1_900, &[]);
    assert_eq!(bench.dials(), []);
    bench.pass(200, &[]);
    assert_eq!(bench.dials().len(), 1);
}

#[test]
fn a_named_address_is_dialled_for_ever_ever_slower() {
    let mut bench = Bench::new();
    bench.tell(Input::Named {
        address: "far:1".into(),
    });
    let mut at = Vec::new();
    while at.len() < 9 {
        for (dial, node, _) in bench.dials() {
            assert_eq!(node, None);
            at.push(bench.now.0);
            bench.fail(dial, DialFailure::Unreachable);
        }
        bench.pass(STEP, &[]);
    }
    let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        pauses.windows(2).all(|pair| pair[0] <= pair[1]),
        "{pauses:?}"
    );
    let longest = *pauses.last().expect("nine dials have eight pauses");
    assert!((5_000..=5_100).contains(&longest), "{pauses:?}");
}

#[test]
fn a_lost_peer_is_redialled_at_once_and_one_that_left_is_not() {
    let mut bench = Bench::new();
    bench.found(7, "b:1");
    let (dial, ..) = bench.dials().remove(0);
    let peer = id(7);
    let connected = Input::Connected {
        peer,
        boot: boot(1),
        dial: Some(dial),
    };
    bench.tell(connected.clone());
    bench.tell(Input::Disconnected { peer });
    let again = bench.dials();
    assert_eq!(again.len(), 1);
    bench.tell(Input::Connected {
        peer,
        boot: boot(1),
        dial: Some(again[0].0),
    });
    bench.tell(Input::LeaveArrived { peer });
    bench.tell(Input::Disconnected { peer });
    bench.pass(20_000, &[]);
    assert_eq!(bench.dials(), []);
}

#[test]
fn a_dial_that_is_never_answered_is_given_up() {
    let mut bench = Bench::new();
    bench.found(7, "b:1");
    assert_eq!(bench.dials().len(), 1);
    bench.pass(9_800, &[]);
    assert_eq!(bench.dials(), []);
    bench.pass(400, &[]);
    assert_eq!(bench.dials().len(), 1);
}

#[test]
fn addresses_go_to_members_that_do_not_hear_the_node_and_to_no_others() {
    let mut bench = Bench::new();
    bench.tell(Input::Listening {
        addresses: vec!["me:1".into()],
    });
    bench.connect(6);
    bench.heartbeat(6, seeks(&[5, 7]));
    bench.connect(8);
    bench.heartbeat(8, seeks(&[5]));
    bench.connect(7);
    bench.heartbeat(7, seeks(&[5]));
    bench.take();
    bench.tell(Input::PeersArrived {
        peer: id(7),
        list: vec![PeerAddress {
            node: id(7),
            addresses: vec!["seven:1".into()],
        }],
    });
    let told: Vec<_> = bench
        .take()
        .into_iter()
        .filter_map(|order| match order {
            Output::SendPeers { peer, list } => Some((peer, list)),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, id(8));
    assert_eq!(told[0].1[0].addresses, ["seven:1"]);
}

#[test]
fn nobody_found_names_what_is_known() {
    let nobody = |bench: &mut Bench| {
        bench.pass(10_500, &[]);
        let events = bench.events();
        let mut causes = events.into_iter().filter_map(|event| match event {
            Event::NobodyFound { causes } => Some(causes),
            _ => None,
        });
        let first = causes.next();
        assert_eq!(causes.next(), None, "said once");
        first.expect("said within 10.5 s")
    };
    assert_eq!(nobody(&mut Bench::new()), [NobodyCause::NothingAnnounced]);

    let mut bench = Bench::new();
    bench.tell(Input::MulticastMissing {
        detail: "no interface".into(),
    });
    bench.tell(Input::OtherClusterFound {
        cluster: "attic".into(),
    });
    for (node, address, failure) in [
        (7, "b:1", DialFailure::WrongSecret),
        (8, "c:1", DialFailure::Unreachable),
    ] {
        bench.found(node, address);
        let (dial, ..) = bench.dials().remove(0);
        bench.fail(dial, failure);
    }
    let expected = [
        NobodyCause::Refused {
            addresses: vec!["b:1".into()],
            failure: DialFailure::WrongSecret,
        },
        NobodyCause::Unreachable {
            addresses: vec!["c:1".into()],
        },
        NobodyCause::MulticastMissing {
            detail: "no interface".into(),
        },
        NobodyCause::OtherCluster {
            cluster: "attic".into(),
        },
    ];
    assert_eq!(nobody(&mut bench), expected);
}

#[test]
fn a_refusal_is_told_once_per_reason() {
    let mut bench = Bench::new();
    bench.found(7, "b:1");
    let mut told = Vec::new();
    for failure in [
        DialFailure::WrongSecret,
        DialFailure::WrongSecret,
        DialFailure::OtherVersion,
    ] {
        let (dial, ..) = bench.dials().remove(0);
        bench.fail(dial, failure);
        told.extend(bench.events());
        bench.pass(5_100, &[]);
    }
    let refused = |failure| Event::PeerRefused {
        addresses: vec!["b:1".into()],
        failure,
    };
    told.retain(|event| matches!(event, Event::PeerRefused { .. }));
    assert_eq!(
        told,
        [
            refused(DialFailure::WrongSecret),
            refused(DialFailure::OtherVersion)
        ]
    );
}

#[test]
fn the_address_book_is_bounded() {
    let mut bench = Bench::new();
    for number in 0..dial::KNOWN_MAX + 10 {
        let mut key = [9; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        bench.machine.handle(
            bench.now,
            Input::Found {
                node: NodeId(key),
                addresses: vec!["x:1".into()],
            },
        );
    }
    assert_eq!(bench.machine.dialer.len(), dial::KNOWN_MAX);
    for port in 0..20 {
        bench.found(9, &format!("y:{port}"));
    }
    bench.drain();
}
