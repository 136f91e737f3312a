//! Blocks moved by the daemon's own code: its links' queues, its performer, its device and stores.
//!
//! Only the manager is missing: where blocks lie is settled beforehand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::serve::transfers_max;
use crate::domain::namespace::KvShape;
use crate::domain::tier::Tier;
use crate::domain::units::{Bytes, Time};
use crate::env::{Clock, Stopwatch, SystemClock};
use crate::manager::NamespaceEntry;
use crate::manager::api::{End, NamespaceId, Transfer, TransferId, TransferItem};
use crate::movement::{Class, Link, LinkLimits, Links, Load, Offer};
use crate::tiers::hbm::BlockGeometry;
use crate::tiers::store::{Erasure, Place, StoreOp};
use crate::workload::content;

use super::args::Cell;
use super::ground::Ground;
use super::measure::Mover;
use super::path::Path;
use super::set::{self, BlockSet};

/// A transfer that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// Moves a set's blocks along one path.
pub struct Carried<'a> {
    ground: &'a Ground,
    set: &'a BlockSet,
    path: Path,
    /// From the second half of the device's slots, where a copy within the device has put them.
    from_second: bool,
    entry: NamespaceEntry,
    items_max: usize,
    links: Links<Transfer>,
    clock: SystemClock,
    transfers: u64,
    /// With when each started.
    under_way: BTreeMap<TransferId, (Load, Time)>,
}

impl<'a> Carried<'a> {
    /// # Errors
    /// Blocks can't be cut as the cell says; the text names what to change.
    pub fn new(ground: &'a Ground, set: &'a BlockSet, cell: Cell) -> Result<Self, Failure> {
        // A device takes as much as it gets, in order; a store's depth is held to the limit's.
        let is_paged = cell.path.is_paged();
        let depth = if is_paged { usize::MAX } else { ground.depth };
        let at_once = transfers_max(cell.path.link()).min(depth);
        let items_max =
            if is_paged { Transfer::items_max(cell.path.link()) } else { depth / at_once };
        let limits =
            LinkLimits { in_flight_max: at_once, queued_max: 4096, shares_processors: false };
        Ok(Self {
            ground,
            set,
            path: cell.path,
            from_second: false,
            entry: namespace(cell)?,
            items_max,
            links: Links::new([limits; Link::COUNT]),
            clock: SystemClock::start(),
            transfers: 0,
            under_way: BTreeMap::new(),
        })
    }

    /// The way back into DRAM from where this one's blocks were brought.
    ///
    /// # Errors
    /// As [`Carried::new`].
    pub fn back(
        ground: &'a Ground,
        set: &'a BlockSet,
        cell: Cell,
    ) -> Result<Option<Self>, Failure> {
        let path = match cell.path {
            Path::DramHbm | Path::HbmBoth | Path::HbmHbm => Path::HbmDram,
            Path::DramNvme => Path::NvmeDram,
            Path::DramObject => Path::ObjectDram,
            Path::HbmDram | Path::NvmeDram | Path::ObjectDram => return Ok(None),
        };
        let from_second = cell.path == Path::HbmHbm;
        Ok(Some(Self { from_second, ..Self::new(ground, set, Cell { path, ..cell })? }))
    }

    /// The way out of DRAM to where this one's blocks come from.
    ///
    /// # Errors
    /// As [`Carried::new`].
    pub fn there(
        ground: &'a Ground,
        set: &'a BlockSet,
        cell: Cell,
    ) -> Result<Option<Self>, Failure> {
        let path = match cell.path {
            Path::HbmDram | Path::HbmBoth | Path::HbmHbm => Path::DramHbm,
            Path::NvmeDram => Path::DramNvme,
            Path::ObjectDram => Path::DramObject,
            Path::DramHbm | Path::DramNvme | Path::DramObject => return Ok(None),
        };
        Self::new(ground, set, Cell { path, ..cell }).map(Some)
    }

    /// The next transfer of blocks that go one way: cut as the manager cuts them.
    fn cut(&mut self, now: Time, blocks: &mut Range<usize>) -> (Load, Transfer) {
        let way = self.path.of_block(blocks.start, self.set.len());
        let (link, class) = (way.link(), Class::Demand);
        let bytes_max = self.links.cut_bytes(now, link, class);
        let fit = usize::try_from(bytes_max / self.set.block_bytes).unwrap_or(usize::MAX);
        let count = fit.clamp(1, self.items_max).min(blocks.len());
        let items = blocks.by_ref().take(count).map(|block| self.item(block)).collect();
        self.transfers += 1;
        let id = TransferId(self.transfers);
        let load = Load { link, class, bytes: count as u64 * self.set.block_bytes };
        (load, Transfer { id, namespace: NamespaceId(0), link, class, items })
    }

