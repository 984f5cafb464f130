//! A slice that several threads write at once, each its own part.
//!
//! No checks beyond bounds: who writes what is the promise of the kernel.

use std::marker::PhantomData;

/// A mutable slice handed to all threads of a job.
pub(super) struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose parts go to different threads, which `T:
// Send` allows; `slice` and `ptr` ask their callers to keep the parts apart.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            data: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// # Panics
    /// When the part is not inside the slice.
    ///
    /// # Safety
    /// No two live parts overlap.
    #[expect(
        clippy::mut_from_ref,
        reason = "that is the purpose; the contract is above"
    )]
    pub(super) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(
            start <= self.len && len <= self.len - start,
            "a part is inside the whole"
        );
        // SAFETY: inside the borrowed slice; unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// The start of the slice; writes through it are the caller's to keep
    /// disjoint and inside.
    pub(super) fn ptr(&self) -> *mut T {
        self.data
    }
}
