//! What standbys are for: the layers of an owner that is lost are in memory elsewhere.

use std::sync::Arc;

use cairn_machine::placement::Note;
use cairn_tests::fault::{Fault, Script};
use cairn_tests::host::Device;
use cairn_tests::net::Seat;
use cairn_tests::world::{Sabotage, World};
use cairn_wire::control::Plan;

const SEEDS: u64 = 30;
/// Room for the whole model, and alike, so that each stands by for others.
const ROOMY: Device = Device {
    memory_bytes: 1 << 30,
    bytes_per_second: 1 << 30,
    slowness_permille: 1_000,
    noise_permille: 0,
};

fn newest(world: &World) -> Arc<Plan> {
    let plans = world.hosts().filter_map(|(_, host)| host.adopted());
    let newest = plans.max_by_key(|plan| plan.id).expect("it serves");
    Arc::clone(newest)
}

fn layers_read(world: &World) -> u64 {
    world.hosts().map(|(_, host)| host.layers_read()).sum()
}

#[test]
fn when_an_owner_is_lost_nothing_is_read_before_the_next_plan() {
    for seed in 0..SEEDS {
        for lost in 0..3 {
            let mut script = Script::calm(3, 100);
            script.device = Some(ROOMY);
            let mut world = World::new(seed, &script, Sabotage::Nothing);
            world.run_until(script.quiet_at.after_millis(10_000));
            let before = newest(&world);
            assert_eq!(before.stages.len(), 3, "seed {seed}");
            let covered = |plan: &Plan| plan.stages.iter().all(|stage| !stage.standbys.is_empty());
            assert!(covered(&before), "seed {seed}: {:?}", before.stages);

            let mut seats = (0..3).map(Seat);
            let seat = seats.find(|seat| world.id(*seat) == before.stages[lost].node);
            world.cause(Fault::Kill(seat.expect("it sits somewhere")));
            // What the lost one had read is not counted any more.
            let read = layers_read(&world);
            let since = world.now();
            while newest(&world).id == before.id {
                world.run_until(world.now().after_millis(5));
                let waited = world.now().millis_since(since);
                assert!(waited < 10_000, "seed {seed}, stage {lost}: no plan");
            }
            let stopgap = newest(&world);
            assert_eq!(stopgap.explain.strategy, "takeover", "seed {seed}");
            assert_eq!(layers_read(&world), read, "seed {seed}, stage {lost}");
            let told = |(_, _, note): &&(_, _, Note)| matches!(note, Note::TakingOver { .. });
            assert_eq!(world.notes().iter().filter(told).count(), 1, "seed {seed}");

            world.run_until(world.now().after_millis(20_000));
            assert!(world.serves(), "seed {seed}, stage {lost}");
            let settled = newest(&world);
            assert_eq!(settled.explain.strategy, "uniform", "seed {seed}");
            assert_eq!(settled.stages.len(), 2, "seed {seed}");
            assert!(covered(&settled), "seed {seed}: {:?}", settled.stages);
        }
    }
}
