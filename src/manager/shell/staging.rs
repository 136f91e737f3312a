//! Staging: frames in the arena for copies that only pass through memory.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::domain::slots::{SlotKind, SlotMap, SlotPage};
use crate::domain::units::{CHUNK_BYTES, page_align};
use crate::tiers::store::FrameSpan;

/// The staging frames of an arena. Whoever finds none free waits for the next to come back.
///
/// A chunk belongs to frames of one length while one of them is taken, so chunks are shared out, not bytes:
/// what hangs keeps from others no more than its own half's chunks. A single chunk is shared by all.
pub(super) struct Staging {
    near: Half,
    /// For copies to and from a far store; others use it while none of those waits.
    far: Option<Half>,
    freed: Notify,
    /// What copies to and from a far store may hold, in pages.
    far_share: Semaphore,
    far_pages: u32,
}

/// Chunks, and who is next to take frames of them.
struct Half {
    start: u64,
    slots: Mutex<SlotMap>,
    /// First come, first served: else a frame of another length could wait for ever.
    turn: tokio::sync::Mutex<()>,
}

/// Whom a copy's frames wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// This machine's own devices.
    Near,
    /// A store that others run, and that may hang: its copies hold at most half of all frames, so
    /// that those between this machine's tiers always find some.
    Far,
}

/// Frames taken from staging; they come back when this is dropped.
pub(super) struct StagedFrames<'a> {
    staging: &'a Staging,
    pages: Vec<(&'a Half, SlotPage)>,
    bytes: u32,
    _far: Option<SemaphorePermit<'a>>,
}

const PAGE_BYTES: u64 = 4096;

/// Pages of so many bytes; more than a semaphore counts are as good as endless.
fn pages_of(bytes: u64) -> u32 {
    u32::try_from(page_align(bytes) / PAGE_BYTES).unwrap_or(u32::MAX)
}

impl Half {
    fn new(region: Range<u64>) -> Self {
        let slots = SlotMap::new(region.end - region.start, u64::MAX);
        Self { start: region.start, slots: Mutex::new(slots), turn: tokio::sync::Mutex::new(()) }
    }

    /// What is free of it, at most `frames_max` frames.
    fn alloc(&self, frames_max: usize, bytes: u32) -> impl Iterator<Item = (&Self, SlotPage)> {
        let mut slots = self.lock();
        let frame = move |_| Some((self, slots.alloc(SlotKind::whole(bytes))?));
        (0..frames_max).map_while(frame)
    }

    fn lock(&self) -> MutexGuard<'_, SlotMap> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staging {
    /// # Panics
    /// The region does not start at a chunk's start: a broken invariant of the caller.
    pub fn new(region: Range<u64>) -> Self {
        let bytes = region.end - region.start;
        let far_bytes = bytes / CHUNK_BYTES / 2 * CHUNK_BYTES;
        let far_end = region.start + far_bytes;
        let far_pages = pages_of(if far_bytes > 0 { far_bytes } else { bytes / 2 });
        Self {
            near: Half::new(far_end..region.end),
            far: (far_bytes > 0).then(|| Half::new(region.start..far_end)),
            freed: Notify::new(),
            far_share: Semaphore::new(far_pages as usize),
            far_pages,
        }
    }

    /// Room in the far store's half for at least one frame, and at most `frames_max`.
    async fn far_share(
        &self,
        frames_max: usize,
        bytes: u32,
    ) -> (usize, Option<SemaphorePermit<'_>>) {
        // One frame may go beyond the half: it could never move otherwise.
        let pages = pages_of(bytes.into()).min(self.far_pages);
        // Never closed.
        let Ok(mut share) = self.far_share.acquire_many(pages).await else { return (1, None) };
        let mut frames = 1;
        while frames < frames_max
            && let Ok(more) = self.far_share.try_acquire_many(pages)
        {
            share.merge(more);
            frames += 1;
        }
        (frames, Some(share))
    }

