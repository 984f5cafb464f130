//! What a user may call a model: a short name, a file on the hub, or a path.

use std::path::PathBuf;

use super::catalogue::Entry;
use super::hub::HubFile;
use super::trouble::Trouble;

/// A parsed name.
#[derive(Debug)]
pub(crate) enum ModelName {
    /// A short name.
    Catalogue(&'static Entry),
    /// A file on the hub.
    Hub(HubFile),
    /// A file on disk.
    Path(PathBuf),
}

impl ModelName {
    /// A file that exists wins over a hub file of the same spelling; `hf:` and `./` leave no doubt.
    pub(crate) fn parse(text: &str) -> Result<Self, Trouble> {
        let text = text.trim();
        let unknown = || Trouble::Unknown(text.to_owned());
        if let Some(rest) = text.strip_prefix("hf:") {
            return HubFile::parse(rest).map(Self::Hub).ok_or_else(unknown);
        }
        if let Some(entry) = Entry::find(text) {
            return Ok(Self::Catalogue(entry));
        }
        let path = PathBuf::from(text);
        if path.is_file() {
            return Ok(Self::Path(path));
        }
        let looks_like_path = text.starts_with(['.', '/', '~']) || path.is_absolute();
        if let Some(file) = HubFile::parse(text)
            && !looks_like_path
        {
            return Ok(Self::Hub(file));
        }
        let is_gguf = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if looks_like_path || is_gguf {
            return Err(Trouble::NoFile(path));
        }
        Err(unknown())
    }
}
