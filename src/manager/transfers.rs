//! Transfers: copies of one step are batched by link, queued, started, and heard of again once.

use crate::domain::directory::BlockIndex;
use crate::domain::tier::Tier;
use crate::movement::{Class, Link, Load, Offer};
use crate::tiers::store::{FrameMeta, Place};

use super::Manager;
use super::api::{
    Effect, End, EndKind, FailureKind, ItemFailure, NamespaceId, Transfer, TransferId, TransferItem,
};
use super::state::{Batch, Flight, FlightItem, Job, Route};

/// The link that a copy takes: its slowest stretch.
fn link_of(from: EndKind, to: EndKind) -> Link {
    use EndKind::{Pool, Tier as In};
    use Tier::{Dram, Nvme, Object};
    match (from, to) {
        (In(Object), In(Object)) => Link::ObjectPut,
        (In(Nvme), In(Nvme)) => Link::NvmeWrite,
        (In(Object), _) => Link::ObjectGet,
        (_, In(Object)) => Link::ObjectPut,
        (In(Nvme), _) => Link::NvmeRead,
        (_, In(Nvme)) => Link::NvmeWrite,
        (In(Dram), In(Tier::Hbm) | Pool) => Link::DeviceUp,
        (_, In(Dram)) => Link::DeviceDown,
        (In(Tier::Hbm) | Pool, In(Tier::Hbm) | Pool) => Link::DeviceLocal,
    }
}

/// The link from one tier to another.
pub(super) fn tier_link(from: Tier, to: Tier) -> Link {
    link_of(EndKind::Tier(from), EndKind::Tier(to))
}

impl Manager {
    /// Adds one copy to this step's batches. The source is pinned, the target has its slot.
    pub(super) fn start_item(&mut self, to: Option<Tier>, block: BlockIndex, job: Job) {
        let (from_end, to_end) = self.ends_of(to, block, job);
        let namespace = NamespaceId(self.directory.get(block).namespace);
        let seal = self.makes_frame(namespace, &from_end, &to_end, job);
        let meta = self.meta(block, seal);
        let sinks = job.source().zip(to).is_some_and(|(from, to)| from < to);
        let restamp = sinks && !seal;
        if to == Some(Tier::Nvme) && job.source() == Some(Tier::Object) {
            self.header_goes_up(block);
        }
        let durable = matches!(job, Job::Persist { .. } | Job::Sync { .. });
        let item = TransferItem { from: from_end, to: to_end, meta, seal, restamp, durable };
        if let Some(part) = job.part() {
            self.pools.get_mut(&part.pool).expect("a part's pool lives").flights += 1;
        }
        let class = match job {
            Job::Store(_)
            | Job::Deliver { .. }
            | Job::Seal
            | Job::Persist { .. }
            | Job::Sync { .. } => Class::Demand,
            Job::Fill { class, .. } => class,
            Job::Demote { .. } => Class::Background,
        };
        let link = link_of(from_end.kind(), to_end.kind());
        let behind = job.part().map(|part| part.op).filter(|op| self.behind.has(*op));
        let ends = [from_end.kind(), to_end.kind()];
        let route = Route { namespace, behind, link, class, ends };
        let bytes = self.copied_bytes(namespace, job);
        let fits = |batch: &Batch| {
            batch.route == route
                && batch.items.len() < Transfer::items_max(link)
                && batch.bytes + bytes <= batch.bytes_max
        };
        let flight = FlightItem { block, to, job };
        // The last one opened on the route is the only one that may have room.
        match self.batches.iter_mut().rev().find(|batch| batch.route == route) {
            Some(batch) if fits(batch) => {
                batch.bytes += bytes;
                batch.items.push(item);
                batch.flight.push(flight);
            }
            _ => {
                let (items, flight) = (vec![item], vec![flight]);
                let bytes_max = self.links.cut_bytes(self.now, link, class);
                self.batches.push(Batch { route, bytes, bytes_max, items, flight });
            }
        }
    }

    /// Whether this copy turns a payload into a frame, whose header must then be written.
    fn makes_frame(&self, namespace: NamespaceId, from: &End, to: &End, job: Job) -> bool {
        let framed = matches!(to, End::Dram(_) | End::Nvme(_) | End::Object);
        match (from, job) {
            (_, Job::Seal) => true,
            (End::Hbm(_), _) => framed,
            (End::Pool { .. }, _) => framed && self.namespace(namespace).shard_count() == 1,
            _ => false,
        }
    }

    /// Payload bytes of one copy: a block's, or one rank's part of it.
    pub(super) fn copied_bytes(&self, namespace: NamespaceId, job: Job) -> u64 {
        if matches!(job, Job::Sync { .. }) {
            return 0;
        }
        let entry = self.namespace(namespace);
        let shards = if job.part().is_some() { u64::from(entry.shard_count()) } else { 1 };
        entry.payload_bytes / shards
    }

    fn ends_of(&self, to: Option<Tier>, block: BlockIndex, job: Job) -> (End, End) {
        let pool = |part: super::state::Part| End::Pool {
            pool: part.pool,
            shard: part.shard,
            slot: part.slot,
        };
        let target = |tier: Option<Tier>| self.end(block, tier.expect("all but deliveries fill"));
        match job {
            Job::Store(part) => (pool(part), target(to)),
            Job::Fill { from, .. } | Job::Demote { from } | Job::Persist { from } => {
                (self.end(block, from), target(to))
            }
            Job::Deliver { part, from } => (self.end(block, from), pool(part)),
            Job::Seal | Job::Sync { .. } => (target(to), target(to)),
        }
    }

