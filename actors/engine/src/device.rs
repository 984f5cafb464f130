//! Devices that a shard may compute on.
//!
//! Which ones a build knows is decided by its features, `cuda` and `metal`; which
//! of them are there, at run time.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use crate::error::EngineError;

/// A processor that a shard computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// The first GPU that this build knows and this machine has, or else the CPU.
    Auto,
    /// The CPU, with the engine's own kernels.
    #[default]
    Cpu,
    /// A GPU of NVIDIA's, counted from 0, by candle's operations. Needs the feature `cuda`.
    Cuda(usize),
    /// A GPU of Apple's, counted from 0, by candle's operations. Needs the feature `metal`.
    Metal(usize),
}

/// What a GPU is called and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// As its maker calls it.
    pub name: String,
    /// Its own memory now; `None` where it uses the machine's.
    pub memory: Option<AcceleratorMemory>,
}

/// Memory that a GPU does not share with the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceleratorMemory {
    /// What no program has taken, this one included.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// The GPUs that have been opened. candle takes two openings of one GPU for two
/// devices, whose tensors do not mix, and shards share layers.
static OPEN: Mutex<BTreeMap<Device, candle_core::Device>> = Mutex::new(BTreeMap::new());

impl Device {
    /// The device itself: [`Device::Auto`] becomes what it stands for on this machine.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the device is not in this build or not in this machine.
    pub fn resolve(self) -> Result<Device, EngineError> {
        if self != Device::Auto {
            return self.open().map(|_| self);
        }
        let present = |device: &Device| device.open().is_ok();
        let gpus = [Device::Cuda(0), Device::Metal(0)];
        Ok(gpus.into_iter().find(present).unwrap_or_default())
    }

    /// What the GPU is called and has left now; `None` for the CPU, also where
    /// [`Device::Auto`] stands for it.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the device is not there or does not answer.
    pub fn accelerator(self) -> Result<Option<Accelerator>, EngineError> {
        let device = self.resolve()?;
        let accelerator = match device {
            Device::Auto | Device::Cpu => return Ok(None),
            Device::Cuda(_) => nvidia(&device.open()?),
            Device::Metal(_) => Ok(Accelerator {
                name: "Apple GPU".to_owned(),
                memory: None,
            }),
        };
        let accelerator = accelerator.map_err(|source| EngineError::Device { device, source })?;
        Ok(Some(accelerator))
    }

    /// Waits until the device has done what it was told.
    pub(crate) fn finish(self) -> Result<(), EngineError> {
        self.open()?
            .synchronize()
            .map_err(|source| EngineError::Device {
                device: self,
                source,
            })
    }

    /// The device as candle has it.
    pub(crate) fn open(self) -> Result<candle_core::Device, EngineError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.get(&self) {
            return Ok(device.clone());
        }
        let opened = match self {
            Device::Auto | Device::Cpu => return Ok(candle_core::Device::Cpu),
            // A stream of its own. The default one differs from thread to thread, and a shard
            // is not loaded by the thread that runs it.
            Device::Cuda(index) => candle_core::Device::new_cuda_with_stream(index),
            Device::Metal(index) => candle_core::Device::new_metal(index),
        };
        let device = opened.map_err(|source| EngineError::Device {
            device: self,
            source,
        })?;
        open.insert(self, device.clone());
        Ok(device)
    }
}

/// What the driver says of an opened GPU of NVIDIA's.
#[cfg(feature = "cuda")]
fn nvidia(device: &candle_core::Device) -> candle_core::Result<Accelerator> {
    use candle_core::cuda_backend::WrapErr;

    let stream = device.as_cuda_device()?.cuda_stream();
    // What was freed is given back when the stream comes to it.
    stream.synchronize().w()?;
    let (free, total) = stream.context().mem_get_info().w()?;
    Ok(Accelerator {
        name: stream.context().name().w()?,
        memory: Some(AcceleratorMemory {
            free_bytes: free as u64,
            total_bytes: total as u64,
        }),
    })
}

/// Never called: without the feature no such device opens.
#[cfg(not(feature = "cuda"))]
fn nvidia(_: &candle_core::Device) -> candle_core::Result<Accelerator> {
    Err(candle_core::Error::NotCompiledWithCudaSupport)
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::Metal(index) => write!(f, "metal:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let unknown = || format!("`{text}` is not auto, cpu, cuda:N or metal:N");
        let (kind, index) = match text.split_once(':') {
            None => (text, None),
            Some((kind, index)) => (kind, Some(index.parse().map_err(|_| unknown())?)),
        };
        match (kind, index) {
            ("auto", None) => Ok(Device::Auto),
            ("cpu", None) => Ok(Device::Cpu),
            ("cuda", index) => Ok(Device::Cuda(index.unwrap_or(0))),
            ("metal", index) => Ok(Device::Metal(index.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(3), Device::Metal(0)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["", "gpu", "cpu:1", "auto:0", "cuda:", "cuda:x", "cuda:-1"] {
            let error = wrong.parse::<Device>().expect_err(wrong);
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    fn a_gpu_that_this_build_does_not_know_is_refused_by_name() {
        assert_eq!(Device::Auto.resolve().expect("a CPU"), Device::Cpu);
        assert_eq!(Device::Auto.accelerator().expect("a CPU"), None);
        for (gpu, feature) in [(Device::Cuda(1), "cuda"), (Device::Metal(0), "metal")] {
            let error = gpu.resolve().expect_err("not in this build").to_string();
            assert!(error.contains(&gpu.to_string()), "{error}");
            assert!(error.contains(feature), "{error}");
            assert!(gpu.accelerator().is_err());
        }
    }
}
