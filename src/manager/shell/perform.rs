//! Performs transfers: each copy's legs over the device and the stores, in order.
//!
//! Every copy goes through at most one frame in memory: DRAM's own, or a staging frame when neither
//! end is DRAM. Copies between a pool and HBM go straight. What has one leg is handed to who copies by
//! the manager's own thread, the rest is done by tasks of the runtime.

mod bounded;
mod device;
mod straight;
mod tell;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use tokio::runtime;
use tokio::sync::oneshot;

use super::complaints::{Complaints, Deed};
use super::ends::{at_all_ends, on_end};
use super::mailbox::{Mailbox, deliver};
use super::sealing::SealThreads;
use super::staging::{Hold, Staging};
use super::upkeep::Erasing;
use crate::domain::namespace::NamespaceDigest;
use crate::domain::tier::Tier;
use crate::env;
use crate::manager::NamespaceEntry;
use crate::manager::api::{
    End, Event, FailureKind, OpId, PoolId, Transfer, TransferId, TransferItem,
};
use crate::movement::Link;
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, FrameHeader, HEADER_SPAN_BYTES};
use crate::tiers::hbm::{BlockGeometry, Device, EnginePool, Stream};
use crate::tiers::health::Refuses;
use crate::tiers::store::{FoundFrame, FrameSpan, Place, StoreError, StoreOp, TierStore};

use bounded::Bound;
pub(super) use bounded::Turns;
use tell::{Asked, Teller};

/// Objects are addressed by key.
pub(super) const NO_PLACE: Place = Place { offset: 0, slot_bytes: 0 };

/// Everything that moves bytes.
pub(super) struct Performer {
    pub arena: Arc<Arena>,
    pub staging: Staging,
    pub turns: Turns,
    pub device: Arc<dyn Device>,
    pub nvme: Option<Arc<dyn TierStore>>,
    pub object: Option<Arc<dyn TierStore>>,
    pub node_id: [u8; 16],
    pub events: Sender<Event>,
    pub erasing: Erasing,
    pub complaints: Arc<Complaints>,
    pub seal_threads: Arc<SealThreads>,
    pub runtime: runtime::Handle,
}

/// A transfer with what its copies need to know.
struct Work {
    id: TransferId,
    link: Link,
    digest: NamespaceDigest,
    /// Unknown for blocks from before a restart whose engine has not come back.
    geometry: Option<BlockGeometry>,
    payload_bytes: u64,
    frame_bytes: u32,
    items: Vec<Piece>,
    /// Where it may be given up on its way.
    bound: Option<Arc<Bound>>,
}

impl Work {
    /// DRAM's own frames at one end of each copy, if all have one.
    fn frames(&self) -> Option<Vec<FrameSpan>> {
        let items = self.items.iter().map(|piece| &piece.item);
        items.map(|item| dram_span(item.from).or(dram_span(item.to))).collect()
    }

    /// What may keep its frames.
    fn hold(&self) -> Hold {
        let ends = self.items.iter().flat_map(|piece| [piece.item.from, piece.item.to]);
        let stores = ends.filter_map(|end| Some(stored(end)?.0));
        stores
            .fold(None, |hold, tier| match (hold, tier) {
                (None | Some(Hold::Far), Tier::Object) => Some(Hold::Far),
                (None | Some(Hold::Near), Tier::Nvme) => Some(Hold::Near),
                _ => Some(Hold::Both),
            })
            .unwrap_or(Hold::Near)
    }

    /// Whether anything is copied: a frame may only be sealed, or kept, where it is.
    fn copies(&self) -> bool {
        self.items.iter().any(|piece| piece.item.from != piece.item.to)
    }

    /// Whether a store is to say that it keeps what landed.
    fn durable(&self) -> bool {
        self.items.iter().any(|piece| piece.item.durable)
    }
}

/// One copy, its pool looked up.
#[derive(Clone)]
struct Piece {
    item: TransferItem,
    pool: Option<Arc<EnginePool>>,
}

