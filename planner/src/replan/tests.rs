//! Noise must not move layers; a lasting gain must, once.

use std::ops::Range;

use super::*;
use crate::testing::{Dice, cluster, model};
use crate::{DeviceId, Objective, Request, Sharing, Strategy, plan};

fn judge(gains_permille: impl IntoIterator<Item = u64>) -> Vec<usize> {
    let mut history = Replan::default();
    let mut moves = Vec::new();
    for (place, gain) in gains_permille.into_iter().enumerate() {
        let (after, decision) = should_replan(history, 1000, 1000 - gain, Margin::calm());
        history = after;
        if let Decision::Move { .. } = decision {
            moves.push(place);
        }
    }
    moves
}

#[test]
fn noise_never_moves_a_layer() {
    let mut dice = Dice::new(1);
    // Up to 40 % apparent gain, but never for five judgements in a row.
    let noise = (0..10_000).map(|place| if place % 5 == 4 { 0 } else { dice.below(400) });
    assert_eq!(judge(noise), []);
}

#[test]
fn a_small_gain_never_moves_a_layer() {
    assert_eq!(judge([199; 1000]), []);
}

#[test]
fn a_lasting_gain_moves_once_and_then_rests() {
    let rest = Margin::calm().rest as usize;
    let mut gains = vec![300; 5];
    gains.extend(vec![0; 100]);
    assert_eq!(judge(gains), [4]);
    // Even if the gain does not go away, the next move waits for the rest to pass.
    let moves = judge(vec![300; 5 + rest + 1]);
    assert_eq!(moves, [4, 4 + rest + 1]);
    // What never goes away moves layers ever more rarely.
    let moves = judge(vec![300; 100 * rest]);
    assert_eq!(moves.len(), 7, "{moves:?}");
}

#[test]
fn a_worse_candidate_is_never_adopted() {
    let (_, decision) = should_replan(
        Replan {
            in_a_row: 99,
            ..Replan::default()
        },
        1000,
        1200,
        Margin::calm(),
    );
    assert_eq!(decision, Decision::Stay);
    let zero = Margin {
        gain_permille: 0,
        relief_permille: 0,
        judgements: 1,
        rest: 0,
    };
    let (_, decision) = should_replan(Replan::default(), 1000, 1000, zero);
    assert_eq!(decision, Decision::Stay);
}

#[test]
fn a_slowed_device_loses_layers() {
    // Two that hold all layers between them only together.
    let mut request = Request::new(model(12), cluster(&[(9, 100), (9, 100), (9, 60)]));
    request.objective = Objective::Latency;
    let before = plan(&request).expect("fits");
    let slow = before.stages[0].device;
    let drift = Drift {
        forecast_micros: 1000,
        measured_micros: 4000,
    };
    assert_eq!(drift.permille(), 4000);
    for device in &mut request.devices {
        if device.id == slow {
            *device = drift.correct(device);
        }
    }
    let candidate = plan(&request).expect("fits");
    let running = before
        .stages
        .iter()
        .map(|stage| (stage.device, stage.layers.clone()));
    request.strategy = Strategy::Custom(running.collect());
    let running = plan(&request).expect("still valid");
    let (current, best) = (
        running.proof.objective_nanos,
        candidate.proof.objective_nanos,
    );
    assert!(best * 3 < current * 2, "{best} of {current}");
    let held = |plan: &crate::Plan| -> u32 {
        let stages = plan.stages.iter().filter(|stage| stage.device == slow);
        stages
            .map(|stage| stage.layers.end - stage.layers.start)
            .sum()
    };
    assert!(held(&candidate) < held(&running));
}

fn ranges(plan: &crate::Plan) -> Vec<(DeviceId, Range<u32>)> {
    let stages = plan.stages.iter();
    stages
        .map(|stage| (stage.device, stage.layers.clone()))
        .collect()
}

#[test]
fn a_review_moves_layers_off_a_slowed_device_once() {
    let request = Request::new(model(12), cluster(&[(9, 100), (9, 100), (9, 60)]));
    let mut running = plan(&request).expect("fits");
    let slow = running.stages[0].device;
    let mut history = History::default();
    let mut moves = 0;
    for _ in 0..100 {
        // The slowed device takes four times what its layers should take; others are true.
        let observed: Vec<Observed> = plan(&Request {
            strategy: Strategy::Custom(ranges(&running)),
            ..request.clone()
        })
        .expect("valid")
        .forecast
        .stages
        .iter()
        .map(|stage| Observed {
            device: stage.device,
            decode_micros: stage.decode_micros * if stage.device == slow { 4 } else { 1 },
        })
        .collect();
        let judged = review(
            &request,
            &ranges(&running),
            &observed,
            &history,
            Margin::calm(),
        );
        let judged = judged.expect("still valid");
        history = judged.history;
        if let Decision::Move { gain_permille } = judged.decision {
            assert!(gain_permille >= 100);
            moves += 1;
            running = judged.candidate;
        }
    }
    assert_eq!(moves, 1);
    assert!(running.stages.iter().all(|stage| stage.device != slow));
}

