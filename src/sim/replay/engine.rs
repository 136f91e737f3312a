//! The one engine of a replay: asks the manager and performs what it answers.

mod time;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::hint::Action;
use crate::domain::planner::Plan;
use crate::domain::retention::Directives;
use crate::domain::session::{SessionName, Stop};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::manager::api::{
    ClientId, Command, Effect, Event, Labels, LeaseId, LiftCounts, PoolId, Reply, RequestId, Run,
    Status, TransferId,
};
use crate::manager::{Manager, ManagerConfig};
use crate::sim::timeline::Timeline;
use crate::workload::Request;
use crate::workload::content::mix;

use super::hints::{Hints, Outlook, Told, Voice, session_name};
use super::links::Roads;
use super::waits::{Agent, Loading, Waits};
use super::{PAYLOAD_BYTES, Pace, ReplayConfig, TimedOutcome, Timing};

const CLIENT: ClientId = ClientId(1);

/// The pool has so many slots that none is used again while a copy may still touch it.
const POOL_SLOTS: u32 = u32::MAX;

/// Something that happens later.
enum Due {
    Landed(TransferId),
    /// The request was answered: its blocks are stored.
    Answered(RequestId),
}

/// A request that waits for its answer.
struct OpenRequest {
    /// What is stored then; nothing if it was stored at arrival.
    keys: Vec<Key>,
    agent: Agent,
    stop: Stop,
    output_tokens: u32,
    outlook: Outlook,
}

/// What only a replay in which copies take time has.
struct Timed {
    timing: Timing,
    roads: Roads,
    waits: Waits,
}

pub(super) struct Engine {
    manager: Manager,
    now: Time,
    /// The first request's time.
    began: Time,
    /// When the manager last heard that time passed, and when anything else last happened.
    ticked: Time,
    stirred: Time,
    seed: u64,
    /// The fastest tier there is.
    fastest: Option<Tier>,
    pool: PoolId,
    next_slot: u32,
    requests: usize,
    answer_ms: u32,
    assumed_answers: u64,
    effects: Vec<Effect>,
    /// What copies that take no time have to tell the manager.
    done: VecDeque<Event>,
    /// None when instant.
    timed: Option<Timed>,
    timeline: Timeline<Due>,
    open: BTreeMap<RequestId, OpenRequest>,
    voice: Voice,
}

impl Engine {
    pub(super) fn new(bounds: ManagerConfig, config: &ReplayConfig, told: Told) -> Self {
        let fastest = Tier::ALL.into_iter().find(|tier| bounds.tiers[tier.index()].is_some());
        let namespace = super::namespace(config.block_tokens);
        let mut engine = Self {
            manager: Manager::new(bounds),
            fastest,
            now: Time::ZERO,
            began: Time::ZERO,
            ticked: Time::ZERO,
            stirred: Time::ZERO,
            seed: mix(config.seed),
            pool: PoolId(0),
            next_slot: 0,
            requests: 0,
            answer_ms: config.answer_ms,
            assumed_answers: 0,
            effects: Vec::new(),
            done: VecDeque::new(),
            timed: match config.pace {
                Pace::Instant => None,
                Pace::Timed(timing) => Some(Timed {
                    timing,
                    roads: Roads::new(&timing.links, timing.block_bytes),
                    waits: Waits::new(timing.prefill_tokens_per_s, config.block_tokens),
                }),
            },
            timeline: Timeline::default(),
            open: BTreeMap::new(),
            voice: Voice::new(told),
        };
        let prefill_tokens_per_s =
            engine.timed.as_ref().map(|timed| timed.timing.prefill_tokens_per_s.get());
        engine.ask(Command::Hello { namespace, engine: None, prefill_tokens_per_s });
        let Reply::Pool { pool } =
            engine.ask(Command::RegisterPool { shard: 0, slots: POOL_SLOTS, has_events: false })
        else {
            unreachable!("a client that said Hello may register a pool");
        };
        engine.pool = pool;
        engine
    }

    /// One request: where its blocks were at arrival.
    pub(super) fn request(&mut self, request: &Request) -> Vec<Run> {
        if self.requests == 0 {
            self.begin_at(request.t);
        }
        self.proceed_to(request.t);
        let outlook = self.voice.outlook(self.requests);
        self.requests += 1;
        let id = RequestId(self.requests as u64);
        self.announce(request, outlook);
        let keys: Vec<Key> = request.block_ids().map(|block| self.key(block)).collect();
        let agent = (request.session, request.sub);
        let (stop, output_tokens) = (request.stop, request.output_tokens);
        let open = OpenRequest { keys: Vec::new(), agent, stop, output_tokens, outlook };
        if self.timed.is_some() {
            self.request_timed(id, request, OpenRequest { keys, ..open })
        } else {
            self.request_instant(id, request, open, &keys)
        }
    }

