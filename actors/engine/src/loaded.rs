//! Parts of a model that are in memory now, by layer.
//!
//! Owns none of them: a part lives as long as some shard holds it, so dropping
//! the last shard gives the memory back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::EngineError;
use crate::{fast, portable};

/// What the shards of one file hold, by compute path.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) fast_blocks: Store<fast::Block>,
    pub(crate) fast_heads: Store<fast::Head>,
    pub(crate) portable_blocks: Store<portable::Block>,
    pub(crate) portable_heads: Store<portable::Head>,
}

/// Shared parts of one kind.
#[derive(Debug)]
pub(crate) struct Store<T>(Mutex<BTreeMap<u32, Weak<T>>>);

impl<T> Default for Store<T> {
    fn default() -> Store<T> {
        Store(Mutex::new(BTreeMap::new()))
    }
}

impl<T> Store<T> {
    /// The part under `index`, loaded now unless some shard still holds it.
    ///
    /// The lock is held while loading: two shards that want the same layer at
    /// once must not both read it.
    pub(crate) fn get_or_load(
        &self,
        index: u32,
        load: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<Arc<T>, EngineError> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(&index).and_then(Weak::upgrade) {
            return Ok(part);
        }
        let part = Arc::new(load()?);
        parts.insert(index, Arc::downgrade(&part));
        Ok(part)
    }
}
