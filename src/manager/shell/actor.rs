//! The manager's thread: takes messages in order, steps the manager, hands its effects on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use tokio::sync::{mpsc, oneshot};

use super::fate::Running;
use super::journal::{Journal, Page};
use super::perform::Performer;
use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::env::Clock;
use crate::manager::api::{
    ClientId, Command, Completion, Effect, Event, NamespaceId, PoolId, Reply, ReplyTag,
};
use crate::manager::{Manager, NamespaceEntry};
use crate::tiers::frame::FrameHeader;
use crate::tiers::hbm::{EnginePool, Gone};
use crate::tiers::health::Refuses;
use crate::tiers::store::FoundFrame;

/// What the manager's thread is told by others than the movers of bytes.
pub(super) enum Message {
    Joined {
        client: ClientId,
        completions: mpsc::Sender<Completion>,
    },
    Command {
        client: ClientId,
        command: Command,
        reply: oneshot::Sender<Reply>,
    },
    RegisterPool {
        client: ClientId,
        pool: Arc<EnginePool>,
        reply: oneshot::Sender<Reply>,
    },
    ClientGone {
        client: ClientId,
    },
    /// How much of a chain is here, before the shared store is asked for the rest.
    Known {
        keys: Vec<Key>,
        known: oneshot::Sender<Option<usize>>,
    },
    /// How far the shared store has a chain: its keys up to there, and how many of them were known
    /// before.
    Shared {
        client: ClientId,
        keys: Vec<Key>,
        known: usize,
        headers: BTreeMap<usize, FrameHeader>,
    },
    /// Headers of objects that had been presumed to be there.
    Headers {
        frames: Vec<FoundFrame>,
    },
    /// A stretch of the directory for those who follow residency.
    Residents {
        first_row: u32,
        page: oneshot::Sender<Page>,
    },
    Stop {
        patience: Duration,
    },
}

/// What the manager's thread takes from.
pub(super) struct Queues {
    pub messages: Receiver<Message>,
    /// From whoever moves bytes.
    pub events: Receiver<Event>,
    /// From the scan at the start.
    pub scanned: Receiver<Event>,
}

/// How often time passes for leases and timeouts.
const TICK: Duration = Duration::from_millis(100);

/// Rows of the directory in one page: a fraction of a millisecond of the manager's time.
const PAGE_ROWS: u32 = 4096;

/// Who waits for a reply.
struct Asker {
    reply: oneshot::Sender<Reply>,
    about: About,
}

/// The pool that a command is about, if it is.
enum About {
    NoPool,
    /// To keep, if the manager takes it.
    Registers(Arc<EnginePool>),
    /// Is let go of before anybody hears that it is.
    Unregisters(Option<Gone>),
}

pub(super) struct Actor {
    manager: Manager,
    clock: Arc<dyn Clock>,
    performer: Arc<Performer>,
    effects: Vec<Effect>,
    asker: Option<Asker>,
    completions: HashMap<ClientId, mpsc::Sender<Completion>>,
    pools: HashMap<PoolId, Arc<EnginePool>>,
    /// Clients that left too many completions unread.
    given_up: Vec<ClientId>,
    /// What the performer will tell the end of.
    under_way: usize,
    stop_by: Option<Time>,
    /// What the manager knows of each tier.
    refuses: [Refuses; Tier::COUNT],
    journal: Option<Arc<Journal>>,
    /// What batches say of their namespaces, once clients have told it.
    namespaces: HashMap<NamespaceId, Arc<NamespaceEntry>>,
}

impl Actor {
    pub fn new(
        manager: Manager,
        clock: Arc<dyn Clock>,
        performer: Arc<Performer>,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        Self {
            manager,
            clock,
            performer,
            effects: Vec::new(),
            asker: None,
            completions: HashMap::new(),
            pools: HashMap::new(),
            given_up: Vec::new(),
            under_way: 0,
            stop_by: None,
            refuses: [Refuses::NOTHING; Tier::COUNT],
            journal,
            namespaces: HashMap::new(),
        }
    }

