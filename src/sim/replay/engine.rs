//! The one engine of a replay: asks the manager and performs what it answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::hint::Action;
use crate::domain::retention::Directives;
use crate::domain::session::{SessionName, Stop};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::manager::api::{
    ClientId, Command, Completion, Effect, Event, LeaseId, OpKind, PoolId, Reply, ReplyTag,
    RequestId, RestampEnd, Run, Status, TransferId,
};
use crate::manager::{Manager, ManagerConfig};
use crate::sim::timeline::Timeline;
use crate::workload::Request;
use crate::workload::content::mix;

use super::hints::{Hints, Outlook, Told, Voice, session_name};
use super::links::Roads;
use super::{Pace, ReplayConfig};

const CLIENT: ClientId = ClientId(1);
const TAG: ReplyTag = ReplyTag(0);

/// The pool has so many slots that none is used again while a copy may still touch it.
const POOL_SLOTS: u32 = u32::MAX;

/// How often the manager hears that time passed.
const TICK: Duration = Duration::from_millis(100);

/// What a call takes where the trace doesn't say.
const API_MS_DEFAULT: u32 = 5_000;

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
    session: u64,
    sub: u32,
    stop: Stop,
    output_tokens: u32,
    outlook: Outlook,
}

pub(super) struct Engine {
    manager: Manager,
    now: Time,
    ticked: Time,
    seed: u64,
    /// The fastest tier there is.
    fastest: Option<Tier>,
    pool: PoolId,
    next_slot: u32,
    requests: usize,
    effects: Vec<Effect>,
    /// What copies that take no time have to tell the manager.
    done: VecDeque<Event>,
    /// Copies that take time; none when instant.
    roads: Option<Roads>,
    timeline: Timeline<Due>,
    open: BTreeMap<RequestId, OpenRequest>,
    /// Leases that end when the request's load has: the engine has its blocks then.
    leases: BTreeMap<RequestId, LeaseId>,
    voice: Voice,
}

impl Engine {
    pub(super) fn new(bounds: ManagerConfig, config: &ReplayConfig, told: Told) -> Self {
        let fastest = Tier::ALL.into_iter().find(|tier| bounds.tiers[tier.index()].is_some());
        let namespace = super::namespace();
        let mut engine = Self {
            manager: Manager::new(bounds),
            fastest,
            now: Time::ZERO,
            ticked: Time::ZERO,
            seed: mix(config.seed),
            pool: PoolId(0),
            next_slot: 0,
            requests: 0,
            effects: Vec::new(),
            done: VecDeque::new(),
            roads: match config.pace {
                Pace::Instant => None,
                Pace::Timed { block_bytes } => Some(Roads::new(block_bytes)),
            },
            timeline: Timeline::default(),
            open: BTreeMap::new(),
            leases: BTreeMap::new(),
            voice: Voice::new(told),
        };
        engine.ask(Command::Hello { namespace });
        let Reply::Pool { pool } =
            engine.ask(Command::RegisterPool { shard: 0, slots: POOL_SLOTS })
        else {
            unreachable!("a client that said Hello may register a pool");
        };
        engine.pool = pool;
        engine
    }

    /// One request: where its blocks were at arrival.
    pub(super) fn request(&mut self, request: &Request) -> Vec<Run> {
        self.proceed_to(request.t);
        let outlook = self.voice.outlook(self.requests);
        self.requests += 1;
        let id = RequestId(self.requests as u64);
        self.announce(request, outlook);
        let keys: Vec<Key> = request.block_ids().map(|block| self.key(block)).collect();
        let session = self.named(request.session, request.sub);
        let Reply::Lookup { runs, lease, .. } = self.ask(Command::Lookup {
            request: id,
            session,
            keys: keys.clone(),
            ask_shared: Duration::ZERO,
        }) else {
            unreachable!("lookups are refused only beyond the bounds set here");
        };
        let hits = runs.iter().map(|run| run.blocks as usize).sum();
        let wanted = self.worth_loading(&runs, &keys[..hits]);
        let loads = !wanted.is_empty();
        if let Some(lease) = lease.filter(|_| loads && self.roads.is_some()) {
            self.leases.insert(id, lease);
        }
        self.load(id, wanted);
        let mut open = OpenRequest {
            keys: Vec::new(),
            session: request.session,
            sub: request.sub,
            stop: request.stop,
            output_tokens: request.output_tokens,
            outlook,
        };
        if self.roads.is_some() {
            open.keys = keys;
            self.answer_later(id, request, open);
        } else {
            let (parent, missing) = (hits.checked_sub(1).map(|last| keys[last]), &keys[hits..]);
            self.store(id, &open, parent, missing.to_vec());
            if self.voice.hints == Hints::None {
                self.end_request(id, Stop::Unknown, 0);
            } else {
                if let Some(lease) = lease {
                    self.ask(Command::ReleaseLease { lease });
                }
                self.answer_later(id, request, open);
            }
        }
        runs
    }

