//! What the manager remembers besides the directory: namespaces, clients, operations, flights.

use std::collections::{BTreeSet, VecDeque};

use crate::domain::directory::BlockIndex;
use crate::domain::namespace::{Namespace, NamespaceDigest};
use crate::domain::slots::{SlotKind, SlotMap};
use crate::domain::tier::Tier;
use crate::domain::units::{PAGE_BYTES, Time, page_align};
use crate::movement::{Class, Link, Load};

use super::api::{
    ClientId, EndKind, LeaseId, NamespaceId, OpId, OpKind, PoolId, RequestId, TierStatus, Transfer,
    TransferItem,
};
use super::config::{PolicyName, TierConfig};
use super::holders::Holders;
use super::plan::{CallCost, PrefillRate};
use super::ranks::Ranks;
use super::recut::Recut;
use super::requests::EngineId;

/// A namespace by its digest; blocks found after a restart bring only that and their size.
#[derive(Clone, Debug)]
pub struct NamespaceEntry {
    pub digest: NamespaceDigest,
    pub payload_bytes: u64,
    /// Known once a client has said Hello in it.
    pub namespace: Option<Namespace>,
}

impl NamespaceEntry {
    /// Bytes of one slot of `tier`: HBM holds payloads, the other tiers whole frames.
    pub(super) fn slot_bytes(&self, tier: Tier) -> u32 {
        let header = if tier == Tier::Hbm { 0 } else { PAGE_BYTES as u64 };
        u32::try_from(header + page_align(self.payload_bytes)).expect("payloads are bounded")
    }

    /// How one slot of `tier` lies there.
    pub(super) fn slot_kind(&self, tier: Tier) -> SlotKind {
        let pages = self.namespace.as_ref().map_or(0, |namespace| namespace.shape.page_bytes);
        let interleave_bytes = if tier == Tier::Hbm { pages } else { 0 };
        SlotKind { bytes: self.slot_bytes(tier), interleave_bytes }
    }

    /// Tokens of one block; 1 while only frames found after a restart tell of the namespace.
    pub(super) fn block_tokens(&self) -> u32 {
        self.namespace.as_ref().map_or(1, |namespace| namespace.block_tokens)
    }

    pub(super) fn shard_count(&self) -> u32 {
        self.namespace.as_ref().map_or(1, |namespace| namespace.shard_count)
    }
}

/// One tier's space and who waits for it.
pub(super) struct TierSpace {
    pub config: TierConfig,
    pub slots: SlotMap,
    pub classes: Vec<SizeClass>,
    /// Whether the tier takes copies: false until its scan is over.
    pub ready: bool,
    pub stats: TierStatus,
    pub holders: Holders,
    pub recut: Recut,
}

/// The slots of one kind in one tier.
pub(super) struct SizeClass {
    pub kind: SlotKind,
    pub ranks: Ranks,
    pub waiting: VecDeque<Want>,
    /// Copies on their way down; their slots come free when they land.
    pub draining: usize,
}

impl TierSpace {
    pub fn new(config: TierConfig, stripes: usize) -> Self {
        let capacity_bytes = config.capacity_bytes;
        Self {
            config,
            slots: SlotMap::new(capacity_bytes, config.slots_max).striped(stripes),
            classes: Vec::new(),
            ready: !config.recovers,
            stats: TierStatus { present: true, capacity_bytes, ..TierStatus::default() },
            holders: Holders::default(),
            recut: Recut::default(),
        }
    }

    /// Copies of the class on their way down whose slots come free for it: not those in the chunk that
    /// is emptied for another.
    pub fn draining_for(&self, class: usize) -> usize {
        let SizeClass { kind, draining, .. } = &self.classes[class];
        let emptied = self.slots.emptying().map(|(chunk, _)| chunk);
        let emptied = emptied.filter(|chunk| self.slots.kind_of(*chunk) == Some(*kind));
        let lost = emptied.map_or(0, |chunk| self.slots.used_in(chunk) as usize);
        draining.saturating_sub(lost)
    }

    /// Whether what comes in soon pushes out what is there.
    pub fn is_all_but_full(&self) -> bool {
        let used_bytes = self.slots.bytes_used();
        let (slots_max, bytes_max) = (self.config.slots_max, self.config.capacity_bytes);
        let by_slots = self.slots.slots_used() >= slots_max - slots_max / 20;
        by_slots || used_bytes >= bytes_max - bytes_max / 20
    }

    /// The class of slots of this kind, made when first asked for.
    pub fn class_index(&mut self, kind: SlotKind, policy: PolicyName) -> usize {
        let found = self.classes.iter().position(|class| class.kind == kind);
        found.unwrap_or_else(|| {
            self.classes.push(SizeClass {
                kind,
                ranks: Ranks::new(super::config::build(policy)),
                waiting: VecDeque::new(),
                draining: 0,
            });
            self.classes.len() - 1
        })
    }
}

/// A block that waits for a slot in a tier, and what will fill it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub block: BlockIndex,
    pub job: Job,
}

/// One shard of one block in a client's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub op: OpId,
    /// Index in the operation's list of keys.
    pub index: u32,
    pub pool: PoolId,
    pub shard: u32,
    pub slot: u32,
}

