//! The cluster that a user's nodes belong to, and its secret.
//!
//! One file per user, so that nodes on one machine share it without being asked.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Home, create_private_dir, warn_if_open, write_private};
use crate::config::{ClusterWish, DEFAULT_CLUSTER};
use crate::join::fresh_secret;

const FILE: &str = "cluster.toml";

/// Which cluster, and what its members prove to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The cluster's secret.
    pub(crate) secret: String,
}

impl Membership {
    /// What the wish and the user's memory give together.
    ///
    /// Makes a secret when none was ever made. Remembers a join line, keeping
    /// the membership that it replaces beside it under its cluster's name.
    pub(crate) fn settle(
        home: &Home,
        wish: &ClusterWish,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        if let ClusterWish::Named {
            cluster: Some(cluster),
            secret: Some(secret),
        } = wish
        {
            // Nothing to remember, so nothing is touched: scripts need no home.
            return Ok(Self {
                cluster: cluster.clone(),
                secret: secret.clone(),
            });
        }
        create_private_dir(&home.data)?;
        // Nodes that start together for the first time must agree on one secret.
        let lock_path = home.data.join("cluster.lock");
        let lock = File::create(&lock_path)
            .with_context(|| format!("cannot create {}", lock_path.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", lock_path.display()))?;
        let path = home.data.join(FILE);
        let remembered = Self::read(&path, warnings)?;
        match wish {
            ClusterWish::Join(line) => {
                let joined = Self {
                    cluster: line.cluster.clone(),
                    secret: line.secret.clone(),
                };
                if let Some(old) = remembered.filter(|old| *old != joined) {
                    let kept = home.data.join(format!("cluster-{}.toml", old.cluster));
                    old.write(&kept)?;
                    warnings.push(format!(
                        "this user's nodes now belong to cluster `{}`; what they needed for `{}` is kept in {}",
                        joined.cluster,
                        old.cluster,
                        kept.display()
                    ));
                }
                joined.write(&path)?;
                Ok(joined)
            }
            ClusterWish::Named { cluster, secret } => {
                let base = match remembered {
                    Some(remembered) => remembered,
                    None => {
                        let fresh = Self {
                            cluster: DEFAULT_CLUSTER.to_owned(),
                            secret: fresh_secret().context("the system gives no random numbers")?,
                        };
                        fresh.write(&path)?;
                        fresh
                    }
                };
                Ok(Self {
                    cluster: cluster.clone().unwrap_or(base.cluster),
                    secret: secret.clone().unwrap_or(base.secret),
                })
            }
        }
    }

    fn read(path: &Path, warnings: &mut Vec<String>) -> anyhow::Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                warn_if_open(path, warnings);
                toml::from_str(&text).map(Some).with_context(|| {
                    format!(
                        "{} is damaged; remove it to start a new cluster",
                        path.display()
                    )
                })
            }
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(source).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("a membership is TOML")?;
        write_private(path, text.as_bytes())
    }
}
