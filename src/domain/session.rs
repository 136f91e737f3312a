//! Sessions: agents' conversations, their life as a table, and what they are called.
//!
//! Knows names and states only; which blocks a session reaches is the manager's to keep.

use std::fmt;
use std::time::Duration;

use super::units::Time;

/// A session's name, unique within its namespace; chosen by the client, 1 to 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionName(Box<str>);

impl SessionName {
    pub const BYTES_MAX: usize = 128;

    /// # Errors
    /// The name is empty or longer than [`Self::BYTES_MAX`], with what to do.
    pub fn new(name: &str) -> Result<Self, String> {
        match name.len() {
            0 => Err("a session's name is empty: leave it out, or name the session".into()),
            bytes if bytes > Self::BYTES_MAX => Err(format!(
                "a session's name has {bytes} bytes: use at most {}, a hash of it say",
                Self::BYTES_MAX
            )),
            _ => Ok(Self(name.into())),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A session's number while the manager knows it; used again after the session is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(pub u32);

/// Counts sessions in the order in which they were started: never used for another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionNumber(pub u32);

/// Why the model stopped, which says what the session waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stop {
    /// The model called a tool: the session goes on when the tool returns.
    ToolUse,
    /// The model ended its turn: the session goes on when a person writes.
    EndTurn,
    #[default]
    Unknown,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Started, or between requests without a word why.
    Idle,
    /// A request is with the model.
    Running,
    /// The model answered, and stopped for this reason.
    Stopped(Stop),
    /// A tool runs; it is expected back at that time, if anyone said so.
    InTool { expected: Option<Time> },
}

/// What can happen to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// A request came.
    Request,
    /// The model answered it.
    Answered(Stop),
    ToolStart {
        expected: Option<Time>,
    },
    ToolReturn,
    Reset,
}

impl SessionState {
    /// The state after `event`. Hints come late, twice or not at all, so every pair is legal: what
    /// a session does counts more than what was said of it.
    #[must_use]
    pub const fn after(self, event: SessionEvent) -> Self {
        match (self, event) {
            (_, SessionEvent::Request) => Self::Running,
            (_, SessionEvent::Answered(stop)) => match (self, stop) {
                // The engine often says that a tool runs before it says that the call ended.
                (Self::InTool { .. }, Stop::ToolUse | Stop::Unknown) => self,
                (_, stop) => Self::Stopped(stop),
            },
            (_, SessionEvent::ToolStart { expected }) => Self::InTool { expected },
            (Self::InTool { .. }, SessionEvent::ToolReturn) => Self::Stopped(Stop::ToolUse),
            (state, SessionEvent::ToolReturn | SessionEvent::Reset) => state,
        }
    }
}

/// How long sessions may be silent, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// A session that says nothing for so long is forgotten; its blocks live on by themselves.
    pub idle_timeout: Duration,
    pub sessions_max: usize,
    /// Generations below a session without a parent.
    pub depth_max: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { idle_timeout: Duration::from_hours(4), sessions_max: 65_536, depth_max: 8 }
    }
}
