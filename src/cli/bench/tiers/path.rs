//! The paths that can be measured: from one tier to another, or both ways at once.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::domain::tier::Tier;
use crate::movement::Link;

/// One way between two tiers, or both of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    DramHbm,
    HbmDram,
    /// The first half of the blocks up, the others down at the same time.
    HbmBoth,
    HbmHbm,
    DramNvme,
    NvmeDram,
    DramObject,
    ObjectDram,
}

impl Path {
    /// In the order of measuring: what a path reads, the one before it has written.
    pub const ALL: [Self; 8] = [
        Self::DramHbm,
        Self::HbmDram,
        Self::HbmBoth,
        Self::HbmHbm,
        Self::DramNvme,
        Self::NvmeDram,
        Self::DramObject,
        Self::ObjectDram,
    ];

    /// Where its blocks come from and where they go; of both ways at once, those of the first.
    #[must_use]
    pub const fn ends(self) -> (Tier, Tier) {
        match self {
            Self::DramHbm | Self::HbmBoth => (Tier::Dram, Tier::Hbm),
            Self::HbmDram => (Tier::Hbm, Tier::Dram),
            Self::HbmHbm => (Tier::Hbm, Tier::Hbm),
            Self::DramNvme => (Tier::Dram, Tier::Nvme),
            Self::NvmeDram => (Tier::Nvme, Tier::Dram),
            Self::DramObject => (Tier::Dram, Tier::Object),
            Self::ObjectDram => (Tier::Object, Tier::Dram),
        }
    }

    /// The daemon's link that it goes over; of both ways at once, the first's.
    #[must_use]
    pub const fn link(self) -> Link {
        match self {
            Self::DramHbm | Self::HbmBoth => Link::DeviceUp,
            Self::HbmDram => Link::DeviceDown,
            Self::HbmHbm => Link::DeviceLocal,
            Self::DramNvme => Link::NvmeWrite,
            Self::NvmeDram => Link::NvmeRead,
            Self::DramObject => Link::ObjectPut,
            Self::ObjectDram => Link::ObjectGet,
        }
    }

    /// The tier that it is to or from, beside DRAM.
    #[must_use]
    pub const fn far_tier(self) -> Tier {
        match self.ends() {
            (Tier::Dram, far) | (far, _) => far,
        }
    }

    /// The one way that this block takes, of so many.
    #[must_use]
    pub fn of_block(self, block: usize, blocks: usize) -> Self {
        match self {
            Self::HbmBoth if block < blocks / 2 => Self::DramHbm,
            Self::HbmBoth => Self::HbmDram,
            one => one,
        }
    }

    /// The blocks that do not begin in DRAM.
    #[must_use]
    pub fn begins_far(self, blocks: usize) -> Range<usize> {
        match self {
            Self::HbmBoth => blocks / 2..blocks,
            _ if self.ends().0 == Tier::Dram => 0..0,
            _ => 0..blocks,
        }
    }

    /// The blocks that do not end in DRAM.
    #[must_use]
    pub fn ends_far(self, blocks: usize) -> Range<usize> {
        match self {
            Self::HbmBoth => 0..blocks / 2,
            _ if self.ends().1 == Tier::Dram => 0..0,
            _ => 0..blocks,
        }
    }

    /// Its name where a shell takes `>` for its own.
    fn shell_name(self) -> String {
        match self {
            Self::HbmBoth => "hbm-both".into(),
            one => one.to_string().replace("->", "-"),
        }
    }

    /// Whether the layout of an engine's pages matters on it.
    #[must_use]
    pub const fn is_paged(self) -> bool {
        matches!(self.far_tier(), Tier::Hbm)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = self.ends();
        let arrow = if *self == Self::HbmBoth { "<->" } else { "->" };
        f.pad(&format!("{from}{arrow}{to}"))
    }
}

/// What `--path` names: every path, one, or all those of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    All,
    One(Path),
    Of(Tier),
}

impl Choice {
    #[must_use]
    pub fn includes(self, path: Path) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == path,
            Self::Of(tier) => path.far_tier() == tier,
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    /// Takes `hbm-dram` for `hbm->dram` too: a shell takes the latter's `>` for its own.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let meant = |path: &Path| text == path.to_string() || text == path.shell_name();
        if let Some(path) = Path::ALL.into_iter().find(meant) {
            return Ok(Self::One(path));
        }
        let of_tier = Tier::ALL.into_iter().filter(|tier| *tier != Tier::Dram);
        of_tier.into_iter().find(|tier| tier.name() == text).map(Self::Of).ok_or_else(|| {
            let known = Path::ALL.map(Path::shell_name).join(", ");
            format!(
                "path `{text}` is not known: use all; hbm, nvme or object for all of a tier; or {known}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_named_as_they_are_shown() {
        for path in Path::ALL {
            assert_eq!(path.to_string().parse(), Ok(Choice::One(path)));
            assert_eq!(path.shell_name().parse(), Ok(Choice::One(path)));
        }
        let nvme: Choice = "nvme".parse().unwrap();
        let chosen: Vec<_> = Path::ALL.into_iter().filter(|path| nvme.includes(*path)).collect();
        assert_eq!(chosen, [Path::DramNvme, Path::NvmeDram]);
        assert_eq!("hbm-both".parse(), Ok(Choice::One(Path::HbmBoth)));
        let said = "dram".parse::<Choice>().unwrap_err();
        assert!(said.contains("`dram` is not known: use all; hbm, nvme"), "{said}");
        let all: Choice = "all".parse().unwrap();
        assert!(Path::ALL.into_iter().all(|path| all.includes(path)));
    }

    #[test]
    fn every_block_begins_or_ends_in_dram_but_within_hbm() {
        for path in Path::ALL {
            for block in 0..7 {
                let one = path.of_block(block, 7);
                assert_eq!(path.begins_far(7).contains(&block), one.ends().0 != Tier::Dram);
                assert_eq!(path.ends_far(7).contains(&block), one.ends().1 != Tier::Dram);
                assert!(one != Path::HbmBoth && one.far_tier() == path.far_tier());
            }
        }
        assert_eq!(Path::HbmBoth.ends_far(7), 0..3);
    }
}
