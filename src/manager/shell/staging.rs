//! Staging: frames in the arena for copies that only pass through memory.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::domain::slots::{SlotKind, SlotMap, SlotPage};
use crate::domain::units::{CHUNK_BYTES, page_align};
use crate::tiers::store::FrameSpan;

/// The staging frames of an arena. Whoever finds none free waits for the next to come back.
///
/// They are shared out by what may hang, so that what does keeps from others no more than its own part. A
/// chunk belongs to frames of one length while one of them is taken, so it is chunks that are shared
/// out; only where there are too few have two kinds of copies a part in common, and then one of them
/// half of its bytes.
pub(super) struct Staging {
    parts: Vec<Part>,
    freed: Notify,
}

/// Chunks, and who is next to take frames of them.
struct Part {
    start: u64,
    slots: Mutex<SlotMap>,
    /// First come, first served: else a frame of another length could wait for ever.
    turn: tokio::sync::Mutex<()>,
    /// In pages, what those may hold that are not alone here and hang more easily.
    share: Semaphore,
    share_pages: u32,
}

/// What may keep a copy's frames, by hanging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// This machine's own devices.
    Near,
    /// A store that others run.
    Far,
    /// Either: what goes from the one to the other.
    Both,
}

/// Frames taken from staging; they come back when this is dropped.
pub(super) struct StagedFrames<'a> {
    staging: &'a Staging,
    part: &'a Part,
    pages: Vec<SlotPage>,
    bytes: u32,
    _share: Option<SemaphorePermit<'a>>,
}

const PAGE_BYTES: u64 = 4096;

/// Chunks of copies between NVMe and a far store, where there are enough: there are few of those at a time.
const BOTH_CHUNKS: u64 = 1;

/// Pages of so many bytes; more than a semaphore counts are as good as endless.
fn pages_of(bytes: u64) -> u32 {
    u32::try_from(page_align(bytes) / PAGE_BYTES).unwrap_or(u32::MAX)
}

impl Part {
    fn new(region: Range<u64>) -> Self {
        let bytes = region.end - region.start;
        let share_pages = pages_of(bytes / 2);
        Self {
            start: region.start,
            slots: Mutex::new(SlotMap::new(bytes, u64::MAX)),
            turn: tokio::sync::Mutex::new(()),
            share: Semaphore::new(share_pages as usize),
            share_pages,
        }
    }

    /// Room in the share for at least one frame, and at most `frames_max`.
    async fn share(&self, frames_max: usize, bytes: u32) -> (usize, Option<SemaphorePermit<'_>>) {
        // One frame may go beyond it: it could never move otherwise.
        let pages = pages_of(bytes.into()).min(self.share_pages);
        // Never closed.
        let Ok(mut share) = self.share.acquire_many(pages).await else { return (1, None) };
        let mut frames = 1;
        while frames < frames_max
            && let Ok(more) = self.share.try_acquire_many(pages)
        {
            share.merge(more);
            frames += 1;
        }
        (frames, Some(share))
    }

    /// What is free of it, at most `frames_max` frames.
    fn alloc(&self, frames_max: usize, bytes: u32) -> Vec<SlotPage> {
        let mut slots = self.lock();
        (0..frames_max).map_while(|_| slots.alloc(SlotKind::whole(bytes))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, SlotMap> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staging {
    /// # Panics
    /// The region does not start at a chunk's start: a broken invariant of the caller.
    pub fn new(region: Range<u64>) -> Self {
        let chunks = (region.end - region.start) / CHUNK_BYTES;
        let both = if chunks > 2 { BOTH_CHUNKS } else { 0 };
        let far = (chunks - both) / 2;
        let (far_start, both_start) =
            (region.end - (far + both) * CHUNK_BYTES, region.end - both * CHUNK_BYTES);
        let regions = [region.start..far_start, far_start..both_start, both_start..region.end];
        let is_one = |(at, region): &(usize, Range<u64>)| *at == 0 || !region.is_empty();
        let parts = regions.into_iter().enumerate().filter(is_one);
        Self { parts: parts.map(|(_, region)| Part::new(region)).collect(), freed: Notify::new() }
    }

    /// Where such copies find their frames, and whether they may hold a share of that only.
    fn part_of(&self, hold: Hold) -> (&Part, bool) {
        let wanted = hold as usize;
        let at = wanted.min(self.parts.len() - 1);
        (&self.parts[at], at != wanted)
    }

    /// Between one and `frames_max` frames of `bytes` each, as soon as there is one. Who stops waiting leaves
    /// nothing behind.
    pub async fn take(&self, frames_max: usize, bytes: u32, hold: Hold) -> StagedFrames<'_> {
        let (part, is_shared) = self.part_of(hold);
        let (frames_max, share) =
            if is_shared { part.share(frames_max, bytes).await } else { (frames_max, None) };
        let _turn = part.turn.lock().await;
        loop {
            let freed = self.freed.notified();
            let pages = part.alloc(frames_max, bytes);
            if !pages.is_empty() {
                return StagedFrames { staging: self, part, pages, bytes, _share: share };
            }
            freed.await;
        }
    }
}

impl StagedFrames<'_> {
    pub fn spans(&self) -> impl Iterator<Item = FrameSpan> + '_ {
        let (start, bytes) = (self.part.start, self.bytes);
        self.pages.iter().map(move |page| FrameSpan { offset: start + page.offset_bytes(), bytes })
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }
}

