//! Copies that write past the cache: what a tier moves is read next by somebody else, if at all.
//!
//! A plain copy reads every line of the target before it overwrites it; streaming stores don't,
//! which on common servers makes one thread half as fast again. Knows bytes only, no blocks.

use std::ptr;

/// Shorter runs are likely to be read soon by whoever wrote them, and gain nothing.
const STREAMED_BYTES_MIN: usize = 2048;

/// Copies `bytes` bytes; the two may overlap.
///
/// # Safety
/// The source may be read and the target written, `bytes` bytes each.
pub(super) unsafe fn copy(source: *const u8, target: *mut u8, bytes: usize) {
    let apart = source.addr().abs_diff(target.addr()) >= bytes;
    if cfg!(target_arch = "x86_64") && bytes >= STREAMED_BYTES_MIN && apart {
        // SAFETY: the caller vouches for both ends, and they are apart.
        unsafe { streamed(source, target, bytes) };
    } else {
        // SAFETY: the caller vouches for both ends; an overlap is allowed here.
        unsafe { ptr::copy(source, target, bytes) };
    }
}

/// What is written at a time: a line of the cache.
const LINE_BYTES: usize = 64;

/// # Safety
/// As [`copy`], and the two ends are apart.
unsafe fn streamed(source: *const u8, target: *mut u8, bytes: usize) {
    // Streaming stores want an aligned target, and whole lines.
    let head = target.align_offset(LINE_BYTES).min(bytes);
    let lines = (bytes - head) / LINE_BYTES;
    let tail_at = head + lines * LINE_BYTES;
    // SAFETY: the first `head` bytes of both ends, which the caller vouches for.
    unsafe { ptr::copy_nonoverlapping(source, target, head) };
    // SAFETY: `lines` whole lines behind them, inside both ends; the target is aligned there.
    unsafe { stream_lines(source.wrapping_add(head), target.wrapping_add(head), lines) };
    let (source, target) = (source.wrapping_add(tail_at), target.wrapping_add(tail_at));
    // SAFETY: what is left of both ends.
    unsafe { ptr::copy_nonoverlapping(source, target, bytes - tail_at) };
}

/// # Safety
/// As [`copy`] for so many lines; the target is aligned to a line, and the two ends are apart.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::cast_ptr_alignment, reason = "loads need none, and the target is aligned")]
unsafe fn stream_lines(source: *const u8, target: *mut u8, lines: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const PARTS: usize = LINE_BYTES / size_of::<__m128i>();
    let (source, target) = (source.cast::<__m128i>(), target.cast::<__m128i>());
    for line in 0..lines {
        let at = line * PARTS;
        let load = |part: usize| {
            // SAFETY: within `lines` lines of the source, which the caller vouches for; such a
            // load needs no alignment.
            unsafe { _mm_loadu_si128(source.wrapping_add(at + part)) }
        };
        let parts = [load(0), load(1), load(2), load(3)];
        for (part, value) in parts.into_iter().enumerate() {
            // SAFETY: within `lines` lines of the target, which is aligned to a line.
            unsafe { _mm_stream_si128(target.wrapping_add(at + part), value) };
        }
    }
    // SAFETY: SSE is part of x86-64. Streaming stores are ordered by nothing else: without the
    // fence whoever hears that the copy is over could read what was there before.
    unsafe { _mm_sfence() };
}

/// # Safety
/// As [`copy`] for so many lines.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream_lines(source: *const u8, target: *mut u8, lines: usize) {
    // SAFETY: the caller vouches for both ends.
    unsafe { ptr::copy_nonoverlapping(source, target, lines * LINE_BYTES) };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Copies inside one memory, and compares with what a vector does.
    fn check(from: usize, to: usize, bytes: usize) {
        let mut memory: Vec<u8> = (0..40_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut wanted = memory.clone();
        wanted.copy_within(from..from + bytes, to);
        assert!(from + bytes <= memory.len() && to + bytes <= memory.len());
        let base = memory.as_mut_ptr();
        // SAFETY: both ends are inside the vector, as asserted above.
        unsafe { copy(base.wrapping_add(from), base.wrapping_add(to), bytes) };
        assert_eq!(memory, wanted, "{bytes} bytes from {from} to {to}");
    }

    #[test]
    fn lengths_around_a_line_and_the_threshold() {
        for bytes in [0, 1, 63, 64, 65, 2047, 2048, 2049, 2111, 2112, 4096, 16_384] {
            for to in [20_000, 20_001, 20_063] {
                check(3, to, bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn any_ends_are_copied_as_a_vector_copies(
            from in 0_usize..20_000, to in 0_usize..20_000, bytes in 0_usize..20_000,
        ) {
            check(from, to, bytes);
        }
    }
}
