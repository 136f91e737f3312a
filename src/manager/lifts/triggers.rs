//! What begins a lift: being asked to, or what is known of a session.

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::hint::{LIFT_DEADLINE_DEFAULT, LiftReason, LiftWish, Outcome, Target};
use crate::domain::prefetch::Pause;
use crate::domain::retention::Kind;
use crate::domain::session::{SessionEvent, SessionIndex};
use crate::domain::tier::Tier;

use super::{Lift, LiftTimes, Manager, NewLift, count};
use crate::manager::api::{ClientId, LiftState, LiftStatus, NamespaceId, OpId};

/// The priority of lifts for which nobody names one.
const PRIORITY_DEFAULT: u8 = 35;

impl Manager {
    pub(in crate::manager) fn prefetch(
        &mut self,
        (client, namespace): (ClientId, NamespaceId),
        target: &Target,
        wish: &LiftWish,
        reason: LiftReason,
    ) -> Outcome {
        let (wish, deadline_clipped) = match wish.admit() {
            Ok(admitted) => admitted,
            Err(why) => return Outcome::Rejected(why),
        };
        let found = match self.targets(namespace, target) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        let top = self.takers().next();
        let Some(to) = wish.to.or(top).filter(|to| self.taker_flags()[to.index()]) else {
            return Outcome::Rejected(match wish.to {
                Some(to) => format!("this daemon has no {to} tier that takes copies: name another"),
                None => "no tier takes copies now: try again".into(),
            });
        };
        let keys: Vec<Key> = found.iter().map(|(at, _)| self.directory.get(*at).key).collect();
        let begun = self.begin_lift(NewLift {
            client: Some(client),
            is_watched: true,
            session: None,
            reason,
            to,
            keys,
            times: LiftTimes::now(self.now, wish.deadline.unwrap_or(LIFT_DEADLINE_DEFAULT)),
            priority: wish.priority.unwrap_or(PRIORITY_DEFAULT),
        });
        match begun {
            Err(why) => Outcome::Rejected(why),
            Ok(op) => self.lift_outcome(op, (count(found.len()), deadline_clipped)),
        }
    }

    /// What is answered to who asked for the lift.
    fn lift_outcome(&self, op: OpId, (named, deadline_clipped): (u32, bool)) -> Outcome {
        // A lift that is over in its first step was refused or had nothing to do.
        let status = match self.lifts.open.get(&op) {
            Some(lift) => Some(lift.status(op)),
            None => self
                .lifts
                .ended
                .back()
                .filter(|(_, last)| last.op == op)
                .map(|(_, last)| last.clone()),
        };
        let clipped = status.as_ref().map_or(named, |status| status.clipped);
        let moves = self.lifts.open.get(&op).is_some_and(Lift::moves);
        let is_begun = |status: LiftStatus| status.landed > 0 || status.state != LiftState::Moving;
        let waits = !moves && !status.is_some_and(is_begun);
        Outcome::Lifting {
            operation: op.0,
            blocks: named - clipped,
            clipped,
            deadline_clipped,
            waits,
        }
    }

    /// A request waits for its turn: the chain that was found for it is lifted meanwhile.
    pub(in crate::manager) fn lift_queued(
        &mut self,
        client: ClientId,
        session: Option<SessionIndex>,
        deepest: BlockIndex,
    ) {
        let Some(to) = self.takers().next() else { return };
        if let Some(session) = session {
            self.stop_session_lift(session);
        }
        let keys = self.chain_keys(deepest);
        // There may be as many lifts as there may be: the request is served without, too.
        let _ = self.begin_lift(NewLift {
            client: Some(client),
            is_watched: false,
            session: None,
            reason: LiftReason::Queued,
            to,
            keys,
            times: LiftTimes::now(self.now, LIFT_DEADLINE_DEFAULT),
            priority: PRIORITY_DEFAULT,
        });
    }

    /// What is planned for the pause, if the event begins one and something is known of its length.
    pub(in crate::manager) fn pause_of(&self, event: SessionEvent) -> Option<Pause> {
        match event {
            SessionEvent::ToolStart { expected: Some(expected) } if self.config.lifts_max > 0 => {
                Pause::plan(self.now, expected.since(self.now))
            }
            _ => None,
        }
    }

    /// The session waits for a tool: what has sunk is lifted at once where there is free room, else
    /// in time for the return. What was planned before counts no more; what it lifted is needed all the same.
    pub(in crate::manager) fn lift_for_tool(
        &mut self,
        session: SessionIndex,
        pause: Option<Pause>,
    ) {
        if let Some(op) = self.lifts.by_session.get(&session).copied() {
            self.own_no_moves(op);
            self.end_lift(op, LiftState::Ended);
        }
        let Some(Pause { begin, needed, deadline, .. }) = pause else { return };
        let to = if self.taker_flags()[Tier::Dram.index()] {
            Some(Tier::Dram)
        } else {
            self.takers().next()
        };
        let times = LiftTimes { begin, needed, deadline };
        self.lift_session(session, (LiftReason::ToolStart, to), times);
    }

