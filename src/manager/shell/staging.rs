//! Staging: frames in the arena for copies that only pass through memory.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::slots::{SlotKind, SlotMap, SlotPage};
use crate::tiers::store::FrameSpan;

/// The staging frames of an arena. Whoever finds none free waits for the next to come back.
pub(super) struct Staging {
    start: u64,
    slots: Mutex<SlotMap>,
    freed: Notify,
    /// First come, first served: else a frame of another length could wait for ever.
    turn: tokio::sync::Mutex<()>,
}

/// Frames taken from staging; they come back when this is dropped.
pub(super) struct StagedFrames<'a> {
    staging: &'a Staging,
    pages: Vec<SlotPage>,
    bytes: u32,
}

impl Staging {
    /// # Panics
    /// The region does not start at a chunk's start: a broken invariant of the caller.
    pub fn new(region: Range<u64>) -> Self {
        let slots = SlotMap::new(region.end - region.start, u64::MAX);
        Self {
            start: region.start,
            slots: Mutex::new(slots),
            freed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Between one and `frames_max` frames of `bytes` each, as soon as there is one.
    pub async fn take(&self, frames_max: usize, bytes: u32) -> StagedFrames<'_> {
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
                return StagedFrames { staging: self, pages, bytes };
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
        let small = staging.take(3, 16 << 20).await;
        let large = staging.take(1, 32 << 20);
        tokio::pin!(large);
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut large).await.is_err());
        let later = staging.take(1, 16 << 20);
        tokio::pin!(later);
        assert!(tokio::time::timeout(soon, &mut later).await.is_err(), "though one is free");
        drop(small);
        assert_eq!(large.await.len(), 1);
    }

    #[tokio::test]
    async fn frames_come_back_and_wake_whoever_waits() {
        let staging = Staging::new(CHUNK_BYTES..2 * CHUNK_BYTES);
        let taken = staging.take(100, 16 << 20).await;
        assert_eq!(taken.len(), 4);
        assert!(taken.spans().all(|span| span.offset >= CHUNK_BYTES));
        let waiting = staging.take(1, 32 << 20);
        tokio::pin!(waiting);
        let none = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(none, &mut waiting).await.is_err());
        drop(taken);
        assert_eq!(waiting.await.len(), 1);
    }
}
