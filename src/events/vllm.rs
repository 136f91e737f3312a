//! A batch of the journal as vLLM tells it: `(topic, sequence, payload)`, the payload MessagePack.
//!
//! Source: `vllm/distributed/kv_events.py` of vLLM 0.32.0: `[ts, events, data_parallel_rank]`, and
//! each event a map tagged `type`. Says nothing of blocks that nobody named, and never that a block
//! is there before it can be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::domain::directory::Change;
use crate::domain::tier::{Tier, TierSet};
use crate::domain::units::Time;
use crate::manager::shell::{Batch, Entry, Journal};

use super::pack::Pack;

/// One message, in three frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: Vec<u8>,
    pub(super) sequence: u64,
    pub(super) payload: Bytes,
}

/// What a reader finds at a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Message(Message),
    /// It is gone; the oldest that is left has this number.
    Lost {
        oldest: u64,
    },
}

/// The journal as a row of messages. Number 0 says that nothing is here, since a daemon that has just
/// started knows of nothing; number `n` is the batch `n - 1`.
pub(super) struct Feed {
    journal: Arc<Journal>,
    topic: String,
    /// The newest that was packed for subscribers: most of them want it at the same time.
    newest: Mutex<Option<(u64, Bytes)>>,
}

impl Feed {
    pub(super) fn new(journal: Arc<Journal>, topic: String) -> Self {
        Self { journal, topic, newest: Mutex::default() }
    }

    /// The number of the next message to come.
    pub(super) fn next_sequence(&self) -> u64 {
        self.journal.next_sequence() + 1
    }

    /// What stands at `sequence`; nothing if that is still to come.
    pub(super) fn at(&self, sequence: u64) -> Option<Found> {
        let Some(batch) = sequence.checked_sub(1) else { return Some(self.cleared()) };
        self.journal.at(batch).map(|entry| self.found(entry))
    }

    /// As [`Self::at`] for a subscriber, which follows the newest; waits for what is still to come. Nothing of a
    /// message whose topic it does not want is made.
    pub(super) async fn follow(
        &self,
        sequence: u64,
        wants: impl Fn(&[u8]) -> bool,
    ) -> Option<Found> {
        let batch = match sequence.checked_sub(1) {
            None => return Some(self.cleared()),
            Some(before) => match self.journal.follow(before).await {
                Entry::Batch(batch) => batch,
                Entry::Lost { oldest } => return Some(Found::Lost { oldest: oldest + 1 }),
            },
        };
        let topic = self.topic_of_batch(&batch);
        wants(&topic).then(|| {
            let payload = self.shared(&batch);
            Found::Message(Message { topic, sequence, payload })
        })
    }

    /// The payload, packed once for all who follow closely.
    fn shared(&self, batch: &Batch) -> Bytes {
        // It is replaced as a whole, so a panic leaves it whole.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some((sequence, payload)) if *sequence == batch.sequence => payload.clone(),
            // Who is behind packs for itself, and leaves the newest to the others.
            Some((sequence, _)) if *sequence > batch.sequence => {
                drop(newest);
                pack(batch)
            }
            _ => {
                let payload = pack(batch);
                *newest = Some((batch.sequence, payload.clone()));
                payload
            }
        }
    }

    fn found(&self, entry: Entry) -> Found {
        match entry {
            Entry::Batch(batch) => Found::Message(Message {
                topic: self.topic_of_batch(&batch),
                sequence: batch.sequence + 1,
                payload: pack(&batch),
            }),
            Entry::Lost { oldest } => Found::Lost { oldest: oldest + 1 },
        }
    }

    /// The message is there as long as what follows it is.
    fn cleared(&self) -> Found {
        if let Some(Entry::Lost { oldest }) = self.journal.at(0) {
            return Found::Lost { oldest: oldest + 1 };
        }
        let mut pack = head(Time { micros: self.journal.life() }, 1);
        pack.map(1).text("type").text("AllBlocksCleared").uint(RANK);
        let topic = self.topic_of("");
        Found::Message(Message { topic, sequence: 0, payload: pack.into_bytes().into() })
    }

    fn topic_of_batch(&self, batch: &Batch) -> Vec<u8> {
        self.topic_of(batch.namespace.namespace.as_ref().map_or("", |known| &known.model))
    }

    fn topic_of(&self, model: &str) -> Vec<u8> {
        self.topic.replace("{model}", model).into_bytes()
    }
}

/// A daemon serves all ranks of an engine alike.
const RANK: u64 = 0;

/// What vLLM calls the places of blocks. Both tiers that outlive memory are storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Medium {
    Gpu,
    Cpu,
    Storage,
}

impl Medium {
    const ALL: [Self; 3] = [Self::Gpu, Self::Cpu, Self::Storage];

    const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "GPU",
            Self::Cpu => "CPU",
            Self::Storage => "STORAGE",
        }
    }

    fn holds(self, tiers: TierSet) -> bool {
        match self {
            Self::Gpu => tiers.has(Tier::Hbm),
            Self::Cpu => tiers.has(Tier::Dram),
            Self::Storage => tiers.has(Tier::Nvme) || tiers.has(Tier::Object),
        }
    }
}

