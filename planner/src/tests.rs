//! Strategies, checks and promises of whole plans.

use super::*;
use crate::testing::{cluster, device, model};

#[test]
fn uniform_gives_every_device_its_share() {
    let mut request = Request::new(model(10), cluster(&[(100, 10), (100, 20), (100, 30)]));
    request.strategy = Strategy::Uniform;
    let plan = plan(&request).expect("fits");
    let counts: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| stage.layers.end - stage.layers.start)
        .collect();
    assert_eq!(counts, [4, 3, 3]);
}

#[test]
fn the_driver_comes_first() {
    let devices = cluster(&[(100, 10), (100, 20), (100, 30)]);
    let driver = devices[2].id;
    let mut request = Request::new(model(9), devices);
    request.strategy = Strategy::Uniform;
    request.driver = Some(driver);
    assert_eq!(plan(&request).expect("fits").stages[0].device, driver);
}

#[test]
fn no_device_is_said() {
    assert_eq!(
        plan(&Request::new(model(4), Vec::new())),
        Err(NoPlan::NoDevice)
    );
}

#[test]
fn a_model_too_large_names_the_bytes_that_would_do() {
    let devices = vec![device(0, 3, 10), device(1, 2, 10)];
    let mut request = Request::new(model(40), devices);
    let Err(NoPlan::MemoryShort { bytes_missing, .. }) = plan(&request) else {
        panic!("must not fit");
    };
    request.devices[0].memory_bytes += bytes_missing - 1;
    assert!(plan(&request).is_err());
    request.devices[0].memory_bytes += 1;
    assert!(plan(&request).is_ok());
}

#[test]
fn keys_and_values_in_fewer_bits_need_less_memory() {
    let mut model = model(4);
    // Four layers of 1 GB, and 2 GB of keys and values.
    model
        .layers
        .iter_mut()
        .for_each(|layer| layer.kv_bytes_per_token = 500_000);
    let mut request = Request::new(model, vec![device(0, 100, 10), device(1, 100, 20)]);
    (request.context_tokens, request.sequences) = (1000, 1);
    let needed = |request: &Request| {
        let plan = plan(request).expect("fits");
        assert_eq!(check(&plan, request), Ok(()));
        assert_eq!(plan.stages.len(), 1, "the faster holds all");
        plan.stages[0].memory_bytes
    };
    let all = needed(&request);
    request.devices[1].detail.kv_permille = Some(500);
    let half = needed(&request);
    assert_eq!(all - half, 1_000_000_000);
    // As little is asked for where it does not fit.
    for device in &mut request.devices {
        device.memory_bytes = half / 4;
    }
    let Err(NoPlan::MemoryShort { bytes_needed, .. }) = plan(&request) else {
        panic!("must not fit");
    };
    assert_eq!(bytes_needed, half);
    request.devices[1].memory_bytes = half + request.headroom_bytes;
    assert_eq!(needed(&request), half);
}

#[test]
fn a_custom_list_hears_of_all_its_mistakes_at_once() {
    let devices = cluster(&[(100, 10), (100, 20), (1, 30)]);
    let ids: Vec<_> = devices.iter().map(|device| device.id).collect();
    let mut request = Request::new(model(12), devices);
    let stranger = DeviceId([9; 32]);
    request.strategy = Strategy::Custom(vec![
        (ids[0], 1..4),
        (ids[1], 3..5),
        (ids[1], 6..6),
        (ids[2], 6..11),
        (stranger, 11..14),
    ]);
    let Err(NoPlan::BadCustom(faults)) = plan(&request) else {
        panic!("must be refused");
    };
    let text: Vec<_> = faults.iter().map(Fault::to_string).collect();
    assert_eq!(
        text,
        [
            "d1 is listed more than once",
            "d1 is given no layer (6..6); leave it out instead",
            "d2 is 4.1 GB short of memory for layers 6..=10",
            "09090909 is not a known device",
            "09090909 is given layers 11..=13, but the model has 12",
            "layers 0..=0 are on no device",
            "layers 3..=3 are on both d0 and d1",
            "layers 5..=5 are on no device",
        ]
    );
}

