//! A user's own list of ranges, with devices by the names that people call them.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::check::check_named_list;
use crate::device::DeviceId;
use crate::fault::Fault;
use crate::request::{Request, Strategy};

impl Request {
    /// The custom strategy of this list, or every mistake in it at once, by name: gaps,
    /// overlaps, ranges out of bounds or empty, names that nobody or more than one device
    /// has, devices listed twice or short of memory.
    pub fn custom(&self, list: &[(String, Range<u32>)]) -> Result<Strategy, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut strangers: BTreeMap<DeviceId, String> = BTreeMap::new();
        let mut ranges = Vec::new();
        for (name, layers) in list {
            let mut called = self.devices.iter().filter(|device| device.name == *name);
            let id = match (called.next(), called.count()) {
                (Some(device), 0) => device.id,
                (Some(device), others) => {
                    let fault = Fault::AmbiguousName {
                        device: name.clone(),
                        device_count: others + 1,
                    };
                    if !faults.contains(&fault) {
                        faults.push(fault);
                    }
                    device.id
                }
                (None, _) => self.stranger(name, &mut strangers),
            };
            ranges.push((id, layers.clone()));
        }
        let name_of = |id: DeviceId| match strangers.get(&id) {
            Some(name) => name.clone(),
            None => self.name_of(id),
        };
        faults.extend(check_named_list(&ranges, self, &name_of));
        if faults.is_empty() {
            Ok(Strategy::Custom(ranges))
        } else {
            Err(faults)
        }
    }

    /// An id that no device of the request has, the same for the same name.
    fn stranger(&self, name: &str, strangers: &mut BTreeMap<DeviceId, String>) -> DeviceId {
        if let Some((id, _)) = strangers.iter().find(|(_, known)| *known == name) {
            return *id;
        }
        let taken = |id: &DeviceId| self.devices.iter().any(|device| device.id == *id);
        let id = (0..=u32::MAX)
            .map(DeviceId::from_index)
            .find(|id| !taken(id) && !strangers.contains_key(id))
            .expect("there are fewer devices than indexes");
        strangers.insert(id, name.to_owned());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, model};
    use crate::{NoPlan, plan};

    fn list(entries: &[(&str, Range<u32>)]) -> Vec<(String, Range<u32>)> {
        let entries = entries.iter();
        entries
            .map(|(name, layers)| ((*name).to_owned(), layers.clone()))
            .collect()
    }

    #[test]
    fn a_sound_list_is_used_as_it_is() {
        let mut request = Request::new(model(12), cluster(&[(100, 10), (100, 20)]));
        let named = request.custom(&list(&[("d1", 5..12), ("d0", 0..5)]));
        request.strategy = named.expect("sound");
        let plan = plan(&request).expect("sound");
        assert_eq!(plan.stages[0].layers, 0..5);
        assert_eq!(plan.stages[1].device, request.devices[1].id);
    }

    #[test]
    fn every_mistake_is_told_by_name() {
        let mut devices = cluster(&[(100, 10), (1, 20), (100, 30), (100, 40)]);
        devices[3].name = "d2".to_owned();
        let request = Request::new(model(12), devices);
        let faults = request.custom(&list(&[
            ("attic", 0..2),
            ("attic", 2..3),
            ("d1", 2..6),
            ("d0", 7..7),
            ("d2", 7..14),
        ]));
        let faults = faults.expect_err("full of mistakes");
        let text: Vec<_> = faults.iter().map(Fault::to_string).collect();
        assert_eq!(
            text,
            [
                "d2 is the name of 2 devices; rename one",
                "attic is not a known device",
                "attic is not a known device",
                "attic is listed more than once",
                "d1 is 3.1 GB short of memory for layers 2..=5",
                "d0 is given no layer (7..7); leave it out instead",
                "d2 is given layers 7..=13, but the model has 12",
                "layers 2..=2 are on both attic and d1",
                "layers 6..=6 are on no device",
            ]
        );
    }

    #[test]
    fn an_unknown_id_is_still_refused() {
        let mut request = Request::new(model(2), cluster(&[(100, 10)]));
        request.strategy = Strategy::Custom(vec![(DeviceId([9; 32]), 0..2)]);
        assert!(matches!(plan(&request), Err(NoPlan::BadCustom(_))));
    }
}
