//! What goes into the manager and what comes out.

use std::time::Duration;

use bytes::Bytes;

use crate::domain::block::{HashTail, Key};
use crate::domain::directory::Change;
use crate::domain::hint::Action;
use crate::domain::namespace::Namespace;
use crate::domain::retention::{Directives, RetentionRecord};
use crate::domain::session::{SessionName, Stop};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::manager::{Looked, Stray};
use crate::movement::{Class, Link};
use crate::tiers::health::Refuses;
use crate::tiers::store::{Erasure, FoundFrame, FrameMeta, Place};

mod replies;
mod status;

pub use replies::{LentBlock, Overlap, Refusal, Reply, Run};
pub use status::{
    BlockStatus, Home, LiftCounts, LiftState, LiftStatus, LinkStatus, SessionStatus, Status,
    TierStatus, Usage,
};

/// A connected client, by the daemon's numbering; never used again after it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// A registered pool, unique in the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u64);

/// A reader's hold on a chain of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// A store or load under way; its end comes as a [`Completion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// One batch of copies handed to the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub u64);

/// The engine's name for one of its requests; leases taken under it end with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Matches a [`Reply`] to the [`Command`] it answers; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyTag(pub u64);

/// A namespace the manager knows, by its numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(pub u32);

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A client asks; exactly one [`Effect::Reply`] with this tag answers, in the same step.
    Command { tag: ReplyTag, client: ClientId, command: Command },
    /// A client went, by its own word or its death. Its leases end now; its pools are given back
    /// by [`Effect::PoolFreed`] once no copy touches them any more.
    ClientGone { client: ClientId },
    /// The engine's stream has come as far as the call that began the operation; not `came`: it never will,
    /// or nobody can tell. Answers [`Effect::AwaitEngine`].
    EngineCame { op: OpId, came: bool },
    /// A transfer ended. `failed` names the items that did, by index, in rising order; the others
    /// landed.
    TransferDone { transfer: TransferId, failed: Vec<ItemFailure> },
    /// An erase ended; the place may be used again. `done`: nothing is left of what was there, or it
    /// was to stay after all.
    Erased { tier: Tier, place: Option<Place>, key: Key, done: bool },
    /// The write of a record that [`Effect::Restamp`] asked for ended.
    Restamped { tier: Tier, key: Key, end: RestampEnd },
    /// A frame found by the scan after a restart; or, at any time, one of the shared store, its
    /// parent before it.
    Found { tier: Tier, frame: Box<FoundFrame> },
    /// The shared store has this block of a client's chain, as far as its neighbours tell.
    Presumed { client: ClientId, key: Key, parent: Option<Key>, position: u32 },
    /// The scan of a tier is over: what hangs on nothing is let go.
    ScanDone { tier: Tier },
    /// The shared store begins to be looked through for [`Self::Stray`]s, or that has ended.
    LookForStrays { begins: bool },
    /// An object lies in the shared store from before the start.
    Stray(Box<Stray>),
    /// What [`Effect::LookAgain`] asked for.
    StrayLookedAt { key: Key, found: Looked },
    /// A tier's store refuses this for now, or nothing any more.
    Outage { tier: Tier, refuses: Refuses },
    /// The daemon stops: what waits to be written is written now.
    Stopping,
    /// Time passed: leases and half-written stores whose time is up end. Sent about ten times a
    /// second.
    Tick,
}

/// How the write of a record into a stored frame's header ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestampEnd {
    Written,
    /// Written but for a sooner promise to forget that stood in an object's header, and stays: what that
    /// says now.
    Outdone(RetentionRecord),
    /// It may work later: the copy has this record or the one before.
    Failed,
    /// The copy is not there.
    Missing,
    /// The copy is not what it should be.
    Corrupt,
}

/// Why an item of a transfer failed, named by what the manager does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The source copy is not there: drop it, try the next tier.
    SourceMissing,
    /// The source copy is not what it should be: as above, and it is in the way of a whole one.
    SourceCorrupt,
    /// The source could not be read this time: keep the copy, fail this item.
    SourceFailed,
    /// The destination could not be written.
    TargetFailed,
    /// The queue was full or the transfer was cancelled: nothing is wrong with either end.
    NotDone,
}

impl FailureKind {
    /// What is wrong with the source copy for good, if that is what failed.
    pub(super) fn lost_source(self) -> Option<Lost> {
        match self {
            Self::SourceMissing => Some(Lost::Missing),
            Self::SourceCorrupt => Some(Lost::Corrupt),
            Self::SourceFailed | Self::TargetFailed | Self::NotDone => None,
        }
    }

