//! Cores: which this process may use, and binding a thread to one.
//!
//! Linux only; elsewhere nothing is known and nothing is bound.

/// Cores that a set of the system can name.
#[cfg(target_os = "linux")]
const CORES_MAX: usize = 8 * size_of::<libc::cpu_set_t>();

/// The cores that the calling thread may run on, in order; empty where the
/// system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn allowed() -> Vec<usize> {
    // SAFETY: a `cpu_set_t` is plain bits; the call writes at most its size.
    let (set, failed) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        let failed = libc::sched_getaffinity(0, size, &raw mut set) != 0;
        (set, failed)
    };
    if failed {
        return Vec::new();
    }
    // SAFETY: every index is inside the set.
    let is_allowed = |&core: &usize| unsafe { libc::CPU_ISSET(core, &set) };
    (0..CORES_MAX).filter(is_allowed).collect()
}

/// The cores that the calling thread may run on, in order; empty where the
/// system does not tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn allowed() -> Vec<usize> {
    Vec::new()
}

/// Binds the calling thread to `core`. Speed is all that hangs on it, so a
/// refusal is not reported.
pub(super) fn pin(core: usize) {
    #[cfg(target_os = "linux")]
    if core < CORES_MAX {
        // SAFETY: plain bits, and an index inside them.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = core;
}
