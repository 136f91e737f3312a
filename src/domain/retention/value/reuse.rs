//! What is known of every chain's reuse: told of requests, answers and tools, it keeps each tip's
//! level up to date and says whose changed.
//!
//! Never looks at copies: reuse is a fact about chains, the same in every tier.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::ages::{bin_of, end_of};
use super::classes::{Habits, Idle, Wait};
use super::index::{Level, Worth, best_rate};
use super::noise::Noise;
use super::survival::Survival;
use super::tips::{Announced, Clock, State, TipId, Tips};
use crate::domain::block::Key;
use crate::domain::session::{SessionIndex, Stop};
use crate::domain::units::Time;

/// Tips that are remembered, with those whose blocks are gone: their returns teach, too.
const TIPS_MAX: usize = 65_536;

/// A request, as its lookup shows it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What it asked for, from the root.
    pub chain: &'a [Key],
    /// So many of these blocks were found.
    pub found: usize,
    pub session: Option<SessionIndex>,
    pub subagent: bool,
}

/// What a request was linked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// The tip of its chain.
    pub tip: TipId,
    /// The stretch it begins with like others before it: so many blocks, and the stretch's own tip.
    pub stem: Option<(usize, TipId)>,
}

/// A session's tip, and whether it said that the next request leaves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agent {
    pub tip: TipId,
    pub reset: bool,
}

/// All that was learned.
pub struct Reuse {
    pub(super) tips: Tips,
    tables: [Survival; Wait::COUNT],
    noise: Noise,
    agents: BTreeMap<SessionIndex, Agent>,
    /// When a tip's age reaches its next bin; entries that no tip waits for any more are skipped.
    due: BinaryHeap<Reverse<(Time, usize)>>,
    slots: Vec<Option<TipId>>,
    moved: Vec<TipId>,
    now: Time,
}

impl Default for Reuse {
    fn default() -> Self {
        Self::new(TIPS_MAX)
    }
}

impl Reuse {
    #[must_use]
    pub fn new(tips_max: usize) -> Self {
        Self {
            tips: Tips::new(tips_max),
            tables: Wait::tables(),
            noise: Noise::default(),
            agents: BTreeMap::new(),
            due: BinaryHeap::new(),
            slots: Vec::new(),
            moved: Vec::new(),
            now: Time::ZERO,
        }
    }

    /// What the tip's blocks are worth; nothing if it was forgotten.
    #[must_use]
    pub fn worth(&self, tip: TipId) -> Option<Worth> {
        self.tips.worth(tip)
    }

    /// How likely the tip's chain is to be asked for again at all, now that it has waited as long as
    /// it has; nothing if the tip was forgotten or waits for nothing. A pessimistic guess counts against
    /// those only that were left: of the others enough must have been seen.
    #[must_use]
    pub fn chance(&self, tip: TipId) -> Option<f32> {
        let tip = self.tips.get(tip)?;
        if tip.state == State::Ended {
            return Some(0.0);
        }
        let clock = tip.wait.or(tip.turn)?;
        let bin = bin_of(self.now.since(clock.since));
        let table = &self.tables[clock.wait.index()];
        let is_known = tip.state == State::Left || table.has_seen(clock.path, bin);
        is_known.then(|| table.chance(clock.path, bin))
    }

    /// Of two tips the one that keeps what both claim for longer.
    #[must_use]
    pub fn better(&self, one: Option<TipId>, other: Option<TipId>) -> Option<TipId> {
        self.tips.better(one, other)
    }

