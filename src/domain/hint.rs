//! Hints: what agents and engines say beside their requests, in one form whatever its spelling.

use std::time::Duration;

use super::block::Key;
use super::retention::{TokenRange, Wish};
use super::session::SessionName;
use super::tier::Tier;

/// Actions of one call at most.
pub const ACTIONS_MAX: usize = 256;

/// Which blocks are meant. `Blocks` is how they are named one by one: by key in the daemon, by the
/// engine's hash in its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<Blocks = Vec<Key>> {
    Keys(Blocks),
    /// The chain that the session's last request reached, or a stretch of it.
    Session {
        session: SessionName,
        tokens: TokenRange,
    },
    /// The chains of the session and of all sessions below it.
    SessionTree(SessionName),
}

/// One thing asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<Blocks = Vec<Key>> {
    /// Sets what is named of the blocks' records; `pin` is this with a shield.
    Retain {
        target: Target<Blocks>,
        wish: Wish,
    },
    /// Takes shields and raised priorities off again.
    Release {
        target: Target<Blocks>,
    },
    /// The blocks' copies above `to` go first when room is needed.
    Demote {
        target: Target<Blocks>,
        to: Tier,
    },
    SessionStart {
        session: SessionName,
        parent: Option<SessionName>,
    },
    /// The history was summarised: what the next request does not reach is dead.
    SessionReset {
        session: SessionName,
    },
    /// `tree`: with all sessions below it; without, those live on by themselves.
    SessionEnd {
        session: SessionName,
        tree: bool,
    },
    ToolStart {
        session: SessionName,
        expected: Option<Duration>,
    },
    ToolReturn {
        session: SessionName,
    },
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; for so many blocks, where it is about blocks.
    Accepted { blocks: u32 },
    /// Done in part: `clipped` blocks were over a budget, or a time over its bound.
    Clipped { blocks: u32, clipped: u32 },
    /// It makes no sense, or can't be had: the text says what to do.
    Rejected(String),
    /// What it names is not here.
    Missing(String),
}
