//! A model file that is here already, for commands that must not download.

use std::path::PathBuf;

use super::cache::Cache;
use super::name::ModelName;
use super::trouble::Trouble;
use crate::exit::{Exit, Failure};
use crate::home::Home;

/// The file of this name. Not hashed: only its head is going to be read.
pub(crate) fn on_disk(name: &str) -> Result<PathBuf, Failure> {
    let trouble = |trouble: Trouble| Failure::new(Exit::Model, trouble);
    let parsed = ModelName::parse(name).map_err(trouble)?;
    let receipts = || -> Result<_, Failure> {
        let home = Home::of_user()?;
        Ok(Cache::new(&home.cache).receipts().into_iter())
    };
    let found = match parsed {
        ModelName::Path(path) => Some(path),
        ModelName::Catalogue(entry) => {
            let sha256 = entry.sha256();
            let mut receipts = receipts()?.filter(|receipt| receipt.sha256 == sha256);
            receipts.next().map(|receipt| receipt.path)
        }
        ModelName::Hub(file) => {
            let name = file.to_string();
            let mut receipts = receipts()?.filter(|receipt| receipt.name == name);
            receipts.next().map(|receipt| receipt.path)
        }
    };
    found.ok_or_else(|| {
        let text = format!(
            "{name} is not on this disk, and planning downloads nothing: run \
             `cairn models pull {name}` first, or name a GGUF file"
        );
        Failure::text(Exit::Model, text)
    })
}
