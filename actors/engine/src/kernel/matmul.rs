//! Products of activation rows with packed weights: one row (decode), some
//! (a batch) or many (prefill), with the same code.
//!
//! Every output is one lane of one strip, reduced over the inputs from first
//! to last by one thread. Which rows share a pass, and which thread ran it,
//! cannot be seen in the result, bit for bit.

use std::ops::Range;

use super::bands::{Bands, STEP};
use super::format::Format;
use super::pack::{Packed, Segment};
use super::pool::Pool;
use super::rows::{Block, QuantizedRows};
use super::share::Disjoint;
use super::simd::{Isa, Kernel, Simd, dispatch, unrolled};
use super::weights::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

mod ahead;
mod floats;
mod tile;

use ahead::Pace;
use floats::{Bf16, F16, F32, FloatTile};
use tile::{QuantTile, Tile};

/// Most rows of an item: they read its strips over and over, out of the cache.
const ROWS_PER_ITEM: usize = 64;
/// Work items per thread: enough that the last ones to finish do so together,
/// and that a thread which another program delays leaves the rest to others.
const ITEMS_PER_THREAD: usize = 16;
/// Most bytes of strips in an item. Above, nothing is gained by longer
/// stretches of memory; and with many rows they stay in the second-level cache.
const ITEM_BYTES_MAX: usize = 128 << 10;
/// Most that a waiting thread asks for of the weights that it will read next: hardly more comes
/// while the rows are prepared, and the second-level cache has other things to hold.
const AHEAD_BYTES: usize = 128 << 10;

/// What happens to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Epilogue {
    /// `out = product`
    Store,
    /// `out = out + product`
    Add,
    /// `out = silu(out) * product`
    SiluGate,
}

impl Packed {
    /// `out = x * self^T`: `x` is `(n, cols)`, `out` is `(n, rows)`.
    ///
    /// # Panics
    /// When the shapes do not fit, or `x` was not quantised for quantised
    /// weights.
    pub fn matmul(&self, pool: &Pool, x: &QuantizedRows, out: &mut [f32]) {
        Product::new(self, x, out, Epilogue::Store).run(pool);
    }

    /// Tells the pool that a product of `n` rows with these weights comes soon: while its rows are
    /// prepared, the threads that wait begin to fetch the weights.
    pub fn expect(&self, pool: &Pool, n: usize) {
        let items = Items::new(self, pool, n);
        pool.expect(|thread| {
            let first = items.strips(self, pool.first_item(items.count, thread));
            first.map_or(&[], |(segment, strips)| {
                let rest = &segment.data[strips.start * segment.layout.strip_bytes()..];
                &rest[..rest.len().min(AHEAD_BYTES)]
            })
        });
    }

    /// `out = out + x * self^T`: the product joins the residual stream.
    ///
    /// # Panics
    /// As [`Packed::matmul`].
    pub fn matmul_add(&self, pool: &Pool, x: &QuantizedRows, out: &mut [f32]) {
        Product::new(self, x, out, Epilogue::Add).run(pool);
    }

    /// `out = silu(x * gate^T) * (x * up^T)` with `self` the gate, the inner
    /// half of a gated MLP: `out` is `(n, rows)`.
    ///
    /// # Panics
    /// As [`Packed::matmul`]; when `up` has another shape or is more than one
    /// matrix, as `self` must not be.
    pub fn matmul_silu_mul(&self, up: &Self, pool: &Pool, x: &QuantizedRows, out: &mut [f32]) {
        assert_eq!(
            (self.rows(), self.cols()),
            (up.rows(), up.cols()),
            "gate and up differ"
        );
        assert_eq!(
            (self.segments.len(), up.segments.len()),
            (1, 1),
            "gate and up are plain"
        );
        let gate = Product::new(self, x, out, Epilogue::Store);
        let up = Product {
            weights: up,
            epilogue: Epilogue::SiluGate,
            ..gate
        };
        let items = gate.items(pool);
        // Both strips of an item in turn: the gate's result is still in the
        // first cache when the up projection reads it.
        pool.for_each(items.count, &|_, item| {
            gate.run_item(&items, item);
            up.run_item(&items, item);
        });
    }
}

/// One product under way, shared by the threads.
#[derive(Clone, Copy)]
struct Product<'a> {
    weights: &'a Packed,
    epilogue: Epilogue,
    n: usize,
    cols: usize,
    floats: &'a [f32],
    /// Empty where no weight is quantised.
    blocks: &'a [Block],
    out: Out<'a>,
    out_cols: usize,
}

#[derive(Clone, Copy)]
struct Out<'a>(*mut f32, std::marker::PhantomData<&'a mut [f32]>);

// SAFETY: each item writes its own columns of the output.
unsafe impl Send for Out<'_> {}
// SAFETY: as above.
unsafe impl Sync for Out<'_> {}

