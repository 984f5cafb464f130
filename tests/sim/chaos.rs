//! Many seeds, everything at once: safety after each step, agreement once faults stop.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cairn_tests::fault::Script;
use cairn_tests::rng::Rng;
use cairn_tests::world::{Sabotage, World};

/// Seeds of an ordinary run.
const SEEDS: u64 = 300;
/// Virtual time from the last fault to agreement: the longest pause between two dials, a dial
/// that times out, another announcement.
const AGREE_WITHIN_MILLIS: u64 = 20_000;
/// Virtual time for which agreement has to last.
const AGREE_FOR_MILLIS: u64 = 5_000;

/// What a world came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    agreed_after_millis: u64,
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
    Outcome {
        agreed_after_millis: agreed_at.millis_since(script.quiet_at),
        digest: world.digest(),
    }
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
    let mut waits: Vec<u64> = Vec::new();
    for seed in seeds() {
        match chaos(seed, Sabotage::Nothing) {
            Ok(outcome) => waits.push(outcome.agreed_after_millis),
            Err(report) => panic!("{report}"),
        }
    }
    waits.sort_unstable();
    println!(
        "{} worlds; agreement after the last fault: median {} ms, longest {} ms",
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() - 1],
    );
}

#[test]
fn a_seed_repeats_to_the_last_packet() {
    for seed in [3, 14, 159] {
        assert_eq!(
            chaos(seed, Sabotage::Nothing),
            chaos(seed, Sabotage::Nothing)
        );
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