impl Piece {
    /// What brings it from its store into a frame, if it is in one.
    fn read_op(&self, frame: FrameSpan) -> Option<(Tier, StoreOp)> {
        let (tier, place) = stored(self.item.from)?;
        Some((tier, StoreOp::Read { key: self.item.meta.key, place, frame }))
    }

    /// What brings it from a frame into its store, if it goes to one.
    fn write_op(&self, frame: FrameSpan) -> Option<(Tier, StoreOp)> {
        let (tier, place) = stored(self.item.to)?;
        Some((tier, StoreOp::Write { key: self.item.meta.key, place, frame }))
    }
}

/// How each copy of a list ended.
pub(super) type Outcomes = Vec<Result<(), FailureKind>>;

impl Performer {
    /// What a tier's store refuses for now.
    pub fn refuses(&self, tier: Tier) -> Refuses {
        self.present(tier).map_or(Refuses::NOTHING, |store| store.health().refuses())
    }

    /// Starts a transfer; its end is reported as an event. `waits`: for how long it is waited for, if not
    /// for ever.
    pub fn start(
        performer: &Arc<Self>,
        (transfer, waits): (Transfer, Option<Duration>),
        namespace: &NamespaceEntry,
        pool: impl Fn(PoolId) -> Arc<EnginePool>,
    ) {
        let pool_of = |item: &TransferItem| match (item.from, item.to) {
            (End::Pool { pool: id, .. }, _) | (_, End::Pool { pool: id, .. }) => Some(pool(id)),
            _ => None,
        };
        let geometry = namespace.namespace.as_ref().and_then(|n| BlockGeometry::of(n).ok());
        debug_assert!(
            geometry.is_none_or(|blocks| blocks.payload_bytes() == namespace.payload_bytes),
            "a device sums by the one, and headers say the other"
        );
        let work = Work {
            id: transfer.id,
            link: transfer.link,
            digest: namespace.digest,
            geometry,
            payload_bytes: namespace.payload_bytes,
            frame_bytes: namespace.slot_bytes(Tier::Dram),
            items: transfer
                .items
                .into_iter()
                .map(|item| Piece { pool: pool_of(&item), item })
                .collect(),
            bound: None,
        };
        if performer.straight(&work) {
            return;
        }
        let teller = performer.teller(work.id);
        let this = Arc::clone(performer);
        env::spawn_task_on(&performer.runtime, async move {
            match waits {
                Some(waits) => teller.tell(this.perform_within(work, waits).await),
                None => teller.tell(this.perform(&work).await),
            }
        });
    }

    /// Copies with a store at one end or both.
    async fn perform(&self, work: &Work) -> Outcomes {
        let mut outcomes = if work.copies() {
            self.through_frames(work).await
        } else {
            vec![Ok(()); work.items.len()]
        };
        self.keep(work, &mut outcomes).await;
        outcomes
    }

    /// Has the manager told once the pool's engine has come as far as the operation's call.
    pub fn await_engine(&self, op: OpId, pool: &Arc<EnginePool>) {
        let asked = Asked { op, mailbox: Some(self.mailbox()) };
        self.device.await_engine(pool, Box::new(move |came| asked.tell(came)));
    }

    /// What tells the manager how a transfer ended.
    fn teller(&self, transfer: TransferId) -> Teller {
        Teller { transfer, mailbox: self.mailbox() }
    }

    pub(super) fn mailbox(&self) -> Mailbox {
        Mailbox { events: self.events.clone(), runtime: self.runtime.clone() }
    }

    /// Has the store keep what landed, where that is asked for: once for all of a transfer.
    async fn keep(&self, work: &Work, outcomes: &mut Outcomes) {
        let asked = |piece: &Piece| stored(piece.item.to).filter(|_| piece.item.durable);
        let mut landed = work.items.iter().zip(&*outcomes).filter(|(_, end)| end.is_ok());
        let Some((tier, _)) = landed.find_map(|(piece, _)| asked(piece)) else { return };
        let (done, ended) = on_end();
        self.store(tier).sync(done);
        let end = ended.await.unwrap_or_else(|_| Err(StoreError::TierLost("it stopped".into())));
        let Err(error) = end else { return };
        self.complaints.note(Deed::Flush(tier), &error);
        for (piece, outcome) in work.items.iter().zip(outcomes) {
            if piece.item.durable {
                *outcome = outcome.and(Err(write_failure(&error)));
            }
        }
    }

