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
    /// Lifts the blocks towards the engine, to be there by the deadline.
    Prefetch {
        target: Target<Blocks>,
        wish: LiftWish,
    },
    /// The engine is about to prefill this chain: its blocks are lifted to the fastest tier now and
    /// held there until the request comes or the deadline passes.
    SpeculativePrefill {
        target: Target<Blocks>,
        wish: LiftWish,
    },
    /// What of a lift has not moved yet stays where it is; what it holds is held no longer.
    CancelPrefetch {
        operation: u64,
    },
}

/// How blocks are to be lifted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiftWish {
    /// Where to; the fastest tier there is if nobody says.
    pub to: Option<Tier>,
    /// From now: by when the blocks are needed, and how long they are held. At least
    /// [`LIFT_DEADLINE_MIN`]; longer than [`LIFT_DEADLINE_MAX`] is clipped to that.
    pub deadline: Option<Duration>,
    /// 0 to 100: of two lifts with the same deadline the one of higher priority goes first.
    pub priority: Option<u8>,
}

/// A deadline that is over, or all but over, is a mistake.
pub const LIFT_DEADLINE_MIN: Duration = Duration::from_millis(1);

/// Nothing is held ahead of need for longer.
pub const LIFT_DEADLINE_MAX: Duration = Duration::from_hours(1);

/// The deadline of a lift where nobody names one.
pub const LIFT_DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

impl LiftWish {
    /// The wish within its bounds, and whether its deadline was clipped.
    ///
    /// # Errors
    /// It makes no sense; with what to do.
    pub fn admit(&self) -> Result<(Self, bool), String> {
        if let Some(deadline) = self.deadline.filter(|deadline| *deadline < LIFT_DEADLINE_MIN) {
            return Err(format!(
                "the deadline is {} ms from now, which is over already: give at least {} ms, or \
                 leave it out for {} ms",
                deadline.as_millis(),
                LIFT_DEADLINE_MIN.as_millis(),
                LIFT_DEADLINE_DEFAULT.as_millis()
            ));
        }
        if let Some(priority) = self.priority.filter(|priority| *priority > 100) {
            return Err(format!("priority {priority} is out of range: give 0 to 100"));
        }
        let deadline = self.deadline.unwrap_or(LIFT_DEADLINE_DEFAULT);
        let admitted = Self { deadline: Some(deadline.min(LIFT_DEADLINE_MAX)), ..*self };
        Ok((admitted, deadline > LIFT_DEADLINE_MAX))
    }
}

/// Why blocks are lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LiftReason {
    /// By `prefetch`.
    Asked,
    SpeculativePrefill,
    /// A tool runs, and is expected back.
    ToolStart,
    ToolReturn,
    /// A sub-agent started, which shares its parent's prefix.
    SubagentStart,
    /// A request waits for its turn in the engine.
    Queued,
}

impl LiftReason {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "prefetch",
            Self::SpeculativePrefill => "speculative_prefill",
            Self::ToolStart => "tool.start",
            Self::ToolReturn => "tool.return",
            Self::SubagentStart => "session.start",
            Self::Queued => "queued",
        }
    }
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; for so many blocks, where it is about blocks.
    Accepted { blocks: u32 },
    /// Done in part: `clipped` blocks were over a budget, or a time over its bound.
    Clipped { blocks: u32, clipped: u32 },
    /// `blocks` are being lifted, or are there and held, under the number `operation`, which can be
    /// watched and cancelled; `clipped` are not, for want of room. `waits`: nothing moves yet.
    Lifting { operation: u64, blocks: u32, clipped: u32, deadline_clipped: bool, waits: bool },
    /// It makes no sense, or can't be had: the text says what to do.
    Rejected(String),
    /// What it names is not here.
    Missing(String),
}