#[test]
fn more_devices_than_layers_uses_the_best() {
    let mut request = Request::new(model(2), cluster(&[(100, 10), (100, 30), (100, 20)]));
    request.strategy = Strategy::Compute;
    let plan = plan(&request).expect("fits");
    let used: Vec<_> = plan.stages.iter().map(|stage| stage.device).collect();
    assert_eq!(used, [request.devices[1].id, request.devices[2].id]);
    assert_eq!(
        plan.reasons[0].to_string(),
        "d0: left out: more devices than layers, others come first"
    );
}

#[test]
fn what_one_cannot_hold_the_others_take() {
    let mut request = Request::new(model(12), cluster(&[(3, 10), (100, 10), (100, 10)]));
    request.strategy = Strategy::Uniform;
    let plan = plan(&request).expect("fits");
    let lines: Vec<_> = plan.reasons.iter().map(Reason::to_string).collect();
    assert_eq!(
        lines,
        [
            "d0: 2 layers instead of 4: its memory is full",
            "d1: 5 layers instead of 4: others cannot hold their share",
            "d2: 5 layers instead of 4: others cannot hold their share",
        ]
    );
}

#[test]
fn not_splitting_is_a_candidate_and_says_so() {
    let plan = plan(&Request::new(model(8), cluster(&[(20, 50), (20, 100)]))).expect("fits");
    let lines: Vec<_> = plan.reasons.iter().map(Reason::to_string).collect();
    assert_eq!(
        lines,
        [
            "d0: left out: with it the plan would be 12.8 % slower",
            "d1: 8 layers, the whole model: not splitting is best; streams weights at 100 % of the fastest",
        ]
    );
    assert!(plan.proof.is_exact());
}

#[test]
fn forecasts_are_sums_and_slowest_stages() {
    // 1 GB layers at 10 and 20 GB/s: 100 and 50 ms a layer, and 5 ms for the head.
    let mut request = Request::new(model(8), cluster(&[(100, 10), (100, 20)]));
    request.strategy = Strategy::Uniform;
    request.sequences = 4;
    request.default_link = LinkSpeed {
        round_trip_micros: 2000,
        bytes_per_second: 8_192_000,
    };
    let plan = plan(&request).expect("fits");
    let forecast = &plan.forecast;
    // There: half a round trip and a row of 8192 bytes; home: half a round trip.
    assert_eq!(forecast.hops_micros, 1000 + 1000 + 1000);
    assert_eq!(forecast.tpot_micros, 400_000 + 200_000 + 5_000 + 3_000);
    // Two groups of streams: the first stage streams its weights twice a turn, 800 ms. One
    // group of four rows waits for both stages, and for four rows to cross, and needs less.
    assert_eq!(forecast.groups, 1);
    assert_eq!(
        forecast.many_tpot_micros,
        600_000 + 5_000 + 1_000 + 4_000 + 1_000
    );
    assert!((forecast.many_tokens_per_second - 4e6 / 611_000.0).abs() < 1e-6);
    assert!((plan.balance - 302.5 / 400.0).abs() < 1e-9);
    // 512 rows in two chunks; 400 and 800 G multiply-accumulates per second.
    // First stage: 2 * 256 * 4 G / 400 G = 5.12 s. The second starts its last chunk
    // when that is done and 256 rows have crossed, and takes 256 * 4 G / 800 G.
    let crossing = 1_000 + 256 * 1_000;
    assert_eq!(
        forecast.ttft_micros,
        5_120_000 + crossing + 1_280_000 + 5_000 + 1_000
    );
}

#[test]
fn bad_requests_hear_everything_at_once() {
    let mut devices = cluster(&[(10, 10), (10, 0)]);
    devices[1].id = devices[0].id;
    let mut request = Request::new(model(2), devices);
    request.sequences = 0;
    request.links.push(Link {
        from: DeviceId([3; 32]),
        to: request.devices[0].id,
        round_trip_micros: 1,
        bytes_per_second: 1,
    });
    let Err(NoPlan::BadRequest(faults)) = plan(&request) else {
        panic!("must be refused");
    };
    let text: Vec<_> = faults.iter().map(Fault::to_string).collect();
    assert_eq!(
        text,
        [
            "the number of sequences must be more than zero",
            "the decode speed of d1 must be more than zero",
            "the prefill speed of d1 must be more than zero",
            "d0 and d1 have the same id",
            "a link names 03030303, which is not a known device",
        ]
    );
}

