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
