//! What losses cost, on clusters small enough to reason about.

use crate::testing::{GB, cluster, model};
use crate::{Loss, Plan, Request, Strategy, plan};

fn losses(memory: &[u64], layers: usize, strategy: Strategy) -> (Plan, Vec<Loss>) {
    let devices: Vec<_> = memory.iter().map(|memory| (*memory, 100)).collect();
    let mut request = Request::new(model(layers), cluster(&devices));
    request.strategy = strategy;
    let plan = plan(&request).expect("fits");
    let losses = plan.survives.iter().map(|survival| survival.loss.clone());
    let losses = losses.collect();
    (plan, losses)
}

#[test]
fn with_memory_to_spare_every_loss_is_covered() {
    let (plan, losses) = losses(&[20, 20, 20], 12, Strategy::Uniform);
    assert_eq!(losses, [Loss::Covered, Loss::Covered, Loss::Covered]);
    for stage in &plan.stages {
        assert_eq!(stage.standbys.len(), 1);
        assert_ne!(stage.standbys[0], stage.device);
    }
}

#[test]
fn a_stage_too_large_for_any_one_is_covered_in_parts() {
    // Eight layers on the first; the others have room for five more each.
    let (plan, losses) = losses(
        &[9, 7, 7],
        12,
        Strategy::Custom(
            cluster(&[(9, 1), (7, 1), (7, 1)])
                .iter()
                .zip([0..8, 8..10, 10..12])
                .map(|(device, layers)| (device.id, layers))
                .collect(),
        ),
    );
    assert_eq!(losses[0], Loss::Covered);
    assert!(plan.stages[0].standbys.is_empty());
    let covered: u32 = plan
        .standbys
        .iter()
        .filter(|standby| standby.layers.end <= 8)
        .map(|standby| standby.layers.end - standby.layers.start)
        .sum();
    assert_eq!(covered, 8);
}

#[test]
fn a_loss_that_needs_a_reload_says_so() {
    // Any two of three can hold the model, but the memory left over covers one stage.
    let (_, losses) = losses(&[8, 8, 8], 14, Strategy::Memory);
    assert_eq!(losses, [Loss::Covered, Loss::Reload, Loss::Reload]);
}

#[test]
fn a_loss_that_cannot_be_survived_names_what_is_missing() {
    let (plan, losses) = losses(&[8, 6], 12, Strategy::Memory);
    let Loss::Short { bytes_missing } = losses[0] else {
        panic!("{losses:?}");
    };
    // The other has 6 GB; the whole model is 12.1 GB and buffers.
    let whole = 12 * GB + GB / 10 + (64 << 20);
    assert_eq!(bytes_missing, whole - 6 * GB);
    assert!(!plan.survives[0].loss.is_survivable());
}

#[test]
fn a_single_device_has_no_second() {
    let (plan, losses) = losses(&[20], 12, Strategy::Optimal);
    assert!(plan.standbys.is_empty());
    assert!(matches!(losses[..], [Loss::Short { .. }]));
}