    /// The tips whose worth changed since this was last asked, each with its worth now; nothing for
    /// those that were forgotten.
    pub fn drain_moved(&mut self) -> impl Iterator<Item = (TipId, Option<Worth>)> + '_ {
        let tips = &self.tips;
        self.moved.drain(..).map(|id| (id, tips.worth(id)))
    }

    #[must_use]
    pub fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// Lets ages grow up to `now`.
    pub fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        while let Some(Reverse((at, slot))) = self.due.peek().copied()
            && at <= self.now
        {
            self.due.pop();
            let Some(id) = self.slots[slot] else { continue };
            if self.tips.get(id).is_some_and(|tip| tip.due == Some(at)) {
                self.count(id, at);
                self.judge(id, at);
            }
        }
    }

    /// The model answered the request that the tip stands for.
    pub fn answered(&mut self, now: Time, id: TipId, stop: Stop, output_tokens: u32) {
        self.advance(now);
        let nothing_said = stop == Stop::Unknown && output_tokens == 0;
        let Some(tip) = self.tips.get(id).filter(|_| !nothing_said) else { return };
        if tip.state != State::Running {
            return;
        }
        let path = tip.habits.idle(Idle::Stopped(stop), output_tokens);
        let (why, answered) = (Idle::Stopped(stop), self.now);
        self.wait(id, State::Idle { why, answered, announced: None }, Some((Wait::Answer, path)));
    }

    /// A tool runs for the session; it is expected back at that time, if anyone said so. What its
    /// chain is worth counts little until `yields_until`: it is lifted from then on.
    pub fn tool_started(
        &mut self,
        now: Time,
        session: SessionIndex,
        expected: Option<Time>,
        yields_until: Option<Time>,
    ) {
        self.advance(now);
        let Some(id) = self.tip_of(session) else { return };
        if self.tips.get_mut(id).state == State::Running {
            self.answered(now, id, Stop::ToolUse, 0);
        }
        let tip = self.tips.get_mut(id);
        let (State::Idle { announced, .. }, Some(wait)) = (&mut tip.state, tip.wait) else {
            return;
        };
        *announced =
            expected.map(|at| Announced { bin: bin_of(at.since(wait.since)), yields_until });
        self.judge(id, self.now);
    }

    /// The session's tool returned: its next request is about to come.
    pub fn tool_returned(&mut self, now: Time, session: SessionIndex) {
        self.advance(now);
        let Some(id) = self.tip_of(session) else { return };
        let tip = self.tips.get_mut(id);
        let State::Idle { announced, answered, .. } = tip.state else { return };
        let (wait, weight) = (tip.wait, tip.weight);
        let path = tip.habits.idle(Idle::ToolReturned, 0);
        // The tool's return is what the tip waited for; the request that follows is a matter of
        // course, and waited for anew.
        if let Some(wait) = wait {
            let now = self.now;
            self.count(id, now);
            let bin = bin_of(now.since(wait.since));
            self.tables[wait.wait.index()].returned(wait.path, bin, weight);
            if let Some(announced) = announced {
                self.noise.learn(bin, announced.bin, weight);
            }
            self.tips.get_mut(id).wait = None;
        }
        let state = State::Idle { why: Idle::ToolReturned, answered, announced: None };
        self.wait(id, state, Some((Wait::Answer, path)));
    }

    /// The session's next request leaves what it had.
    pub fn reset(&mut self, session: SessionIndex) {
        if let Some(agent) = self.agents.get_mut(&session) {
            agent.reset = true;
        }
    }

    /// The session is not known any more; `ended` if it said so itself. A chain that others follow is
    /// not over by that.
    pub fn session_gone(&mut self, now: Time, session: SessionIndex, ended: bool) {
        self.advance(now);
        let left = self.follow(session, None);
        let Some(id) = left.filter(|id| ended && self.tips.get_mut(*id).sessions == 0) else {
            return;
        };
        self.wait(id, State::Ended, None);
        self.tips.get_mut(id).turn = None;
    }

    /// What the session has from now on, if anything. Gives the tip it had, if that is still known.
    pub(super) fn follow(&mut self, session: SessionIndex, agent: Option<Agent>) -> Option<TipId> {
        let before = self.tip_of(session);
        if let Some(before) = before {
            self.tips.get_mut(before).sessions -= 1;
        }
        match agent {
            Some(agent) => {
                self.tips.get_mut(agent.tip).sessions += 1;
                self.agents.insert(session, agent);
            }
            None => {
                self.agents.remove(&session);
            }
        }
        before
    }

    /// What the session has, if it is still known.
    pub(super) fn agent(&self, session: SessionIndex) -> Option<Agent> {
        let agent = self.agents.get(&session).copied();
        agent.filter(|agent| self.tips.get(agent.tip).is_some())
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// The session's tip, if it is still known.
    fn tip_of(&self, session: SessionIndex) -> Option<TipId> {
        self.agent(session).map(|agent| agent.tip)
    }

    /// A new tip; the one unused for longest makes room.
    pub(super) fn add(&mut self) -> TipId {
        if self.tips.is_full()
            && let Some(oldest) = self.tips.oldest()
        {
            self.tips.remove(oldest);
            self.slots[oldest.slot()] = None;
            self.moved.push(oldest);
        }
        let id = self.tips.add();
        if self.slots.len() <= id.slot() {
            self.slots.resize(id.slot() + 1, None);
        }
        self.slots[id.slot()] = Some(id);
        id
    }

    /// The tip stands differently from now on, and waits anew.
    pub(super) fn wait(&mut self, id: TipId, state: State, wait: Option<(Wait, [u16; 4])>) {
        let now = self.now;
        self.count(id, now);
        let tip = self.tips.get_mut(id);
        tip.state = state;
        tip.wait = wait.map(|(wait, path)| Clock::start(wait, path, now));
        self.judge(id, now);
    }

    /// Counts the ages that the tip reached without a return.
    fn count(&mut self, id: TipId, now: Time) {
        let tip = self.tips.get_mut(id);
        for clock in [&mut tip.turn, &mut tip.wait].into_iter().flatten() {
            let bin = bin_of(now.since(clock.since));
            if bin > clock.counted {
                let table = &mut self.tables[clock.wait.index()];
                table.passed(clock.path, clock.counted, bin, tip.weight);
                clock.counted = bin;
            }
        }
    }

    /// The tip was returned to: every clock that ran for it has its answer.
    pub(super) fn returned(&mut self, id: TipId) {
        let now = self.now;
        self.count(id, now);
        let tip = self.tips.get_mut(id);
        for clock in [tip.turn, tip.wait].into_iter().flatten() {
            let bin = bin_of(now.since(clock.since));
            self.tables[clock.wait.index()].returned(clock.path, bin, tip.weight);
        }
        if let Some(turn) = tip.turn.take() {
            tip.habits.turn.learn(now.since(turn.since));
        }
        if let State::Idle { why, answered, announced } = tip.state {
            let user = why == Idle::Stopped(Stop::EndTurn);
            let pace = if user { &mut tip.habits.user } else { &mut tip.habits.tool };
            pace.learn(now.since(answered));
            if let (Some(announced), Some(wait)) = (announced, tip.wait) {
                self.noise.learn(bin_of(now.since(wait.since)), announced.bin, tip.weight);
            }
        }
        tip.wait = None;
    }

    /// Another chain began with the stretch.
    pub(super) fn stem_returned(&mut self, id: TipId) {
        let now = self.now;
        self.count(id, now);
        let tip = self.tips.get_mut(id);
        if let Some(clock) = tip.wait {
            let gap = now.since(clock.since);
            self.tables[Wait::Stem.index()].returned(clock.path, bin_of(gap), tip.weight);
            tip.habits.turn.learn(gap);
            tip.habits.turns = tip.habits.turns.saturating_add(1);
        }
    }

    /// Works out the tip's level at its present age, and when to do so again.
    pub(super) fn judge(&mut self, id: TipId, now: Time) {
        let tip = self.tips.get_mut(id);
        let (state, clock) = (tip.state, tip.wait.or(tip.turn));
        let Some(clock) = clock.filter(|_| state != State::Ended) else {
            self.settle(id, Level::ENDED, None);
            return;
        };
        let bin = bin_of(now.since(clock.since));
        let mut due = end_of(bin).map(|end| clock.since + end);
        let table = &mut self.tables[clock.wait.index()];
        let level = match state {
            State::Idle { announced: Some(announced), .. } => {
                let told = self.noise.told(table.recent_hazards(clock.path), announced.bin);
                let level = Level::of_rate(best_rate(&told, bin));
                match announced.yields_until.filter(|until| now < *until) {
                    Some(until) => {
                        due = Some(due.map_or(until, |due| due.min(until)));
                        level.yielding()
                    }
                    None => level,
                }
            }
            _ => table.level(clock.path, bin),
        };
        self.settle(id, level, due);
    }

    fn settle(&mut self, id: TipId, level: Level, due: Option<Time>) {
        let tip = self.tips.get_mut(id);
        // The same time again is on the list already, until it has come.
        if let Some(at) = due.filter(|_| tip.due != due) {
            self.due.push(Reverse((at, id.slot())));
        }
        tip.due = due;
        if tip.level != level {
            tip.level = level;
            self.note_moved(id);
        }
    }

    fn note_moved(&mut self, id: TipId) {
        if self.moved.last() != Some(&id) {
            self.moved.push(id);
        }
    }

    /// The tip was used: it ranks after others of its level.
    pub(super) fn touch(&mut self, id: TipId) {
        self.tips.touch(id);
        self.note_moved(id);
    }

    /// What the tip's agent is like.
    pub(super) fn habits(&self, id: TipId) -> Option<Habits> {
        self.tips.get(id).map(|tip| tip.habits)
    }
}

#[cfg(test)]
mod tests;