#[test]
fn check_finds_what_was_tampered_with() {
    let request = Request::new(model(12), cluster(&[(9, 100), (9, 90), (9, 80)]));
    let good = plan(&request).expect("fits");
    assert_eq!(check(&good, &request), Ok(()));
    let tampers: [fn(&mut Plan); 5] = [
        |plan| plan.stages[0].layers.end -= 1,
        |plan| plan.stages.swap(0, 1),
        |plan| plan.stages[1].device = plan.stages[0].device,
        |plan| plan.stages[0].memory_bytes -= 1,
        |plan| {
            let own = plan.stages[0].device;
            plan.stages[0].standbys.push(own);
        },
    ];
    for (place, tamper) in tampers.iter().enumerate() {
        let mut bad = good.clone();
        tamper(&mut bad);
        assert!(check(&bad, &request).is_err(), "tamper {place}");
    }
}

mod properties {
    //! What holds for every strategy on any cluster.

    use proptest::prelude::{
        Just, ProptestConfig, any, prop, prop_assert, prop_assert_eq, prop_compose, prop_oneof,
        proptest,
    };
    use proptest::strategy::Strategy as _;

    use super::*;
    use crate::testing::Dice;

    fn layer() -> impl proptest::strategy::Strategy<Value = LayerCost> {
        (1..4u64, 0..3u64).prop_map(|(weight, cache)| LayerCost {
            weight_bytes: weight * 300_000_000,
            macs_per_row: weight * 300_000_000,
            kv_bytes_per_token: cache * 2048,
            ..LayerCost::default()
        })
    }

    fn machine() -> impl proptest::strategy::Strategy<Value = (u64, u64)> {
        (1..16u64, 1..200u64)
    }

    fn any_strategy() -> impl proptest::strategy::Strategy<Value = Strategy> {
        prop_oneof![
            Just(Strategy::Uniform),
            Just(Strategy::Memory),
            Just(Strategy::Compute),
            Just(Strategy::Balanced),
            Just(Strategy::Optimal),
        ]
    }

