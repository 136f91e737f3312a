//! The rule: by what a copy shows that it will be asked for again.
//!
//! Pure: a case in, a yes or no out. What the owner said, or a session that still reaches the block,
//! outweighs every guess.

use crate::domain::retention::Kind;

/// What is known of a copy that might be written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is so or not, whatever the others")]
pub struct Case {
    /// What lies below hangs on it, or it has nowhere else to go and may not leave.
    pub forced: bool,
    /// Its owner asked for it to be kept: a shield or a raised priority.
    pub asked: bool,
    /// A session that is known reaches it.
    pub claimed: bool,
    /// A lookup found it since it was stored.
    pub was_read: bool,
    /// How likely its chain is to be asked for again, if that is known.
    pub chance: Option<f32>,
    pub kind: Kind,
}

/// What is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    All,
    /// What was read at least once.
    Read,
    /// What chains of its kind have shown to come back for, in at least so many of a hundred cases.
    Returning {
        percent: u8,
    },
}

impl Default for Rule {
    fn default() -> Self {
        Self::Returning { percent: Self::PERCENT }
    }
}

impl Rule {
    /// The usual threshold: see `docs/durability.md` for what others give.
    pub const PERCENT: u8 = 10;

    pub const NAMES: [&'static str; 3] = ["returning", "read", "all"];

    /// The rule of this name, with the threshold if it has one.
    #[must_use]
    pub fn named(name: &str, percent: u8) -> Option<Self> {
        match name {
            "returning" => Some(Self::Returning { percent }),
            "read" => Some(Self::Read),
            "all" => Some(Self::All),
            _ => None,
        }
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Read => "read",
            Self::Returning { .. } => "returning",
        }
    }

    /// Whether such a copy is written. Of what nothing is known, the best is thought.
    #[must_use]
    pub fn admits(self, case: &Case) -> bool {
        let spoken_for = case.forced || case.asked || case.claimed;
        spoken_for
            || match self {
                Self::All => true,
                Self::Read => case.was_read,
                Self::Returning { percent } => {
                    case.chance.is_none_or(|chance| chance * 100.0 >= f32::from(percent))
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_rule_asks_for_its_own_proof() {
        let case = |was_read, chance| Case { was_read, chance, ..Case::default() };
        let cases =
            [case(false, None), case(true, Some(0.05)), case(false, Some(0.1)), case(true, None)];
        let check = |rule: Rule, expected: [bool; 4]| {
            assert_eq!(cases.map(|case| rule.admits(&case)), expected, "{rule:?}");
        };
        check(Rule::All, [true, true, true, true]);
        check(Rule::Read, [false, true, false, true]);
        check(Rule::Returning { percent: 10 }, [true, false, true, true]);
    }

    #[test]
    fn names_are_read_back() {
        for name in Rule::NAMES {
            assert_eq!(Rule::named(name, 7).map(Rule::name), Some(name));
        }
        assert_eq!(Rule::named("some", 7), None);
    }

    fn case() -> impl Strategy<Value = Case> {
        let chance = proptest::option::of(0.0_f32..=1.0);
        (any::<[bool; 4]>(), chance).prop_map(|([forced, asked, claimed, was_read], chance)| Case {
            forced,
            asked,
            claimed,
            was_read,
            chance,
            kind: Kind::default(),
        })
    }

    proptest! {
        /// More proof never turns a yes into a no, and a stricter rule admits nothing new.
        #[test]
        fn proof_and_mildness_only_help(case in case(), percent in 0_u8..=100, more in 0.0_f32..=1.0) {
            let rules = [Rule::All, Rule::Read, Rule::Returning { percent }];
            let surer = [
                Case { forced: true, ..case },
                Case { asked: true, ..case },
                Case { claimed: true, ..case },
                Case { was_read: true, ..case },
                Case { chance: case.chance.map(|chance| chance.max(more)), ..case },
            ];
            for rule in rules {
                let before = rule.admits(&case);
                prop_assert!(surer.iter().all(|surer| rule.admits(surer) || !before));
                prop_assert!(Rule::All.admits(&case) || !before);
            }
            let [milder, stricter] =
                [percent / 2, percent].map(|percent| Rule::Returning { percent }.admits(&case));
            prop_assert!(milder || !stricter);
        }
    }
}
