//! Layers that stay in memory though no shard runs them.

use std::any::Any;
use std::sync::Arc;

use crate::device::Device;
use crate::error::EngineError;
use crate::file::ModelFile;
use crate::shard::{ComputePath, ShardOptions};
use crate::{fast, portable};

/// One layer, and the head behind the last one. A shard of the same file that is loaded with
/// the same options takes it instead of reading it again.
#[derive(Debug)]
pub struct KeptLayer {
    /// Held, never looked at.
    _parts: Vec<Arc<dyn Any + Send + Sync>>,
}

impl KeptLayer {
    /// Keeps a layer, which is read unless somebody holds it already.
    ///
    /// # Errors
    /// As [`crate::Shard::load`].
    pub fn load(
        file: &ModelFile,
        layer: u32,
        options: &ShardOptions,
    ) -> Result<KeptLayer, EngineError> {
        let spec = file.spec();
        if layer >= spec.layers {
            return Err(EngineError::LayerRange {
                first: layer,
                end: layer + 1,
                layers: spec.layers,
            });
        }
        let is_last = layer + 1 == spec.layers;
        let mut parts: Vec<Arc<dyn Any + Send + Sync>> = Vec::new();
        match place(options)? {
            Place::Fast => {
                parts.push(fast::load_block(file, layer)?.0);
                if is_last {
                    parts.push(fast::load_head(file)?);
                }
            }
            Place::Portable(on) => {
                parts.push(portable::load_block(file, layer, on)?.0);
                if is_last {
                    parts.push(portable::load_head(file, on)?);
                }
            }
        }
        Ok(KeptLayer { _parts: parts })
    }

    /// Keeps a layer that is in memory; reads nothing and waits for nobody.
    pub fn find(file: &ModelFile, layer: u32, options: &ShardOptions) -> Option<KeptLayer> {
        let loaded = file.loaded();
        let is_last = layer + 1 == file.spec().layers;
        let mut parts: Vec<Arc<dyn Any + Send + Sync>> = Vec::new();
        match place(options).ok()? {
            Place::Fast => {
                parts.push(loaded.fast_blocks.find(&layer)?);
                if is_last {
                    parts.push(loaded.fast_heads.find(&())?);
                }
            }
            Place::Portable(on) => {
                parts.push(loaded.portable_blocks.find(&(on, layer))?);
                if is_last {
                    parts.push(loaded.portable_heads.find(&on)?);
                }
            }
        }
        Some(KeptLayer { _parts: parts })
    }
}

/// Which of the two decoders a shard with these options has, and where.
pub(crate) enum Place {
    Fast,
    Portable(Device),
}

pub(crate) fn place(options: &ShardOptions) -> Result<Place, EngineError> {
    Ok(match (options.path, options.device.resolve()?) {
        // The kernels have a form for every CPU and for every format that candle knows.
        (ComputePath::Auto, Device::Cpu) => Place::Fast,
        (ComputePath::Auto | ComputePath::Portable, device) => Place::Portable(device),
    })
}
