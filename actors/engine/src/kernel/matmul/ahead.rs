//! How weights are asked for ahead of their use: what is asked for, never waited for.

use std::sync::LazyLock;

use crate::kernel::simd::Simd;

/// How far ahead, and into which cache. In two steps, because the first cache has a dozen lines
/// under way at most and the second several times as many. What is near comes from the
/// second-level cache, which is soon, so that little of the first waits for its use. The CPU's own
/// prefetcher stops at each page. A batch of a few rows waits for memory like a single one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    near_bytes: usize,
    far_bytes: usize,
    /// Tells the CPU that no line will be used again soon. It is a hint in any case; a stage whose
    /// weights fit the last cache still finds them there (measured on Zen 5).
    once: bool,
}

impl Pace {
    /// The best that was measured for this CPU.
    pub(super) fn detect() -> Self {
        static PACE: LazyLock<Pace> = LazyLock::new(|| {
            if is_zen_5() {
                Pace {
                    near_bytes: 2048,
                    far_bytes: 12_288,
                    once: true,
                }
            } else {
                Pace {
                    near_bytes: 1024,
                    far_bytes: 8192,
                    once: false,
                }
            }
        });
        *PACE
    }
}

/// AMD's CPUs since Zen 5, by family. What was measured says no more than that one pace is faster
/// there and slower on a Zen 4, and on an Intel Xeon two to three times as slow.
fn is_zen_5() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;
        let vendor = __cpuid(0);
        let is_amd = [vendor.ebx, vendor.edx, vendor.ecx]
            .map(u32::to_le_bytes)
            .concat()
            == b"AuthenticAMD";
        let version = __cpuid(1).eax;
        // The extended family counts on from the last value of the plain one.
        is_amd && (version >> 8 & 0xf) + (version >> 20 & 0xff) >= 0x1a
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Asks for a strip's bytes, scales and quants alike, at the pace of their use.
pub(super) struct Ahead {
    next: *const u8,
    end: *const u8,
    pace: Pace,
}

impl Ahead {
    /// With no pace nothing is asked for: the strip is in a cache already.
    #[inline(always)]
    pub(super) fn of(strip: *const u8, pace: Option<Pace>) -> Self {
        // Beyond any end, so that the loop needs no other test.
        let never = std::ptr::null::<u8>().wrapping_sub(1);
        Self {
            next: if pace.is_some() { strip } else { never },
            end: strip,
            pace: pace.unwrap_or_default(),
        }
    }

    /// While the strip's next `bytes` are used.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn advance<S: Simd>(&mut self, bytes: usize) {
        self.end = self.end.wrapping_add(bytes);
        while self.next < self.end {
            let near = self.next.wrapping_add(self.pace.near_bytes);
            let far = self.next.wrapping_add(self.pace.far_bytes);
            // SAFETY: any address may be asked for.
            unsafe {
                if self.pace.once {
                    S::prefetch_once(near);
                    S::prefetch_once(far);
                } else {
                    S::prefetch(near);
                    S::prefetch_far(far);
                }
            }
            self.next = self.next.wrapping_add(64);
        }
    }
}