    fn item(&self, block: usize) -> TransferItem {
        let way = self.path.of_block(block, self.set.len());
        let (from, to) = way.ends();
        let frame = self.set.frames[block];
        let slots = &self.set.slots;
        let second = slots[self.set.len() + block];
        let (read, written) = match way {
            Path::HbmHbm => (slots[block], second),
            _ if self.from_second => (second, slots[block]),
            _ => (slots[block], slots[block]),
        };
        TransferItem {
            from: end(from, frame, read),
            to: end(to, frame, written),
            meta: set::meta(block),
            // What comes from a device becomes a frame: the manager has it sealed.
            seal: way == Path::HbmDram,
            restamp: false,
            durable: false,
        }
    }

    fn order(&mut self, load: Load, mut transfer: Transfer) -> Result<(), Failure> {
        loop {
            let now = self.clock.now();
            self.under_way.insert(transfer.id, (load, now));
            match self.links.offer(now, load, transfer) {
                Offer::Start(transfer) => self.ground.carrier.start(transfer, &self.entry),
                Offer::Queued => {}
                Offer::Full(back) => {
                    self.hear()?;
                    transfer = back;
                    continue;
                }
            }
            return Ok(());
        }
    }

    /// Waits for one transfer to end, and starts what waited for it.
    fn hear(&mut self) -> Result<(), Failure> {
        self.ground.go_on()?;
        let path = self.path;
        let Some(ended) = self.ground.carrier.ended(PATIENCE) else {
            let seconds = PATIENCE.as_secs();
            return Err(Failure::Failed(format!("{path}: a transfer did not end in {seconds} s")));
        };
        if let Some(failed) = ended.failed.first() {
            let kind = failed.kind;
            return Err(Failure::Failed(format!(
                "{path}: blocks of {} could not be moved ({kind:?}); the line before says why",
                Bytes(self.set.block_bytes)
            )));
        }
        let (load, started) = self.under_way.remove(&ended.transfer).expect("a transfer ends once");
        let now = self.clock.now();
        self.links.ended(now, load, started, load.bytes);
        while let Some(next) = self.links.next(now, load.link) {
            self.under_way.get_mut(&next.id).expect("it was offered").1 = now;
            self.ground.carrier.start(next, &self.entry);
        }
        Ok(())
    }
}

impl Mover for Carried<'_> {
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
        // Two ways at once are ordered in turns, so that neither waits for the other's end.
        let turn = self.path.ends_far(self.set.len()).end.clamp(blocks.start, blocks.end);
        let mut ways = [blocks.start..turn, turn..blocks.end];
        let watch = Stopwatch::start();
        while ways.iter().any(|blocks| !blocks.is_empty()) {
            for blocks in &mut ways {
                if blocks.start < blocks.end {
                    let (load, transfer) = self.cut(self.clock.now(), blocks);
                    self.order(load, transfer)?;
                }
            }
        }
        while !self.under_way.is_empty() {
            self.hear()?;
        }
        Ok(watch.elapsed())
    }

    /// An object is written once.
    fn rewind(&mut self, blocks: Range<usize>) -> Result<(), Failure> {
        if self.path != Path::DramObject {
            return Ok(());
        }
        let place = Place { offset: 0, slot_bytes: 0 };
        let erase =
            |block| StoreOp::Erase { key: set::meta(block).key, place, why: Erasure::Unusable };
        self.ground.erase_objects(blocks.map(erase))
    }
}

fn end(tier: Tier, frame: Place, slot: Place) -> End {
    match tier {
        Tier::Hbm => End::Hbm(slot),
        Tier::Dram => End::Dram(frame),
        Tier::Nvme => End::Nvme(frame),
        Tier::Object => End::Object,
    }
}

/// The namespace whose blocks are cut as the cell says.
fn namespace(cell: Cell) -> Result<NamespaceEntry, Failure> {
    let pages = cell.block_bytes / cell.fragment_bytes;
    let wrong = || {
        let (fragment, block) = (Bytes(cell.fragment_bytes), Bytes(cell.block_bytes));
        Failure::Usage(format!(
            "fragments of {fragment} are too many in a block of {block}: give longer ones"
        ))
    };
    // Keys and values, where there are as many pages.
    let planes = if pages.is_multiple_of(2) { 2 } else { 1 };
    let shape = KvShape {
        layers: u32::try_from(pages / planes).map_err(|_| wrong())?,
        planes: if planes == 2 { 2 } else { 1 },
        page_bytes: u32::try_from(cell.fragment_bytes).map_err(|_| wrong())?,
    };
    let namespace = content::namespace("bench", shape);
    BlockGeometry::of(&namespace).map_err(|_| wrong())?;
    Ok(NamespaceEntry {
        digest: namespace.digest(),
        payload_bytes: cell.block_bytes,
        namespace: Some(namespace),
    })
}
