//! Clears away: packs in which nothing lives are deleted, what lives in others is moved into a new one, and
//! changes go with the frames that they are about.
//!
//! Nothing is deleted before what is needed of it lies elsewhere, and whatever was begun and not ended
//! costs room, never a block.

use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::Packs;
use super::format::{self, Head, PackedFrame};
use super::index::{Duty, Found};
use super::name::{Holds, Name};
use crate::env;
use crate::tiers::frame::{self, HEADER_BYTES};
use crate::tiers::store::StoreError;

/// How long the first reason waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How often what failed is tried again, and what has no need any more is looked for.
const AGAIN: Duration = Duration::from_secs(30);

/// Clears away whenever it is woken, until the store is gone.
pub(super) async fn serve(packs: Weak<Packs>, mut woken: mpsc::Receiver<()>) {
    loop {
        match timeout(AGAIN, woken.recv()).await {
            Ok(Some(())) => sleep(GATHER).await,
            Ok(None) => return,
            Err(_) => {}
        }
        let Some(packs) = packs.upgrade() else { return };
        if let Err(error) = packs.shed().await {
            tracing::debug!(%error, "packs could not be cleared away now");
        }
    }
}

/// A frame on its way to another pack: what is said of it, and its bytes.
type Moved = (Found, Bytes);

impl Packs {
    /// Clears away what there is to be.
    pub(super) async fn shed(&self) -> Result<(), StoreError> {
        let duties = self.with(super::index::Index::duties);
        if !duties.is_empty() {
            // What others have changed goes along.
            self.feed.catch_up(Duration::ZERO).await.inspect_err(|_| self.postpone(&duties))?;
        }
        for group in groups(duties, self.options.pack_bytes) {
            self.clear(&group).await.inspect_err(|_| self.postpone(&group))?;
        }
        self.clear_changes().await
    }

    fn postpone(&self, duties: &[Duty]) {
        self.with(|index| duties.iter().for_each(|duty| index.postpone(duty.pack)));
    }

    /// Moves what lives in these packs into one, and deletes them.
    async fn clear(&self, duties: &[Duty]) -> Result<(), StoreError> {
        let mut moved = Vec::new();
        for duty in duties.iter().filter(|duty| !duty.live.is_empty()) {
            moved.extend(self.take_out(duty).await?);
        }
        if !moved.is_empty() {
            self.write_moved(moved).await?;
        }
        for duty in duties {
            self.blobs.delete(&duty.pack.to_string()).await?;
            let now = self.now();
            self.with(|index| index.forget(&duty.pack, now));
        }
        self.publish();
        Ok(())
    }

    /// What lives in a pack, verified and with the records that count.
    async fn take_out(&self, duty: &Duty) -> Result<Vec<Moved>, StoreError> {
        let bytes = match self.blobs.head(&duty.pack.to_string(), duty.end).await {
            // Somebody else has moved it.
            Err(StoreError::Missing(_)) => return Ok(Vec::new()),
            bytes => bytes?,
        };
        let (live, (tell, told)) = (duty.live.clone(), oneshot::channel());
        // Whoever asked may have gone.
        let check = move || drop(tell.send(whole_frames(bytes, live)));
        let _ = env::spawn_blocking_on(&self.runtime, check).await;
        told.await.map_err(|_| StoreError::Busy)
    }

    async fn write_moved(&self, moved: Vec<Moved>) -> Result<(), StoreError> {
        let head_pages = format::head_pages(Holds::Frames, moved.len());
        let mut at = u64::from(head_pages) * HEADER_BYTES as u64;
        let mut frames = Vec::with_capacity(moved.len());
        for (Found { id, version, bytes, header, .. }, _) in &moved {
            let (id, version, bytes, header) = (*id, *version, *bytes, *header);
            frames.push(PackedFrame { id, version, at, bytes, header });
            at += u64::from(bytes);
        }
        let head = Head::Frames(frames.clone());
        let body = move |name: &Name| -> Vec<Bytes> {
            let head = Bytes::from(format::encode(name, &head));
            std::iter::once(head).chain(moved.into_iter().map(|(_, bytes)| bytes)).collect()
        };
        let name = self.log.write((Holds::Frames, head_pages), body).await?;
        let now = self.now();
        self.with(|index| index.add(name, frames, now));
        Ok(())
    }

    /// Deletes objects of changes that nobody needs; many are made one.
    async fn clear_changes(&self) -> Result<(), StoreError> {
        let now = self.now();
        self.with(|index| index.prune(now));
        let scattered = self.with(|index| index.scattered_logs());
        let spare = match scattered {
            Some((names, needed)) => {
                self.changes.save(needed).await?;
                names
            }
            None => self.with(|index| index.spare_logs()),
        };
        for name in spare {
            self.blobs.delete(&name.to_string()).await?;
            self.with(|index| index.unlogged(&name));
        }
        Ok(())
    }
}

/// Packs whose live frames make one pack together.
fn groups(duties: Vec<Duty>, pack_bytes: u64) -> Vec<Vec<Duty>> {
    let (mut groups, mut room): (Vec<Vec<Duty>>, u64) = (Vec::new(), 0);
    for duty in duties {
        let bytes: u64 = duty.live.iter().map(|found| u64::from(found.bytes)).sum();
        match groups.last_mut().filter(|_| bytes <= room) {
            Some(group) => group.push(duty),
            None => {
                groups.push(vec![duty]);
                room = pack_bytes;
            }
        }
        room = room.saturating_sub(bytes);
    }
    groups
}

/// The frames of a pack's bytes, with the records that count. A damaged one serves nobody: it stays behind.
fn whole_frames(mut bytes: Vec<u8>, live: Vec<Found>) -> Vec<Moved> {
    let mut whole = Vec::with_capacity(live.len());
    for found in live {
        let span = usize::try_from(found.at).ok().map(|at| at..at + found.bytes as usize);
        let meta = found.header.meta;
        let frame = span.clone().and_then(|span| bytes.get_mut(span));
        let kept = frame.is_some_and(|frame| {
            frame::verify(frame, meta.key).is_ok_and(|header| {
                header.meta.record == meta.record
                    || frame::restamp(frame, meta.key, &meta.record).is_ok()
            })
        });
        whole.extend(span.filter(|_| kept).map(|span| (found, span)));
    }
    let bytes = Bytes::from(bytes);
    whole.into_iter().map(|(found, span)| (found, bytes.slice(span))).collect()
}
