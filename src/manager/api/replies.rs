//! What the manager answers to commands.

use std::time::Duration;

use crate::domain::hint::Outcome;
use crate::domain::planner::Plan;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::store::Place;

use super::{
    BlockStatus, LeaseId, LiftStatus, NamespaceId, OpId, PoolId, SessionStatus, Status, Usage,
};

/// A stretch of a chain whose blocks have the same fastest tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub tier: Tier,
    pub blocks: u32,
}

/// The manager's answer to a [`Command`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Hello {
        namespace: NamespaceId,
        frame_bytes: u64,
    },
    Pool {
        pool: PoolId,
    },
    Lookup {
        runs: Vec<Run>,
        lease: Option<LeaseId>,
        lease_expires: Time,
        plan: Plan,
    },
    /// `taken` blocks are being copied, `present` were here already, `dropped` found no room (from
    /// the tail: a normal answer). The slots of taken blocks must not change before the completion.
    Store {
        op: OpId,
        taken: u32,
        present: u32,
        dropped: u32,
        /// Blocks whose shield was over a budget.
        clipped: u32,
    },
    Load {
        op: OpId,
    },
    /// Where those blocks lie that are lent; `clipped` others are there too and not lent, since the
    /// share of the tier is used up.
    Borrow {
        blocks: Vec<LentBlock>,
        clipped: u32,
    },
    GiveBack {
        blocks: u32,
    },
    EndRequest {
        usage: Usage,
    },
    /// One an action, in their order.
    Hint {
        outcomes: Vec<Outcome>,
    },
    /// The one heard of last comes first.
    Sessions {
        sessions: Vec<SessionStatus>,
        sessions_total: usize,
    },
    Inspect(Box<BlockStatus>),
    Lift(Box<LiftStatus>),
    Overlap(Overlap),
    /// Done; nothing to say.
    Ok,
    Status(Box<Status>),
    Refused(Refusal),
}

/// A block of a [`Command::Borrow`], by its index there, and its place in the HBM tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentBlock {
    pub index: u32,
    pub place: Place,
}

/// How much of a chain is in which tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// The stored prefix by each block's fastest tier.
    pub runs: Vec<Run>,
    /// Blocks of that prefix that have a copy in each tier.
    pub held_blocks: [u64; Tier::COUNT],
    /// Nothing where no block was found, or only frames from before a restart tell of the namespace.
    pub block_tokens: Option<u32>,
}

/// Why a command was not carried out, named by what the caller does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A bound was reached: try again after the given time.
    #[error("{what}; try again in {} ms", retry_after.as_millis())]
    Busy { what: &'static str, retry_after: Duration },
    /// The command makes no sense: mend it as the text says.
    #[error("{0}")]
    Invalid(String),
    /// What it names is not here.
    #[error("{0}")]
    NotFound(String),
    /// It came in the wrong order (no Hello yet, say).
    #[error("{0}")]
    Precondition(String),
}