    /// Loads what the manager advises and lets the model compute the rest; the blocks are stored
    /// with the answer.
    fn request_timed(&mut self, id: RequestId, request: &Request, open: OpenRequest) -> Vec<Run> {
        let (agent, arrived, input_tokens) = (open.agent, self.now, request.input_tokens);
        let was_idle = self.waits().was_idle(agent, arrived);
        let timely_before = if was_idle { self.timely_blocks() } else { 0 };
        let (runs, lease, plan) = self.lookup(id, agent, &open.keys);
        let found: usize = runs.iter().map(|run| run.blocks as usize).sum();
        // Nobody advises against anything while the model's rate is not known.
        let advised = plan.recompute.map_or(found, |_| (plan.load.blocks as usize).min(found));
        let blocks = u32::try_from(advised).expect("a request's blocks are bounded");
        let held = lease.filter(|_| advised > 0);
        self.waits().begin(id, Loading { arrived, input_tokens, blocks, lease: held });
        self.waits().declined(found, advised);
        self.load(id, open.keys[..advised].to_vec());
        if let Some(lease) = lease.filter(|_| advised == 0) {
            self.ask(Command::ReleaseLease { lease });
        }
        if was_idle {
            let timely = self.timely_blocks() - timely_before;
            self.waits().resumed(&runs, advised, timely);
        }
        self.answer_later(id, request, open);
        runs
    }

    /// Loads and stores at once.
    fn request_instant(
        &mut self,
        id: RequestId,
        request: &Request,
        open: OpenRequest,
        keys: &[Key],
    ) -> Vec<Run> {
        let (runs, lease, _) = self.lookup(id, open.agent, keys);
        let found: usize = runs.iter().map(|run| run.blocks as usize).sum();
        self.load(id, self.worth_loading(&runs, &keys[..found]));
        let (parent, missing) = (found.checked_sub(1).map(|last| keys[last]), &keys[found..]);
        self.store(id, open.agent, parent, missing.to_vec());
        if self.voice.hints == Hints::None {
            self.end_request(id, Stop::Unknown, 0);
        } else {
            if let Some(lease) = lease {
                self.ask(Command::ReleaseLease { lease });
            }
            self.answer_later(id, request, open);
        }
        runs
    }

    fn lookup(
        &mut self,
        request: RequestId,
        agent: Agent,
        keys: &[Key],
    ) -> (Vec<Run>, Option<LeaseId>, Plan) {
        let (session, keys) = (self.named(agent), keys.to_vec());
        let ask_shared = Duration::ZERO;
        let asked = Command::Lookup { request, session, keys, ask_shared, queued: false };
        let Reply::Lookup { runs, lease, plan, .. } = self.ask(asked) else {
            unreachable!("lookups are refused only beyond the bounds set here");
        };
        (runs, lease, plan)
    }

    fn waits(&mut self) -> &mut Waits {
        &mut self.timed.as_mut().expect("only a timed replay waits").waits
    }

    /// Blocks that were lifted so far, and there before they were asked for.
    fn timely_blocks(&self) -> u64 {
        self.manager.lift_counts().timely_bytes / u64::from(PAYLOAD_BYTES)
    }

    /// What the agent says just before its request.
    fn announce(&mut self, request: &Request, outlook: Outlook) {
        let Some(session) = self.named((request.session, request.sub)) else { return };
        let mut actions = Vec::new();
        if request.sub > 0 && request.turn == 0 {
            let parent = self.named((request.session, 0));
            actions.push(Action::SessionStart { session: session.clone(), parent });
        }
        if self.voice.hints >= Hints::Timing {
            actions.push(Action::ToolReturn { session: session.clone() });
        }
        if self.voice.hints >= Hints::Lifecycle && outlook.resets {
            actions.push(Action::SessionReset { session });
        }
        self.hint(actions);
    }

    /// An answer comes before the agent's next request, whatever the trace says it took.
    fn answer_later(&mut self, id: RequestId, request: &Request, open: OpenRequest) {
        self.assumed_answers += u64::from(request.api_ms.is_none());
        let api_ms = request.api_ms.unwrap_or(self.answer_ms);
        let answered = self.now + Duration::from_millis(api_ms.into());
        let answered = answered.min(open.outlook.next.unwrap_or(Time::MAX));
        self.open.insert(id, open);
        self.timeline.add(answered, Due::Answered(id));
    }

