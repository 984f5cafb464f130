//! Large zeroed buffers straight from the system: a page costs memory only
//! once it is touched, and all of it goes back when the buffer is dropped.
//!
//! The general allocator promises neither: it may hand out a recycled block,
//! zero it by hand and so touch it all, and keep it after `free`.

use std::fmt;
use std::io;
use std::ptr::NonNull;

/// A zeroed, page-aligned buffer of plain values.
pub(super) struct Pages<T: Zeroable> {
    data: NonNull<T>,
    len: usize,
}

/// Types for which all bits zero is a value and that need no drop.
///
/// # Safety
/// That is the contract; the alignment must not exceed a page.
pub(super) unsafe trait Zeroable: Copy + Send + Sync {}
// SAFETY: integers and floats.
unsafe impl Zeroable for u8 {}
// SAFETY: integers and floats.
unsafe impl Zeroable for u16 {}
// SAFETY: integers and floats.
unsafe impl Zeroable for i32 {}
// SAFETY: integers and floats.
unsafe impl Zeroable for f32 {}

// SAFETY: it owns its values like a `Vec<T>` does.
unsafe impl<T: Zeroable> Send for Pages<T> {}
// SAFETY: as above.
unsafe impl<T: Zeroable> Sync for Pages<T> {}

/// None of them.
impl<T: Zeroable> Default for Pages<T> {
    fn default() -> Self {
        Self {
            data: NonNull::dangling(),
            len: 0,
        }
    }
}

impl<T: Zeroable> Pages<T> {
    /// # Errors
    /// When the system has no address space or memory left.
    pub(super) fn zeroed(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self::default());
        }
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let data = map(bytes)?.cast();
        Ok(Self { data, len })
    }

    /// The first value, for owners that hand out parts; no reference to the
    /// whole is made.
    pub(super) fn base(&self) -> NonNull<T> {
        self.data
    }

    /// Its length, likewise.
    pub(super) fn size(&self) -> usize {
        self.len
    }

    /// Asks for huge pages: for what will be written whole and read often.
    pub(super) fn prefer_huge(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: our own mapping; the advice changes no contents. A kernel
        // without huge pages refuses it, which costs only speed.
        unsafe {
            libc::madvise(
                self.data.as_ptr().cast(),
                size_of_val::<[T]>(self),
                libc::MADV_HUGEPAGE,
            )
        };
    }

    /// Gives the whole small pages within `len` bytes at `data` back to the
    /// system; the address space stays.
    ///
    /// # Safety
    /// The bytes are part of this buffer, and nobody reads them again.
    pub(super) unsafe fn release(&self, data: NonNull<u8>, len: usize) {
        const SMALL_BYTES: usize = 4096;
        let skip = data.as_ptr().align_offset(SMALL_BYTES);
        let bytes = len.saturating_sub(skip) / SMALL_BYTES * SMALL_BYTES;
        #[cfg(target_os = "linux")]
        if bytes > 0 {
            // SAFETY: inside our own private anonymous mapping, where the
            // advice frees pages, and unread by the caller's promise. Where
            // pages are larger than we think it fails, and the memory stays
            // until the whole is dropped.
            unsafe { libc::madvise(data.as_ptr().add(skip).cast(), bytes, libc::MADV_DONTNEED) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }
}

impl<T: Zeroable> std::ops::Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values, mapped until drop, zeroed or written as `T`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Zeroable> std::ops::DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T: Zeroable> Drop for Pages<T> {
    fn drop(&mut self) {
        if self.len != 0 {
            // SAFETY: mapped by `zeroed` with this size, and not used again.
            unsafe { unmap(self.data.cast(), self.len * size_of::<T>()) };
        }
    }
}

impl<T: Zeroable> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(unix)]
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a fresh anonymous mapping aliases nothing.
    let data = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if data == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(data.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// # Safety
/// `data` came from [`map`] with `bytes`, and nothing points into it.
#[cfg(unix)]
unsafe fn unmap(data: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. It cannot fail on a mapping of ours, and
    // if it did the memory would merely stay.
    unsafe { libc::munmap(data.as_ptr().cast(), bytes) };
}

#[cfg(not(unix))]
fn layout(bytes: usize) -> io::Result<std::alloc::Layout> {
    std::alloc::Layout::from_size_align(bytes, 4096).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

#[cfg(not(unix))]
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: the layout is not empty.
    let data = unsafe { std::alloc::alloc_zeroed(layout(bytes)?) };
    NonNull::new(data).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// # Safety
/// `data` came from [`map`] with `bytes`, and nothing points into it.
#[cfg(not(unix))]
unsafe fn unmap(data: NonNull<u8>, bytes: usize) {
    let layout = layout(bytes).expect("`map` made the same layout");
    // SAFETY: the caller's promise.
    unsafe { std::alloc::dealloc(data.as_ptr(), layout) };
}
