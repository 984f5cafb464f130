//! Parts of a model that are in memory now, by layer.
//!
//! Owns none of them: a part lives as long as some shard holds it, so dropping
//! the last shard gives the memory back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::device::Device;
use crate::error::EngineError;
use crate::{fast, portable};

/// What the shards of one file hold, by compute path.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) fast_blocks: Store<u32, fast::Block>,
    pub(crate) fast_heads: Store<u32, fast::Head>,
    pub(crate) portable_blocks: Store<(Device, u32), portable::Block>,
    pub(crate) portable_heads: Store<Device, portable::Head>,
}

/// Shared parts of one kind.
#[derive(Debug)]
pub(crate) struct Store<K, T>(Mutex<BTreeMap<K, Weak<T>>>);

impl<K, T> Default for Store<K, T> {
    fn default() -> Store<K, T> {
        Store(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord, T> Store<K, T> {
    /// The part under `index`, loaded now unless some shard still holds it.
    ///
    /// The lock is held while loading: two shards that want the same layer at
    /// once must not both read it.
    pub(crate) fn get_or_load(
        &self,
        index: K,
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
