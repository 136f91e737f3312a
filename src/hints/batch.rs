//! The actions of one call: each understood or not, each answered by itself.
//!
//! Keeps who asked for what in order; carries nothing out.

use std::collections::BTreeSet;

use crate::domain::hint::{ACTIONS_MAX, Action, Outcome};

/// Bytes of an action's id.
pub const ACTION_ID_BYTES_MAX: usize = 128;

/// One action, under the caller's name for it; or why it makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub action_id: String,
    pub action: Result<Action, String>,
}

/// The actions of a call that can be answered one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    asked: Vec<Asked>,
}

/// Which outcome goes to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Those that were not understood have their outcome already.
    slots: Vec<(String, Option<Outcome>)>,
}

impl Batch {
    /// Checks that every action can be answered under its id.
    ///
    /// # Errors
    /// There are too many, or an id is empty, too long or said twice; with what to do.
    pub fn new(asked: Vec<Asked>) -> Result<Self, String> {
        check_count(asked.len())?;
        let mut seen = BTreeSet::new();
        for (index, Asked { action_id, .. }) in asked.iter().enumerate() {
            if !(1..=ACTION_ID_BYTES_MAX).contains(&action_id.len()) {
                return Err(format!(
                    "actions[{index}].action_id is {} bytes long: name each action in 1 to \
                     {ACTION_ID_BYTES_MAX} bytes",
                    action_id.len()
                ));
            }
            if !seen.insert(action_id) {
                return Err(format!(
                    "actions[{index}].action_id `{action_id}` is said twice: each action needs an \
                     id of its own"
                ));
            }
        }
        Ok(Self { asked })
    }

    /// The actions that were understood, in order, and who waits for an outcome.
    #[must_use]
    pub fn split(self) -> (Vec<Action>, Unanswered) {
        let mut actions = Vec::with_capacity(self.asked.len());
        let slots = self.asked.into_iter().map(|asked| {
            let outcome = match asked.action {
                Ok(action) => {
                    actions.push(action);
                    None
                }
                Err(why) => Some(Outcome::Rejected(why)),
            };
            (asked.action_id, outcome)
        });
        let slots = slots.collect();
        (actions, Unanswered { slots })
    }
}

impl Unanswered {
    /// Gives each action its outcome; nothing if there are not as many as actions.
    #[must_use]
    pub fn answered(self, outcomes: Vec<Outcome>) -> Option<Vec<(String, Outcome)>> {
        let mut outcomes = outcomes.into_iter();
        let all =
            self.slots.into_iter().map(|(id, own)| Some((id, own.or_else(|| outcomes.next())?)));
        let all = all.collect::<Option<Vec<_>>>();
        all.filter(|_| outcomes.next().is_none())
    }
}

/// Whether one call may have so many actions.
///
/// # Errors
/// It may not, with what to do.
pub fn check_count(actions: usize) -> Result<(), String> {
    if actions > ACTIONS_MAX {
        return Err(format!(
            "{actions} actions in one call: send at most {ACTIONS_MAX}, in several calls"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::SessionName;

    fn asked(id: &str) -> Asked {
        let session = SessionName::new("s").unwrap();
        Asked { action_id: id.into(), action: Ok(Action::SessionReset { session }) }
    }

    #[test]
    fn each_gets_its_own_outcome_in_order() {
        let bad = Asked { action_id: "b".into(), action: Err("no".into()) };
        let batch = Batch::new(vec![asked("a"), bad, asked("c")]).unwrap();
        let (actions, unanswered) = batch.split();
        assert_eq!(actions.len(), 2);
        let one = |blocks| Outcome::Accepted { blocks };
        assert_eq!(unanswered.clone().answered(vec![one(1)]), None);
        assert_eq!(unanswered.clone().answered(vec![one(1), one(2), one(3)]), None);
        let answered = unanswered.answered(vec![one(1), one(2)]).unwrap();
        let expected = [("a", one(1)), ("b", Outcome::Rejected("no".into())), ("c", one(2))];
        assert_eq!(answered, expected.map(|(id, outcome)| (id.to_owned(), outcome)));
    }

    #[test]
    fn ids_must_tell_actions_apart() {
        let check = |asked: Vec<Asked>, expected: &str| {
            let said = Batch::new(asked).unwrap_err();
            assert!(said.contains(expected), "`{said}` lacks `{expected}`");
        };
        check(vec![asked("")], "actions[0].action_id is 0 bytes long");
        check(vec![asked(&"x".repeat(129))], "1 to 128 bytes");
        check(vec![asked("a"), asked("b"), asked("a")], "actions[2].action_id `a` is said twice");
        let many = (0..=ACTIONS_MAX).map(|id| asked(&id.to_string())).collect();
        check(many, "257 actions in one call: send at most 256");
    }
}
