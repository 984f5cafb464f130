//! The keys and values of one sequence, in pages that it may share with others.
//!
//! A page that several sequences hold is never written: whoever has to write into it takes a
//! copy of its own first. Pages are taken as rows come, and memory as they are written.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::share::Disjoint;

mod integers;
mod page;

#[cfg(test)]
mod tests;

pub(super) use integers::{MAX, VALUE_MAX, larger, measure, round_in_place, unit_of_vector};
pub use page::{CacheFormat, CacheShape, PAGE_POSITIONS, Stock};
pub(super) use page::{Float, POSITIONS, Stored};
use page::{Numbers, Page};

/// The cache of one sequence in all layers of a stage.
#[derive(Debug)]
pub struct KvCache {
    shape: CacheShape,
    pages: Vec<Arc<Page>>,
    stock: Arc<Stock>,
}

impl KvCache {
    /// An empty cache, whose pages `stock` counts.
    #[must_use]
    pub fn new(shape: CacheShape, stock: &Arc<Stock>) -> Self {
        let stock = Arc::clone(stock);
        Self {
            shape,
            pages: Vec::new(),
            stock,
        }
    }

    /// A cache that holds the pages of the first `positions` positions of this one.
    ///
    /// # Panics
    /// When they are not all here.
    #[must_use]
    pub fn fork(&self, positions: usize) -> Self {
        Self {
            shape: self.shape,
            pages: self.pages[..positions.div_ceil(PAGE_POSITIONS)].to_vec(),
            stock: Arc::clone(&self.stock),
        }
    }

    /// Makes `positions` writable: takes the pages that are missing, and copies those that
    /// others hold as well, as far as the positions before these reach. What was written at
    /// these positions or behind them may be gone.
    ///
    /// # Errors
    /// When the system has no address space for a page. The sequence is as it was.
    pub fn reserve(&mut self, positions: Range<usize>) -> io::Result<()> {
        assert!(
            positions.start <= self.pages.len() * PAGE_POSITIONS,
            "no gap"
        );
        for index in pages(&positions) {
            let Some(held) = self.pages.get_mut(index) else {
                let page = Page::new(&self.shape, &self.stock)?;
                self.pages.push(Arc::new(page));
                continue;
            };
            if Arc::get_mut(held).is_none() {
                let mut page = Page::new(&self.shape, &self.stock)?;
                let before = positions.start.saturating_sub(index * PAGE_POSITIONS);
                page.copy_from(held, before, &self.shape);
                *held = Arc::new(page);
            }
        }
        Ok(())
    }

    /// Stores one position's keys and values of a layer, each `(kv_heads, head_dim)`, over
    /// whatever was there.
    ///
    /// # Panics
    /// When the position was not reserved, or a length is out of bounds.
    pub fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let writer = self.writer(layer, position / PAGE_POSITIONS);
        // SAFETY: one call at a time, as it has the only writer.
        unsafe { writer.write(position % PAGE_POSITIONS, keys, values) };
    }

    /// For threads that each write their own blocks of a page.
    ///
    /// # Panics
    /// When its positions were not reserved.
    pub(super) fn writer(&mut self, layer: usize, page: usize) -> Writer<'_> {
        assert!(layer < self.shape.layers, "layer {layer}");
        let page = self.pages.get_mut(page).and_then(Arc::get_mut);
        let page = page.expect("positions are reserved before they are written");
        Writer {
            shape: self.shape,
            layer,
            numbers: match &mut page.numbers {
                Numbers::F32(numbers) => WriterNumbers::F32(Disjoint::new(numbers)),
                Numbers::F16(numbers) => WriterNumbers::F16(Disjoint::new(numbers)),
                Numbers::I16(numbers) => WriterNumbers::I16(Disjoint::new(numbers)),
            },
        }
    }

    /// One layer of it.
    ///
    /// # Panics
    /// When the stage has no such layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> KvLayer<'_> {
        assert!(layer < self.shape.layers, "layer {layer}");
        KvLayer { cache: self, layer }
    }
}

/// The pages that some positions are in.
fn pages(positions: &Range<usize>) -> Range<usize> {
    positions.start / PAGE_POSITIONS..positions.end.div_ceil(PAGE_POSITIONS)
}

/// Reads one layer of a cache.
#[derive(Clone, Copy, Debug)]
pub struct KvLayer<'a> {
    cache: &'a KvCache,
    layer: usize,
}

