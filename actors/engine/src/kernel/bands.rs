//! How threads share the rows of a pass.
//!
//! No threads here and no items: only where each thread's rows begin and end.

use std::ops::Range;

/// Rows that stay together, a tile of a product or more.
pub(super) const STEP: usize = 8;
/// Fewer rows per thread are not worth that each reads all weights.
pub(crate) const ROWS_MIN: usize = 32;

/// The rows of a pass, one band for each thread where there are enough of them, else one for all.
///
/// A thread that begins every job with the same rows finds what it wrote in the one before in its
/// core's own caches. Were a product's outputs shared instead, the threads would hand each other
/// half of all rows, or more, at every job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bands {
    rows: usize,
    count: usize,
}

impl Bands {
    pub(super) fn new(rows: usize, threads: usize) -> Self {
        let count = if rows >= threads * ROWS_MIN {
            threads
        } else {
            1
        };
        Self { rows, count }
    }

    pub(super) fn count(self) -> usize {
        self.count
    }

    /// The rows of a band, with which a thread also begins where items of [`STEP`] rows are dealt
    /// out in equal runs.
    pub(super) fn rows(self, band: usize) -> Range<usize> {
        let edge =
            |band: usize| (self.rows.div_ceil(STEP) * band / self.count * STEP).min(self.rows);
        edge(band)..edge(band + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Pool;

    #[test]
    fn bands_follow_each_other_and_have_enough_rows() {
        for threads in 1..10 {
            for rows in [0, 1, 7, 63, 64, 127, 128, 200, 256, 511, 777] {
                let bands = Bands::new(rows, threads);
                let all = (0..bands.count()).flat_map(|band| bands.rows(band));
                assert!(all.eq(0..rows), "{bands:?}");
                let least = (0..bands.count()).map(|band| bands.rows(band).len()).min();
                assert!(
                    bands.count() == 1 || least > Some(ROWS_MIN - 2 * STEP),
                    "{bands:?}"
                );
            }
        }
    }

    #[test]
    fn runs_of_items_of_rows_begin_where_bands_do() {
        for threads in 2..6 {
            let pool = Pool::new(threads);
            for rows in [400, 413, 777] {
                let bands = Bands::new(rows, threads);
                assert_eq!(bands.count(), threads);
                for band in 0..threads {
                    let first = pool.first_item(rows.div_ceil(STEP), band);
                    assert_eq!(bands.rows(band).start, first * STEP);
                }
            }
        }
    }
}
