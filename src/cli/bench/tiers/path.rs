//! The paths that can be measured: from one tier to another.

use std::fmt;
use std::str::FromStr;

use crate::domain::tier::Tier;
use crate::movement::Link;

/// One way between two tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    DramHbm,
    HbmDram,
    HbmHbm,
    DramNvme,
    NvmeDram,
    DramObject,
    ObjectDram,
}

impl Path {
    /// In the order of measuring: what a path reads, the one before it has written.
    pub const ALL: [Self; 7] = [
        Self::DramHbm,
        Self::HbmDram,
        Self::HbmHbm,
        Self::DramNvme,
        Self::NvmeDram,
        Self::DramObject,
        Self::ObjectDram,
    ];

    /// Where its blocks come from and where they go.
    #[must_use]
    pub const fn ends(self) -> (Tier, Tier) {
        match self {
            Self::DramHbm => (Tier::Dram, Tier::Hbm),
            Self::HbmDram => (Tier::Hbm, Tier::Dram),
            Self::HbmHbm => (Tier::Hbm, Tier::Hbm),
            Self::DramNvme => (Tier::Dram, Tier::Nvme),
            Self::NvmeDram => (Tier::Nvme, Tier::Dram),
            Self::DramObject => (Tier::Dram, Tier::Object),
            Self::ObjectDram => (Tier::Object, Tier::Dram),
        }
    }

    /// The daemon's link that it goes over.
    #[must_use]
    pub const fn link(self) -> Link {
        match self {
            Self::DramHbm => Link::DeviceUp,
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

    /// Whether the layout of an engine's pages matters on it.
    #[must_use]
    pub const fn is_paged(self) -> bool {
        matches!(self.far_tier(), Tier::Hbm)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = self.ends();
        f.pad(&format!("{from}->{to}"))
    }
}

/// What `--path` names: one path, or all those of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    One(Path),
    Of(Tier),
}

impl Choice {
    #[must_use]
    pub fn includes(self, path: Path) -> bool {
        match self {
            Self::One(one) => one == path,
            Self::Of(tier) => path.far_tier() == tier,
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    /// Takes `hbm-dram` for `hbm->dram` too: a shell takes the latter's `>` for its own.
    fn from_str(text: &str) -> Result<Self, String> {
        let meant = |name: &str| text == name || text == name.replace("->", "-");
        if let Some(path) = Path::ALL.into_iter().find(|path| meant(&path.to_string())) {
            return Ok(Self::One(path));
        }
        let of_tier = Tier::ALL.into_iter().filter(|tier| *tier != Tier::Dram);
        of_tier.into_iter().find(|tier| tier.name() == text).map(Self::Of).ok_or_else(|| {
            let known = Path::ALL.map(|path| path.to_string().replace("->", "-")).join(", ");
            format!(
                "path `{text}` is not known: use hbm, nvme or object for all of a tier, or {known}"
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
            assert_eq!(path.to_string().replace("->", "-").parse(), Ok(Choice::One(path)));
        }
        let nvme: Choice = "nvme".parse().unwrap();
        let chosen: Vec<_> = Path::ALL.into_iter().filter(|path| nvme.includes(*path)).collect();
        assert_eq!(chosen, [Path::DramNvme, Path::NvmeDram]);
        let said = "dram".parse::<Choice>().unwrap_err();
        assert!(said.contains("`dram` is not known: use hbm, nvme"), "{said}");
    }
}
