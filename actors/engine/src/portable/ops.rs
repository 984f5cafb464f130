//! The steps of a layer that are many operations to candle's tensors and one to its kernels.
//!
//! A GPU is told each operation by itself, which takes longer than most of them do, so there
//! the kernels are taken. On a CPU the operations are: what they compute can be read here.

use candle_core::{D, Result as CandleResult, Tensor};

/// (rows, width) with weights (width) -> the same.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> CandleResult<Tensor> {
    #[cfg(any(feature = "cuda", feature = "metal"))]
    if !x.device().is_cpu() {
        return candle_nn::ops::rms_norm(x, weight, epsilon as f32);
    }
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + epsilon)?.sqrt()?)?
        .broadcast_mul(weight)
}

/// Over the last dimension.
pub(super) fn softmax(x: &Tensor) -> CandleResult<Tensor> {
    #[cfg(any(feature = "cuda", feature = "metal"))]
    if !x.device().is_cpu() {
        return candle_nn::ops::softmax_last_dim(x);
    }
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Rotates adjacent pairs: (rows, heads, head_dim) by angles (rows, 1, head_dim / 2) -> the same.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> CandleResult<Tensor> {
    let (rows, heads, dim) = x.dims3()?;
    #[cfg(any(feature = "cuda", feature = "metal"))]
    if !x.device().is_cpu() {
        // Each row is a batch of its own, with one position.
        let x = x.reshape((rows, heads, 1, dim))?;
        return candle_nn::rotary_emb::rope_i(&x, cos, sin)?.reshape((rows, heads, dim));
    }
    let (cos, sin) = (cos.unsqueeze(3)?, sin.unsqueeze(3)?);
    let pairs = x.reshape((rows, heads, dim / 2, 2))?;
    let (a, b) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    Tensor::cat(&[first, second], 3)?.reshape((rows, heads, dim))
}