    /// Between one and `frames_max` frames of `bytes` each, as soon as there is one.
    pub async fn take(&self, frames_max: usize, bytes: u32, hold: Hold) -> StagedFrames<'_> {
        let (frames_max, mut far) = match hold {
            Hold::Near => (frames_max, None),
            Hold::Far => self.far_share(frames_max, bytes).await,
        };
        let half = self.far.as_ref().filter(|_| hold == Hold::Far).unwrap_or(&self.near);
        let _turn = half.turn.lock().await;
        loop {
            let freed = self.freed.notified();
            let mut pages: Vec<_> = half.alloc(frames_max, bytes).collect();
            if hold == Hold::Near {
                pages.extend(self.spared(frames_max - pages.len(), bytes));
            }
            if !pages.is_empty() {
                return StagedFrames { staging: self, pages, bytes, _far: far.take() };
            }
            freed.await;
        }
    }

    /// What the far store's half has to spare: nothing while one of its own copies waits.
    fn spared(&self, frames_max: usize, bytes: u32) -> Vec<(&Half, SlotPage)> {
        let spare = self.far.as_ref().and_then(|far| Some((far, far.turn.try_lock().ok()?)));
        spare.map_or_else(Vec::new, |(far, _turn)| far.alloc(frames_max, bytes).collect())
    }
}

impl StagedFrames<'_> {
    pub fn spans(&self) -> impl Iterator<Item = FrameSpan> + '_ {
        let bytes = self.bytes;
        let offset = |(half, page): &(&Half, SlotPage)| half.start + page.offset_bytes();
        self.pages.iter().map(move |frame| FrameSpan { offset: offset(frame), bytes })
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }
}

impl Drop for StagedFrames<'_> {
    fn drop(&mut self) {
        for (half, page) in self.pages.drain(..) {
            half.lock().free(page);
        }
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

    #[tokio::test]
    async fn a_store_that_hangs_holds_no_more_than_half() {
        let staging = Staging::new(0..4 * CHUNK_BYTES);
        let far = staging.take(100, 16 << 20, Hold::Far).await;
        assert_eq!(far.len(), 8);
        let more = staging.take(1, 16 << 20, Hold::Far);
        tokio::pin!(more);
        let none = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(none, &mut more).await.is_err());
        // It waits in nobody's way.
        assert_eq!(staging.take(100, 16 << 20, Hold::Near).await.len(), 8);
        drop(far);
        assert_eq!(more.await.len(), 1);
        // A frame longer than the half moves alone.
        let small = Staging::new(0..CHUNK_BYTES);
        assert_eq!(small.take(2, 60 << 20, Hold::Far).await.len(), 1);
    }

    #[tokio::test]
    async fn frames_of_a_store_that_hangs_leave_chunks_to_all_lengths() {
        let staging = Staging::new(0..4 * CHUNK_BYTES);
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            near.push(staging.take(3, 16 << 20, Hold::Near).await);
            far.push(staging.take(1, 16 << 20, Hold::Far).await);
        }
        assert_eq!(near.iter().map(StagedFrames::len).sum::<usize>(), 12, "the far half has room");
        drop(near);
        let soon = std::time::Duration::from_millis(10);
        let other = tokio::time::timeout(soon, staging.take(1, 8 << 20, Hold::Near)).await;
        assert_eq!(other.expect("nothing near is taken").len(), 1);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_store_that_hangs_stands_in_nobodys_way() {
        let staging = Staging::new(0..4 * CHUNK_BYTES);
        let _hanging =
            (staging.take(1, 1 << 20, Hold::Far).await, staging.take(1, 2 << 20, Hold::Far).await);
        let waiting = staging.take(1, 4 << 20, Hold::Far);
        tokio::pin!(waiting);
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut waiting).await.is_err(), "its half is cut");
        for bytes in [16 << 20, 4 << 20] {
            let near = tokio::time::timeout(soon, staging.take(100, bytes, Hold::Near)).await;
            assert!(near.is_ok(), "{bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_far_copy_waits_only_until_lent_frames_are_back() {
        let staging = Staging::new(0..2 * CHUNK_BYTES);
        let lent = staging.take(100, 16 << 20, Hold::Near).await;
        assert_eq!(lent.len(), 8);
        let waiting = staging.take(1, 32 << 20, Hold::Far);
        tokio::pin!(waiting);
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut waiting).await.is_err());
        drop(lent);
        let again = staging.take(100, 16 << 20, Hold::Near).await;
        assert_eq!(again.len(), 4, "the far half is its own now");
        assert_eq!(waiting.await.len(), 1);
    }
}