impl Drop for StagedFrames<'_> {
    fn drop(&mut self) {
        let mut slots = self.part.lock();
        for page in self.pages.drain(..) {
            slots.free(page);
        }
        drop(slots);
        self.staging.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_overtaken() {
        let staging = Staging::new(0..CHUNK_BYTES);
        let small = staging.take(3, 16 << 20, Hold::Near).await;
        let large = staging.take(1, 32 << 20, Hold::Near);
        tokio::pin!(large);
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut large).await.is_err());
        let later = staging.take(1, 16 << 20, Hold::Near);
        tokio::pin!(later);
        assert!(tokio::time::timeout(soon, &mut later).await.is_err(), "though one is free");
        drop(small);
        assert_eq!(large.await.len(), 1);
    }

    #[tokio::test]
    async fn frames_come_back_and_wake_whoever_waits() {
        let staging = Staging::new(CHUNK_BYTES..2 * CHUNK_BYTES);
        let taken = staging.take(100, 16 << 20, Hold::Near).await;
        assert_eq!(taken.len(), 4);
        assert!(taken.spans().all(|span| span.offset >= CHUNK_BYTES));
        let waiting = staging.take(1, 32 << 20, Hold::Near);
        tokio::pin!(waiting);
        let none = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(none, &mut waiting).await.is_err());
        drop(taken);
        assert_eq!(waiting.await.len(), 1);
    }

    /// Whether there are frames of that length at once.
    async fn finds(staging: &Staging, bytes: u32, hold: Hold) -> bool {
        let soon = std::time::Duration::from_millis(10);
        tokio::time::timeout(soon, staging.take(1, bytes, hold)).await.is_ok()
    }

    /// All that such copies can take.
    async fn all(staging: &Staging, bytes: u32, hold: Hold) -> Vec<StagedFrames<'_>> {
        let mut taken = Vec::new();
        let soon = std::time::Duration::from_millis(10);
        while let Ok(more) = tokio::time::timeout(soon, staging.take(100, bytes, hold)).await {
            taken.push(more);
        }
        taken
    }

    #[tokio::test]
    async fn what_hangs_keeps_its_own_part_and_leaves_others_frames_of_any_length() {
        let kinds = [Hold::Near, Hold::Far, Hold::Both];
        for (chunks, held) in [(3, [4, 4, 4]), (4, [8, 4, 4]), (8, [16, 12, 4])] {
            let staging = Staging::new(0..chunks * CHUNK_BYTES);
            for (hold, count) in kinds.into_iter().zip(held) {
                let hanging = all(&staging, 16 << 20, hold).await;
                assert_eq!(hanging.iter().map(StagedFrames::len).sum::<usize>(), count);
                for other in kinds {
                    assert_eq!(finds(&staging, 16 << 20, other).await, other != hold);
                    assert_eq!(finds(&staging, 5 << 20, other).await, other != hold);
                }
            }
        }
    }

    #[tokio::test]
    async fn with_few_chunks_what_hangs_holds_half_of_what_it_shares() {
        let staging = Staging::new(0..2 * CHUNK_BYTES);
        let between = all(&staging, 16 << 20, Hold::Both).await;
        assert_eq!(between.iter().map(StagedFrames::len).sum::<usize>(), 2);
        assert!(finds(&staging, 16 << 20, Hold::Far).await);
        assert!(finds(&staging, 5 << 20, Hold::Near).await);
        drop(between);

        let staging = Staging::new(0..CHUNK_BYTES);
        let far = all(&staging, 16 << 20, Hold::Far).await;
        assert_eq!(far.iter().map(StagedFrames::len).sum::<usize>(), 2);
        assert!(finds(&staging, 16 << 20, Hold::Near).await);
        assert!(!finds(&staging, 16 << 20, Hold::Both).await);
        drop(far);
        // A frame longer than the share moves alone.
        assert_eq!(staging.take(2, 60 << 20, Hold::Far).await.len(), 1);
    }

    #[tokio::test]
    async fn who_stops_waiting_stands_in_nobodys_way() {
        let staging = Staging::new(0..CHUNK_BYTES);
        let taken = staging.take(3, 16 << 20, Hold::Near).await;
        assert!(!finds(&staging, 32 << 20, Hold::Near).await);
        assert!(!finds(&staging, 32 << 20, Hold::Far).await);
        assert!(finds(&staging, 16 << 20, Hold::Near).await);
        drop(taken);
        assert!(finds(&staging, 32 << 20, Hold::Far).await);
    }
}
