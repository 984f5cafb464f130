//! Many seeds, everything at once: safety after each step, agreement once faults stop.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cairn_machine::Tick;
use cairn_machine::pipeline::RequestId;
use cairn_tests::fault::{Fault, Script};
use cairn_tests::net::Seat;
use cairn_tests::rng::Rng;
use cairn_tests::world::{Sabotage, World};

/// Seeds of an ordinary run.
const SEEDS: u64 = 300;
/// Virtual time from the last fault to agreement: the longest pause between two dials, a dial
/// that times out, another announcement.
const AGREE_WITHIN_MILLIS: u64 = 20_000;
/// Virtual time for which agreement has to last.
const AGREE_FOR_MILLIS: u64 = 5_000;

/// Virtual time from agreement to one plan in force everywhere: a proof that stalls, a retry.
const SERVE_WITHIN_MILLIS: u64 = 60_000;
/// Virtual time in which an idle cluster answers.
const ANSWER_WITHIN_MILLIS: u64 = 30_000;

/// What a world came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    agreed_after_millis: u64,
    served_after_millis: u64,
    answered: usize,
    aborted: usize,
    plans: usize,
    digest: u64,
}

/// Runs one world to its end, or panics with what was wrong.
fn live(world: &mut World, script: &Script) -> Outcome {
    world.run_until(script.quiet_at);
    let mut agreed_at = script.quiet_at;
    while !world.agrees() {
        let waited = agreed_at.millis_since(script.quiet_at);
        assert!(waited < AGREE_WITHIN_MILLIS, "no agreement");
        agreed_at = agreed_at.after_millis(10);
        world.run_until(agreed_at);
    }
    let terms = world.checker().terms_led();
    let end = agreed_at.after_millis(AGREE_FOR_MILLIS);
    while world.now() < end {
        world.run_until(world.now().after_millis(50));
        assert!(world.agrees(), "agreement did not last");
    }
    assert_eq!(
        world.checker().terms_led(),
        terms,
        "a new term without a fault"
    );
    let served_at = serve(world, script, agreed_at);
    Outcome {
        agreed_after_millis: agreed_at.millis_since(script.quiet_at),
        served_after_millis: served_at.millis_since(script.quiet_at),
        answered: world.answered(),
        aborted: world.aborts().len(),
        plans: world.checker().plans_adopted(),
        digest: world.digest(),
    }
}

/// Waits for one plan everywhere, then asks every node; when it was in force.
fn serve(world: &mut World, script: &Script, agreed_at: Tick) -> Tick {
    while !world.serves() {
        let waited = world.now().millis_since(agreed_at);
        assert!(waited < SERVE_WITHIN_MILLIS, "no plan in force");
        world.run_until(world.now().after_millis(10));
    }
    let served_at = world.now();
    settle_requests(world);
    let (answered, aborted) = (world.answered(), world.aborts().len());
    let running = world.hosts().count();
    for seat in 0..script.seats {
        world.cause(Fault::Ask(Seat(seat)));
    }
    settle_requests(world);
    assert_eq!(world.answered() - answered, running);
    assert_eq!(world.aborts().len(), aborted, "an idle cluster gives up");
    served_at
}

/// Lets every request end, one way or another.
fn settle_requests(world: &mut World) {
    let end = world.now().after_millis(ANSWER_WITHIN_MILLIS);
    while let Some((seat, id, at)) = oldest(world) {
        let asked = at.0;
        assert!(
            world.now() < end,
            "{id:?} of {seat:?}, asked at {asked}, does not end"
        );
        world.run_until(world.now().after_millis(10));
    }
}

fn oldest(world: &World) -> Option<(Seat, RequestId, Tick)> {
    world.pending().min_by_key(|(_, _, at)| *at)
}

/// Runs the chaos of a seed. The error is everything needed to see what went wrong.
fn chaos(seed: u64, sabotage: Sabotage) -> Result<Outcome, String> {
    let script = Script::chaos(&mut Rng::new(seed));
    let mut world = World::new(seed, &script, sabotage);
    catch_unwind(AssertUnwindSafe(|| live(&mut world, &script))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let cause = text.unwrap_or_default();
        let (seats, discovery) = (script.seats, script.discovery);
        let mut report = format!(
            "{cause}\n{seats} seats, {discovery:?}, quiet at {}\n",
            script.quiet_at.0
        );
        for (node, host) in world.hosts() {
            let plan = host.adopted().map(|plan| plan.id.to_string());
            let members = host.members();
            report += &format!(
                "{node}: {:?} in {}, {} members, plan {}, loaded {:?}, waits for {}\n",
                members.role,
                members.term,
                members.members.len(),
                plan.unwrap_or_default(),
                host.loaded_plans()
                    .map(|id| id.to_string())
                    .collect::<Vec<_>>(),
                host.waiting_for()
            );
        }
        for line in world.trace() {
            report += &format!("{line}\n");
        }
        report += &format!("repeat with: CAIRN_SEED={seed} cargo test -p cairn-tests --test sim");
        report
    })
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("CAIRN_SEED"), number("CAIRN_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..SEEDS,
    }
}

