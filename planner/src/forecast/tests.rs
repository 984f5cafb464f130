use crate::testing::{GB, cluster, model};
use crate::{Detail, Device, DeviceId, Forecast, LinkSpeed, Request, Sharing, Strategy, plan};

/// Layers dealt out equally, over wires that take no time.
fn forecast(devices: Vec<Device>, change: impl FnOnce(&mut Request)) -> Forecast {
    let mut request = Request {
        strategy: Strategy::Uniform,
        default_link: LinkSpeed {
            round_trip_micros: 0,
            bytes_per_second: u64::MAX,
        },
        ..Request::new(model(4), devices)
    };
    change(&mut request);
    plan(&request).expect("it fits").forecast
}

fn sharing(host: u64, threads: u32, burst_permille: u32) -> Option<Sharing> {
    Some(Sharing {
        host,
        host_cores: 2,
        threads,
        burst_permille,
    })
}

/// Two alike devices, placed on machines as told.
fn placed(places: [Option<Sharing>; 2]) -> Vec<Device> {
    let mut devices = cluster(&[(8, 1), (8, 1)]);
    for (device, sharing) in devices.iter_mut().zip(places) {
        device.detail.sharing = sharing;
    }
    devices
}

#[test]
fn a_stage_takes_what_its_parts_take() {
    let mut devices = cluster(&[(16, 1)]);
    devices[0].detail = Detail {
        layer_nanos: 30_000_000,
        head_bytes_per_second: Some(2 * GB),
        ..Detail::default()
    };
    let found = forecast(devices, |request| {
        request.driver = Some(DeviceId::from_index(0))
    });
    // Four layers of 1 GB, and a head of 0.1 GB at twice the speed.
    assert_eq!(found.tpot_micros, 4 * 1_030_000 + 50_000);
    assert_eq!(found.stages[0].decode_micros, found.tpot_micros);
}

#[test]
fn the_cache_is_read_at_a_speed_of_its_own() {
    let slow = |speed: Option<u64>| {
        let mut devices = cluster(&[(16, 1)]);
        devices[0].detail.cache_bytes_per_second = speed;
        let found = forecast(devices, |request| {
            for layer in &mut request.model.layers {
                layer.kv_bytes_per_token = 1000;
            }
        });
        found.tpot_micros
    };
    // 512 tokens of four layers: 2.048 MB.
    assert_eq!(slow(Some(GB / 2)) - slow(None), 2_048);
}

#[test]
fn stages_on_one_machine_do_not_work_at_once() {
    let apart = forecast(placed([sharing(1, 2, 1000), sharing(2, 2, 1000)]), |_| {});
    let together = forecast(placed([sharing(1, 2, 1000), sharing(1, 2, 1000)]), |_| {});
    let beside = forecast(placed([sharing(1, 1, 1000), sharing(1, 1, 1000)]), |_| {});
    let alone = forecast(placed([None, None]), |_| {});
    assert_eq!(apart, alone);
    // A thread each, on two cores.
    assert_eq!(beside, apart);
    assert!(together.ttft_micros > apart.ttft_micros * 13 / 10);
    assert!(together.many_tpot_micros >= apart.many_tpot_micros);
    assert_eq!(together.groups, 1, "another would stream the weights again");
    // One stream has a row in one stage only.
    assert_eq!(together.tpot_micros, apart.tpot_micros);
}

#[test]
fn a_stage_that_may_not_run_all_the_time_runs_while_others_have_the_row() {
    let tpot = |bursts: [u32; 2]| {
        let places = [sharing(1, 2, bursts[0]), sharing(2, 2, bursts[1])];
        // A row of bytes crosses in a nanosecond or so.
        forecast(placed(places), |_| {}).tpot_micros / 10 * 10
    };
    let alone = tpot([1000, 1000]);
    assert_eq!(alone, 4_100_000);
    // Half of the time for half of the work: each has rested when its turn comes. What handling
    // a row takes of one thread is taken from what both may use, twice as long.
    assert_eq!(tpot([2000, 2000]), 2_100_190);
    // One that needs longer than all bursts together holds up the row.
    assert_eq!(tpot([1000, 4000]), 2_525_000);
    assert_eq!(tpot([8000, 8000]), 2_100_760);
}

#[test]
fn many_rows_keep_machines_of_their_own_busy_in_a_group_each() {
    let groups = |sequences, places| {
        let found = forecast(placed(places), |request| request.sequences = sequences);
        (found.groups, found.many_tpot_micros)
    };
    let apart = [sharing(1, 2, 1000), sharing(2, 2, 1000)];
    let together = [sharing(1, 2, 1000), sharing(1, 2, 1000)];
    // Two layers and the head take 84 rows' arithmetic in 4.3 s, and their weights 2.1 s.
    let (many, busy) = groups(84, apart);
    assert_eq!(many, 2);
    let (one, shared) = groups(84, together);
    assert_eq!(one, 1, "they share what computes");
    assert!(busy < shared * 6 / 10, "{busy} {shared}");
    assert_eq!(groups(1, apart).0, 1, "a stream is not divided");
}

#[test]
fn a_prompt_on_a_device_with_a_quota_begins_with_what_it_has_saved() {
    let ttft = |sharing, layers: u32| {
        let mut devices = cluster(&[(16, 1)]);
        devices[0].detail.sharing = sharing;
        forecast(devices, |request| {
            request.model.layers.truncate(layers as usize);
            request.prompt_tokens = 10;
            request.driver = Some(DeviceId::from_index(0));
        })
        .ttft_micros
    };
    let quarter = sharing(1, 2, 4000);
    for layers in 1..=4 {
        let long_run = ttft(None, layers);
        // The head's row is told at the speed of the long run.
        let head = 100_000;
        let work = (long_run - head) / 4;
        // 25 ms at once, the first period being half over, and then 25 ms of each 100.
        let later = work.checked_sub(25_000).expect("more than one period's");
        let (periods, rest) = ((later - 1) / 25_000, (later - 1) % 25_000 + 1);
        let expected = 50_000 + periods * 100_000 + rest + head;
        let found = ttft(quarter, layers);
        assert!(found.abs_diff(expected) <= 2, "{found} {expected}");
        assert!(found < long_run);
    }
    // A device of which it is not known is as before.
    assert_eq!(ttft(sharing(1, 2, 1000), 4), ttft(None, 4));
}
