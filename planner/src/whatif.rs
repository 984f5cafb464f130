//! Reads a file of devices that one does not own yet.
//!
//! Only reads: no defaults for what a chip with some name might do, because a table of
//! names is a guess. All mistakes are reported together, with their lines.

mod units;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::device::{Detail, Device, DeviceId, Link};

/// Devices and links as a file describes them, in the file's order.
///
/// ```
/// let text = r#"
///     [[device]]
///     name = "desktop"
///     memory = "12 GB"
///     bandwidth = "100 GB/s"
///     compute = "4 TFLOPS"
///
///     [[device]]
///     name = "laptop"
///     memory = "16 GiB"
///     bandwidth = "50 GB/s"
///     compute = "900 GFLOPS"
///
///     [[link]]
///     from = "desktop"
///     to = "laptop"
///     rtt = "0.3 ms"
///     bandwidth = "1 Gbit/s"
/// "#;
/// let file = cairn_planner::WhatIf::parse(text).expect("no mistakes");
/// assert_eq!(file.devices[0].decode_bytes_per_second, 100_000_000_000);
/// // A multiply-accumulate is two floating-point operations.
/// assert_eq!(file.devices[0].prefill_macs_per_second, 2_000_000_000_000);
/// assert_eq!(file.links[0].round_trip_micros, 300);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhatIf {
    /// Ids are made from the place in the file.
    pub devices: Vec<Device>,
    /// One per `[[link]]`; the planner takes the way back to be the same.
    pub links: Vec<Link>,
}

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Counted from one.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl WhatIf {
    /// Parses a file, or lists every mistake in it in the order of lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader {
            text,
            mistakes: Vec::new(),
        };
        for error in errors {
            reader.mistake(error.span().unwrap_or(0..0), error.message().to_string());
        }
        // Behind a broken line, more would be reported than is wrong.
        let file = if reader.mistakes.is_empty() {
            reader.file(table.get_ref())
        } else {
            Self::empty()
        };
        if reader.mistakes.is_empty() {
            return Ok(file);
        }
        reader.mistakes.sort();
        Err(reader.mistakes)
    }

    fn empty() -> Self {
        Self {
            devices: Vec::new(),
            links: Vec::new(),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

/// The entries of one `[[device]]` or `[[link]]`.
struct Item<'e, 't> {
    kind: &'static str,
    span: Range<usize>,
    table: &'e DeTable<'t>,
}

impl<'t> Reader<'t> {
    fn mistake(&mut self, span: Range<usize>, what: String) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        self.mistakes.push(Mistake { line, what });
    }

    fn file(&mut self, table: &DeTable<'t>) -> WhatIf {
        let mut file = WhatIf::empty();
        let mut names: BTreeMap<String, DeviceId> = BTreeMap::new();
        for key in table.keys() {
            if !["device", "link"].contains(&key.get_ref().as_ref()) {
                let what = format!(
                    "`{}` is not known here; expected [[device]] or [[link]]",
                    key.get_ref()
                );
                self.mistake(key.span(), what);
            }
        }
        for (index, entry) in (0..).zip(self.entries(table, "device")) {
            if let Some(device) = self.device(index, &entry, &mut names) {
                file.devices.push(device);
            }
        }
        for entry in self.entries(table, "link") {
            if let Some(link) = self.link(&entry, &names) {
                file.links.push(link);
            }
        }
        if names.is_empty() && self.mistakes.is_empty() {
            self.mistake(0..0, "the file has no [[device]]".into());
        }
        self.repeated_links(table, &file);
        file
    }

    fn entries<'e>(&mut self, table: &'e DeTable<'t>, kind: &'static str) -> Vec<Item<'e, 't>> {
        let Some(value) = table.get(kind) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.get_ref() else {
            self.mistake(
                value.span(),
                format!("write [[{kind}]], with double brackets"),
            );
            return Vec::new();
        };
        let mut entries = Vec::new();
        for item in array.iter() {
            match item.get_ref() {
                DeValue::Table(table) => entries.push(Item {
                    kind,
                    span: item.span(),
                    table,
                }),
                _ => self.mistake(
                    item.span(),
                    format!("write [[{kind}]], with double brackets"),
                ),
            }
        }
        entries
    }

    fn device(
        &mut self,
        index: u32,
        entry: &Item<'_, 't>,
        names: &mut BTreeMap<String, DeviceId>,
    ) -> Option<Device> {
        self.unknown_keys(entry, &["name", "memory", "bandwidth", "compute"]);
        let id = DeviceId::from_index(index);
        let name = self.text_of(entry, "name");
        if let Some(name) = &name {
            let (name, span) = (name.get_ref().clone(), name.span());
            if name.is_empty() {
                self.mistake(span, "a device needs a name that is not empty".into());
            } else {
                match names.entry(name) {
                    Entry::Vacant(place) => {
                        place.insert(id);
                    }
                    Entry::Occupied(taken) => {
                        let name = taken.key();
                        let what = format!("the name \"{name}\" is taken by a device above");
                        self.mistake(span, what);
                    }
                }
            }
        }
        let memory = self.number(entry, "memory", units::bytes);
        let bandwidth = self.number(entry, "bandwidth", units::bytes_per_second);
        let compute = self.number(entry, "compute", units::flops);
        Some(Device {
            id,
            name: name?.into_inner(),
            memory_bytes: memory?,
            decode_bytes_per_second: bandwidth?,
            prefill_macs_per_second: (compute? / 2).max(1),
            detail: Detail::default(),
        })
    }

    fn link(&mut self, entry: &Item<'_, 't>, names: &BTreeMap<String, DeviceId>) -> Option<Link> {
        self.unknown_keys(entry, &["from", "to", "rtt", "bandwidth"]);
        let from = self.end(entry, "from", names);
        let to = self.end(entry, "to", names);
        let rtt = self.number(entry, "rtt", units::micros);
        let bandwidth = self.number(entry, "bandwidth", units::bytes_per_second);
        let (from, to) = (from?, to?);
        if from == to {
            self.mistake(
                entry.span.clone(),
                "a link joins two different devices".into(),
            );
            return None;
        }
        Some(Link {
            from,
            to,
            round_trip_micros: rtt?,
            bytes_per_second: bandwidth?,
        })
    }

    fn end(
        &mut self,
        entry: &Item<'_, 't>,
        key: &str,
        names: &BTreeMap<String, DeviceId>,
    ) -> Option<DeviceId> {
        let name = self.text_of(entry, key)?;
        let id = names.get(name.get_ref()).copied();
        if id.is_none() {
            let what = format!("\"{}\" is no [[device]] of this file", name.get_ref());
            self.mistake(name.span(), what);
        }
        id
    }

    /// The same pair twice contradicts itself; the two directions of a pair do not.
    fn repeated_links(&mut self, table: &DeTable<'t>, file: &WhatIf) {
        let entries = self.entries(table, "link");
        // Only when each entry became a link do places in both lists agree.
        if entries.len() != file.links.len() {
            return;
        }
        for (place, link) in file.links.iter().enumerate() {
            let again = |other: &Link| other.from == link.from && other.to == link.to;
            if file.links[..place].iter().any(again) {
                let what = "this pair has a link above already".into();
                self.mistake(entries[place].span.clone(), what);
            }
        }
    }

    fn unknown_keys(&mut self, entry: &Item<'_, 't>, known: &[&str]) {
        for key in entry.table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let what = format!(
                    "`{}` is not known in [[{}]]; expected {}",
                    key.get_ref(),
                    entry.kind,
                    known.join(", ")
                );
                self.mistake(key.span(), what);
            }
        }
    }

    fn text_of(&mut self, entry: &Item<'_, 't>, key: &str) -> Option<Spanned<String>> {
        let Some(value) = entry.table.get(key) else {
            let what = format!("this [[{}]] has no `{key}`", entry.kind);
            self.mistake(entry.span.clone(), what);
            return None;
        };
        let DeValue::String(text) = value.get_ref() else {
            self.mistake(value.span(), format!("`{key}` must be a text in quotes"));
            return None;
        };
        Some(Spanned::new(value.span(), text.to_string()))
    }

    fn number(
        &mut self,
        entry: &Item<'_, 't>,
        key: &str,
        read: fn(&str) -> Result<u64, String>,
    ) -> Option<u64> {
        let text = self.text_of(entry, key)?;
        match read(text.get_ref()) {
            Ok(number) => Some(number),
            Err(what) => {
                self.mistake(text.span(), format!("`{key}`: {what}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
