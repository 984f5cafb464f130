//! Oracles: candle's dequantised weights in `f64`, and candle's own product.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor, ggml_file::qtensor_from_ggml};
use candle_core::{Device, Module, Tensor};

use super::super::rows::Block;
use crate::kernel::{Format, Isa, Packed, Pool, QuantizedRows};

const SHAPES: [(usize, usize); 5] = [(1, 1), (7, 2), (16, 1), (41, 3), (96, 5)];
const BATCHES: [usize; 6] = [1, 2, 3, 5, 8, 67];

fn dtype(format: Format) -> GgmlDType {
    match format {
        Format::F32 => GgmlDType::F32,
        Format::F16 => GgmlDType::F16,
        Format::BF16 => GgmlDType::BF16,
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q5_1 => GgmlDType::Q5_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q2K => GgmlDType::Q2K,
        Format::Q3K => GgmlDType::Q3K,
        Format::Q4K => GgmlDType::Q4K,
        Format::Q5K => GgmlDType::Q5K,
        Format::Q6K => GgmlDType::Q6K,
    }
}

/// A small generator: the tests name their seeds.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        self.0 >> 33
    }
    /// In -1..1, with a tail: real activations have outliers.
    fn float(&mut self) -> f32 {
        let x = self.next() as f32 / (1u64 << 30) as f32 - 1.0;
        x * x * x + 0.2 * (self.next() as f32 / (1u64 << 30) as f32 - 1.0)
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Blocks of arbitrary quants and fine scales under sane block scales, so that
/// every bit of the format takes every value.
fn arbitrary(random: &mut Random, format: Format, rows: usize, cols: usize) -> Vec<u8> {
    if format.is_float() {
        let floats = random.floats(rows * cols);
        return match format.block_bytes() {
            4 => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
            _ if format == Format::F16 => floats
                .iter()
                .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
                .collect(),
            _ => floats
                .iter()
                .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
                .collect(),
        };
    }
    let blocks = rows * cols / format.block_len();
    let mut data = Vec::new();
    for _ in 0..blocks {
        let start = data.len();
        data.extend((0..format.block_bytes()).map(|_| random.next() as u8));
        let halves: &[usize] = match format {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
            Format::Q2K => &[80, 82],
            Format::Q3K => &[108],
            Format::Q6K => &[208],
            Format::F32 | Format::F16 | Format::BF16 => &[],
        };
        for at in halves {
            let scale = half::f16::from_f32(0.01 * random.float());
            data[start + at..start + at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    data
}

fn oracle(format: Format, data: &[u8], rows: usize, cols: usize) -> QTensor {
    // Through an aligned copy: candle reads blocks in place.
    qtensor_from_ggml(dtype(format), data, vec![rows, cols], &Device::Cpu).expect("candle reads it")
}

fn dequantized(tensor: &QTensor) -> Vec<f32> {
    let tensor = tensor
        .dequantize(&Device::Cpu)
        .and_then(|tensor| tensor.flatten_all());
    tensor
        .and_then(|tensor| tensor.to_vec1())
        .expect("candle dequantises")
}

/// The inputs that the product sees: the blocks' values, or the floats.
fn seen(format: Format, x: &QuantizedRows) -> Vec<f64> {
    if format.is_float() {
        return x.floats().iter().map(|&x| f64::from(x)).collect();
    }
    let values = |block: &Block| block.quants.map(|q| f64::from(q) * f64::from(block.scale));
    x.blocks().iter().flat_map(values).collect()
}

/// Gives the blocks the sums of the very numbers that they hold: how sums are rounded when a
/// row is quantised is no matter of the product.
fn exact_sums(x: &mut QuantizedRows) {
    for block in x.blocks_mut() {
        let scale = block.scale;
        block.scaled_sum = scale * block.sum as f32;
        block.scaled_half_sums = block.half_sums.map(|sum| scale * sum as f32);
    }
}

fn for_each_case(test: impl Fn(Format, usize, usize, usize, &mut Random)) {
    for format in Format::ALL {
        let mut random = Random(1 + format.block_bytes() as u64);
        for (rows, units) in SHAPES {
            let cols = if format.is_float() {
                17 * units
            } else {
                units * format.block_len()
            };
            for n in BATCHES {
                test(format, rows, cols, n, &mut random);
            }
        }
    }
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Against the exact product of the very same quantised numbers, so only the
/// rounding of 32-bit sums is left: for each input one rounding of the scaled
/// product and one of the sum, all relative to the sum of magnitudes.
#[test]
fn products_are_exact_up_to_float_rounding() {
    let pool = Pool::new(2);
    for_each_case(|format, rows, cols, n, random| {
        let data = arbitrary(random, format, rows, cols);
        let weights = dequantized(&oracle(format, &data, rows, cols));
        let mut x = QuantizedRows::new(n, cols);
        x.set(&pool, &random.floats(n * cols));
        if !format.is_float() {
            exact_sums(&mut x);
        }
        let inputs = seen(format, &x);
        let packed = Packed::pack(format, &data, rows, cols).expect("it packs");
        let mut out = vec![f32::NAN; n * rows];
        packed.matmul(&pool, &x, &mut out);
        for (i, out) in out.iter().enumerate() {
            let (weights, inputs) = (&weights[i % rows * cols..], &inputs[i / rows * cols..]);
            let terms = weights.iter().zip(inputs).take(cols);
            let exact: f64 = terms.clone().map(|(&w, &x)| f64::from(w) * x).sum();
            // Quants times scale before the minimum is taken off can be 32
            // times the weight itself.
            let magnitude: f64 = terms.map(|(&w, &x)| (f64::from(w) * x).abs()).sum();
            let bound =
                1e-7 * (2.0 + cols as f64 / 16.0) * (magnitude + headroom(format, &inputs[..cols]));
            assert!(
                (f64::from(*out) - exact).abs() <= bound,
                "{format:?} {rows}x{cols} n={n} [{i}]: {out} for {exact} (within {bound})"
            );
        }
    });
}

/// What the subtraction of a minimum can cancel: scale, quant and input at
/// their largest in `arbitrary`.
fn headroom(format: Format, inputs: &[f64]) -> f64 {
    let weight = match format {
        Format::F32 | Format::F16 | Format::BF16 | Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => {
            0.0
        }
        Format::Q4_1 | Format::Q5_1 => 0.012 * 31.0,
        Format::Q2K | Format::Q3K => 0.012 * 63.0,
        Format::Q4K | Format::Q5K | Format::Q6K => 0.012 * 64.0 * 31.0,
    };
    weight * inputs.iter().map(|x| x.abs()).sum::<f64>()
}

/// Against candle, which quantises the inputs too (K-quants per 256): each
/// input is off by at most half a step of either side's block.
#[test]
fn products_agree_with_candle() {
    let pool = Pool::new(2);
    for_each_case(|format, rows, cols, n, random| {
        if !format.is_float() && !cols.is_multiple_of(64) {
            // candle takes blocks of some formats two at a time.
            return;
        }
        let data = arbitrary(random, format, rows, cols);
        let tensor = oracle(format, &data, rows, cols);
        let weights = dequantized(&tensor);
        let floats = random.floats(n * cols);
        let mut x = QuantizedRows::new(n, cols);
        x.set(&pool, &floats);
        let packed = Packed::pack(format, &data, rows, cols).expect("it packs");
        let mut out = vec![f32::NAN; n * rows];
        packed.matmul(&pool, &x, &mut out);
        let candle = QMatMul::from_qtensor(tensor)
            .and_then(|matmul| {
                matmul.forward(&Tensor::from_slice(&floats, (n, cols), &Device::Cpu)?)
            })
            .and_then(|out| out.flatten_all()?.to_vec1::<f32>())
            .expect("candle multiplies");
        let block = format.block_len().max(32);
        for (i, (out, candle)) in out.iter().zip(&candle).enumerate() {
            let (weights, inputs) = (&weights[i % rows * cols..], &floats[i / rows * cols..]);
            let mut bound = 0.0;
            for (weights, inputs) in weights[..cols]
                .chunks(block)
                .zip(inputs[..cols].chunks(block))
            {
                let most = inputs.iter().fold(0f32, |most, x| most.max(x.abs()));
                let steps = if format.is_float() {
                    1e-5
                } else {
                    1.05 / 127.0
                };
                bound += weights.iter().map(|w| w.abs() * most * steps).sum::<f32>();
            }
            // candle rounds block scales and minima times sums to 16 bits.
            let slack = 2e-3
                * headroom(
                    format,
                    &inputs[..cols]
                        .iter()
                        .map(|&x| f64::from(x))
                        .collect::<Vec<_>>(),
                ) as f32;
            assert!(
                (out - candle).abs() <= bound + slack + 1e-6,
                "{format:?} {rows}x{cols} n={n} [{i}]: {out}, candle {candle} (within {bound})"
            );
        }
    });
}

/// One answer, bit for bit, however it is computed.
#[test]
fn batch_threads_and_instruction_set_leave_no_trace() {
    let pools = [1, 2, 5].map(Pool::new);
    for_each_case(|format, rows, cols, n, random| {
        let data = arbitrary(random, format, rows, cols);
        let floats = random.floats(n * cols);
        let mut reference: Option<Vec<u32>> = None;
        for isa in available() {
            let packed = Packed::pack_for(isa, format, &data, rows, cols).expect("it packs");
            for pool in &pools {
                for chunk in [1, 3, n] {
                    let mut bits = Vec::new();
                    let mut x = QuantizedRows::new(chunk, cols);
                    for floats in floats.chunks(chunk * cols) {
                        x.set(pool, floats);
                        let mut out = vec![f32::NAN; x.rows() * rows];
                        packed.matmul(pool, &x, &mut out);
                        bits.extend(out.iter().map(|out| out.to_bits()));
                    }
                    let reference = reference.get_or_insert_with(|| bits.clone());
                    assert!(
                        *reference == bits,
                        "{format:?} {rows}x{cols} n={n} {isa:?} threads={} chunk={chunk}",
                        pool.threads()
                    );
                }
            }
        }
    });
}

/// With a band of rows for each thread, and without.
#[test]
fn each_output_of_many_rows_is_added_to_once() {
    let pools = [1, 2, 3].map(Pool::new);
    let mut random = Random(5);
    let (rows, cols) = (75, 64);
    let data = arbitrary(&mut random, Format::Q4_1, rows, cols);
    let part = || Packed::pack(Format::Q4_1, &data, rows, cols).expect("it packs");
    let packed = Packed::concat(vec![part(), part()]).expect("one width");
    for n in [127, 128, 192, 200, 333] {
        let floats = random.floats(n * cols);
        let before = random.floats(n * 2 * rows);
        let add = |pool: &Pool| {
            let mut x = QuantizedRows::new(n, cols);
            x.set(pool, &floats);
            let mut out = before.clone();
            packed.matmul_add(pool, &x, &mut out);
            out
        };
        let alone = add(&pools[0]);
        for pool in &pools[1..] {
            assert_eq!(add(pool), alone, "{n} rows, {} threads", pool.threads());
        }
    }
}

#[test]
fn several_matrices_as_one_give_what_each_gives() {
    let pool = Pool::new(2);
    let mut random = Random(9);
    let cols = 256;
    let parts = [
        (Format::Q4K, 19),
        (Format::Q6K, 8),
        (Format::F16, 33),
        (Format::Q4K, 16),
    ];
    let data = parts.map(|(format, rows)| arbitrary(&mut random, format, rows, cols));
    let pack = |i: usize| Packed::pack(parts[i].0, &data[i], parts[i].1, cols).expect("it packs");
    let whole = Packed::concat((0..parts.len()).map(pack).collect()).expect("one width");
    assert_eq!((whole.rows(), whole.cols()), (76, cols));
    let n = 5;
    let mut x = QuantizedRows::new(n, cols);
    x.set(&pool, &random.floats(n * cols));
    let mut all = vec![0.0; n * 76];
    whole.matmul(&pool, &x, &mut all);
    let mut first = 0;
    for (i, (_, rows)) in parts.into_iter().enumerate() {
        let mut alone = vec![0.0; n * rows];
        pack(i).matmul(&pool, &x, &mut alone);
        for (row, alone) in alone.chunks(rows).enumerate() {
            assert_eq!(&all[row * 76 + first..][..rows], alone, "part {i}");
        }
        first += rows;
    }
}

#[test]
fn epilogues_follow_the_product() {
    let pool = Pool::new(2);
    let mut random = Random(4);
    let (rows, cols, n) = (37, 64, 6);
    let mut pack = || {
        let data = arbitrary(&mut random, Format::Q4_1, rows, cols);
        Packed::pack(Format::Q4_1, &data, rows, cols).expect("it packs")
    };
    let (gate, up) = (pack(), pack());
    let mut x = QuantizedRows::new(n, cols);
    x.set(&pool, &random.floats(n * cols));
    let product = |weights: &Packed| {
        let mut out = vec![0.0; n * rows];
        weights.matmul(&pool, &x, &mut out);
        out
    };
    let mut sum = product(&up);
    gate.matmul_add(&pool, &x, &mut sum);
    let mut gated = vec![f32::NAN; n * rows];
    gate.matmul_silu_mul(&up, &pool, &x, &mut gated);
    for (i, (g, u)) in product(&gate).into_iter().zip(product(&up)).enumerate() {
        assert_eq!(sum[i], u + g);
        let exact = f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u);
        assert!(
            (f64::from(gated[i]) - exact).abs() <= 5e-7 * exact.abs() + 1e-30,
            "{g} {u}"
        );
    }
}

#[test]
#[should_panic(expected = "outputs of the rows")]
fn a_short_output_is_refused() {
    let pool = Pool::new(1);
    let packed = Packed::pack(Format::F32, &[0; 16], 2, 2).expect("it packs");
    let mut x = QuantizedRows::new(1, 2);
    x.set(&pool, &[1.0, 2.0]);
    packed.matmul(&pool, &x, &mut [0.0]);
}
