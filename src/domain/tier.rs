//! The four tiers, from the fastest down.

use std::fmt;
use std::str::FromStr;

/// Where a copy of a block can be. The order is from the fastest to the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tier {
    Hbm = 0,
    Dram = 1,
    Nvme = 2,
    Object = 3,
}

impl Tier {
    pub const COUNT: usize = 4;
    pub const ALL: [Self; Self::COUNT] = [Self::Hbm, Self::Dram, Self::Nvme, Self::Object];

    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hbm => "hbm",
            Self::Dram => "dram",
            Self::Nvme => "nvme",
            Self::Object => "object",
        }
    }

    /// The tiers below this one, nearest first.
    #[must_use]
    pub fn below(self) -> &'static [Self] {
        &Self::ALL[self.index() + 1..]
    }

    /// The tiers above this one, fastest first.
    #[must_use]
    pub fn above(self) -> &'static [Self] {
        &Self::ALL[..self.index()]
    }
}

/// Some of the tiers.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierSet(u8);

impl TierSet {
    pub const EMPTY: Self = Self(0);

    #[must_use]
    pub const fn has(self, tier: Tier) -> bool {
        self.0 & (1 << tier.index()) != 0
    }

    #[must_use]
    pub const fn with(self, tier: Tier) -> Self {
        Self(self.0 | 1 << tier.index())
    }

    #[must_use]
    pub const fn without(self, tier: Tier) -> Self {
        Self(self.0 & !(1 << tier.index()))
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The tiers in it, fastest first.
    pub fn iter(self) -> impl Iterator<Item = Tier> {
        Tier::ALL.into_iter().filter(move |tier| self.has(*tier))
    }
}

impl fmt::Debug for TierSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromIterator<Tier> for TierSet {
    fn from_iter<T: IntoIterator<Item = Tier>>(tiers: T) -> Self {
        tiers.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| format!("unknown tier `{name}`: use hbm, dram, nvme or object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let all: TierSet = Tier::ALL.into_iter().collect();
        assert!(all.iter().eq(Tier::ALL));
        let some = all.without(Tier::Dram).without(Tier::Dram);
        assert!(some.has(Tier::Hbm) && !some.has(Tier::Dram));
        assert_eq!(some.with(Tier::Dram), all);
        assert!(TierSet::EMPTY.is_empty() && TierSet::EMPTY.iter().next().is_none());
    }
}
