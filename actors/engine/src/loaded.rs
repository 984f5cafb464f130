//! Parts of a model that are in memory now, by layer.
//!
//! Owns none of them: a part lives as long as a shard or a [`crate::KeptLayer`] holds it,
//! so dropping the last of them gives the memory back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::device::Device;
use crate::error::EngineError;
use crate::{fast, portable};

/// What the shards of one file hold, by compute path.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) fast_blocks: Store<u32, fast::Block>,
    pub(crate) fast_heads: Store<(), fast::Head>,
    pub(crate) portable_blocks: Store<(Device, u32), portable::Block>,
    pub(crate) portable_heads: Store<Device, portable::Head>,
}

/// Shared parts of one kind.
#[derive(Debug)]
pub(crate) struct Store<K, T>(Mutex<BTreeMap<K, Arc<Place<T>>>>);

/// Where one part is, if it is anywhere. Locked while it loads.
type Place<T> = Mutex<Weak<T>>;

/// Where a part came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was in memory.
    Memory,
    /// It was read from the file.
    File,
}

impl Loaded {
    /// Bytes of everything that is in memory, each part counted once.
    pub(crate) fn bytes(&self) -> u64 {
        let blocks = self.fast_blocks.bytes(fast::Block::bytes)
            + self.portable_blocks.bytes(portable::Block::bytes);
        let heads = self.fast_heads.bytes(fast::Head::bytes)
            + self.portable_heads.bytes(portable::Head::bytes);
        blocks + heads
    }
}

impl<K, T> Default for Store<K, T> {
    fn default() -> Store<K, T> {
        Store(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord, T> Store<K, T> {
    /// The part under `index`, loaded now unless somebody still holds it.
    ///
    /// Its place is locked while it loads: two that want the same layer at once must not both
    /// read it. Other layers do not wait.
    pub(crate) fn get_or_load(
        &self,
        index: K,
        load: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<(Arc<T>, Origin), EngineError> {
        let place = Arc::clone(lock(&self.0).entry(index).or_default());
        let mut part = lock(&place);
        if let Some(part) = part.upgrade() {
            return Ok((part, Origin::Memory));
        }
        let loaded = Arc::new(load()?);
        *part = Arc::downgrade(&loaded);
        Ok((loaded, Origin::File))
    }

    /// The part under `index` if it is in memory. Does not wait for one that is being loaded.
    pub(crate) fn find(&self, index: &K) -> Option<Arc<T>> {
        let place = lock(&self.0).get(index).map(Arc::clone)?;
        place.try_lock().ok()?.upgrade()
    }

    fn bytes(&self, of: impl Fn(&T) -> u64) -> u64 {
        let places: Vec<_> = lock(&self.0).values().map(Arc::clone).collect();
        let part = |place: &Arc<Place<T>>| place.try_lock().ok()?.upgrade();
        places.iter().filter_map(part).map(|part| of(&part)).sum()
    }
}

/// Whoever panicked while it loaded a part left none.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