    /// What the agent says just before its request.
    fn announce(&mut self, request: &Request, outlook: Outlook) {
        let Some(session) = self.named(request.session, request.sub) else { return };
        let mut actions = Vec::new();
        if request.sub > 0 && request.turn == 0 {
            let parent = self.named(request.session, 0);
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
        let api_ms = request.api_ms.unwrap_or(API_MS_DEFAULT);
        let mut answered = self.now + Duration::from_millis(api_ms.into());
        if self.voice.hints > Hints::None {
            answered = answered.min(open.outlook.next.unwrap_or(Time::MAX));
        }
        self.open.insert(id, open);
        self.timeline.add(answered, Due::Answered(id));
    }

    fn answered(&mut self, id: RequestId) {
        let mut open = self.open.remove(&id).expect("a request is answered once");
        let keys = std::mem::take(&mut open.keys);
        self.store(id, &open, None, keys);
        let hints = self.voice.hints;
        if hints == Hints::None {
            self.end_request(id, Stop::Unknown, 0);
            return;
        }
        self.end_request(id, open.stop, open.output_tokens);
        let Some(session) = self.named(open.session, open.sub) else { return };
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
    fn named(&self, session: u64, sub: u32) -> Option<SessionName> {
        (self.voice.hints > Hints::None).then(|| session_name(session, sub))
    }

    fn hint(&mut self, actions: Vec<Action>) {
        if !actions.is_empty() {
            self.ask(Command::Hint { actions });
        }
    }

    fn end_request(&mut self, request: RequestId, stop: Stop, output_tokens: u32) {
        self.ask(Command::EndRequest { request, stop, output_tokens });
    }

    /// Lets what is under way end.
    pub(super) fn finish(&mut self) -> Box<Status> {
        self.proceed_to(Time::MAX);
        match self.ask(Command::Status) {
            Reply::Status(status) => status,
            other => unreachable!("the answer to Status was {other:?}"),
        }
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

    /// What a load would change: where copies take no time, one from the fastest tier to the
    /// engine changes nothing, and most are of that kind.
    fn worth_loading(&self, runs: &[Run], keys: &[Key]) -> Vec<Key> {
        if self.roads.is_some() {
            return keys.to_vec();
        }
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
        self.ask(Command::Load { request, keys, pool, slots, timeout });
    }

    fn store(
        &mut self,
        request: RequestId,
        open: &OpenRequest,
        parent: Option<Key>,
        keys: Vec<Key>,
    ) {
        if keys.is_empty() {
            return;
        }
        let (pool, slots) = (self.pool, self.slots(keys.len()));
        self.ask(Command::Store {
            request,
            session: self.named(open.session, open.sub),
            directives: Directives::default(),
            parent,
            keys,
            pool,
            slots,
        });
    }

    fn slots(&mut self, count: usize) -> Vec<u32> {
        let count = u32::try_from(count).expect("a request's blocks are bounded");
        if self.roads.is_none() || self.next_slot > POOL_SLOTS - count {
            self.next_slot = 0;
        }
        let first = self.next_slot;
        self.next_slot += count;
        (first..first + count).collect()
    }

    /// Lets time pass until `until`, with all that happens meanwhile.
    fn proceed_to(&mut self, until: Time) {
        while let Some((at, due)) = self.timeline.pop_until(until) {
            self.pass_to(at);
            match due {
                Due::Landed(transfer) => {
                    self.tell(Event::TransferDone { transfer, failed: Vec::new() });
                }
                Due::Answered(request) => self.answered(request),
            }
        }
        if until < Time::MAX {
            self.pass_to(until);
        }
    }

    /// The clock moves; a tick that fell due in between comes with the first event after it.
    fn pass_to(&mut self, now: Time) {
        self.now = self.now.max(now);
        if self.roads.is_some() && self.ticked + TICK <= self.now {
            self.ticked = self.now;
            self.tell(Event::Tick);
        }
    }

    /// Puts a command to the manager and performs all that follows at once.
    fn ask(&mut self, command: Command) -> Reply {
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
                    if let Some(roads) = &mut self.roads {
                        let landing = roads.landing(self.now, transfer.link, blocks);
                        self.timeline.add(landing, Due::Landed(id));
                    } else {
                        let failed = Vec::new();
                        self.done.push_back(Event::TransferDone { transfer: id, failed });
                    }
                }
                Effect::Erase { tier, place, key, .. } => {
                    self.done.push_back(Event::Erased { tier, place, key });
                }
                Effect::Restamp { tier, key, .. } => {
                    self.done.push_back(Event::Restamped { tier, key, end: RestampEnd::Written });
                }
                Effect::Complete { completion, .. } => self.completed(&completion),
                Effect::PoolFreed { .. } => {}
            }
        }
        self.effects = effects;
        answer
    }

    /// A loaded request needs its lease no longer: the engine has its blocks.
    fn completed(&mut self, completion: &Completion) {
        if completion.kind == OpKind::Load
            && let Some(lease) = self.leases.remove(&completion.request)
        {
            let command = Command::ReleaseLease { lease };
            self.done.push_back(Event::Command { tag: TAG, client: CLIENT, command });
        }
    }
}