    /// Runs until told to stop and nothing moves, or patience ends.
    pub fn run(mut self, running: Running, queues: &Queues) {
        // Dropped before what it answers with: whoever then hears nothing more finds out why.
        let _running = running;
        let ticks = crossbeam_channel::tick(TICK);
        let Queues { messages, events, scanned } = queues;
        let mut scanned = scanned.clone();
        loop {
            crossbeam_channel::select! {
                recv(messages) -> message => match message {
                    Ok(message) => self.message(message),
                    Err(_) => self.stop(Duration::ZERO),
                },
                recv(events) -> event => {
                    let event = event.expect("the performer holds a sender");
                    if ends_something(&event) {
                        self.under_way -= 1;
                    }
                    self.step(event);
                }
                recv(scanned) -> event => match event {
                    Ok(event) => self.step(event),
                    // Whoever scanned has ended, or there is nothing to scan.
                    Err(_) => scanned = crossbeam_channel::never(),
                },
                recv(ticks) -> _ => {
                    self.see_outages();
                    self.step(Event::Tick);
                }
            }
            if let Some(by) = self.stop_by
                && (self.under_way == 0 || self.clock.now() >= by)
            {
                return;
            }
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Joined { client, completions } => {
                self.completions.insert(client, completions);
            }
            Message::Command { client, command, reply } => {
                let about = match &command {
                    Command::UnregisterPool { pool } => {
                        About::Unregisters(self.pools.get(pool).map(|pool| pool.gone()))
                    }
                    _ => About::NoPool,
                };
                self.command(client, command, Asker { reply, about });
            }
            Message::RegisterPool { client, pool, reply } => {
                let claim = pool.claim();
                let (shard, slots) = (claim.shard, claim.layout.slots);
                let has_events = pool.has_events();
                let command = Command::RegisterPool { shard, slots, has_events };
                self.command(client, command, Asker { reply, about: About::Registers(pool) });
            }
            Message::ClientGone { client } => {
                self.completions.remove(&client);
                self.client_gone(client);
            }
            Message::Known { keys, known } => {
                // Whoever asked may have given up waiting.
                let _ = known.send(self.manager.known_prefix(&keys));
            }
            Message::Shared { client, keys, known, headers } => {
                self.shared(client, &keys, known, headers);
            }
            Message::Headers { frames } => {
                for frame in frames {
                    self.step(Event::Found { tier: Tier::Object, frame: Box::new(frame) });
                }
            }
            Message::Residents { first_row, page } => {
                // Between two steps: what changed so far is in the journal.
                let _ = page.send(self.page(first_row));
            }
            Message::Stop { patience } => self.stop(patience),
        }
    }

    /// Tells the manager which tiers went out or came back.
    fn see_outages(&mut self) {
        for tier in [Tier::Nvme, Tier::Object] {
            let refuses = self.performer.refuses(tier);
            if std::mem::replace(&mut self.refuses[tier.index()], refuses) != refuses {
                self.step(Event::Outage { tier, refuses });
            }
        }
    }

    fn page(&mut self, first_row: u32) -> Page {
        let (changes, next_row) = self.manager.residents(first_row, PAGE_ROWS);
        let as_of = self.journal.as_ref().map_or(0, |journal| journal.next_sequence());
        let of_one = changes.chunk_by(|one, next| one.namespace == next.namespace);
        let parts = of_one.map(|some| (self.entry(NamespaceId(some[0].namespace)), some.to_vec()));
        Page { as_of, parts: parts.collect(), next_row }
    }

    fn entry(&mut self, id: NamespaceId) -> Arc<NamespaceEntry> {
        let now = self.manager.namespace(id);
        // The number of a namespace that nobody uses may have been given to another.
        if let Some(entry) = self.namespaces.get(&id).filter(|entry| entry.digest == now.digest) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(now.clone());
        // Until a client says Hello in it, more may become known.
        if entry.namespace.is_some() {
            self.namespaces.insert(id, Arc::clone(&entry));
        }
        entry
    }

    /// Enters what the shared store has: what was read as it is, what lies between as presumed.
    fn shared(
        &mut self,
        client: ClientId,
        keys: &[Key],
        known: usize,
        mut headers: BTreeMap<usize, FrameHeader>,
    ) {
        for at in known..keys.len() {
            let event = match headers.remove(&at) {
                Some(header) => {
                    Event::Found { tier: Tier::Object, frame: Box::new(FoundFrame::object(header)) }
                }
                None => Event::Presumed {
                    client,
                    key: keys[at],
                    parent: at.checked_sub(1).map(|before| keys[before]),
                    position: u32::try_from(at).expect("lookups are bounded"),
                },
            };
            self.step(event);
        }
    }

