//! Layers move when a node has become slow, once; and for nothing else.

use cairn_machine::Tick;
use cairn_machine::placement::Note;
use cairn_planner::Strategy;
use cairn_tests::fault::{Fault, Script};
use cairn_tests::host::Device;
use cairn_tests::net::Seat;
use cairn_tests::world::{Sabotage, World};
use cairn_wire::id::NodeId;

const SEEDS: u64 = 20;

/// Holds five of the model's twelve layers beside what a process takes.
const SMALL: Device = Device {
    memory_bytes: (60 << 20) + (11 << 19),
    // Five milliseconds a layer.
    bytes_per_second: 200 << 20,
    slowness_permille: 1_000,
    noise_permille: 0,
};

/// Small nodes that serve.
fn serving(seed: u64, seats: usize, strategy: Strategy) -> World {
    let mut script = Script::calm(seats, 100);
    script.strategy = strategy;
    script.device = Some(SMALL);
    let mut world = World::new(seed, &script, Sabotage::Nothing);
    world.run_until(script.quiet_at.after_millis(10_000));
    assert!(world.serves(), "seed {seed}");
    world
}

/// Lets time pass while one client after another asks at `seat`.
fn pass(world: &mut World, seat: Seat, millis: u64) {
    let end = world.now().after_millis(millis);
    while world.now() < end {
        if world.pending().next().is_none() {
            world.cause(Fault::Ask(seat));
        }
        world.run_until(world.now().after_millis(20));
    }
}

/// The layers of a node under the newest plan.
fn layers_of(world: &World, node: NodeId) -> u32 {
    let plans = world.hosts().filter_map(|(_, host)| host.adopted());
    let newest = plans.max_by_key(|plan| plan.id).expect("it serves");
    let stages = newest.stages.iter().filter(|stage| stage.node == node);
    stages.map(|stage| stage.end - stage.first).sum()
}

fn seat_of(world: &World, node: NodeId) -> Seat {
    let mut seats = (0..).map(Seat);
    seats.find(|seat| world.id(*seat) == node).expect("it sits")
}

fn leader(world: &World) -> NodeId {
    let mut leaders = world.hosts().map(|(_, host)| host.members().leader());
    leaders.next().flatten().expect("it serves")
}

/// An owner of most layers that neither leads nor is asked.
fn victim(world: &World, asked: Seat) -> NodeId {
    let leader = leader(world);
    let nodes = world.hosts().map(|(node, _)| node);
    let others = nodes.filter(|node| *node != leader && *node != world.id(asked));
    let most = others.max_by_key(|node| layers_of(world, *node));
    most.expect("there are others")
}

fn moves(world: &World) -> Vec<(Tick, String)> {
    let notes = world.notes().iter().filter_map(|(at, _, note)| match note {
        Note::Replanning { why } => Some((*at, why.clone())),
        _ => None,
    });
    notes.collect()
}

#[test]
fn a_node_that_grows_slow_is_relieved_once_within_half_a_minute() {
    for strategy in [Strategy::Optimal, Strategy::Compute, Strategy::Balanced] {
        for seed in 0..SEEDS {
            let mut world = serving(seed, 4, strategy.clone());
            let asked = Seat(0);
            pass(&mut world, asked, 15_000);
            assert_eq!(moves(&world), [], "seed {seed}");
            let slow = victim(&world, asked);
            let (before, plans) = (layers_of(&world, slow), world.checker().plans_adopted());
            assert!(before > 0, "seed {seed}, {strategy:?}");
            let since = world.now();
            let seat = seat_of(&world, slow);
            world.cause(Fault::Slow(seat, 5_000));
            pass(&mut world, asked, 30_000);
            let moved = moves(&world);
            assert_eq!(moved.len(), 1, "seed {seed}, {strategy:?}: {moved:?}");
            assert!(layers_of(&world, slow) < before, "seed {seed}: {moved:?}");
            let took = moved[0].0.millis_since(since);
            assert!(took < 25_000, "seed {seed}: {took} ms");
            pass(&mut world, asked, 90_000);
            let moved = moves(&world);
            assert_eq!(moved.len(), 1, "seed {seed}, {strategy:?}: {moved:?}");
            assert_eq!(world.checker().plans_adopted(), plans + 1, "seed {seed}");
            assert_eq!(world.aborts(), [], "seed {seed}: an answer did not survive");
        }
    }
}

#[test]
fn noise_moves_nothing() {
    for seed in 0..SEEDS {
        let mut world = serving(seed, 4, Strategy::Optimal);
        (0..4).for_each(|seat| world.cause(Fault::Noise(Seat(seat), 80)));
        pass(&mut world, Seat(0), 300_000);
        assert_eq!(moves(&world), [], "seed {seed}");
    }
}

#[test]
fn nodes_that_are_all_slower_than_they_told_keep_their_layers() {
    for seed in 0..SEEDS {
        let mut world = serving(seed, 4, Strategy::Optimal);
        (0..4).for_each(|seat| world.cause(Fault::Slow(Seat(seat), 1_700)));
        pass(&mut world, Seat(0), 120_000);
        assert_eq!(moves(&world), [], "seed {seed}");
    }
}

#[test]
fn shares_that_do_not_follow_speed_stay() {
    for strategy in [Strategy::Uniform, Strategy::Memory] {
        let mut world = serving(1, 4, strategy);
        let slow = victim(&world, Seat(0));
        let seat = seat_of(&world, slow);
        world.cause(Fault::Slow(seat, 5_000));
        pass(&mut world, Seat(0), 60_000);
        assert_eq!(moves(&world), []);
    }
}

#[test]
fn whoever_leads_next_does_not_give_a_slow_node_its_layers_back() {
    for seed in 0..SEEDS {
        let mut world = serving(seed, 5, Strategy::Optimal);
        let asked = (0..5)
            .map(Seat)
            .find(|seat| world.id(*seat) != leader(&world));
        let asked = asked.expect("four follow");
        pass(&mut world, asked, 15_000);
        let slow = victim(&world, asked);
        let seat = seat_of(&world, slow);
        world.cause(Fault::Slow(seat, 5_000));
        pass(&mut world, asked, 30_000);
        assert_eq!(moves(&world).len(), 1, "seed {seed}");
        assert_eq!(layers_of(&world, slow), 0, "seed {seed}");
        let old = seat_of(&world, leader(&world));
        world.cause(Fault::Kill(old));
        world.run_until(world.now().after_millis(10_000));
        assert!(world.serves(), "seed {seed}");
        assert_eq!(
            layers_of(&world, slow),
            0,
            "seed {seed}: the next leader forgot"
        );
        pass(&mut world, asked, 90_000);
        assert_eq!(moves(&world).len(), 1, "seed {seed}: {:?}", moves(&world));
        assert_eq!(layers_of(&world, slow), 0, "seed {seed}");
    }
}