    fn answered(&mut self, id: RequestId) {
        let mut open = self.open.remove(&id).expect("a request is answered once");
        let keys = std::mem::take(&mut open.keys);
        self.store(id, open.agent, None, keys);
        let now = self.now;
        if let Some(timed) = &mut self.timed {
            timed.waits.answered(open.agent, now);
        }
        let hints = self.voice.hints;
        if hints == Hints::None {
            self.end_request(id, Stop::Unknown, 0);
            return;
        }
        self.end_request(id, open.stop, open.output_tokens);
        let Some(session) = self.named(open.agent) else { return };
        let mut actions = Vec::new();
        if let Some(expected) = self.voice.expected(self.now, open.stop, open.outlook) {
            let (session, expected) = (session.clone(), Some(expected));
            actions.push(Action::ToolStart { session, expected });
        }
        if hints >= Hints::Lifecycle && open.outlook.next.is_none() {
            actions.push(Action::SessionEnd { session, tree: false });
        }
        self.hint(actions);
    }

    /// The session's name, where names are told.
    fn named(&self, (session, sub): Agent) -> Option<SessionName> {
        (self.voice.hints > Hints::None).then(|| session_name(session, sub))
    }

    fn hint(&mut self, actions: Vec<Action>) {
        if !actions.is_empty() {
            self.ask(Command::Hint { actions });
        }
    }

    fn end_request(&mut self, request: RequestId, stop: Stop, output_tokens: u32) {
        self.ask(Command::EndRequest { request, stop, output_tokens, prefill: None });
    }

    pub(super) const fn assumed_answers(&self) -> u64 {
        self.assumed_answers
    }

    /// Lets what is under way end.
    pub(super) fn finish(&mut self) -> (Box<Status>, Option<TimedOutcome>) {
        self.proceed_to(Time::MAX);
        let status = self.status();
        let took = self.now.since(self.began);
        let lifts = self.lifts_at_last();
        let timed = self.timed.as_mut().map(|timed| {
            let (ttft, load_stall, tokens) = timed.waits.finish();
            TimedOutcome {
                ttft,
                load_stall,
                declined_tokens: tokens.declined,
                prefetched: timed.timing.prefetched(&lifts, tokens),
                links: timed.roads.used(),
                took,
            }
        });
        (status, timed)
    }

    fn status(&mut self) -> Box<Status> {
        let Reply::Status(status) = self.ask(Command::Status) else {
            unreachable!("a status is never refused");
        };
        status
    }

    /// What became of what was lifted: what is still held was lifted for requests that do not come any more.
    fn lifts_at_last(&mut self) -> LiftCounts {
        self.let_lifts_end();
        self.status().lifts
    }

    /// Two mixed words: as uniform as real keys, at a hundredth of the price.
    fn key(&self, block_id: u64) -> Key {
        let low = mix(self.seed ^ block_id);
        let mut bytes = [0; Key::BYTES];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&low.to_le_bytes());
        tail.copy_from_slice(&mix(!low).to_le_bytes());
        Key(bytes)
    }

    /// What a load would change where copies take no time: one from the fastest tier to the engine
    /// changes nothing, and most are of that kind.
    fn worth_loading(&self, runs: &[Run], keys: &[Key]) -> Vec<Key> {
        let mut rest = keys;
        let mut below = Vec::new();
        for run in runs {
            let (stretch, after) = rest.split_at(run.blocks as usize);
            rest = after;
            if Some(run.tier) != self.fastest {
                below.extend_from_slice(stretch);
            }
        }
        below
    }

    fn load(&mut self, request: RequestId, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        let (pool, slots) = (self.pool, self.slots(keys.len()));
        let timeout = Duration::from_hours(1);
        let answer = self.ask(Command::Load { request, keys, pool, slots, timeout });
        assert!(matches!(answer, Reply::Load { .. }), "a load within all bounds: {answer:?}");
    }

    fn store(&mut self, request: RequestId, agent: Agent, parent: Option<Key>, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        let (pool, slots) = (self.pool, self.slots(keys.len()));
        self.ask(Command::Store {
            request,
            session: self.named(agent),
            directives: Directives::default(),
            parent,
            keys,
            labels: Labels::default(),
            pool,
            slots,
            durable: false,
        });
    }

    fn slots(&mut self, count: usize) -> Vec<u32> {
        let count = u32::try_from(count).expect("a request's blocks are bounded");
        if self.timed.is_none() || self.next_slot > POOL_SLOTS - count {
            self.next_slot = 0;
        }
        let first = self.next_slot;
        self.next_slot += count;
        (first..first + count).collect()
    }
}