    fn command(&mut self, client: ClientId, command: Command, asker: Asker) {
        self.asker = Some(asker);
        // One command is answered in its own step, so the tag has nothing to tell apart.
        self.step(Event::Command { tag: ReplyTag(0), client, command });
    }

    fn stop(&mut self, patience: Duration) {
        let by = self.clock.now() + patience;
        self.stop_by = Some(self.stop_by.map_or(by, |earlier| earlier.min(by)));
        self.step(Event::Stopping);
    }

    fn step(&mut self, event: Event) {
        let mut effects = std::mem::take(&mut self.effects);
        self.manager.step(self.clock.now(), event, &mut effects);
        for effect in effects.drain(..) {
            self.perform(effect);
        }
        self.effects = effects;
        while let Some(client) = self.given_up.pop() {
            self.client_gone(client);
        }
    }

    fn client_gone(&mut self, client: ClientId) {
        for pool in self.manager.pools_of(client) {
            if let Some(pool) = self.pools.get(&pool) {
                pool.leave();
            }
        }
        self.step(Event::ClientGone { client });
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { reply, .. } => self.reply(reply),
            Effect::Complete { client, completion } => self.complete(client, completion),
            Effect::AwaitEngine { op, pool } => self.performer.await_engine(op, &self.pools[&pool]),
            Effect::Start(transfer) => {
                self.under_way += 1;
                let namespace = self.entry(transfer.namespace);
                let pools = &self.pools;
                let pool = |id: PoolId| Arc::clone(&pools[&id]);
                let until = self.manager.waited_for_until(transfer.id);
                let waits = until.map(|until| until.since(self.clock.now()));
                Performer::start(&self.performer, (transfer, waits), &namespace, pool);
            }
            Effect::Erase { tier, place, key, why } => {
                self.under_way += 1;
                Performer::erase(&self.performer, (tier, place), key, why);
            }
            Effect::Restamp { tier, place, key, record, known } => {
                self.under_way += 1;
                Performer::restamp(&self.performer, (tier, place), key, (record, known));
            }
            Effect::LookAgain { key } => {
                self.under_way += 1;
                Performer::look_again(&self.performer, key);
            }
            Effect::Residency { namespace, changes } => {
                let entry = self.entry(namespace);
                if let Some(journal) = &self.journal {
                    journal.append(self.clock.now(), entry, changes);
                }
            }
            Effect::PoolFreed { pool, .. } => {
                if let Some(memory) = self.pools.remove(&pool) {
                    self.performer.unmap(memory);
                }
            }
        }
    }

    fn reply(&mut self, reply: Reply) {
        let Some(Asker { reply: answer, about }) = self.asker.take() else { return };
        match (about, &reply) {
            (About::Registers(memory), Reply::Pool { pool }) => {
                self.pools.insert(*pool, memory);
            }
            (About::Registers(memory), _) => self.performer.unmap(memory),
            (About::Unregisters(Some(gone)), Reply::Ok) => {
                return self.performer.tell_when_gone(gone, answer);
            }
            (About::Unregisters(_) | About::NoPool, _) => {}
        }
        // Whoever asked may have given up waiting.
        let _ = answer.send(reply);
    }

    fn complete(&mut self, client: ClientId, completion: Completion) {
        let Some(stream) = self.completions.get(&client) else { return };
        if let Err(why) = stream.try_send(completion) {
            // Whoever reads no more has gone, or is about to be told so.
            if matches!(why, mpsc::error::TrySendError::Full(_)) {
                tracing::warn!(
                    client = client.0,
                    "left its completions unread, so it counts as gone"
                );
            }
            self.completions.remove(&client);
            self.given_up.push(client);
        }
    }
}

/// Whether the event tells the end of something that was performed.
fn ends_something(event: &Event) -> bool {
    matches!(
        event,
        Event::TransferDone { .. }
            | Event::Erased { .. }
            | Event::Restamped { .. }
            | Event::StrayLookedAt { .. }
    )
}