/// How a product is cut: items of some strips by some rows. Those of a band follow each other, and
/// in a band those that share their strips.
struct Items {
    bands: Bands,
    strips_each: usize,
    /// Items of the same strips in a band.
    row_parts: usize,
    /// Items of the same rows.
    strip_parts: usize,
    count: usize,
}

impl Items {
    fn new(weights: &Packed, pool: &Pool, n: usize) -> Self {
        let segments = &weights.segments;
        let strips: usize = segments.iter().map(Segment::strips).sum();
        let strip_bytes = segments.iter().map(|s| s.layout.strip_bytes()).max();
        let bands = Bands::new(n, pool.threads());
        let row_parts = bands.rows(0).len().div_ceil(ROWS_PER_ITEM).max(1);
        let wanted = (pool.threads() * ITEMS_PER_THREAD).div_ceil(bands.count() * row_parts);
        let most = ITEM_BYTES_MAX / strip_bytes.unwrap_or(0).max(1);
        let strips_each = strips.div_ceil(wanted).min(most).max(1);
        let parts = |segment: &Segment| segment.strips().div_ceil(strips_each);
        let strip_parts = segments.iter().map(parts).sum();
        Items {
            bands,
            strips_each,
            row_parts,
            strip_parts,
            count: bands.count() * row_parts * strip_parts,
        }
    }

    /// The rows of an item; none where a band has fewer parts than others.
    fn rows(&self, item: usize) -> Range<usize> {
        let band = self.bands.rows(item / (self.row_parts * self.strip_parts));
        let each = band.len().div_ceil(self.row_parts).next_multiple_of(STEP);
        let first = (band.start + item % self.row_parts * each).min(band.end);
        first..band.end.min(first + each)
    }

    /// The strips of an item, and the segment that has them; none where there is no item.
    fn strips<'w>(&self, weights: &'w Packed, item: usize) -> Option<(&'w Segment, Range<usize>)> {
        let mut left = item / self.row_parts % self.strip_parts.max(1);
        for segment in &weights.segments {
            let here = segment.strips().div_ceil(self.strips_each);
            if left < here {
                let first = left * self.strips_each;
                let last = segment.strips().min(first + self.strips_each);
                return Some((segment, first..last));
            }
            left -= here;
        }
        None
    }
}

impl<'a> Product<'a> {
    fn new(
        weights: &'a Packed,
        x: &'a QuantizedRows,
        out: &'a mut [f32],
        epilogue: Epilogue,
    ) -> Self {
        assert_eq!(
            x.cols(),
            weights.cols(),
            "inputs of the rows and of the weights"
        );
        assert_eq!(
            out.len(),
            x.rows() * weights.rows(),
            "outputs of the rows and the weights"
        );
        let blocks = if weights.wants_quantized() {
            x.blocks()
        } else {
            &[]
        };
        let out = Disjoint::new(out);
        Self {
            weights,
            epilogue,
            n: x.rows(),
            cols: x.cols(),
            floats: x.floats(),
            blocks,
            out: Out(out.ptr(), std::marker::PhantomData),
            out_cols: weights.rows(),
        }
    }

    fn run(&self, pool: &Pool) {
        let items = self.items(pool);
        pool.for_each(items.count, &|_, item| self.run_item(&items, item));
    }

    fn items(&self, pool: &Pool) -> Items {
        Items::new(self.weights, pool, self.n)
    }

    fn run_item(&self, items: &Items, item: usize) {
        if let Some((segment, strips)) = items.strips(self.weights, item) {
            self.run_strips(segment, strips, items.rows(item));
        }
    }

    fn run_strips(&self, segment: &Segment, strips: Range<usize>, rows: Range<usize>) {
        macro_rules! with {
            ($tile:ty, $inputs:expr, $len:expr) => {{
                let strips = Strips::<$tile> {
                    segment,
                    strips,
                    rows,
                    inputs: $inputs,
                    len: $len,
                    out: self.out.0.wrapping_add(segment.first_row),
                    out_cols: self.out_cols,
                    epilogue: self.epilogue,
                    pace: Pace::detect(),
                };
                // SAFETY: `pack_for` checked the set. `new` checked the sizes
                // of inputs and outputs, `pack` those of the strips, and no
                // two items have both a strip and a row in common.
                unsafe { dispatch(self.weights.isa, strips) }
            }};
        }
        macro_rules! quantized {
            ($weights:ty) => {
                with!(QuantTile<$weights>, self.blocks.as_ptr(), self.cols / 32)
            };
        }
        macro_rules! float {
            ($weights:ty) => {
                with!(FloatTile<$weights>, self.floats.as_ptr(), self.cols)
            };
        }
        match segment.format {
            Format::F32 => float!(F32),
            Format::F16 => float!(F16),
            Format::BF16 => float!(Bf16),
            Format::Q4_0 => quantized!(Q4_0),
            Format::Q4_1 => quantized!(Q4_1),
            Format::Q5_0 => quantized!(Q5_0),
            Format::Q5_1 => quantized!(Q5_1),
            Format::Q8_0 => quantized!(Q8_0),
            Format::Q2K => quantized!(Q2K),
            Format::Q3K => quantized!(Q3K),
            Format::Q4K => quantized!(Q4K),
            Format::Q5K => quantized!(Q5K),
            Format::Q6K => quantized!(Q6K),
        }
    }
}