    /// Whether another copy may serve where this one did not.
    pub(super) fn is_of_source(self) -> bool {
        self == Self::SourceFailed || self.lost_source().is_some()
    }
}

/// How a committed copy turned out lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing is there.
    Missing,
    /// Something else is there.
    Corrupt,
}

/// An item of a transfer that did not land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemFailure {
    pub item: u32,
    pub kind: FailureKind,
}

/// What a client can ask of the manager. Indexes in answers count within the command's own lists.
#[derive(Debug)]
pub enum Command {
    /// Binds the client to a namespace; first command of every client.
    Hello {
        namespace: Namespace,
        /// Clients of a namespace that name the same engine speak of the same requests.
        engine: Option<String>,
        /// How fast the engine computes KV, as far as it knows; corrected by its reports.
        prefill_tokens_per_s: Option<u32>,
    },
    /// A pool of `slots` slots holding this client's rank `shard`. `has_events`: calls may come before the
    /// engine's stream has come so far.
    RegisterPool {
        shard: u32,
        slots: u32,
        has_events: bool,
    },
    UnregisterPool {
        pool: PoolId,
    },
    /// The longest stored prefix of the chain `keys` (root first), and a lease on it.
    ///
    /// A session that is named and not known is started.
    Lookup {
        request: RequestId,
        session: Option<SessionName>,
        keys: Vec<Key>,
        /// How long the shared store may be asked for what follows the prefix that is here; zero:
        /// it is not asked. The shell's business: the manager answers from what it knows.
        ask_shared: Duration,
        /// The request waits for its turn: what it will load is lifted meanwhile.
        queued: bool,
    },
    /// Takes the blocks `keys` (a run of one chain; `parent` is the block before the first, or
    /// none if that is the root) from the pool's `slots`. A block becomes visible when all shards
    /// have landed. The directives speak of the whole chain up to the last of `keys`, in tokens from
    /// its root.
    Store {
        request: RequestId,
        session: Option<SessionName>,
        directives: Directives,
        parent: Option<Key>,
        keys: Vec<Key>,
        labels: Labels,
        pool: PoolId,
        slots: Vec<u32>,
        /// The operation ends only when each block is in a tier that outlives the daemon, or will
        /// not be: the completion says which.
        durable: bool,
    },
    /// Copies the blocks `keys` into the pool's `slots`, from wherever they are. `timeout` bounds
    /// the wait: what has not started by then fails.
    Load {
        request: RequestId,
        keys: Vec<Key>,
        pool: PoolId,
        slots: Vec<u32>,
        timeout: Duration,
    },
    /// Reads those of the blocks `keys` that are in HBM where they lie, until `GiveBack`, the request's
    /// end or the client's: they stay there meanwhile.
    Borrow {
        request: RequestId,
        keys: Vec<Key>,
    },
    /// Nothing that was lent under the request is read any more.
    GiveBack {
        request: RequestId,
    },
    ReleaseLease {
        lease: LeaseId,
    },
    /// Ends all leases taken under the request, and says why the model stopped.
    EndRequest {
        request: RequestId,
        stop: Stop,
        /// Zero where that is not known.
        output_tokens: u32,
        /// What the engine computed of the request's input, where it measured that.
        prefill: Option<Prefill>,
    },
    /// At most [`crate::domain::hint::ACTIONS_MAX`]; each has an outcome of its own.
    Hint {
        actions: Vec<Action>,
    },
    /// So many sessions of all namespaces, those heard of last. Needs no Hello.
    Sessions {
        sessions_max: usize,
    },
    /// What is known of one block, of whatever namespace. Needs no Hello.
    Inspect {
        key: Key,
    },
    /// How much of the chain `keys` (root first), of whatever namespace, is in which tier. Leaves no
    /// trace: no lease, no hit, no use. Needs no Hello.
    Overlap {
        keys: Vec<Key>,
    },
    /// How one of the client's own lifts stands.
    Lift {
        op: OpId,
    },
    Status,
}

impl Command {
    /// Hello of an engine that is one client, and of whose speed nothing is known.
    #[must_use]
    pub const fn hello(namespace: Namespace) -> Self {
        Self::Hello { namespace, engine: None, prefill_tokens_per_s: None }
    }
}

/// What those who route requests know a store's blocks by; said or not, the blocks are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// One a block, or none at all.
    pub tails: Vec<HashTail>,
    /// As `tails`: each block's tokens, four bytes each, little-endian.
    pub tokens: Vec<Bytes>,
}

