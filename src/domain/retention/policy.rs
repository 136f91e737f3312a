//! What a retention policy is: it ranks one tier's copies and names the next to go.
//!
//! A policy never looks at bytes, moves or drops anything, and never names a copy that may not go.

use super::value::{TipId, Worth};
use crate::domain::directory::BlockIndex;

/// Which policy ranks the copies of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyName {
    /// The leaf used longest ago goes first.
    Lru,
    /// Leaves pass a short queue before they get into the long one.
    S3Fifo,
    /// What is least likely to be asked for again soon goes first.
    #[default]
    Value,
}

impl PolicyName {
    pub const ALL: [Self; 3] = [Self::Lru, Self::S3Fifo, Self::Value];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::S3Fifo => "s3fifo",
            Self::Value => "value",
        }
    }

    /// Whether the policy learns how chains are reused; it is told of them only then.
    #[must_use]
    pub const fn learns(self) -> bool {
        matches!(self, Self::Value)
    }
}

/// What a policy is told of a copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Of its last use.
    pub tick: u64,
    /// Names the block across its comings and goings.
    pub key_bits: u64,
    /// 0..=100; the lower goes first.
    pub priority: u8,
    /// The best of the tips that claim it, if any is known.
    pub claim: Option<(TipId, Worth)>,
    /// What losing this copy costs: 2^(eighths/8) times the usual.
    pub cost: i16,
}

impl Standing {
    /// Whether this is the tip it stands by.
    #[must_use]
    pub fn belongs_to(&self, tip: TipId) -> bool {
        self.claim.is_some_and(|(by, _)| by == tip)
    }
}

/// Who is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This copy, which is no longer listed.
    Goes(BlockIndex),
    /// The newcomer itself: it is worth less than all that is listed.
    Newcomer,
    /// Nobody: nothing is listed that may go.
    Nobody,
}

impl From<Option<BlockIndex>> for Verdict {
    fn from(victim: Option<BlockIndex>) -> Self {
        victim.map_or(Self::Nobody, Self::Goes)
    }
}

/// Ranks the copies of one tier.
pub trait Policy: Send {
    fn name(&self) -> &'static str;

    /// The copy may go from now on (it is a leaf of the tier, unread, unleased). A copy may be
    /// listed anew when its standing changed.
    fn list(&mut self, block: BlockIndex, standing: &Standing);

    /// Who goes next, now that `newcomer` asks for room. `judge` knows the present standing of a
    /// listed copy, nothing if it may not go; then it is not listed any more either.
    fn victim(
        &mut self,
        newcomer: Option<&Standing>,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Verdict;

    /// Takes entries off the lists, asked in the order in which they would come up: once a list's own.
    fn retain(&mut self, keep: &mut dyn FnMut(BlockIndex) -> bool);

    /// What a tip claims is worth this from now on; nothing if the tip was forgotten.
    fn tip_moved(&mut self, _tip: TipId, _worth: Option<Worth>) {}

    /// Whether least recent use alone decides for now: it would have found more.
    fn let_lru_decide(&mut self, _decides: bool) {}
}