/// The strips of one item, times its rows.
struct Strips<'a, T: Tile> {
    segment: &'a Segment,
    strips: Range<usize>,
    rows: Range<usize>,
    /// `(n, len)`
    inputs: *const T::Input,
    /// Blocks or floats per row.
    len: usize,
    /// The segment's first column of the first row.
    out: *mut f32,
    out_cols: usize,
    epilogue: Epilogue,
    pace: Pace,
}

impl<T: Tile> Kernel for Strips<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        debug_assert_eq!(S::LANES, self.segment.layout.lanes);
        let mut row = self.rows.start;
        // SAFETY: the item's contract, see `run_strips`.
        unsafe {
            if S::TILE >= 8 {
                while self.rows.end - row >= 8 {
                    self.tiles::<S, 8>(row);
                    row += 8;
                }
            }
            while self.rows.end - row >= 4 {
                self.tiles::<S, 4>(row);
                row += 4;
            }
            if self.rows.end - row >= 2 {
                self.tiles::<S, 2>(row);
                row += 2;
            }
            if self.rows.end > row {
                self.tiles::<S, 1>(row);
            }
        }
    }
}

impl<T: Tile> Strips<'_, T> {
    /// `M` rows times all strips: the rows stay in the first-level cache. The item's first rows
    /// ask for the strips, and the others find them in some cache.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const M: usize>(&self, row: usize) {
        let pace = (row == self.rows.start).then_some(self.pace);
        for strip in self.strips.clone() {
            // SAFETY: the caller's contract.
            unsafe { self.tile::<S, M>(strip, row, pace) };
        }
    }

    /// One strip times `M` rows, and into the output.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(&self, strip: usize, row: usize, pace: Option<Pace>) {
        let layout = &self.segment.layout;
        // SAFETY: the item's contract: strip, rows and outputs exist.
        unsafe {
            let scales = self.segment.data.as_ptr().add(strip * layout.strip_bytes());
            let quants = scales.add(layout.scale_plane);
            let inputs = self.inputs.add(row * self.len);
            let products = T::tile::<S, M>(scales, quants, inputs, self.len, pace);
            let width = S::LANES.min(self.segment.rows - strip * S::LANES);
            let first = self.out.add(row * self.out_cols + strip * S::LANES);
            let mut outs = [first; M];
            unrolled!(M, m => outs[m] = first.wrapping_add(m.wrapping_mul(self.out_cols)));
            if width == S::LANES {
                finish::<S, M>(self.epilogue, products, outs);
            } else {
                // The last strip may be padded; its padding has no output.
                let mut padded = [[0.0f32; 16]; M];
                let mut within = outs;
                for m in 0..M {
                    std::ptr::copy_nonoverlapping(outs[m], padded[m].as_mut_ptr(), width);
                    within[m] = padded[m].as_mut_ptr();
                }
                finish::<S, M>(self.epilogue, products, within);
                for m in 0..M {
                    std::ptr::copy_nonoverlapping(padded[m].as_ptr(), outs[m], width);
                }
            }
        }
    }
}

/// Vectors of `M` rows into the output, of which `outs` has their places.
#[inline(always)]
unsafe fn finish<S: Simd, const M: usize>(
    epilogue: Epilogue,
    products: [S::F; M],
    outs: [*mut f32; M],
) {
    let mut values = products;
    // SAFETY: the caller's: a vector of outputs in each row.
    unsafe {
        match epilogue {
            Epilogue::Store => {}
            Epilogue::Add => {
                unrolled!(M, m => values[m] = S::add(S::load(outs[m]), products[m]));
            }
            Epilogue::SiluGate => {
                unrolled!(M, m => values[m] = S::load(outs[m]));
                values = super::math::silu_each::<S, M>(values);
                unrolled!(M, m => values[m] = S::mul(values[m], products[m]));
            }
        }
        unrolled!(M, m => S::store(outs[m], values[m]));
    }
}

const _: () = {
    let mut i = 0;
    while i < Isa::ALL.len() {
        assert!(
            Isa::ALL[i].lanes() <= 16,
            "the padded output holds a vector"
        );
        i += 1;
    }
};

#[cfg(test)]
mod tests;
