//! Linking: which tip a request goes on from.
//!
//! By content first: the deepest block it shares with a known tip. A session's name tells besides
//! what the session left when its request went on elsewhere.

use super::classes::{Habits, Left, Wait};
use super::reuse::{Agent, Linked, Reuse, Seen};
use super::tips::{Clock, State, TipId};
use crate::domain::units::Time;

/// A request that leaves at most so many blocks of a chain went on from it all the same.
const REVISED_BLOCKS_MAX: usize = 16;
const REWRITTEN_BLOCKS_MAX: usize = 2;

/// The deepest block of a chain that leads to a known tip.
#[derive(Clone, Copy)]
struct Hit {
    /// Blocks of the chain up to there.
    shared: usize,
    tip: TipId,
    what: Met,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    Stem,
    /// The chain goes on where the tip ended.
    Tip,
    /// The chain parts from the tip's somewhere behind this block.
    Fork,
}

impl Reuse {
    /// A request came. Its tip waits from now on for the next one.
    ///
    /// # Panics
    /// The chain is empty: then there is nothing to keep.
    pub fn request(&mut self, now: Time, seen: &Seen<'_>) -> Linked {
        assert!(!seen.chain.is_empty(), "a request without blocks has no tip");
        self.advance(now);
        let hit = self.meet(seen);
        let own = seen.session.and_then(|session| self.agent(session));
        let reset = own.is_some_and(|agent| agent.reset);
        let goes_on = hit.filter(|hit| hit.what == Met::Tip).map(|hit| hit.tip);
        let left = left_by(seen, hit, own).filter(|left| Some(*left) != goes_on);
        if let Some(left) = left
            && !self.is_followed(left, own)
        {
            self.leave(left, hit, reset);
        }
        // What leaving taught goes along.
        let heritage = left.and_then(|left| self.habits(left));
        let stem = if goes_on.is_none() && left.is_none() { self.stem(seen, hit) } else { None };
        let tip = self.go_on(goes_on, heritage, seen);
        Linked { tip, stem }
    }

    /// The same request asked again, perhaps for more.
    pub fn again(&mut self, id: TipId, seen: &Seen<'_>) {
        if self.tips.get(id).is_some() && !seen.chain.is_empty() {
            self.tips.mark(id, seen.chain);
        }
    }

    fn meet(&self, seen: &Seen<'_>) -> Option<Hit> {
        let (at, tip) = self.tips.find(seen.chain)?;
        let row = self.tips.get(tip)?;
        let what = match row.state {
            State::Stem => Met::Stem,
            _ if row.key == Some(seen.chain[at]) => Met::Tip,
            _ => Met::Fork,
        };
        Some(Hit { shared: at + 1, tip, what })
    }

    /// Whether other sessions than the request's own go on from the tip: sessions that began alike have one until
    /// they part.
    fn is_followed(&self, id: TipId, own: Option<Agent>) -> bool {
        let mine = u32::from(own.is_some_and(|agent| agent.tip == id));
        self.tips.get(id).is_some_and(|tip| tip.sessions > mine)
    }

    /// The agent goes on elsewhere: what it leaves is a branch of its own from now on.
    fn leave(&mut self, id: TipId, hit: Option<Hit>, reset: bool) {
        let Some(tip) = self.tips.get(id) else { return };
        let (len, was_left) = (tip.len, tip.state == State::Left);
        let shared = hit.filter(|hit| hit.tip == id).map(|hit| hit.shared);
        let lost = shared.map(|shared| len.saturating_sub(shared));
        let near = |lost: usize| {
            let kept = len - lost;
            lost <= REWRITTEN_BLOCKS_MAX || (lost <= REVISED_BLOCKS_MAX && kept * 2 >= len)
        };
        let left = match lost.filter(|lost| near(*lost)) {
            _ if reset => Left::Reset,
            Some(lost) if lost <= REWRITTEN_BLOCKS_MAX => Left::Rewritten,
            Some(_) => Left::Revised,
            None => Left::Abandoned,
        };
        if matches!(left, Left::Rewritten | Left::Revised) {
            self.returned(id);
        } else if was_left {
            return;
        }
        self.wait(id, State::Left, Some((Wait::Branch, Habits::branch(left))));
        self.tips.get_mut(id).turn = None;
    }

    /// The stretch that a chain without a tip of its own shares with others.
    fn stem(&mut self, seen: &Seen<'_>, hit: Option<Hit>) -> Option<(usize, TipId)> {
        let (shared, id) = match hit {
            Some(hit) if hit.what == Met::Stem => (hit.shared, hit.tip),
            Some(hit) if hit.shared >= seen.found => return None,
            _ if seen.found == 0 => return None,
            _ => {
                let id = self.add();
                self.tips.mark_only(id, &seen.chain[..seen.found]);
                (seen.found, id)
            }
        };
        self.stem_returned(id);
        let path = self.habits(id)?.stem();
        self.wait(id, State::Stem, Some((Wait::Stem, path)));
        self.touch(id);
        Some((shared, id))
    }

    fn go_on(
        &mut self,
        goes_on: Option<TipId>,
        heritage: Option<Habits>,
        seen: &Seen<'_>,
    ) -> TipId {
        if let Some(id) = goes_on {
            self.returned(id);
        }
        let id = goes_on.unwrap_or_else(|| self.add());
        let now = self.now();
        let tip = self.tips.get_mut(id);
        tip.habits = heritage.unwrap_or(tip.habits);
        if goes_on.is_some() || heritage.is_some() {
            tip.habits.turns = tip.habits.turns.saturating_add(1);
        }
        tip.habits.subagent = seen.subagent;
        (tip.state, tip.wait) = (State::Running, None);
        tip.turn = Some(Clock::start(Wait::Turn, tip.habits.running(), now));
        if let Some(session) = seen.session {
            self.follow(session, Some(Agent { tip: id, reset: false }));
        }
        self.tips.mark(id, seen.chain);
        self.touch(id);
        self.judge(id, now);
        id
    }
}

/// The tip from which the request's agent turned away, if it did. Without a session's word a chain
/// that forks off another is taken for its continuation.
fn left_by(seen: &Seen<'_>, hit: Option<Hit>, own: Option<Agent>) -> Option<TipId> {
    let forked = hit.filter(|hit| hit.what == Met::Fork && seen.session.is_none());
    own.map(|agent| agent.tip).or(forked.map(|hit| hit.tip))
}
