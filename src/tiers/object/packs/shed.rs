//! Clears away: packs in which nothing lives are deleted, what lives in others is moved into a new one, and
//! changes go with the frames that they are about.
//!
//! Nothing is deleted before what is needed of it lies elsewhere, and whatever was begun and not ended
//! costs room, never a block.

use std::ops::Range;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::Packs;
use super::format::{self, Head, PackedFrame};
use super::index::{Duty, Found, Index};
use super::name::{Holds, Name};
use crate::env;
use crate::tiers::frame::{self, HEADER_BYTES};
use crate::tiers::store::StoreError;

/// How long the first reason waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How often what failed is tried again, and changes that nobody needs any more are looked for.
const AGAIN: Duration = Duration::from_secs(30);

/// How often a clear begins anew because others had moved what it counted on.
const ROUNDS_MAX: u8 = 8;

/// Objects of changes that can't be deleted, on end, before the others wait for the next time.
const FAILS_MAX: u32 = 3;

/// Clears away whenever it is woken, until the store is gone.
pub(super) async fn serve(packs: Weak<Packs>, mut woken: mpsc::Receiver<()>) {
    let (mut again_at, mut fails) = (Instant::now() + AGAIN, false);
    loop {
        match timeout_at(again_at, woken.recv()).await {
            Ok(Some(())) => sleep(GATHER).await,
            Ok(None) => return,
            Err(_) => {}
        }
        let Some(packs) = packs.upgrade() else { return };
        let is_again = Instant::now() >= again_at;
        if is_again {
            again_at = Instant::now() + AGAIN;
        }
        // What failed waits, whoever wakes; what is new does not.
        let cleared =
            if fails && !is_again { packs.clear_packs().await } else { packs.shed().await };
        match cleared {
            Ok(()) => fails &= !is_again,
            Err(error) if !std::mem::replace(&mut fails, true) => tracing::warn!(
                %error,
                "packs could not all be cleared away; it is tried every {} s",
                AGAIN.as_secs()
            ),
            Err(_) => {}
        }
    }
}

/// A frame on its way to another pack: what is said of it, and its bytes.
type Moved = (Found, Bytes);

impl Packs {
    /// Clears away what there is to be, also what could not be before.
    pub(super) async fn shed(&self) -> Result<(), StoreError> {
        self.with(Index::take_up);
        let cleared = self.clear_packs().await;
        cleared.and(self.clear_changes().await)
    }

    /// Clears away packs but for those that could not be before.
    async fn clear_packs(&self) -> Result<(), StoreError> {
        let mut ended = Ok(());
        for _ in 0..ROUNDS_MAX {
            if ended.is_err() || !self.with(|index| index.is_untidy()) {
                break;
            }
            // What others have changed goes along, and what they have moved does not.
            if let Err(error) = self.look_unheard().await {
                self.with(Index::put_off_all);
                return Err(error);
            }
            ended = self.clear_all().await;
        }
        ended
    }

    /// Clears away what is known to need it. What fails is put off, and stops nothing else.
    async fn clear_all(&self) -> Result<(), StoreError> {
        let (empty, rest): (Vec<Duty>, Vec<Duty>) =
            self.with(Index::duties).into_iter().partition(Duty::is_deleted_only);
        let alone = empty.into_iter().map(|duty| vec![duty]);
        let mut ended = Ok(());
        for group in alone.chain(groups(rest, self.options.pack_bytes)) {
            let cleared = self.clear(&group).await;
            if cleared.is_err() {
                self.with(|index| group.iter().for_each(|duty| index.put_off(duty.pack)));
            }
            ended = ended.and(cleared);
        }
        self.publish();
        ended
    }

    fn tell_again(&self, duties: &[Duty]) {
        self.with(|index| duties.iter().for_each(|duty| index.tell_again(duty.pack)));
    }

    /// Moves what lives in these packs into one, and deletes them. One that is gone takes along what was
    /// thought of the others: they are told anew.
    async fn clear(&self, duties: &[Duty]) -> Result<(), StoreError> {
        let mut moved = Vec::new();
        for duty in duties.iter().filter(|duty| !duty.live.is_empty()) {
            let Some(out) = self.take_out(duty).await? else {
                self.note_gone(&duty.pack).await?;
                self.tell_again(duties);
                return Ok(());
            };
            moved.extend(out);
        }
        if !moved.is_empty() {
            let into = self.write_moved(moved).await?;
            self.with(|index| duties.iter().for_each(|duty| index.moved(duty, into)));
        }
        let mut ended = Ok(());
        for duty in duties {
            ended = ended.and(self.let_go(duty).await);
        }
        ended
    }

    /// Deletes a pack of which nothing is needed any more, if that is still so.
    async fn let_go(&self, duty: &Duty) -> Result<(), StoreError> {
        if !self.are_there(&duty.elsewhere).await? {
            self.tell_again(std::slice::from_ref(duty));
            return Ok(());
        }
        self.blobs.delete(&duty.pack.to_string()).await?;
        self.forget(&duty.pack);
        Ok(())
    }

    pub(super) fn forget(&self, pack: &Name) {
        let now = self.now();
        self.with(|index| index.forget(pack, now));
    }

    /// A pack turned out to be gone. It is forgotten when the packs were looked at into which its frames
    /// may have been moved: as long as they are known, that one is not passed over.
    pub(super) async fn note_gone(&self, pack: &Name) -> Result<(), StoreError> {
        self.look().await?;
        self.forget(pack);
        Ok(())
    }