    /// Each copy by way of one frame in memory: DRAM's own, else staging frames, as many at a time as
    /// there are.
    async fn through_frames(&self, work: &Work) -> Outcomes {
        if let Some(spans) = work.frames() {
            return self.store_legs(work, &work.items, spans).await;
        }
        let mut outcomes = Vec::with_capacity(work.items.len());
        while outcomes.len() < work.items.len() {
            let rest = &work.items[outcomes.len()..];
            let frames = self.staging.take(rest.len(), work.frame_bytes, work.hold());
            let Some(frames) = work.unless_given_up(frames).await else {
                outcomes.resize(work.items.len(), Err(FailureKind::NotDone));
                break;
            };
            let pieces = &rest[..frames.len()];
            outcomes.extend(self.store_legs(work, pieces, frames.spans().collect()).await);
        }
        outcomes
    }

    /// Source into the frames, then the frames into the target; legs that start or end in the
    /// frame itself are none.
    async fn store_legs(&self, work: &Work, pieces: &[Piece], spans: Vec<FrameSpan>) -> Outcomes {
        let mut outcomes = self.read_leg(work, pieces, &spans).await;
        for ((outcome, piece), span) in outcomes.iter_mut().zip(pieces).zip(&spans) {
            *outcome = outcome.and_then(|()| self.restamped(piece, *span));
        }
        let Some(_touching) = work.may_touch() else {
            return vec![Err(FailureKind::NotDone); pieces.len()];
        };
        let written = self.write_leg(work, pieces, &spans, &outcomes).await;
        for (outcome, written) in outcomes.iter_mut().zip(written) {
            *outcome = outcome.and(written);
        }
        outcomes
    }

    /// Brings the record in a frame's header in memory up to date, where that is asked for.
    fn restamped(&self, piece: &Piece, frame: FrameSpan) -> Result<(), FailureKind> {
        let TransferItem { restamp, meta, .. } = &piece.item;
        if !restamp {
            return Ok(());
        }
        let header = FrameSpan { bytes: HEADER_SPAN_BYTES, ..frame };
        // SAFETY: a frame is on its way down at most once at a time, and nothing else touches its
        // header meanwhile: the manager keeps it so.
        let page = unsafe { self.arena.bytes_mut(header) };
        let current = FrameHeader::decode(page).is_ok_and(|now| now.meta.record == meta.record);
        if current {
            return Ok(());
        }
        frame::restamp(page, meta.key, &meta.record).map(drop).map_err(|error| {
            self.complaints.note(Deed::RestampInMemory(meta.key), &error);
            read_failure(&error)
        })
    }

    async fn read_leg(&self, work: &Work, pieces: &[Piece], spans: &[FrameSpan]) -> Outcomes {
        if pieces.first().is_some_and(|piece| on_device(piece.item.from)) {
            return self.onto_frames(work, pieces, spans).await;
        }
        let ops = pieces.iter().zip(spans).map(|(piece, span)| piece.read_op(*span));
        let outcomes = self.on_stores(ops.collect(), read_failure).await;
        let fetched = pieces.iter().zip(spans).zip(&outcomes).filter(|(_, end)| end.is_ok());
        for ((_, span), _) in fetched.filter(|((piece, _), _)| piece.item.from == End::Object) {
            self.tell_header(*span).await;
        }
        outcomes
    }

    /// The header of an object that was fetched: the manager may only have presumed what it says.
    async fn tell_header(&self, frame: FrameSpan) {
        // SAFETY: the transfer owns its frames until the manager hears of its end.
        let page = unsafe { self.arena.bytes(FrameSpan { bytes: HEADER_SPAN_BYTES, ..frame }) };
        if let Ok(header) = FrameHeader::decode(page) {
            let frame = Box::new(FoundFrame::object(header));
            deliver(&self.events, Event::Found { tier: Tier::Object, frame }).await;
        }
    }

