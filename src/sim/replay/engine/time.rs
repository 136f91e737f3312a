//! How time passes for the engine: what falls due, ticks, and what the manager wants done.
//!
//! Knows no requests: what they ask for stands in the module above.

use std::time::Duration;

use crate::domain::hint::LIFT_DEADLINE_MAX;
use crate::domain::units::Time;
use crate::manager::api::{
    Command, Completion, Effect, Event, OpKind, Reply, ReplyTag, RestampEnd,
};

use super::{CLIENT, Due, Engine};

const TAG: ReplyTag = ReplyTag(0);

/// How often the manager hears that time passed.
const TICK: Duration = Duration::from_millis(100);

/// Where nothing happens the ticks thin out: they come this part of the quiet's length apart, so
/// that a trace with a gap of a year costs no more than one of an hour.
const QUIET_PART: u32 = 1024;

/// Longer than any lift holds what it moved.
const LIFTS_OVER: Duration = LIFT_DEADLINE_MAX.saturating_mul(2);

impl Engine {
    /// The replay's time begins with its first request, whatever the trace counts from.
    pub(super) fn begin_at(&mut self, first: Time) {
        for time in [&mut self.now, &mut self.began, &mut self.ticked, &mut self.stirred] {
            *time = first;
        }
    }

    /// Lets time pass until `until`, with all that happens meanwhile; until the end of time, that is
    /// until nothing is under way.
    pub(super) fn proceed_to(&mut self, until: Time) {
        loop {
            let next = self.timeline.next_at();
            if let Some(tick) = self.tick_before(next.unwrap_or(until).min(until)) {
                self.now = tick;
                self.ticked = tick;
                self.tell(Event::Tick);
                continue;
            }
            let Some((at, due)) = self.timeline.pop_until(until) else { break };
            self.now = self.now.max(at);
            self.stirred = self.now;
            match due {
                Due::Landed(transfer) => {
                    self.tell(Event::TransferDone { transfer, failed: Vec::new() });
                }
                Due::Answered(request) => self.answered(request),
            }
        }
        if until < Time::MAX {
            self.now = self.now.max(until);
            self.stirred = self.now;
        }
    }

    /// Time passes until no lift's deadline is left, and nothing else happens.
    pub(super) fn let_lifts_end(&mut self) {
        self.now = self.now + LIFTS_OVER;
        self.tell(Event::Tick);
    }

    /// The tick that falls due by `next`, if copies take time. Once nothing is to come, only loads
    /// that still wait need to hear of time.
    fn tick_before(&self, next: Time) -> Option<Time> {
        let timed = self.timed.as_ref()?;
        let quiet = self.ticked.since(self.stirred);
        let tick = self.ticked + TICK.max(quiet / QUIET_PART);
        let over = next == Time::MAX && timed.waits.all_loaded();
        (tick <= next && !over).then_some(tick)
    }

    /// Puts a command to the manager and performs all that follows at once.
    pub(super) fn ask(&mut self, command: Command) -> Reply {
        let event = Event::Command { tag: TAG, client: CLIENT, command };
        self.tell(event).expect("every command is answered in its own step")
    }

    fn tell(&mut self, event: Event) -> Option<Reply> {
        let mut answer = self.step(event);
        while let Some(event) = self.done.pop_front() {
            let later = self.step(event);
            answer = answer.or(later);
        }
        answer
    }

    fn step(&mut self, event: Event) -> Option<Reply> {
        self.manager.step(self.now, event, &mut self.effects);
        let mut answer = None;
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply { reply, .. } => answer = Some(reply),
                Effect::Start(transfer) => {
                    let (id, blocks) = (transfer.id, transfer.items.len());
                    if let Some(timed) = &mut self.timed {
                        let landing = timed.roads.landing(self.now, transfer.link, blocks);
                        self.timeline.add(landing, Due::Landed(id));
                    } else {
                        let failed = Vec::new();
                        self.done.push_back(Event::TransferDone { transfer: id, failed });
                    }
                }
                Effect::Erase { tier, place, key, .. } => {
                    self.done.push_back(Event::Erased { tier, place, key, done: true });
                }
                Effect::Restamp { tier, key, .. } => {
                    self.done.push_back(Event::Restamped { tier, key, end: RestampEnd::Written });
                }
                Effect::Complete { completion, .. } => self.completed(&completion),
                Effect::AwaitEngine { op, .. } => {
                    self.done.push_back(Event::EngineCame { op, came: true });
                }
                Effect::PoolFreed { .. } | Effect::Residency { .. } | Effect::LookAgain { .. } => {}
            }
        }
        self.effects = effects;
        answer
    }

    /// A loaded request needs its lease no longer: the engine has its blocks.
    fn completed(&mut self, completion: &Completion) {
        let Some(timed) = self.timed.as_mut().filter(|_| completion.kind == OpKind::Load) else {
            return;
        };
        if let Some(lease) = timed.waits.loaded(completion.request, &completion.failed, self.now) {
            let command = Command::ReleaseLease { lease };
            self.done.push_back(Event::Command { tag: TAG, client: CLIENT, command });
        }
    }
}