impl<'a> KvLayer<'a> {
    pub(super) fn shape(&self) -> &'a CacheShape {
        &self.cache.shape
    }

    /// Positions that there are pages for.
    pub(super) fn positions(&self) -> usize {
        self.cache.pages.len() * PAGE_POSITIONS
    }

    /// What a head has in a page.
    ///
    /// # Panics
    /// When `E` is not the format of the cache, or there is no such page.
    #[inline(always)]
    pub(super) fn head_of_page<E: Stored>(&self, page: usize, head: usize) -> HeadOfPage<'a, E> {
        let shape = &self.cache.shape;
        HeadOfPage {
            numbers: &E::all(&self.cache.pages[page].numbers)[shape.start(self.layer, 0, head)..],
            block_stride: shape.block_len(),
            half: shape.half_len(),
        }
    }
}

/// Keys and values of one head in one page.
#[derive(Clone, Copy)]
pub(super) struct HeadOfPage<'a, E> {
    numbers: &'a [E],
    /// Numbers from the keys of one block to the keys of the next.
    pub(super) block_stride: usize,
    /// Numbers of the keys of a block, and of its values.
    pub(super) half: usize,
}

impl<E> HeadOfPage<'_, E> {
    /// The numbers of a block, without a check of bounds.
    #[inline(always)]
    pub(super) fn block_at(&self, block: usize) -> *const E {
        let start = block.wrapping_mul(self.block_stride);
        self.numbers.as_ptr().wrapping_add(start)
    }
}

impl<'a, E> HeadOfPage<'a, E> {
    /// The keys and values of a block of the page, laid out as [`page::Page`] says.
    #[inline(always)]
    pub(super) fn block(&self, block: usize) -> (&'a [E], &'a [E]) {
        self.numbers[block * self.block_stride..][..2 * self.half].split_at(self.half)
    }
}

/// Writes positions of one layer in one page, from several threads.
pub(super) struct Writer<'a> {
    shape: CacheShape,
    layer: usize,
    numbers: WriterNumbers<'a>,
}

enum WriterNumbers<'a> {
    F32(Disjoint<'a, f32>),
    F16(Disjoint<'a, u16>),
    I16(Disjoint<'a, i32>),
}

impl Writer<'_> {
    /// As [`KvCache::write`], for a position counted from the page's first.
    ///
    /// # Panics
    /// When the position or a length is out of bounds.
    ///
    /// # Safety
    /// No two calls at once are for positions of the same block of 16.
    pub(super) unsafe fn write(&self, position: usize, keys: &[f32], values: &[f32]) {
        assert!(position < PAGE_POSITIONS, "position {position} of a page");
        let width = self.shape.kv_heads * self.shape.head_dim;
        assert_eq!(
            (keys.len(), values.len()),
            (width, width),
            "one position's keys and values"
        );
        // SAFETY: the caller's promise.
        unsafe {
            match &self.numbers {
                WriterNumbers::F32(numbers) => self.store(numbers, position, keys, values),
                WriterNumbers::F16(numbers) => self.store(numbers, position, keys, values),
                WriterNumbers::I16(numbers) => self.store_integers(numbers, position, keys, values),
            }
        }
    }

    unsafe fn store<E: Float>(
        &self,
        numbers: &Disjoint<'_, E>,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (block, within) = (position / POSITIONS, position % POSITIONS);
        let (head_dim, padded) = (self.shape.head_dim, self.shape.padded_dim());
        let heads = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        for (head, (keys, values)) in heads.enumerate() {
            let start = self.shape.start(self.layer, block, head);
            // SAFETY: part of the position's block.
            let numbers = unsafe { numbers.slice(start, 2 * POSITIONS * padded) };
            let (key_block, value_block) = numbers.split_at_mut(POSITIONS * padded);
            for (column, &key) in key_block.chunks_exact_mut(POSITIONS).zip(keys) {
                column[within] = E::of(key);
            }
            let value_row = &mut value_block[within * padded..][..head_dim];
            for (stored, &value) in value_row.iter_mut().zip(values) {
                *stored = E::of(value);
            }
        }
    }

    unsafe fn store_integers(
        &self,
        numbers: &Disjoint<'_, i32>,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (block, within) = (position / POSITIONS, position % POSITIONS);
        let head_dim = self.shape.head_dim;
        let heads = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let start = self.shape.start(self.layer, block, head);
            // SAFETY: part of the position's block.
            let numbers = unsafe { numbers.slice(start, 2 * self.shape.half_len()) };
            let (key_block, value_block) = numbers.split_at_mut(self.shape.half_len());
            integers::Store {
                within,
                key,
                keys: key_block,
                value,
                values: value_block,
            }
            .run();
        }
    }
}