    /// Whether the packs in which frames are kept are there now: others delete packs without a word.
    pub(super) async fn are_there(&self, packs: &[Name]) -> Result<bool, StoreError> {
        for pack in packs {
            match self.blobs.head(&pack.to_string(), 1).await {
                Err(StoreError::Missing(_)) => {
                    self.note_gone(pack).await?;
                    return Ok(false);
                }
                head => drop(head?),
            }
            let now = self.now();
            self.with(|index| index.note_seen(pack, now));
        }
        Ok(true)
    }

    /// What lives in a pack, verified and with the records that count; nothing if the pack is gone.
    async fn take_out(&self, duty: &Duty) -> Result<Option<Vec<Moved>>, StoreError> {
        let bytes = match self.blobs.head(&duty.pack.to_string(), duty.end).await {
            Err(StoreError::Missing(_)) => return Ok(None),
            bytes => bytes?,
        };
        let live = duty.live.clone();
        let checked =
            env::spawn_blocking_on(&self.runtime, move || whole_frames(bytes, live)).await;
        checked.map(Some).ok_or(StoreError::Busy)
    }

    async fn write_moved(&self, moved: Vec<Moved>) -> Result<Name, StoreError> {
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
        let name = self.log.write_lasting((Holds::Frames, head_pages), body).await?;
        let now = self.now();
        self.with(|index| index.add(name, frames, now));
        Ok(name)
    }

    /// Deletes objects of changes that nobody needs; many are made one.
    async fn clear_changes(&self) -> Result<(), StoreError> {
        let now = self.now();
        if self.with(|index| index.is_due(now)) {
            // Somebody may have moved their frames to where nobody has looked.
            self.look().await?;
        }
        self.replace_spare().await?;
        if let Some(needed) = self.with(|index| index.scattered_changes()) {
            self.changes.save(needed).await?;
            self.replace_spare().await?;
        }
        self.delete_replaced().await
    }

    /// Objects of changes that nobody needs are only deleted from here on. They may have long been on the
    /// disk, and what outdoes them may be in a machine's memory alone: that goes down before.
    async fn replace_spare(&self) -> Result<(), StoreError> {
        let (spare, outdoing) = self.with(|index| {
            let spare = index.spare_logs();
            let outdoing = index.outdoing(&spare);
            (spare, outdoing)
        });
        if !outdoing.is_empty() {
            self.blobs.settle(outdoing.iter().map(Name::to_string).collect()).await?;
        }
        self.with(|index| index.replace_logs(spare));
        Ok(())
    }

    /// Deletes what was replaced. Not all of it is tried where the store seems to let nothing be deleted: it
    /// would count as out for writes.
    async fn delete_replaced(&self) -> Result<(), StoreError> {
        let (mut ended, mut fails) = (Ok(()), 0);
        for name in self.with(|index| index.replaced_logs()) {
            let deleted = self.blobs.delete(&name.to_string()).await;
            self.with(|index| index.note_tried(name, deleted.is_ok()));
            fails = if deleted.is_ok() { 0 } else { fails + 1 };
            ended = ended.and(deleted);
            if fails == FAILS_MAX {
                break;
            }
        }
        ended
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
///
/// They keep at most twice their own bytes in memory until they are written: of a pack of which less than
/// half lives they are copied out. So a group of packs keeps twice what is written anew, however many they
/// are, and beside it the one that is being read.
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
    let kept_bytes: usize = whole.iter().map(|(_, span)| span.len()).sum();
    if kept_bytes * 2 < bytes.capacity() {
        bytes = gathered(&bytes, kept_bytes, &mut whole);
    }
    let bytes = Bytes::from(bytes);
    whole.into_iter().map(|(found, span)| (found, bytes.slice(span))).collect()
}

/// These spans' bytes, one behind the other, where they are told to lie from here on.
fn gathered(bytes: &[u8], kept_bytes: usize, spans: &mut [(Found, Range<usize>)]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(kept_bytes);
    for (_, span) in spans {
        let at = kept.len();
        kept.extend_from_slice(&bytes[span.clone()]);
        *span = at..kept.len();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::format::{FrameId, Version};
    use super::*;
    use crate::tiers::frame::FrameHeader;
    use crate::tiers::sample::Sample;

    /// A pack of eight frames, and these of them.
    fn taken_out(live: Range<u32>) -> Vec<Moved> {
        let block = |number| Sample { number, payload_bytes: 20_000 };
        let pack: Vec<u8> = (0..8).flat_map(|number| block(number).bytes()).collect();
        let found = |number| {
            let bytes = block(number).bytes();
            let (at, header) = (bytes.len() as u64, FrameHeader::decode(&bytes).unwrap());
            let pack = Name::new([1; 16], 7, Holds::Frames, 1);
            let (id, version) = (FrameId([0; 16]), Version(0));
            let bytes = u32::try_from(at).unwrap();
            Found { pack, id, version, at: at * u64::from(number), bytes, header }
        };
        let moved = whole_frames(pack, live.clone().map(found).collect());
        for (number, (_, bytes)) in live.zip(&moved) {
            assert_eq!(bytes[..], block(number).bytes());
        }
        moved
    }

    /// The bytes that the frames keep in memory, which they lie in.
    fn kept_bytes(moved: Vec<Moved>) -> usize {
        let mut frames = moved.into_iter().map(|(_, bytes)| bytes);
        let first = frames.next().unwrap();
        frames.for_each(drop);
        // The last one that holds a buffer is given all of it.
        Vec::from(first.try_into_mut().unwrap()).capacity()
    }

    #[test]
    fn what_lives_in_a_pack_keeps_twice_its_own_bytes_in_memory_at_most() {
        for live in [0..1, 0..3, 0..4, 0..8] {
            let bytes = taken_out(live.clone()).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            assert!(kept_bytes(taken_out(live.clone())) <= 2 * bytes, "{live:?}");
        }
        taken_out(3..6);
    }
}
