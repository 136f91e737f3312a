//! Copies that write past the cache: what a tier moves is read next by somebody else, if at all.
//!
//! A plain copy reads every line of the target before it overwrites it; streaming stores don't. And
//! one stretch after the other waits for memory at the start of every page; four abreast don't.
//! `docs/bench.md` has the figures. Knows bytes only, no blocks.

use std::{ptr, slice};

use crate::tiers::frame::Checksum;

/// Shorter runs gain nothing: their stretches would be shorter than a page.
const STREAMED_BYTES_MIN: usize = 16 << 10;

/// Copies `bytes` bytes; the two may overlap. Call [`settle`] before anybody hears of it.
///
/// # Safety
/// The source may be read and the target written, `bytes` bytes each.
unsafe fn copy(source: *const u8, target: *mut u8, bytes: usize) {
    let apart = source.addr().abs_diff(target.addr()) >= bytes;
    if cfg!(target_arch = "x86_64") && bytes >= STREAMED_BYTES_MIN && apart {
        // SAFETY: the caller vouches for both ends, and they are apart.
        unsafe { streamed(source, target, bytes) };
    } else {
        // SAFETY: the caller vouches for both ends; an overlap is allowed here.
        unsafe { ptr::copy(source, target, bytes) };
    }
}

/// What is copied before it is summed: it is in the processor's nearest caches then.
const SUMMED_BYTES: usize = 16 << 10;
const _: () = assert!(SUMMED_BYTES >= STREAMED_BYTES_MIN, "a part is streamed");

/// The same, and adds the bytes of the source to `sum`, if there is one. Somebody else may write to the source
/// meanwhile: then the sum may be of other bytes than those that were copied.
///
/// # Safety
/// As [`copy`], and the two ends are apart where there is a sum.
pub(super) unsafe fn copy_summed(
    source: *const u8,
    target: *mut u8,
    bytes: usize,
    sum: Option<&mut Checksum>,
) {
    let Some(sum) = sum else {
        // SAFETY: the caller vouches for both ends.
        return unsafe { copy(source, target, bytes) };
    };
    let mut at = 0;
    while at < bytes {
        let left = bytes - at;
        // The last part takes the rest, which would not be streamed by itself.
        let part = if left < 2 * SUMMED_BYTES { left } else { SUMMED_BYTES };
        let source = source.wrapping_add(at);
        // SAFETY: a part of both ends, which the caller vouches for.
        unsafe { copy(source, target.wrapping_add(at), part) };
        // SAFETY: as above. Another process may write there meanwhile, as during the copy: nothing depends
        // on these bytes but the sum.
        sum.add(unsafe { slice::from_raw_parts(source, part) });
        at += part;
    }
}

/// What is written at a time: a line of the cache.
const LINE_BYTES: usize = 64;

/// Stretches of a run that are copied side by side.
const ABREAST: usize = 4;

/// # Safety
/// As [`copy`], and the two ends are apart.
unsafe fn streamed(source: *const u8, target: *mut u8, bytes: usize) {
    // Streaming stores want an aligned target, and whole lines.
    let head = target.align_offset(LINE_BYTES).min(bytes);
    let stretch_lines = (bytes - head) / LINE_BYTES / ABREAST;
    let tail_at = head + ABREAST * stretch_lines * LINE_BYTES;
    // SAFETY: the first `head` bytes of both ends, which the caller vouches for.
    unsafe { ptr::copy_nonoverlapping(source, target, head) };
    let (first, into) = (source.wrapping_add(head), target.wrapping_add(head));
    // SAFETY: the stretches lie behind the head, inside both ends; the target is aligned there.
    unsafe { stream_abreast(first, into, stretch_lines) };
    let (source, target) = (source.wrapping_add(tail_at), target.wrapping_add(tail_at));
    // SAFETY: what is left of both ends.
    unsafe { ptr::copy_nonoverlapping(source, target, bytes - tail_at) };
}

