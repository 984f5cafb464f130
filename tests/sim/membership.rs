//! Clusters that live through one thing at a time.

use cairn_machine::Tick;
use cairn_machine::member::{Event, LossCause};
use cairn_tests::fault::{Discovery, Fault, Script};
use cairn_tests::net::Seat;
use cairn_tests::rng::Rng;
use cairn_tests::world::{Sabotage, World};
use cairn_wire::id::NodeId;

const SEEDS: u64 = 40;

fn calm_world(seed: u64, seats: usize, apart_millis: u64) -> (World, Script) {
    let script = Script::calm(seats, apart_millis);
    (World::new(seed, &script, Sabotage::Nothing), script)
}

fn leader(world: &World) -> Option<NodeId> {
    let mut leaders = world.hosts().map(|(_, host)| host.members().leader());
    let first = leaders.next().flatten();
    leaders
        .all(|other| other == first)
        .then_some(first)
        .flatten()
}

fn seat_of(world: &World, node: NodeId) -> Seat {
    (0..)
        .map(Seat)
        .find(|seat| world.id(*seat) == node)
        .expect("a node sits somewhere")
}

/// Milliseconds from now to agreement.
fn until_agreed(world: &mut World, within_millis: u64) -> u64 {
    let start = world.now();
    while !world.agrees() {
        let waited = world.now().millis_since(start);
        assert!(
            waited < within_millis,
            "no agreement within {within_millis} ms"
        );
        world.run_until(world.now().after_millis(5));
    }
    world.now().millis_since(start)
}

#[test]
fn a_newcomer_never_deposes_the_leader_nor_changes_the_term() {
    for seed in 0..SEEDS {
        let (mut world, script) = calm_world(seed, 6, 3_000);
        world.run_until(Tick(2_900));
        let first = world.id(Seat(0));
        assert_eq!(leader(&world), Some(first), "seed {seed}");
        world.run_until(script.quiet_at.after_millis(2_000));
        assert!(world.agrees(), "seed {seed}");
        assert_eq!(leader(&world), Some(first), "seed {seed}");
        assert_eq!(world.checker().terms_led(), 1, "seed {seed}");
    }
}

#[test]
fn a_restarted_node_with_a_higher_term_on_its_disk_does_not_depose_the_leader() {
    for seed in 0..SEEDS {
        // The last seat burns terms alone before it meets the others.
        let mut script = Script::calm(4, 0);
        let alone = Seat(3);
        for other in [Seat(0), Seat(1), Seat(2)] {
            script
                .faults
                .push((Tick(0), Fault::CutBothWays(alone, other)));
        }
        for round in 1..6 {
            script
                .faults
                .push((Tick(round * 2_000), Fault::Kill(alone)));
            script
                .faults
                .push((Tick(round * 2_000 + 10), Fault::Start(alone)));
        }
        script.faults.push((Tick(13_000), Fault::Heal));
        let mut world = World::new(seed, &script, Sabotage::Nothing);
        world.run_until(Tick(12_900));
        let before = world.members_of(Seat(0)).leader();
        assert!(
            before.is_some() && before != Some(world.id(alone)),
            "seed {seed}"
        );
        assert!(
            world.members_of(alone).term > world.members_of(Seat(0)).term,
            "seed {seed}"
        );
        world.run_until(Tick(13_000));
        until_agreed(&mut world, 20_000);
        assert_eq!(leader(&world), before, "seed {seed}");
    }
}

#[test]
fn a_killed_leader_is_replaced_within_half_a_second_and_a_dark_one_within_two() {
    for (fault, within_millis, cause) in [
        (
            Fault::Kill as fn(Seat) -> Fault,
            500,
            LossCause::Disconnected,
        ),
        (Fault::PowerLoss, 2_000, LossCause::Silent),
        (Fault::Leave, 500, LossCause::Left),
    ] {
        for seed in 0..SEEDS {
            let (mut world, script) = calm_world(seed, 5, 100);
            world.run_until(script.quiet_at.after_millis(4_000));
            let old = leader(&world).expect("a calm cluster has a leader");
            let seat = seat_of(&world, old);
            world.cause(fault(seat));
            world.run_until(world.now().after_millis(60));
            until_agreed(&mut world, within_millis);
            assert_ne!(leader(&world), Some(old), "seed {seed}");
            let told = world.events().iter().filter(|(_, _, event)| {
                matches!(event, Event::MemberLost { node, cause: told } if *node == old && *told == cause)
            });
            assert_eq!(
                told.count(),
                4,
                "seed {seed}: each survivor names the cause"
            );
        }
    }
}