/// Why a block is copied, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// A client's pool into a tier.
    Store(Part),
    /// A tier into another one, and both keep it: up towards its use, or written through.
    Fill { from: Tier, class: Class },
    /// A tier into a slower one, to make room.
    Demote { from: Tier },
    /// A tier into a client's pool.
    Deliver { part: Part, from: Tier },
    /// The header over a frame whose shards came separately.
    Seal,
    /// A tier into one that outlives the daemon; it stays where it was.
    Persist { from: Tier },
    /// Nothing is copied: the tier is asked to keep what it has.
    Sync { tier: Tier },
}

impl Job {
    /// The client's side of the copy, if it has one.
    pub const fn part(&self) -> Option<&Part> {
        match self {
            Self::Store(part) | Self::Deliver { part, .. } => Some(part),
            _ => None,
        }
    }

    /// The tier that is read.
    pub const fn source(&self) -> Option<Tier> {
        match self {
            Self::Fill { from, .. }
            | Self::Demote { from }
            | Self::Persist { from }
            | Self::Deliver { from, .. } => Some(*from),
            Self::Store(_) | Self::Seal | Self::Sync { .. } => None,
        }
    }
}

/// A transfer under way, in a link's queue, or put aside.
pub(super) struct Flight {
    pub load: Load,
    /// When its link began with it; when it was made, while it waits.
    pub started: Time,
    pub items: Vec<FlightItem>,
}

impl Flight {
    /// Bytes of each of its copies: a namespace's blocks are as long as each other.
    pub(super) fn of_each(&self) -> u64 {
        self.load.bytes / self.items.len().max(1) as u64
    }

    /// Takes those copies out of it and of its transfer; gives a flight of their own, if there are any.
    pub(super) fn take(
        &mut self,
        transfer: &mut Transfer,
        of: impl Fn(&FlightItem) -> bool,
    ) -> Option<Self> {
        if !self.items.iter().any(&of) {
            return None;
        }
        let of_each = self.of_each();
        let both = std::mem::take(&mut transfer.items).into_iter().zip(self.items.drain(..));
        let (taken, kept): (Vec<_>, Vec<_>) = both.partition(|(_, item)| of(item));
        (transfer.items, self.items) = kept.into_iter().unzip();
        let bytes = of_each * taken.len() as u64;
        self.load.bytes -= bytes;
        let items = taken.into_iter().map(|(_, item)| item).collect();
        Some(Self { load: Load { bytes, ..self.load }, started: self.started, items })
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct FlightItem {
    pub block: BlockIndex,
    /// The tier being filled; deliveries have none.
    pub to: Option<Tier>,
    pub job: Job,
}

/// What the copies of one transfer have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub namespace: NamespaceId,
    /// The operation whose engine they wait for, if they do.
    pub behind: Option<OpId>,
    pub link: Link,
    pub class: Class,
    pub ends: [EndKind; 2],
}

/// Copies of this step that are not yet a transfer.
pub(super) struct Batch {
    pub route: Route,
    /// What its copies move, and what they may.
    pub bytes: u64,
    pub bytes_max: u64,
    pub items: Vec<TransferItem>,
    pub flight: Vec<FlightItem>,
}

/// A block whose shards come from several ranks.
#[derive(Clone, Debug)]
pub(super) struct Partial {
    pub tier: Tier,
    /// Shards that landed, by bit, and those under way or waiting.
    pub landed: u64,
    pub started: u64,
    /// Parts that wait for the block to get a slot.
    pub waiting: Vec<Part>,
    pub deadline: Time,
    pub failed: bool,
}

pub(super) struct Client {
    pub namespace: NamespaceId,
    /// Whose requests it speaks of, and how it named that engine, if it did.
    pub engine: EngineId,
    pub engine_name: Option<String>,
    pub pools: Vec<PoolId>,
    pub leases: BTreeSet<(RequestId, LeaseId)>,
    pub ops: usize,
    pub prefill: PrefillRate,
    pub call: CallCost,
}

pub(super) struct Pool {
    pub client: ClientId,
    pub shard: u32,
    pub slots: u32,
    pub has_events: bool,
    /// Copies under way, queued or put aside that touch it.
    pub flights: usize,
    pub retired: bool,
}

pub(super) struct Lease {
    pub client: ClientId,
    pub request: RequestId,
    pub block: BlockIndex,
    pub expires: Time,
}

pub(super) struct Op {
    pub client: ClientId,
    pub request: RequestId,
    pub kind: OpKind,
    pub blocks: u32,
    /// Blocks it waits for, and ancestors of them whose records it changed.
    pub pending: u32,
    pub failed: Vec<u32>,
    pub deadline: Time,
    /// Its client asked to be told when its blocks are durable.
    pub durable: bool,
    /// Those that are here and not durable yet: of those pending.
    pub hardening: u32,
    /// Blocks that are here and will not be durable.
    pub not_durable: Vec<u32>,
    /// An ancestor will not be found with the record that was asked for it: none of its blocks is durable.
    pub hangs_loose: bool,
}

/// Numbers that only grow.
#[derive(Default)]
pub(super) struct Counters {
    pub pools: u64,
    pub leases: u64,
    pub ops: u64,
    pub transfers: u64,
    pub lookups: u64,
    pub lookup_blocks: u64,
    pub dropped_blocks: u64,
    pub corrupt_copies: u64,
    pub forgotten_blocks: u64,
    pub broken_shields: u64,
}