    prop_compose! {
        fn any_request()(
            layers in prop::collection::vec(layer(), 1..30),
            machines in prop::collection::vec(machine(), 1..9),
            strategy in any_strategy(),
            throughput in any::<bool>(),
            sequences in 1..5u32,
            seed in any::<u64>(),
        ) -> Request {
            let mut devices = cluster(&machines);
            let mut dice = Dice::new(seed);
            for device in &mut devices {
                device.detail.kv_permille = dice.chance(2).then(|| dice.between(1, 1000) as u32);
            }
            let mut links = Vec::new();
            for from in &devices {
                for to in &devices {
                    if from.id != to.id && dice.chance(2) {
                        links.push(Link {
                            from: from.id,
                            to: to.id,
                            round_trip_micros: dice.between(0, 20_000),
                            bytes_per_second: dice.between(1, 100) * 1_000_000,
                        });
                    }
                }
            }
            Request {
                links,
                strategy,
                sequences,
                objective: if throughput { Objective::Throughput } else { Objective::Latency },
                driver: dice.chance(2).then_some(devices[0].id),
                // Small, so that unfinished searches are tried too.
                search_steps: dice.between(0, 20_000),
                ..Request::new(Model { layers, ..model(1) }, devices)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn every_layer_once_and_within_memory(request in any_request()) {
            let Ok(plan) = plan(&request) else { return Ok(()) };
            let mut next = 0;
            for stage in &plan.stages {
                prop_assert_eq!(stage.layers.start, next);
                prop_assert!(stage.layers.end > next);
                next = stage.layers.end;
            }
            prop_assert_eq!(next as usize, request.model.layers.len());
            let held = u64::from(request.context_tokens) * u64::from(request.sequences);
            for device in &request.devices {
                let stages = plan.stages.iter().filter(|stage| stage.device == device.id);
                let stages: Vec<_> = stages.map(|stage| stage.layers.clone()).collect();
                prop_assert!(stages.len() <= 1);
                let standbys = plan.standbys.iter().filter(|standby| standby.device == device.id);
                let ranges: Vec<_> = stages
                    .into_iter()
                    .chain(standbys.map(|standby| standby.layers.clone()))
                    .collect();
                let mut bytes = request.headroom_bytes;
                if !ranges.is_empty() {
                    bytes += request.buffer_bytes;
                }
                for range in ranges {
                    let first = range.start == 0;
                    let last = range.end == next;
                    let mut cache = 0;
                    for layer in &request.model.layers[range.start as usize..range.end as usize] {
                        bytes += layer.weight_bytes;
                        cache += layer.kv_bytes_per_token * held;
                    }
                    let kept = u64::from(device.detail.kv_permille.unwrap_or(1000));
                    bytes += (cache * kept).div_ceil(1000);
                    let (embedding, head) = (request.model.embedding, request.model.head);
                    bytes += if first { embedding.weight_bytes } else { 0 };
                    bytes += if last { head.weight_bytes } else { 0 };
                    bytes -= if first && last { request.model.tied_bytes } else { 0 };
                }
                prop_assert!(bytes <= device.memory_bytes, "{} of {}", bytes, device.name);
            }
        }

        #[test]
        fn no_plan_that_was_tampered_with_passes_its_check(
            request in any_request(),
            tamper in 0..7usize,
            place in any::<prop::sample::Index>(),
        ) {
            let Ok(mut bad) = plan(&request) else { return Ok(()) };
            prop_assert_eq!(check(&bad, &request), Ok(()));
            let stage = place.index(bad.stages.len());
            match tamper {
                0 => bad.stages[stage].layers.end += 1,
                1 => bad.stages[stage].layers.start += 1,
                2 => bad.stages[stage].device = DeviceId([9; 32]),
                3 => bad.stages[stage].memory_bytes += 1,
                4 => drop(bad.stages.remove(stage)),
                5 => {
                    let again = bad.stages[stage].clone();
                    bad.stages.push(again);
                }
                _ => {
                    let own = bad.stages[stage].device;
                    bad.stages[stage].standbys.push(own);
                }
            }
            prop_assert!(check(&bad, &request).is_err(), "tamper {}", tamper);
        }

        #[test]
        fn a_plan_that_memory_no_longer_holds_fails_its_check(
            request in any_request(),
            place in any::<prop::sample::Index>(),
        ) {
            let Ok(plan) = plan(&request) else { return Ok(()) };
            let stage = &plan.stages[place.index(plan.stages.len())];
            let mut smaller = request.clone();
            for device in &mut smaller.devices {
                if device.id == stage.device {
                    device.memory_bytes = stage.memory_bytes + request.headroom_bytes - 1;
                }
            }
            prop_assert!(check(&plan, &smaller).is_err());
        }

        #[test]
        fn the_order_of_the_input_does_not_matter(request in any_request(), seed in any::<u64>()) {
            let mut dice = Dice::new(seed);
            let mut shuffled = request.clone();
            dice.shuffle(&mut shuffled.devices);
            dice.shuffle(&mut shuffled.links);
            prop_assert_eq!(plan(&request), plan(&shuffled));
        }

        #[test]
        fn optimal_is_never_worse_and_never_below_its_bound(request in any_request()) {
            let by = |strategy: Strategy| plan(&Request { strategy, ..request.clone() });
            let Ok(best) = by(Strategy::Optimal) else { return Ok(()) };
            prop_assert!(best.proof.lower_bound_nanos <= best.proof.objective_nanos);
            for strategy in [Strategy::Uniform, Strategy::Memory, Strategy::Compute, Strategy::Balanced] {
                if let Ok(other) = by(strategy) {
                    prop_assert!(best.proof.objective_nanos <= other.proof.objective_nanos);
                }
            }
            let exact = Request { search_steps: u64::MAX, ..request.clone() };
            let exact = plan(&Request { strategy: Strategy::Optimal, ..exact }).expect("fits");
            prop_assert!(exact.proof.is_exact());
            prop_assert!(best.proof.lower_bound_nanos <= exact.proof.objective_nanos);
        }

        #[test]
        fn a_covered_loss_leaves_every_layer(request in any_request()) {
            let Ok(plan) = plan(&request) else { return Ok(()) };
            for survival in plan.survives.iter().filter(|survival| survival.loss == Loss::Covered) {
                for layer in 0..request.model.layers.len() as u32 {
                    let staged = plan.stages.iter().any(|stage| {
                        stage.device != survival.device && stage.layers.contains(&layer)
                    });
                    let stood_by = plan.standbys.iter().any(|standby| {
                        standby.device != survival.device && standby.layers.contains(&layer)
                    });
                    prop_assert!(staged || stood_by, "layer {}", layer);
                }
            }
        }
    }
}