#[test]
fn both_sides_of_a_split_have_a_leader_and_one_is_left_when_it_heals() {
    for seed in 0..SEEDS {
        let (mut world, script) = calm_world(seed, 6, 100);
        world.run_until(script.quiet_at.after_millis(4_000));
        world.cause(Fault::Split(0b000_111));
        world.run_until(world.now().after_millis(3_000));
        let sides = [[0, 1, 2], [3, 4, 5]].map(|side| {
            let leaders = side.map(|seat| world.members_of(Seat(seat)).leader());
            assert!(
                leaders.iter().all(|leader| *leader == leaders[0]),
                "seed {seed}"
            );
            leaders[0].expect("each side has a leader")
        });
        assert_ne!(sides[0], sides[1]);
        world.cause(Fault::Heal);
        let took = until_agreed(&mut world, 20_000);
        assert!(
            sides.contains(&leader(&world).expect("agreed")),
            "seed {seed}, {took} ms"
        );
    }
}

#[test]
fn one_named_address_makes_a_full_mesh() {
    for discovery in [Discovery::NamedChain, Discovery::NamedFirst] {
        for seed in 0..SEEDS {
            let mut script = Script::calm(8, 200);
            script.discovery = discovery;
            let mut world = World::new(seed, &script, Sabotage::Nothing);
            world.run_until(script.quiet_at);
            let took = until_agreed(&mut world, 10_000);
            assert!(took < 6_000, "seed {seed}: {took} ms");
        }
    }
}

#[test]
fn pauses_of_a_busy_processor_are_no_deaths() {
    for seed in 0..10 {
        let (mut world, script) = calm_world(seed, 8, 50);
        world.run_until(script.quiet_at.after_millis(4_000));
        assert!(world.agrees());
        let mut rng = Rng::new(seed);
        let told = world.events().len();
        for pause in 0..600 {
            world.cause(Fault::Freeze(Seat(pause % 8), rng.between(50, 500)));
            world.run_until(world.now().after_millis(100));
        }
        assert_eq!(world.events()[told..], [], "seed {seed}");
        assert_eq!(world.checker().terms_led(), 1, "seed {seed}");
    }
}

/// Cuts that last: not everyone hears everyone, for ever. Two nodes that outbid each other
/// through a third would burn terms without end.
#[test]
fn standing_cuts_burn_no_terms() {
    for seed in 0..SEEDS * 3 {
        let mut rng = Rng::new(seed);
        let seats = rng.between(3, 7) as usize;
        let (mut world, script) = calm_world(seed, seats, 100);
        world.run_until(script.quiet_at.after_millis(3_000));
        for _ in 0..rng.between(1, seats as u64) {
            let (one, other) = (rng.below(seats as u64), rng.below(seats as u64));
            world.cause(Fault::CutBothWays(Seat(one as usize), Seat(other as usize)));
        }
        world.run_until(world.now().after_millis(15_000));
        let before = world.checker().terms_led();
        world.run_until(world.now().after_millis(60_000));
        assert_eq!(world.checker().terms_led(), before, "seed {seed}");
        let mut leaders = world
            .hosts()
            .filter_map(|(_, host)| host.members().leader());
        assert!(
            leaders.next().is_some(),
            "seed {seed}: nobody leads anybody"
        );
    }
}

#[test]
fn a_node_without_peers_says_so_once_and_serves_alone() {
    let (mut world, _) = calm_world(7, 1, 0);
    world.run_until(Tick(60_000));
    let nobody = |event: &Event| matches!(event, Event::NobodyFound { .. });
    let told = world.events().iter().filter(|(_, _, event)| nobody(event));
    assert_eq!(told.count(), 1);
    assert_eq!(leader(&world), Some(world.id(Seat(0))));
}

#[test]
fn fifty_nodes_that_start_together_agree_within_three_seconds() {
    let (mut world, _) = calm_world(1, 50, 0);
    world.run_until(Tick(3_000));
    assert!(world.agrees());
}
