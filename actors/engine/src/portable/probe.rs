//! How fast candle's operations are on a device, without a model: one large matrix, and the
//! many small steps that a layer consists of.
//!
//! Reads no clock but for durations. A GPU is waited for once per timing, as a stage waits for
//! it once per pass.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Module, Result as CandleResult, Tensor};

use crate::device::Device;
use crate::error::{ComputeContext, EngineError};
use crate::stopwatch::{Clock, Stopwatch};

/// More than the last-level cache of any GPU: that of an H200 is 60 MB.
const MATRIX_BYTES: usize = 256 << 20;
const MATRIX_COLS: usize = 4096;
/// Done between two waits, so that waiting is no part of the time.
const REPEATS: usize = 10;
/// The fastest of so many counts.
const ROUNDS: usize = 5;
/// Operations that a layer launches for one row: counted, most of them tiny.
const LAYER_STEPS: usize = 66;

/// A matrix that is neither zero nor anything else.
pub(crate) struct Probe {
    matrix: QMatMul,
    file_bytes: usize,
    elements: usize,
    device: Device,
    opened: candle_core::Device,
}

impl Probe {
    /// Puts a matrix of `kind` onto the device.
    pub(crate) fn new(device: Device, kind: GgmlDType) -> Result<Probe, EngineError> {
        let opened = device.open()?;
        let row_bytes = MATRIX_COLS / kind.block_size() * kind.type_size();
        let rows = MATRIX_BYTES / row_bytes;
        let file_bytes = rows * row_bytes;
        // No value matters, only that not all are alike.
        let bytes: Vec<u8> = (0..file_bytes).map(|at| (at % 61) as u8).collect();
        let matrix = QStorage::from_data(Cow::Owned(bytes), &opened, kind)
            .and_then(|storage| QTensor::new(storage, (rows, MATRIX_COLS)))
            .and_then(QMatMul::from_qtensor);
        Ok(Probe {
            matrix: matrix.during("a matrix to measure with")?,
            file_bytes,
            elements: rows * MATRIX_COLS,
            device,
            opened,
        })
    }

    /// Bytes of the matrix, as a file has it, per second through one row.
    pub(crate) fn decode_bytes_per_second(&self, clock: Clock) -> Result<f64, EngineError> {
        Ok(self.file_bytes as f64 / self.product_seconds(1, clock)?)
    }

    /// Multiply-accumulates per second through `rows` rows.
    pub(crate) fn prefill_macs_per_second(
        &self,
        rows: usize,
        clock: Clock,
    ) -> Result<f64, EngineError> {
        Ok((self.elements * rows) as f64 / self.product_seconds(rows, clock)?)
    }

    /// What a layer takes to be told to the device, whatever its weights.
    pub(crate) fn layer_seconds(&self, clock: Clock) -> Result<f64, EngineError> {
        let x = Tensor::ones((1, 64), candle_core::DType::F32, &self.opened);
        let x = x.during("a step to measure with")?;
        let steps = || (0..LAYER_STEPS).try_fold(x.clone(), |x, _| x.affine(0.5, 0.5));
        self.fastest(clock, || steps().map(drop))
    }

    fn product_seconds(&self, rows: usize, clock: Clock) -> Result<f64, EngineError> {
        let shape = (rows, MATRIX_COLS);
        let x = Tensor::ones(shape, candle_core::DType::F32, &self.opened);
        let x = x.during("rows to measure with")?;
        self.fastest(clock, || self.matrix.forward(&x).map(drop))
    }

    /// Seconds of one `work`, the fastest of some.
    fn fastest(
        &self,
        clock: Clock,
        work: impl Fn() -> CandleResult<()>,
    ) -> Result<f64, EngineError> {
        let mut fastest = f64::INFINITY;
        // One more, in which the device wakes and loads what it runs.
        for _ in 0..=ROUNDS {
            self.device.finish()?;
            let watch = Stopwatch::start(clock);
            for _ in 0..REPEATS {
                work().during("measuring")?;
            }
            self.device.finish()?;
            fastest = fastest.min(watch.seconds() / REPEATS as f64);
        }
        Ok(fastest.max(1e-9))
    }
}