/// Copies [`ABREAST`] stretches of so many lines, which follow each other at both ends.
///
/// # Safety
/// As [`copy`] for all of them; the target is aligned to a line, and the two ends are apart.
#[cfg(target_arch = "x86_64")]
unsafe fn stream_abreast(source: *const u8, target: *mut u8, stretch_lines: usize) {
    for line in 0..stretch_lines {
        for stretch in 0..ABREAST {
            let at = (stretch * stretch_lines + line) * LINE_BYTES;
            // SAFETY: a line of one of the stretches, which the caller vouches for.
            unsafe { stream_line(source.wrapping_add(at), target.wrapping_add(at)) };
        }
    }
}

/// Makes what was copied be there for all who hear of it: streaming stores are ordered by nothing else, and
/// without this one could read what was there before.
pub(super) fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    };
}

/// # Safety
/// A line may be read at the source and written at the target, which is aligned to one.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::cast_ptr_alignment, reason = "loads need none, and the target is aligned")]
#[inline]
unsafe fn stream_line(source: *const u8, target: *mut u8) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    let (source, target) = (source.cast::<__m128i>(), target.cast::<__m128i>());
    let load = |part: usize| {
        // SAFETY: within the line that the caller vouches for; such a load needs no alignment.
        unsafe { _mm_loadu_si128(source.wrapping_add(part)) }
    };
    let parts: [__m128i; LINE_BYTES / size_of::<__m128i>()] = [load(0), load(1), load(2), load(3)];
    for (part, value) in parts.into_iter().enumerate() {
        // SAFETY: within the line, which is aligned.
        unsafe { _mm_stream_si128(target.wrapping_add(part), value) };
    }
}

/// # Safety
/// As [`copy`] for all stretches.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream_abreast(source: *const u8, target: *mut u8, stretch_lines: usize) {
    // SAFETY: the caller vouches for both ends.
    unsafe { ptr::copy_nonoverlapping(source, target, ABREAST * stretch_lines * LINE_BYTES) };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tiers::frame::checksum;

    /// Copies inside one memory, and compares with what a vector does.
    fn check(from: usize, to: usize, bytes: usize) {
        let mut memory: Vec<u8> = (0..120_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut wanted = memory.clone();
        wanted.copy_within(from..from + bytes, to);
        assert!(from + bytes <= memory.len() && to + bytes <= memory.len());
        let base = memory.as_mut_ptr();
        // SAFETY: both ends are inside the vector, as asserted above.
        unsafe { copy(base.wrapping_add(from), base.wrapping_add(to), bytes) };
        settle();
        assert!(memory == wanted, "{bytes} bytes from {from} to {to}");
    }

    #[test]
    fn lengths_around_a_line_and_the_threshold() {
        let threshold = STREAMED_BYTES_MIN;
        for about in [0, 64, threshold, threshold + 64, threshold + 256, 3 * threshold] {
            for bytes in [about.saturating_sub(1), about, about + 1, about + 63] {
                for to in [60_000, 60_001, 60_063] {
                    check(3, to, bytes);
                }
            }
        }
    }

    #[test]
    fn what_is_copied_is_summed() {
        let source: Vec<u8> = (0..100_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for bytes in [0, 1, SUMMED_BYTES - 1, SUMMED_BYTES, 3 * SUMMED_BYTES + 77] {
            let (mut target, mut sum) = (vec![0; bytes], Checksum::of_nothing());
            let (first, second) = source[3..3 + bytes].split_at(bytes / 3);
            for (part, at) in [(first, 0), (second, first.len())] {
                let into = target.as_mut_ptr().wrapping_add(at);
                // SAFETY: both vectors hold the part, and are apart.
                unsafe { copy_summed(part.as_ptr(), into, part.len(), Some(&mut sum)) };
            }
            settle();
            assert!(target == source[3..3 + bytes], "{bytes} bytes");
            assert_eq!(sum.of_all(), checksum(&target), "{bytes} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_ends_are_copied_as_a_vector_copies(
            from in 0_usize..60_000, to in 0_usize..60_000, bytes in 0_usize..60_000,
        ) {
            check(from, to, bytes);
        }
    }
}