    fn end(&self, block: BlockIndex, tier: Tier) -> End {
        let place = || self.place_of(block, tier);
        match tier {
            Tier::Hbm => End::Hbm(place()),
            Tier::Dram => End::Dram(place()),
            Tier::Nvme => End::Nvme(place()),
            Tier::Object => End::Object,
        }
    }

    /// Where the block's copy in `tier` lies.
    pub(super) fn place_of(&self, block: BlockIndex, tier: Tier) -> Place {
        let row = self.directory.get(block);
        let page = row.copy(tier).page.expect("a copy that is touched has a slot");
        let slot_bytes = self.namespace(NamespaceId(row.namespace)).slot_bytes(tier);
        Place { offset: page.offset_bytes(), slot_bytes }
    }

    fn meta(&self, block: BlockIndex, with_parent: bool) -> FrameMeta {
        let row = self.directory.get(block);
        let parent = row.parent().filter(|_| with_parent);
        FrameMeta {
            key: row.key,
            tail: row.tail,
            parent: parent.map(|parent| self.directory.get(parent).key),
            position: row.position,
            created_at: row.created_at,
            record: row.record,
        }
    }

    pub(super) fn next_transfer(&mut self) -> TransferId {
        self.counters.transfers += 1;
        TransferId(self.counters.transfers)
    }

    /// Offers this step's batches to their links.
    pub(super) fn launch(&mut self) {
        for batch in std::mem::take(&mut self.batches) {
            let id = self.next_transfer();
            let Batch { route, items, flight, bytes, .. } = batch;
            let Route { namespace, behind, link, class, .. } = route;
            let load = Load { link, class, bytes };
            self.flights.insert(id, Flight { load, started: self.now, items: flight });
            let transfer = Transfer { id, namespace, link, class, items };
            match behind {
                Some(op) => self.put_aside(op, transfer),
                // Nothing has changed since it was made.
                None => {
                    let started = self.offer(load, transfer);
                    self.out.extend(started.map(Effect::Start));
                }
            }
        }
    }

    /// The transfer, if it may start; it waits for its turn otherwise.
    pub(super) fn offer(&mut self, load: Load, transfer: Transfer) -> Option<Transfer> {
        match self.links.offer(self.now, load, transfer) {
            Offer::Start(transfer) => return Some(transfer),
            Offer::Queued => {}
            Offer::Full(transfer) => self.bounced.push(transfer.id),
        }
        None
    }

    /// Hands on a transfer that has waited and now has its place on the link, without the deliveries
    /// of blocks forgotten meanwhile.
    pub(super) fn begin(&mut self, mut transfer: Transfer) {
        let flight = self.flights.get_mut(&transfer.id).expect("what starts is in flight");
        flight.started = self.now;
        let late = self.withdraw_forgotten(&mut transfer);
        if transfer.items.is_empty() {
            let flight = self.flights.remove(&transfer.id).expect("what starts is in flight");
            self.links.ended(self.now, flight.load, flight.started, 0);
        } else {
            self.refresh_records(&mut transfer);
            self.out.push(Effect::Start(transfer));
        }
        for item in late {
            self.item_ended(item, Some(FailureKind::NotDone));
        }
    }

    /// A transfer that never started: nothing is wrong with either end.
    pub(super) fn bounce(&mut self, id: TransferId) {
        let flight = self.flights.remove(&id).expect("a transfer ends once");
        for item in flight.items {
            self.item_ended(item, Some(FailureKind::NotDone));
        }
    }

    pub(super) fn transfer_done(&mut self, id: TransferId, failed: &[ItemFailure]) {
        // An unknown transfer can only be a shell's mistake; answering twice must not be fatal.
        let Some(flight) = self.flights.remove(&id) else { return };
        let failed_bytes = flight.of_each() * failed.len() as u64;
        let landed_bytes = flight.load.bytes.saturating_sub(failed_bytes);
        self.links.ended(self.now, flight.load, flight.started, landed_bytes);
        self.lifts.stirred = true;
        self.start_next(flight.load.link);
        let mut failed = failed.iter().peekable();
        for (index, item) in (0_u32..).zip(flight.items) {
            let failure = failed.next_if(|failure| failure.item == index);
            self.item_ended(item, failure.map(|failure| failure.kind));
        }
    }

    /// Starts what waited for the link.
    fn start_next(&mut self, link: Link) {
        while let Some(next) = self.links.next(self.now, link) {
            self.begin(next);
        }
    }

    /// Records may have changed while the transfer waited: a frame takes the newest along.
    fn refresh_records(&self, next: &mut Transfer) {
        let flight = &self.flights[&next.id];
        for (item, of) in next.items.iter_mut().zip(&flight.items) {
            item.meta.record = self.directory.get(of.block).record;
        }
    }

    fn withdraw_forgotten(&mut self, next: &mut Transfer) -> Vec<FlightItem> {
        let flight = self.flights.get_mut(&next.id).expect("what waits is in flight");
        let directory = &self.directory;
        let is_late = |item: &FlightItem| {
            matches!(item.job, Job::Deliver { .. }) && directory.get(item.block).forgotten
        };
        let whole = flight.load;
        let Some(late) = flight.take(next, is_late) else { return Vec::new() };
        self.links.shrink(whole, late.load.bytes);
        late.items
    }

    fn item_ended(&mut self, item: FlightItem, failure: Option<FailureKind>) {
        let mut retired = None;
        if let Some(part) = item.job.part() {
            let pool = self.pools.get_mut(&part.pool).expect("a pool lives while copies touch it");
            pool.flights -= 1;
            retired = pool.retired.then_some(part.pool);
        }
        match failure {
            None => self.item_landed(item),
            Some(kind) => self.item_failed(item, kind),
        }
        if let Some(pool) = retired {
            self.free_if_idle(pool);
        }
    }
}
