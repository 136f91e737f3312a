//! Staging: frames in the arena for copies that only pass through memory.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::domain::slots::{SlotKind, SlotMap, SlotPage};
use crate::domain::units::page_align;
use crate::tiers::store::FrameSpan;

/// The staging frames of an arena. Whoever finds none free waits for the next to come back.
pub(super) struct Staging {
    start: u64,
    slots: Mutex<SlotMap>,
    freed: Notify,
    /// First come, first served: else a frame of another length could wait for ever.
    turn: tokio::sync::Mutex<()>,
    /// What copies to and from a far store may hold, in pages.
    far: Semaphore,
    far_pages: u32,
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
    pages: Vec<SlotPage>,
    bytes: u32,
    _far: Option<SemaphorePermit<'a>>,
}

const PAGE_BYTES: u64 = 4096;

/// Pages of so many bytes; more than a semaphore counts are as good as endless.
fn pages_of(bytes: u64) -> u32 {
    u32::try_from(page_align(bytes) / PAGE_BYTES).unwrap_or(u32::MAX)
}

impl Staging {
    /// # Panics
    /// The region does not start at a chunk's start: a broken invariant of the caller.
    pub fn new(region: Range<u64>) -> Self {
        let slots = SlotMap::new(region.end - region.start, u64::MAX);
        let far_pages = pages_of((region.end - region.start) / 2);
        Self {
            start: region.start,
            slots: Mutex::new(slots),
            freed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            far: Semaphore::new(far_pages as usize),
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
        let Ok(mut share) = self.far.acquire_many(pages).await else { return (1, None) };
        let mut frames = 1;
        while frames < frames_max
            && let Ok(more) = self.far.try_acquire_many(pages)
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
        let _turn = self.turn.lock().await;
        loop {
            let freed = self.freed.notified();
            let mut pages = Vec::new();
            {
                let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
                while pages.len() < frames_max
                    && let Some(page) = slots.alloc(SlotKind::whole(bytes))
                {
                    pages.push(page);
                }
            }
            if !pages.is_empty() {
                return StagedFrames { staging: self, pages, bytes, _far: far.take() };
            }
            freed.await;
        }
    }
}

impl StagedFrames<'_> {
    pub fn spans(&self) -> impl Iterator<Item = FrameSpan> + '_ {
        let start = self.staging.start;
        self.pages
            .iter()
            .map(move |page| FrameSpan { offset: start + page.offset_bytes(), bytes: self.bytes })
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }
}

impl Drop for StagedFrames<'_> {
    fn drop(&mut self) {
        let mut slots = self.staging.slots.lock().unwrap_or_else(PoisonError::into_inner);
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
    use crate::domain::units::CHUNK_BYTES;

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
}
