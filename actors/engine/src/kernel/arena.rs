//! Memory for packed weights: many matrices in one mapping of huge pages.
//!
//! A decode step reads all weights once, and with pages of 4 KiB it spends a
//! fifth of its time on looking up addresses. A matrix of a small model is
//! smaller than a huge page, so matrices share them. Not an allocator: nothing
//! is reused; what a dropped matrix held goes back to the system at once, and
//! the address space when the last matrix of a mapping is dropped.

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::pages::Pages;

/// Address space taken at a time; memory is taken as it is written.
const CHUNK_BYTES: usize = 64 << 20;
/// A huge page where they are smallest, and a good guess elsewhere.
const HUGE_BYTES: usize = 2 << 20;
const LINE_BYTES: usize = 64;

/// The mapping that the next matrix goes to, and its bytes given out. It is
/// shared by all shards of the process, so that small ones share huge pages.
static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

struct Chunk {
    pages: Pages<u8>,
}

/// Zeroed bytes of a [`Chunk`], aligned to a cache line.
pub(super) struct Slab {
    chunk: Arc<Chunk>,
    data: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes; no two slabs of a chunk overlap.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    /// # Errors
    /// When the system has no address space or memory left.
    pub(super) fn zeroed(len: usize) -> io::Result<Self> {
        let needed = len
            .checked_next_multiple_of(LINE_BYTES)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = current
            .0
            .upgrade()
            .filter(|chunk| chunk.pages.size() - current.1 >= needed);
        let chunk = match shared {
            Some(chunk) => chunk,
            None => {
                let chunk = Arc::new(Chunk::new(needed)?);
                *current = (Arc::downgrade(&chunk), chunk.aligned_start());
                chunk
            }
        };
        let start = current.1;
        current.1 += needed;
        // SAFETY: `needed` bytes from `start` on are inside the chunk.
        let data = unsafe { chunk.pages.base().add(start) };
        Ok(Self { chunk, data, len })
    }
}

impl Chunk {
    fn new(needed: usize) -> io::Result<Self> {
        let bytes = needed.max(CHUNK_BYTES - HUGE_BYTES).checked_add(HUGE_BYTES);
        let pages = Pages::zeroed(bytes.ok_or(io::ErrorKind::OutOfMemory)?)?;
        pages.prefer_huge();
        Ok(Self { pages })
    }

    /// The first byte on a huge page's boundary.
    fn aligned_start(&self) -> usize {
        self.pages.base().as_ptr().align_offset(HUGE_BYTES)
    }
}

impl std::ops::Deref for Slab {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped while `chunk` lives, and this slab's alone.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and borrowed uniquely. Nobody takes the
        // chunk's own slice.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: nobody reads these bytes any more, and nobody will be given
        // them again.
        unsafe { self.chunk.pages.release(self.data, self.len) };
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_zeroed_aligned_and_apart() {
        let mut slabs: Vec<Slab> = [0, 1, 64, 5000, 3 << 20]
            .map(|len| Slab::zeroed(len).expect("memory"))
            .into();
        for (i, slab) in slabs.iter_mut().enumerate() {
            assert_eq!(slab.as_ptr().align_offset(LINE_BYTES), 0);
            assert!(slab.iter().all(|&byte| byte == 0));
            slab.fill(i as u8 + 1);
        }
        for (i, slab) in slabs.iter().enumerate() {
            assert!(slab.iter().all(|&byte| byte == i as u8 + 1));
        }
        // Dropping some leaves the others.
        slabs.remove(3);
        assert!(slabs[3].iter().all(|&byte| byte == 5));
        assert!(slabs[2].iter().all(|&byte| byte == 3));
    }

    #[test]
    fn a_matrix_beyond_a_chunk_has_its_own() {
        let slab = Slab::zeroed(CHUNK_BYTES + 1).expect("address space");
        assert_eq!((slab.len(), slab[CHUNK_BYTES]), (CHUNK_BYTES + 1, 0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn dropping_returns_the_memory() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/statm").expect("proc");
            let pages = status.split(' ').nth(1).expect("a second field");
            pages.parse::<usize>().expect("a number") * 4096
        };
        let keeper = Slab::zeroed(64).expect("memory");
        let mut slab = Slab::zeroed(96 << 20).expect("memory");
        slab.fill(1);
        let full = resident();
        drop(slab);
        // Other tests run beside this one; they hold far less.
        assert!(resident() + (64 << 20) < full);
        assert_eq!(keeper.len(), 64);
    }
}