#[test]
fn a_forecast_that_is_off_by_a_constant_moves_nothing() {
    let request = Request::new(model(12), cluster(&[(9, 100), (9, 80), (9, 60)]));
    let running = plan(&request).expect("fits");
    let observed: Vec<Observed> = running
        .forecast
        .stages
        .iter()
        .map(|stage| Observed {
            device: stage.device,
            decode_micros: stage.decode_micros * 3,
        })
        .collect();
    let used = running.stages.len();
    assert_eq!(used, 2, "the third is slower and not needed");
    let judged = review(
        &request,
        &ranges(&running),
        &observed,
        &History::default(),
        Margin::calm(),
    );
    let judged = judged.expect("still valid");
    assert_eq!(judged.decision, Decision::Stay);
    let (told, seen) = (&running.forecast, &judged.running.forecast);
    let ratio = seen.stages[0].decode_micros as f64 / told.stages[0].decode_micros as f64;
    assert!((2.99..3.01).contains(&ratio), "{ratio}");
}

#[test]
fn a_split_that_holds_no_more_is_an_error() {
    let request = Request::new(model(12), cluster(&[(9, 100), (9, 80), (9, 60)]));
    let running = plan(&request).expect("fits");
    let mut smaller = request.clone();
    smaller
        .devices
        .retain(|device| device.id != running.stages[0].device);
    let judged = review(
        &smaller,
        &ranges(&running),
        &[],
        &History::default(),
        Margin::calm(),
    );
    assert!(matches!(judged, Err(crate::NoPlan::BadCustom(_))));
}

/// Reviews one stage that takes so many thousandths of its forecast, and follows each move.
/// When layers moved.
fn alone(permilles: impl IntoIterator<Item = u64>, history: &mut History) -> Vec<usize> {
    let request = Request::new(model(4), cluster(&[(9, 100), (9, 95), (9, 90)]));
    let mut running = plan(&request).expect("fits");
    assert_eq!(running.stages.len(), 1, "the fastest holds all");
    let first = running.stages[0].device;
    let mut moves = Vec::new();
    for (place, permille) in permilles.into_iter().enumerate() {
        let forecast = plan(&Request {
            strategy: Strategy::Custom(ranges(&running)),
            ..request.clone()
        });
        let stages = forecast.expect("valid").forecast.stages;
        // Whoever takes over is off by as much as the first was in the beginning.
        let seen = stages.iter().map(|stage| Observed {
            device: stage.device,
            decode_micros: match stage.device == first {
                true => stage.decode_micros * permille / 1000,
                false => stage.decode_micros * 2,
            },
        });
        let seen: Vec<Observed> = seen.collect();
        let judged = review(&request, &ranges(&running), &seen, history, Margin::calm());
        let judged = judged.expect("still valid");
        *history = judged.history;
        if let Decision::Move { .. } = judged.decision {
            moves.push(place);
            running = judged.candidate;
        }
    }
    moves
}

#[test]
fn a_stage_alone_that_was_always_slower_than_forecast_stays() {
    assert_eq!(alone([2000; 300], &mut History::default()), []);
}

#[test]
fn a_stage_alone_with_noise_stays() {
    let mut dice = Dice::new(3);
    let noise: Vec<u64> = (0..10_000).map(|_| 1840 + dice.below(320)).collect();
    assert_eq!(alone(noise, &mut History::default()), []);
}

#[test]
fn a_stage_alone_that_grows_slow_is_relieved_once() {
    let mut permilles = vec![2000; 20];
    permilles.extend(vec![6000; 300]);
    let mut history = History::default();
    assert_eq!(alone(permilles, &mut history), [24]);
    let known: Vec<u64> = history
        .known()
        .map(|(_, one)| one.drift.permille())
        .collect();
    assert!(known.contains(&6000), "it is remembered as slow: {known:?}");
}

#[test]
fn whoever_leads_next_does_not_give_the_layers_back() {
    let request = Request::new(model(4), cluster(&[(9, 100), (9, 95), (9, 90)]));
    let mut permilles = vec![1000; 20];
    permilles.extend(vec![4000; 20]);
    let mut history = History::default();
    alone(permilles, &mut history);
    let told = History::told_by_another(history.known(), history.shared_permille().unwrap_or(0));
    let split = |history: &History| ranges(&plan(&history.correct(&request)).expect("fits"));
    assert_eq!(split(&told), split(&history));
    assert_ne!(split(&told), ranges(&plan(&request).expect("fits")));
}