    /// What the lift moved counts as found there: to let go of it says nothing against it.
    fn own_no_moves(&mut self, op: OpId) {
        let Some(lift) = self.lifts.open.get(&op) else { return };
        let rows = lift.what.keys.iter().filter_map(|key| self.directory.find(*key));
        for row in rows.collect::<Vec<BlockIndex>>() {
            for tier in Tier::ALL {
                let held = self.lifts.holds.get_mut(&(row, tier));
                if let Some(hold) = held.filter(|hold| hold.op == op) {
                    hold.moved = false;
                }
            }
        }
    }

    /// The tool is back: its request is about to come.
    pub(in crate::manager) fn lift_for_return(&mut self, session: SessionIndex) {
        let to = self.takers().next();
        // What was lifted while the tool ran is about to be asked for.
        self.stop_session_lift(session);
        let times = LiftTimes::now(self.now, LIFT_DEADLINE_DEFAULT);
        self.lift_session(session, (LiftReason::ToolReturn, to), times);
    }

    fn lift_session(
        &mut self,
        session: SessionIndex,
        (reason, to): (LiftReason, Option<Tier>),
        times: LiftTimes,
    ) {
        let row = self.sessions.get(session);
        let (Some(tip), Some(to)) = (row.tip, to) else { return };
        let keys = self.chain_keys(tip);
        self.lift_for_session(session, (reason, to), keys, times);
    }

    fn lift_for_session(
        &mut self,
        session: SessionIndex,
        (reason, to): (LiftReason, Tier),
        keys: Vec<Key>,
        times: LiftTimes,
    ) {
        let lift = self.begin_lift(NewLift {
            client: None,
            is_watched: false,
            session: Some(session),
            reason,
            to,
            keys,
            times,
            priority: PRIORITY_DEFAULT,
        });
        if let Ok(op) = lift
            && self.lifts.open.contains_key(&op)
        {
            self.lifts.by_session.insert(session, op);
        }
    }

    /// A sub-agent started: what it shares with its parent is what others share with the parent
    /// already, and what every agent of the kind is told.
    pub(in crate::manager) fn lift_for_child(&mut self, child: SessionIndex, parent: SessionIndex) {
        // What it has of its own, as for a tool that runs, has its whole chain.
        if self.lifts.by_session.contains_key(&child) {
            return;
        }
        let row = self.sessions.get(parent);
        let (Some(tip), Some(to)) = (row.tip, self.takers().next()) else { return };
        let is_shared = |at: &BlockIndex| {
            let block = self.directory.get(*at);
            block.claims > 1 || matches!(block.record.kind, Kind::System | Kind::Tools)
        };
        let mut chain: Vec<BlockIndex> = self.directory.chain_up(Some(tip)).collect();
        chain.reverse();
        let shared = chain.into_iter().take_while(is_shared);
        let keys: Vec<Key> = shared.map(|at| self.directory.get(at).key).collect();
        if !keys.is_empty() {
            let times = LiftTimes::now(self.now, LIFT_DEADLINE_DEFAULT);
            self.lift_for_session(child, (LiftReason::SubagentStart, to), keys, times);
        }
    }

    /// The session goes on or is over: what its doings began is needed no more, or is loaded now.
    pub(in crate::manager) fn end_session_lift(&mut self, session: SessionIndex, end: LiftState) {
        if let Some(op) = self.lifts.by_session.get(&session).copied() {
            self.end_lift(op, end);
        }
    }

    /// The session's request is here: what has not moved yet is loaded by the request itself.
    pub(in crate::manager) fn stop_session_lift(&mut self, session: SessionIndex) {
        let Some(op) = self.lifts.by_session.remove(&session) else { return };
        let now = self.now;
        let Some(lift) = self.lifts.open.get_mut(&op) else { return };
        lift.clip_rest();
        // It waits for no time any more, and holds nothing for longer than a request takes to come.
        let LiftTimes { begin, deadline, .. } = &mut lift.what.times;
        self.lifts.timers.remove(&(*begin, op));
        self.lifts.timers.remove(&(*deadline, op));
        *begin = (*begin).min(now);
        *deadline = (*deadline).min(now + LIFT_DEADLINE_DEFAULT);
        self.lifts.timers.insert((*deadline, op));
        self.settle_lift(op);
    }

    /// The chain's keys, root first.
    fn chain_keys(&self, tip: BlockIndex) -> Vec<Key> {
        let up = self.directory.chain_up(Some(tip));
        let mut keys: Vec<Key> = up.map(|at| self.directory.get(at).key).collect();
        keys.reverse();
        keys
    }
}