impl Labels {
    /// What is said of the block at `index`.
    #[must_use]
    pub fn of(&self, index: u32) -> (HashTail, Bytes) {
        let index = index as usize;
        let tail = self.tails.get(index).copied().unwrap_or_default();
        (tail, self.tokens.get(index).cloned().unwrap_or_default())
    }
}

/// KV that an engine computed, and the time it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    pub tokens: u32,
    pub took: Duration,
}

/// A store, load or lift ended. Blocks not listed as failed landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub op: OpId,
    pub request: RequestId,
    pub kind: OpKind,
    /// Blocks asked for, and those that failed, by index into the command's `keys`.
    pub blocks: u32,
    pub failed: Vec<u32>,
    /// Of a store that asked for it: blocks that landed and are not durable.
    pub not_durable: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    Store,
    Load,
    /// A lift that a client asked for. It ends when nothing of it moves any more; blocks that were
    /// not lifted count as failed.
    Prefetch,
}

/// Something to do.
#[derive(Debug)]
pub enum Effect {
    Reply {
        tag: ReplyTag,
        reply: Reply,
    },
    Complete {
        client: ClientId,
        completion: Completion,
    },
    /// Answer with [`Event::EngineCame`] once the stream of the pool's engine has come as far as it is
    /// called now. Nothing of the operation is started before.
    AwaitEngine {
        op: OpId,
        pool: PoolId,
    },
    /// Perform these copies and answer with [`Event::TransferDone`].
    Start(Transfer),
    /// Erase what is there and answer with [`Event::Erased`].
    Erase {
        tier: Tier,
        place: Option<Place>,
        key: Key,
        /// One whose room is wanted stays where another node wrote it.
        why: Erasure,
    },
    /// Write this record into the stored frame's header and answer with [`Event::Restamped`].
    Restamp {
        tier: Tier,
        place: Option<Place>,
        key: Key,
        record: RetentionRecord,
        /// The promise to forget that may be put off by it: see [`NewRecord`](crate::domain::retention::NewRecord).
        known: Time,
    },
    /// Read the header of the block's object and answer with [`Event::StrayLookedAt`].
    LookAgain {
        key: Key,
    },
    /// Where blocks of one namespace are served from has changed, in this order; only where the
    /// configuration asks for it.
    Residency {
        namespace: NamespaceId,
        changes: Vec<Change>,
    },
    /// Nothing reads or writes this pool any more: unmap it.
    PoolFreed {
        client: ClientId,
        pool: PoolId,
    },
}

/// A batch of copies over one link, at most [`Transfer::items_max`]. All start in the same
/// kind of place, and all end in the same.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub id: TransferId,
    pub namespace: NamespaceId,
    pub link: Link,
    pub class: Class,
    pub items: Vec<TransferItem>,
}

impl Transfer {
    /// Within a GPU's memory a block is copied in less time than it takes to order it, so more go together;
    /// one launch describes 256 (`BLOCKS_MAX` of `kernels/copy.cu`). docs/gpu.md has what it gains.
    #[must_use]
    pub const fn items_max(link: Link) -> usize {
        match link {
            Link::DeviceLocal => 128,
            _ => 64,
        }
    }
}

/// One block, or one shard of it, to copy.
#[derive(Clone, Copy, Debug)]
pub struct TransferItem {
    pub from: End,
    pub to: End,
    /// What the frame's header says if this copy makes one; its key is the block's.
    pub meta: FrameMeta,
    /// Write the header and the payload's checksum after this copy: the frame is whole then.
    pub seal: bool,
    /// Bring the record in the frame's header up to `meta`'s before the frame is written: the header
    /// was made when the block was stored. No other copy of the frame goes down meanwhile, and what
    /// else reads it reads the payload.
    pub restamp: bool,
    /// It has landed only when the target has said that it keeps what it was given, over a loss of
    /// power too. Where both ends are the same, that is all there is to do.
    pub durable: bool,
}

/// One end of a copy. A pool end is one shard; a tier end is the whole block unless the other end
/// is a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Hbm(Place),
    Dram(Place),
    Nvme(Place),
    Object,
    Pool { pool: PoolId, shard: u32, slot: u32 },
}

/// What kind of place an [`End`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndKind {
    Tier(Tier),
    Pool,
}

impl End {
    #[must_use]
    pub const fn kind(&self) -> EndKind {
        match self {
            Self::Hbm(_) => EndKind::Tier(Tier::Hbm),
            Self::Dram(_) => EndKind::Tier(Tier::Dram),
            Self::Nvme(_) => EndKind::Tier(Tier::Nvme),
            Self::Object => EndKind::Tier(Tier::Object),
            Self::Pool { .. } => EndKind::Pool,
        }
    }
}