/// Reviews stages that take what `permille` says, in thousandths of their forecast, by device,
/// range and round, and follows each move. When layers moved, and how they are split in the end.
fn follow(
    request: &Request,
    rounds: usize,
    mut permille: impl FnMut(DeviceId, &Range<u32>, usize) -> u64,
) -> (Vec<usize>, Vec<(DeviceId, Range<u32>)>) {
    let mut running = ranges(&plan(request).expect("fits"));
    let mut history = History::default();
    let mut moves = Vec::new();
    for round in 0..rounds {
        let forecast = plan(&Request {
            strategy: Strategy::Custom(running.clone()),
            ..request.clone()
        });
        let stages = forecast.expect("valid").forecast.stages;
        let seen = stages
            .iter()
            .zip(&running)
            .map(|(times, (device, layers))| {
                let permille = permille(*device, layers, round);
                Observed {
                    device: *device,
                    decode_micros: times.decode_micros * permille / 1000,
                }
            });
        let seen: Vec<Observed> = seen.collect();
        let judged = review(request, &running, &seen, &history, Margin::calm());
        let judged = judged.expect("still valid");
        history = judged.history;
        if let Decision::Move { .. } = judged.decision {
            moves.push(round);
            running = ranges(&judged.candidate);
        }
    }
    (moves, running)
}

/// Two of four devices hold all layers, the first two the fastest.
fn four() -> Request {
    Request::new(model(12), cluster(&[(9, 100), (9, 100), (9, 60), (9, 60)]))
}

#[test]
fn a_forecast_that_is_wrong_about_the_last_stage_sends_no_layers_to_and_fro() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let speeds: Vec<_> = (0..3).map(|_| (9, 95 + dice.below(10))).collect();
        let request = Request::new(model(12), cluster(&speeds));
        let wrong = 1500 + dice.below(3000);
        let last = |_, layers: &Range<u32>, _| if layers.end == 12 { wrong } else { 1000 };
        let (moves, _) = follow(&request, 3_000, last);
        // Each device may be tried with the stage once.
        assert!(moves.len() <= 3, "seed {seed}: {moves:?}");
    }
}

#[test]
fn a_device_that_grows_slow_while_layers_rest_is_relieved_at_once() {
    let [first, second] = [0, 1].map(DeviceId::from_index);
    let slow = |device, _: &Range<u32>, round| match round {
        20.. if device == first => 4000,
        35.. if device == second => 4000,
        _ => 1000,
    };
    let (moves, split) = follow(&four(), 200, slow);
    assert_eq!(moves, [24, 39]);
    let holders: Vec<DeviceId> = split.into_iter().map(|(device, _)| device).collect();
    assert_eq!(holders, [2, 3].map(DeviceId::from_index));
}

#[test]
fn a_device_that_is_slow_from_the_move_on_waits_for_the_rest_to_pass() {
    let [first, second] = [0, 1].map(DeviceId::from_index);
    let slow = |device, _: &Range<u32>, round| match round {
        20.. if device == first => 4000,
        25.. if device == second => 4000,
        _ => 1000,
    };
    let (moves, _) = follow(&four(), 200, slow);
    assert_eq!(moves, [24, 24 + Margin::calm().rest as usize + 1]);
}

#[test]
fn noise_after_a_move_moves_nothing() {
    let first = DeviceId::from_index(0);
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let noisy = |device, _: &Range<u32>, round| {
            let slow = if device == first && round >= 20 { 4 } else { 1 };
            slow * (920 + dice.below(161))
        };
        let (moves, _) = follow(&four(), 3_000, noisy);
        assert_eq!(moves.len(), 1, "seed {seed}: {moves:?}");
    }
}

/// Three equal devices that work for a quarter of the time, of which two hold all layers: one
/// many, one few.
fn limited() -> Request {
    let mut request = Request::new(model(12), cluster(&[(9, 100), (9, 100), (9, 100)]));
    for (device, host) in request.devices.iter_mut().zip(0..) {
        device.detail.sharing = Some(Sharing {
            host,
            host_cores: 2,
            threads: 2,
            burst_permille: 4000,
        });
    }
    request
}

/// What a stage of a limited device takes of its time in the long run: the more layers, the less
/// it rests.
fn by_pauses(layers: &Range<u32>) -> u64 {
    if layers.len() > 6 { 900 } else { 300 }
}

#[test]
fn a_large_stage_that_rests_less_moves_nothing() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        // Forecasts may be off by a constant: even the large stage is near full speed then.
        let off = dice.between(1, 4);
        let seen =
            |_, layers: &Range<u32>, _| by_pauses(layers) * (920 + dice.below(161)) / (1000 * off);
        let (moves, split) = follow(&limited(), 1_000, seen);
        assert_eq!(moves, [], "seed {seed}");
        assert_ne!(
            split[0].1.len(),
            split[1].1.len(),
            "a large and a small stage"
        );
    }
}

#[test]
fn a_limited_device_that_grows_slow_is_relieved_once() {
    let request = limited();
    let slow = ranges(&plan(&request).expect("fits"));
    for (slow, off) in slow
        .iter()
        .flat_map(|slow| (1..5).map(move |off| (slow.0, off)))
    {
        let seen = |device, layers: &Range<u32>, round| {
            let usual = by_pauses(layers) / off;
            match round {
                20.. if device == slow => 3 * usual,
                _ => usual,
            }
        };
        let (moves, split) = follow(&request, 1_000, seen);
        assert_eq!(moves, [24], "{slow:?}, off by {off}");
        assert!(split.iter().all(|(device, _)| *device != slow), "{split:?}");
    }
}