#[test]
fn clusters_agree_after_any_misfortune() {
    let mut outcomes = Vec::new();
    for seed in seeds() {
        match chaos(seed, Sabotage::Nothing) {
            Ok(outcome) => outcomes.push(outcome),
            Err(report) => panic!("{report}"),
        }
    }
    let spread = |of: fn(&Outcome) -> u64| {
        let mut all: Vec<u64> = outcomes.iter().map(of).collect();
        all.sort_unstable();
        format!(
            "median {} ms, longest {} ms",
            all[all.len() / 2],
            all[all.len() - 1]
        )
    };
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    println!("{} worlds", outcomes.len());
    println!(
        "agreement after the last fault: {}",
        spread(|outcome| outcome.agreed_after_millis)
    );
    println!(
        "one plan after the last fault: {}",
        spread(|outcome| outcome.served_after_millis)
    );
    println!(
        "{} plans came into force, {} requests were answered, {} ended with a cause",
        sum(|outcome| outcome.plans),
        sum(|outcome| outcome.answered),
        sum(|outcome| outcome.aborted),
    );
}

#[test]
fn a_conversation_is_not_computed_again() {
    let script = Script::calm(3, 100);
    let mut world = World::new(7, &script, Sabotage::Nothing);
    world.run_until(script.quiet_at.after_millis(10_000));
    assert!(world.serves());
    for _ in 0..40 {
        world.cause(Fault::Ask(Seat(0)));
        settle_requests(&mut world);
    }
    assert_eq!((world.answered(), world.aborts()), (40, &[][..]));
    let counters: Vec<_> = world.hosts().map(|(_, host)| host.counters()).collect();
    for counter in &counters {
        let (hits, rows) = (counter.prefix_hits, counter.prefix_rows);
        assert!(hits >= 10 && rows >= 20 * hits, "{counters:?}");
    }
}

/// A cut between two members that both hear the leader: one of them is left out, once.
#[test]
fn a_standing_cut_between_followers_ends_in_one_lasting_plan() {
    for seed in 0..20 {
        let script = Script::calm(4, 100);
        let mut world = World::new(seed, &script, Sabotage::Nothing);
        world.run_until(script.quiet_at.after_millis(5_000));
        let leader = world.hosts().find_map(|(_, host)| host.members().leader());
        let mut followers = (0..4)
            .map(Seat)
            .filter(|seat| Some(world.id(*seat)) != leader);
        let (one, other) = (followers.next(), followers.next());
        let cut = Fault::CutBothWays(one.expect("three follow"), other.expect("three follow"));
        drop(followers);
        world.cause(cut);
        world.run_until(world.now().after_millis(20_000));
        let plans = world.checker().plans_adopted();
        let serving = world.hosts().filter_map(|(_, host)| host.adopted());
        let stages = serving
            .max_by_key(|plan| plan.id)
            .map(|plan| plan.stages.len());
        assert_eq!(stages, Some(3), "seed {seed}");
        world.run_until(world.now().after_millis(60_000));
        assert_eq!(world.checker().plans_adopted(), plans, "seed {seed}");
    }
}

#[test]
fn a_seed_repeats_to_the_last_packet() {
    for seed in [3, 14, 159] {
        let first = chaos(seed, Sabotage::Nothing);
        assert!(first.is_ok(), "{first:?}");
        assert_eq!(first, chaos(seed, Sabotage::Nothing));
    }
}

/// The first seed at which a broken rule is noticed, with the report.
fn noticed(sabotage: Sabotage) -> String {
    (0..200)
        .find_map(|seed| chaos(seed, sabotage).err())
        .unwrap_or_default()
}

#[test]
fn the_checks_notice_a_disk_that_forgets_terms() {
    let report = noticed(Sabotage::ForgetTerms);
    assert!(report.contains("two leaders in term"), "{report}");
    assert!(report.contains("CAIRN_SEED="), "{report}");
}

#[test]
fn the_checks_notice_nodes_that_do_not_redial() {
    let report = noticed(Sabotage::DialOnce);
    assert!(report.contains("no agreement"), "{report}");
}

#[test]
fn the_checks_notice_lost_rows() {
    let report = noticed(Sabotage::LoseData);
    let wrong = [
        "no plan in force",
        "does not end",
        "an idle cluster gives up",
    ];
    assert!(wrong.iter().any(|wrong| report.contains(wrong)), "{report}");
}
