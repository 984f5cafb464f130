//! What is kept on disk for a user and for each node: places, identity, membership.
//!
//! Model files live elsewhere (`models`). Nothing here is ever sent anywhere.

mod membership;
mod node_dir;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Context;
use directories::ProjectDirs;

pub(crate) use membership::Membership;
pub(crate) use node_dir::{NodeDir, NodeFile, parse_hex};

/// The places of one user.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// Identities, memberships: what must survive.
    pub(crate) data: PathBuf,
    /// Model files: what may be fetched again.
    pub(crate) cache: PathBuf,
    /// The usual configuration file.
    pub(crate) config_file: PathBuf,
}

impl Home {
    /// The places that the system's conventions give this user.
    ///
    /// `CAIRN_HOME` and `CAIRN_CACHE` name others.
    pub(crate) fn of_user() -> anyhow::Result<Self> {
        let usual = ProjectDirs::from("", "", "cairn");
        let data = std::env::var_os("CAIRN_HOME").map(PathBuf::from);
        let cache = std::env::var_os("CAIRN_CACHE").map(PathBuf::from);
        let hint = "this user has no home directory: set HOME, or CAIRN_HOME and CAIRN_CACHE";
        let config_file = match (&data, &usual) {
            (Some(data), _) => data.join("config.toml"),
            (None, Some(usual)) => usual.config_dir().join("config.toml"),
            (None, None) => return Err(anyhow::Error::msg(hint)),
        };
        let data = data.or_else(|| usual.as_ref().map(|dirs| dirs.data_local_dir().to_owned()));
        let cache = cache.or_else(|| usual.as_ref().map(|dirs| dirs.cache_dir().to_owned()));
        Ok(Self {
            data: data.context(hint)?,
            cache: cache.context(hint)?,
            config_file,
        })
    }
}

/// Creates a directory that only its user may enter.
fn create_private_dir(path: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .with_context(|| format!("cannot create the directory {}", path.display()))
}

/// Writes a file that only its user may read, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let dir = path.parent().context("a file has a directory")?;
    // `tempfile` creates with mode 0600, so that the secret is never readable by others.
    let mut file = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("cannot write into {}", dir.display()))?;
    std::io::Write::write_all(&mut file, bytes)
        .and_then(|()| file.as_file().sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.persist(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Says so when others can read a file that holds a secret.
#[cfg(unix)]
fn warn_if_open(path: &Path, warnings: &mut Vec<String>) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if let Ok(mode) = mode
        && mode & 0o077 != 0
    {
        warnings.push(format!(
            "{} holds a secret and others may read it (mode {:03o}): run `chmod 600 {}`",
            path.display(),
            mode & 0o777,
            path.display()
        ));
    }
}

/// Other systems have no modes to look at.
#[cfg(not(unix))]
fn warn_if_open(_path: &Path, _warnings: &mut Vec<String>) {}