/// A block that came to a medium, or left it.
#[derive(Clone, Copy)]
struct Move<'a> {
    change: &'a Change,
    medium: Medium,
    came: bool,
}

impl Move<'_> {
    /// Whether one event may tell both, of one medium: the second's parent is the first, and both came with
    /// tokens or without.
    fn precedes(&self, next: &Self) -> bool {
        let (one, other) = (self.change, next.change);
        other.parent_tail == one.tail && one.tokens.len() == other.tokens.len()
    }
}

fn pack(batch: &Batch) -> Bytes {
    let block_tokens = batch.namespace.namespace.as_ref().map_or(0, |known| known.block_tokens);
    payload(batch.at, block_tokens, &batch.changes).into()
}

fn payload(at: Time, block_tokens: u32, changes: &[Change]) -> Vec<u8> {
    let events = events(changes);
    let mut pack = head(at, events.len());
    for event in &events {
        write_event(&mut pack, block_tokens, event);
    }
    pack.uint(RANK);
    pack.into_bytes()
}

/// Each stretch in which no block is told twice of one medium has its moves in as few events as they go:
/// their order says nothing then.
fn events(changes: &[Change]) -> Vec<Vec<Move<'_>>> {
    let (mut events, mut stretch, mut told) = (Vec::new(), Vec::new(), BTreeSet::new());
    for one in changes.iter().filter(|one| is_named(one)).flat_map(moves) {
        if !told.insert((one.change.tail, one.medium)) {
            join(&mut events, std::mem::take(&mut stretch));
            told = BTreeSet::from([(one.change.tail, one.medium)]);
        }
        stretch.push(one);
    }
    join(&mut events, stretch);
    events
}

/// What came goes first, so that no block is away meanwhile: parents before children, a chain an event. What
/// went is told in its order, a medium an event.
fn join<'a>(events: &mut Vec<Vec<Move<'a>>>, stretch: Vec<Move<'a>>) {
    let (mut came, went): (Vec<_>, Vec<_>) = stretch.into_iter().partition(|one| one.came);
    came.sort_by_key(|one| one.change.position);
    // The event that ends with a block, by what is told of it.
    let mut ends = BTreeMap::new();
    for one in came {
        let parent = ends.remove(&(one.change.parent_tail, one.medium));
        let event = match parent.filter(|at: &usize| precedes(&events[*at], &one)) {
            Some(at) => at,
            None => begin(events),
        };
        ends.insert((one.change.tail, one.medium), event);
        events[event].push(one);
    }
    let mut of_medium = BTreeMap::new();
    for one in went {
        let event = *of_medium.entry(one.medium).or_insert_with(|| begin(events));
        events[event].push(one);
    }
}

fn precedes(event: &[Move<'_>], next: &Move<'_>) -> bool {
    event.last().is_some_and(|last| last.precedes(next))
}

fn begin(events: &mut Vec<Vec<Move<'_>>>) -> usize {
    events.push(Vec::new());
    events.len() - 1
}

/// `[ts, [events...` up to the first of so many events.
fn head(at: Time, events: usize) -> Pack {
    let mut pack = Pack::default();
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds since 1970 fit 53 bits until 2255"
    )]
    let seconds = at.micros as f64 / 1e6;
    pack.array(3).float(seconds).array(events);
    pack
}

/// Whether routers have a name for the block, and for the one before it.
fn is_named(change: &Change) -> bool {
    change.tail.known().is_some() && (change.position == 0 || change.parent_tail.known().is_some())
}

fn moves(change: &Change) -> impl Iterator<Item = Move<'_>> {
    Medium::ALL.into_iter().filter_map(move |medium| {
        let (before, after) = (medium.holds(change.before), medium.holds(change.after));
        (before != after).then_some(Move { change, medium, came: after })
    })
}

/// One event: the fields in vLLM's order, those left out that have their default.
fn write_event(pack: &mut Pack, block_tokens: u32, moves: &[Move<'_>]) {
    let Move { change: first, medium, came } = moves[0];
    if !came {
        pack.map(3).text("type").text("BlockRemoved");
        write_hashes(pack, moves);
        pack.text("medium").text(medium.name());
        return;
    }
    pack.map(8).text("type").text("BlockStored");
    write_hashes(pack, moves);
    pack.text("parent_block_hash").maybe_uint(first.parent_tail.known());
    write_tokens(pack, moves);
    pack.text("block_size").uint(block_tokens.into());
    pack.text("lora_id").nil();
    pack.text("medium").text(medium.name());
    pack.text("lora_name").nil();
}

fn write_tokens(pack: &mut Pack, moves: &[Move<'_>]) {
    let tokens = moves.iter().flat_map(|one| one.change.tokens.as_chunks::<4>().0);
    pack.text("token_ids").array(tokens.clone().count());
    for token in tokens {
        pack.uint(u32::from_le_bytes(*token).into());
    }
}

fn write_hashes(pack: &mut Pack, moves: &[Move<'_>]) {
    pack.text("block_hashes").array(moves.len());
    for one in moves {
        pack.uint(one.change.tail.0);
    }
}

#[cfg(test)]
mod tests;
