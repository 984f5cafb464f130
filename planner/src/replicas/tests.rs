//! When several pipelines are worth it, and that they share nothing.

use std::collections::BTreeSet;

use super::*;
use crate::testing::{Dice, GB, cluster, model};

#[test]
fn two_that_each_hold_the_model_serve_side_by_side() {
    // Three layers do not halve, so the longer half holds a row of both up; and so many
    // streams are more arithmetic than one device does while it streams the weights.
    let mut request = Request::new(model(3), cluster(&[(20, 50), (20, 50)]));
    request.sequences = 64;
    let found = pipelines(&request).expect("fits");
    assert_eq!(found.len(), 2);
    for pipeline in &found {
        assert_eq!(pipeline.request.sequences, 32);
        assert_eq!(pipeline.plan.stages.len(), 1);
    }
}

#[test]
fn one_stream_needs_one_pipeline() {
    let request = Request::new(model(8), cluster(&[(20, 50), (20, 50)]));
    assert_eq!(pipelines(&request).expect("fits").len(), 1);
}

#[test]
fn devices_that_hold_the_model_only_together_stay_together() {
    let mut request = Request::new(model(12), cluster(&[(9, 50), (9, 50), (9, 50)]));
    request.sequences = 8;
    assert_eq!(pipelines(&request).expect("fits").len(), 1);
}

#[test]
fn pipelines_share_no_device_and_beat_the_single_one() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let machines: Vec<_> = (0..dice.between(1, 7))
            .map(|_| (dice.between(2, 20), dice.between(10, 200)))
            .collect();
        let mut request = Request::new(model(8), cluster(&machines));
        request.sequences = dice.between(1, 9) as u32;
        request.objective = Objective::Throughput;
        let Ok(single) = plan(&request) else { continue };
        let found = pipelines(&request).expect("one pipeline fits");
        let mut seen = BTreeSet::new();
        let streams: u32 = found.iter().map(|one| one.request.sequences).sum();
        assert_eq!(streams, request.sequences, "seed {seed}");
        for pipeline in &found {
            assert_eq!(crate::check(&pipeline.plan, &pipeline.request), Ok(()));
            for stage in &pipeline.plan.stages {
                assert!(seen.insert(stage.device), "seed {seed}");
            }
        }
        let alone = u128::from(request.sequences) * 1_000_000 * u128::from(GB)
            / u128::from(single.proof.objective_nanos.max(1));
        assert!(rate(&found) >= alone, "seed {seed}");
    }
}
