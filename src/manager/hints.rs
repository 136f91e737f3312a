//! Hints: each action is carried out by itself, and has an outcome of its own.

use crate::domain::hint::{ACTIONS_MAX, Action, LiftReason, Outcome, Target};
use crate::domain::retention::directive::TTL_MAX;
use crate::domain::session::{SessionEvent, SessionName};

use super::api::{ClientId, NamespaceId, OpId, Refusal, Reply};
use super::sessions::missing_session;
use super::{Answer, Manager};

impl Manager {
    pub(super) fn hint(&mut self, client: ClientId, actions: Vec<Action>) -> Answer {
        let namespace = self.client(client)?.namespace;
        if actions.len() > ACTIONS_MAX {
            return Err(Refusal::Invalid(format!(
                "{} actions in one call: send at most {ACTIONS_MAX}",
                actions.len()
            )));
        }
        let outcomes =
            actions.into_iter().map(|action| self.act((client, namespace), action)).collect();
        Ok(Reply::Hint { outcomes })
    }

    fn act(&mut self, (client, namespace): (ClientId, NamespaceId), action: Action) -> Outcome {
        if let Some(Target::Keys(keys)) = target_of(&action) {
            self.take_in_named(keys);
        }
        match action {
            Action::SessionStart { session, parent } => {
                self.session_start(namespace, &session, parent.as_ref())
            }
            Action::SessionEnd { session, tree } => self.session_end(namespace, &session, tree),
            Action::SessionReset { session } => {
                self.happened(namespace, &session, SessionEvent::Reset)
            }
            Action::ToolStart { session, expected } => {
                // Nobody waits longer for a tool than a shield may last.
                let expected = expected.map(|after| self.now + after.min(TTL_MAX));
                self.happened(namespace, &session, SessionEvent::ToolStart { expected })
            }
            Action::ToolReturn { session } => {
                self.happened(namespace, &session, SessionEvent::ToolReturn)
            }
            Action::Retain { target, wish } => self.retain(namespace, &target, &wish),
            Action::Release { target } => self.release(namespace, &target),
            Action::Demote { target, to } => self.demote(namespace, &target, to),
            Action::Prefetch { target, wish } => {
                self.prefetch((client, namespace), &target, &wish, LiftReason::Asked)
            }
            Action::SpeculativePrefill { target, wish } => {
                self.prefetch((client, namespace), &target, &wish, LiftReason::SpeculativePrefill)
            }
            Action::CancelPrefetch { operation } => self.cancel_lift(client, OpId(operation)),
        }
    }

    fn happened(
        &mut self,
        namespace: NamespaceId,
        name: &SessionName,
        event: SessionEvent,
    ) -> Outcome {
        let Some(index) = self.sessions.find(namespace, name) else {
            return missing_session(name);
        };
        self.session_happened(index, event);
        Outcome::Accepted { blocks: 0 }
    }
}

/// The blocks that an action is about, if it is about any.
const fn target_of(action: &Action) -> Option<&Target> {
    match action {
        Action::Retain { target, .. }
        | Action::Release { target }
        | Action::Demote { target, .. }
        | Action::Prefetch { target, .. }
        | Action::SpeculativePrefill { target, .. } => Some(target),
        _ => None,
    }
}
