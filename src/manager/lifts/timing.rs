//! When lifts begin, look again and end.

use std::time::Duration;

use crate::domain::hint::LiftReason;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::moves::found_within;
use super::{Lift, Lifts, Manager};
use crate::manager::api::{LiftState, OpId};

/// How long a lift that found no room waits before it looks again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Blocks beyond which no further lifts are begun or ended in one step, which nothing interrupts.
const WALK_MAX: usize = 128 << 10;

impl Lift {
    /// Where it would go on that found no room, by leg: the tier that it brings blocks to, and the next one.
    fn places(&self) -> [(Tier, usize); 2] {
        let below = if self.is_indirect { self.below } else { 0 };
        [(Tier::Dram, below), (self.what.to, self.next)]
    }

    /// When a lift that found no room looks again: when its time comes, or a little later if nobody was
    /// told how much of it is lifted.
    pub(super) fn next_try(&self, now: Time) -> Option<Time> {
        let times = self.what.times;
        if times.begin > now {
            return Some(times.begin);
        }
        let again = now + TRY_AGAIN_AFTER;
        (self.what.reason == LiftReason::ToolStart && again < times.deadline).then_some(again)
    }
}

impl Manager {
    /// What is here now may be gone by the time it is needed: the lift looks at everything again then.
    pub(super) fn wait_for_time(&mut self, op: OpId) {
        let Some(lift) = self.lifts.open.get_mut(&op) else { return };
        lift.state = LiftState::Waiting;
        let (rank, timer) = (Lifts::rank(op, lift), (lift.what.times.begin, op));
        self.lifts.queue.remove(&rank);
        self.lifts.timers.insert(timer);
    }

    /// Begins and ends the lifts whose time has come.
    pub(in crate::manager) fn time_lifts(&mut self) {
        if self.lifts.timers.first().is_some_and(|(time, _)| *time <= self.now) {
            // What yielded until now competes again.
            self.heed_time();
        }
        let mut walked = 0;
        while let Some((time, op)) = self.lifts.timers.first().copied()
            && time <= self.now
            && walked < WALK_MAX
        {
            self.lifts.timers.remove(&(time, op));
            let Some(lift) = self.lifts.open.get(&op) else { continue };
            let is_over = lift.what.times.deadline <= self.now;
            let goes_on = !is_over && self.may_go_on(lift);
            walked += if goes_on { 1 } else { lift.what.keys.len() };
            if is_over {
                self.end_lift(op, LiftState::Ended);
                continue;
            }
            let Some(lift) = self.lifts.open.get_mut(&op) else { continue };
            if goes_on {
                lift.state = LiftState::Moving;
            } else {
                lift.start_over();
            }
            lift.looks_again = false;
            let rank = Lifts::rank(op, lift);
            self.lifts.queue.insert(rank);
            self.lifts.stirred = true;
        }
    }

    /// Whether a lift that looks again goes on where it found no room: all before that is still where it
    /// is to be, since a tier gives up children before their parents.
    fn may_go_on(&self, lift: &Lift) -> bool {
        let is_there = |(to, next): (Tier, usize)| {
            let Some(last) = next.checked_sub(1) else { return true };
            let at = self.directory.find(lift.what.keys[last]);
            at.is_some_and(|at| found_within(self.directory.get(at), to).is_some())
        };
        lift.looks_again && lift.clipped.is_empty() && lift.places().into_iter().all(is_there)
    }
}
