//! The retention record: what a block's owners asked for. It stands in every frame's header, so it
//! travels with the block through every tier, across restarts and to other nodes.

use crate::domain::tier::Tier;
use crate::domain::units::Time;

/// The priority of a block nobody spoke for: 0..=100, higher is kept longer. The default is
/// TensorRT-LLM's.
pub const PRIORITY_DEFAULT: u8 = 35;
pub const PRIORITY_MAX: u8 = 100;

/// What a block's tokens are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    #[default]
    Unknown = 0,
    System = 1,
    Tools = 2,
    Conversation = 3,
    ToolResult = 4,
    Reasoning = 5,
    Subagent = 6,
    Output = 7,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::System,
        Self::Tools,
        Self::Conversation,
        Self::ToolResult,
        Self::Reasoning,
        Self::Subagent,
        Self::Output,
    ];
}

/// Whose decision the block's life is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    #[default]
    Global = 0,
    Project = 1,
    Session = 2,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Global, Self::Project, Self::Session];
}

/// What a block's owners asked for. Times of [`Time::ZERO`] mean "not asked for".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetentionRecord {
    /// 0..=100; counts until `priority_until`, or for good when that is zero.
    pub priority: u8,
    pub priority_until: Time,
    /// Shields the block from eviction, inside a budget, until then.
    pub shield_until: Time,
    /// A hit renews the shield by this many milliseconds; zero: it does not.
    pub refresh_on_hit_ms: u32,
    /// A promise to forget: never served after it.
    pub delete_after: Time,
    pub kind: Kind,
    /// The lowest tier the block may sink to.
    pub floor: Tier,
    pub scope: Scope,
}

impl Default for RetentionRecord {
    fn default() -> Self {
        Self {
            priority: PRIORITY_DEFAULT,
            priority_until: Time::ZERO,
            shield_until: Time::ZERO,
            refresh_on_hit_ms: 0,
            delete_after: Time::ZERO,
            kind: Kind::Unknown,
            floor: Tier::Object,
            scope: Scope::Global,
        }
    }
}
