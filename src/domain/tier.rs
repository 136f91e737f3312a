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
