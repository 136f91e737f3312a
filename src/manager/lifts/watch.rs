//! What clients are told of their lifts, and how they end them.
//!
//! Moves nothing, and never says more than once that a lift is over.

use crate::domain::hint::Outcome;

use super::{Manager, count};
use crate::manager::Answer;
use crate::manager::api::{
    ClientId, Completion, Effect, LiftCounts, LiftState, LiftStatus, OpId, OpKind, Refusal, Reply,
    RequestId,
};

impl Manager {
    /// Its client hears, if one waits for that, that nothing of the lift moves any more.
    pub(super) fn tell_lift(&mut self, op: OpId) {
        let Some(lift) = self.lifts.open.get_mut(&op).filter(|lift| !lift.told) else { return };
        lift.told = true;
        let watched = lift.what.client.filter(|_| lift.what.is_watched);
        // Whoever left is told nothing.
        let Some(client) = watched.filter(|client| self.clients.contains_key(client)) else {
            return;
        };
        let mut failed = lift.clipped.clone();
        failed.sort_unstable();
        let (request, kind, blocks) = (RequestId(0), OpKind::Prefetch, count(lift.what.keys.len()));
        let not_durable = Vec::new();
        let completion = Completion { op, request, kind, blocks, failed, not_durable };
        self.out.push(Effect::Complete { client, completion });
    }

    pub(in crate::manager) fn cancel_lift(&mut self, client: ClientId, op: OpId) -> Outcome {
        let own = self.lifts.open.get(&op).filter(|lift| lift.what.client == Some(client));
        let Some(lift) = own else {
            return Outcome::Missing(format!(
                "no lift {} of this client is under way: it may have ended",
                op.0
            ));
        };
        let status = lift.status(op);
        let blocks = status.blocks - status.landed;
        self.end_lift(op, LiftState::Cancelled);
        Outcome::Accepted { blocks }
    }

    pub(in crate::manager) fn lift_status(&self, client: ClientId, op: OpId) -> Answer {
        self.client(client)?;
        let open = self.lifts.open.get(&op).filter(|lift| lift.what.client == Some(client));
        let status = open.map(|lift| lift.status(op));
        let is_it = |ended: &&(ClientId, LiftStatus)| ended.0 == client && ended.1.op == op;
        let ended = || self.lifts.ended.iter().find(is_it).map(|(_, status)| status.clone());
        status.or_else(ended).map(|status| Reply::Lift(Box::new(status))).ok_or_else(|| {
            Refusal::NotFound(format!("lift {} is not this client's, or is over long since", op.0))
        })
    }

    /// What the client asked for is needed no more.
    pub(in crate::manager) fn end_lifts_of(&mut self, client: ClientId) {
        for op in self.lifts.of_client(client).collect::<Vec<_>>() {
            self.end_lift(op, LiftState::Cancelled);
        }
    }

    /// What came of lifts so far.
    #[must_use]
    pub fn lift_counts(&self) -> LiftCounts {
        self.lifts.counts
    }
}