    /// The second leg of those whose first one landed.
    async fn write_leg(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[FrameSpan],
        read: &Outcomes,
    ) -> Outcomes {
        let pieces = pieces.iter().zip(spans).zip(read);
        let ready = pieces.map(|((piece, span), read)| (piece, *span, read.is_ok()));
        if work.items.first().is_some_and(|piece| on_device(piece.item.to)) {
            let copies = ready.map(|(piece, span, ready)| {
                ready.then(|| work.device_copy(piece, Some(span))).flatten()
            });
            return self.on_device(Stream::Up, copies.collect()).await;
        }
        let ops = ready.map(|(piece, span, ready)| piece.write_op(span).filter(|_| ready));
        self.on_stores(ops.collect(), write_failure).await
    }

    /// Runs all operations at once; those that are none end well.
    async fn on_stores(
        &self,
        ops: Vec<Option<(Tier, StoreOp)>>,
        kind: fn(&StoreError) -> FailureKind,
    ) -> Outcomes {
        let outcomes = vec![Ok(()); ops.len()];
        let (told, all) = oneshot::channel();
        // The receiver is gone only when the runtime stops.
        self.submit_ops(ops, outcomes, kind, move |outcomes| drop(told.send(outcomes)));
        all.await.expect("the last operation to go tells of all")
    }

    /// Has the stores run all operations at once, enters how each ended, and tells `ended`, once and on
    /// any thread. What is no operation keeps its outcome.
    fn submit_ops(
        &self,
        ops: Vec<Option<(Tier, StoreOp)>>,
        mut outcomes: Outcomes,
        kind: fn(&StoreError) -> FailureKind,
        ended: impl FnOnce(Outcomes) + Send + 'static,
    ) {
        let (at, ops): (Vec<usize>, Vec<(Tier, StoreOp)>) =
            ops.into_iter().enumerate().filter_map(|(at, op)| Some((at, op?))).unzip();
        let deeds: Vec<Deed> = ops.iter().map(|(tier, op)| Deed::of(*tier, op)).collect();
        let (complaints, mailbox) = (Arc::clone(&self.complaints), self.mailbox());
        let dones = at_all_ends(ops.len(), move |ends| {
            for ((at, deed), end) in at.into_iter().zip(deeds).zip(ends) {
                outcomes[at] = mailbox.tell_outdone(end).map_err(|error| {
                    complaints.note(deed, &error);
                    kind(&error)
                });
            }
            ended(outcomes);
        });
        for ((tier, op), done) in ops.into_iter().zip(dones) {
            self.store(tier).submit(op, done);
        }
    }

    pub(super) fn store(&self, tier: Tier) -> &Arc<dyn TierStore> {
        self.present(tier).expect("the manager moves copies only to tiers that are present")
    }

    fn present(&self, tier: Tier) -> Option<&Arc<dyn TierStore>> {
        match tier {
            Tier::Nvme => self.nvme.as_ref(),
            _ => self.object.as_ref(),
        }
    }
}

fn on_device(end: End) -> bool {
    matches!(end, End::Pool { .. } | End::Hbm(_))
}

/// DRAM's places are the arena's first bytes.
fn dram_span(end: End) -> Option<FrameSpan> {
    match end {
        End::Dram(place) => Some(FrameSpan { offset: place.offset, bytes: place.slot_bytes }),
        _ => None,
    }
}

fn stored(end: End) -> Option<(Tier, Place)> {
    match end {
        End::Nvme(place) => Some((Tier::Nvme, place)),
        End::Object => Some((Tier::Object, NO_PLACE)),
        _ => None,
    }
}

pub(super) fn read_failure(error: &StoreError) -> FailureKind {
    match error {
        StoreError::Missing(_) => FailureKind::SourceMissing,
        StoreError::Corrupt(_) => FailureKind::SourceCorrupt,
        StoreError::Busy => FailureKind::NotDone,
        StoreError::Io { .. } | StoreError::TierLost(_) | StoreError::Outdone(_) => {
            FailureKind::SourceFailed
        }
    }
}

fn write_failure(error: &StoreError) -> FailureKind {
    match error {
        StoreError::Busy => FailureKind::NotDone,
        _ => FailureKind::TargetFailed,
    }
}
