//! Holds the manager to its word: every command one reply, every operation one completion, every
//! pool one end, and what is served is what was committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::retention::{RetentionRecord, Scope};
use crate::domain::units::Time;
use crate::manager::api::{ClientId, Completion, OpId, OpKind, PoolId, RequestId, Status};
use crate::tiers::store::{FoundFrame, FrameMeta};

use super::machine::{Checked, Machine};

/// How long after its store's completion a block may stay unseen: other ranks' shards are sealed
/// by a copy of their own.
const SETTLES: Duration = Duration::from_secs(1);

/// A store or load as its client asked for it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) client: ClientId,
    pub(super) request: RequestId,
    pub(super) kind: OpKind,
    pub(super) keys: Vec<Key>,
    pub(super) pool: PoolId,
    pub(super) slots: Vec<u32>,
    pub(super) shard: u32,
    pub(super) shard_count: u32,
    /// Every block was asked for under a lease, or taken in: with no faults none may fail.
    pub(super) must_land: bool,
    /// The store took every block in itself.
    pub(super) all_taken: bool,
    /// The chain from its root up to the last of the blocks, where they are to be durable.
    pub(super) durable: Option<Vec<Key>>,
    /// [`Checker::outage_changes`] at the time.
    pub(super) outage_changes: u64,
}

/// What the manager promised, and what it still owes.
#[derive(Default)]
pub(super) struct Checker {
    /// Operations under way; what completes within its own step is told before it is known.
    ops: BTreeMap<OpId, Asked>,
    early: BTreeMap<OpId, (ClientId, Completion)>,
    ended: BTreeSet<OpId>,
    /// Lifts that clients were told of, and the blocks that each names.
    lifts: BTreeMap<OpId, (ClientId, u32)>,
    gone: BTreeSet<ClientId>,
    /// How often tiers went out and came back: what was asked before need not land.
    pub(super) outage_changes: u64,
    /// Clients may ask for other promises than a block came with.
    may_change_promises: bool,
    /// Shards of blocks that were stored, by bit, and since when all were.
    stored: BTreeMap<Key, (u64, Time)>,
    attempted: BTreeSet<Key>,
    /// What the manager was told of blocks that others wrote: when each is to be forgotten.
    promised: BTreeMap<Key, Time>,
    /// Objects that it wrote, or whose headers it was told.
    read: BTreeSet<Key>,
    /// Blocks that their clients were told are durable, where everything is kept.
    durable: BTreeSet<Key>,
    /// Counts for the report.
    pub(super) loaded_blocks: u64,
    pub(super) failed_blocks: u64,
}

impl Checker {
    pub(super) fn new(may_change_promises: bool) -> Self {
        Self { may_change_promises, ..Self::default() }
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.gone.insert(client);
        self.ops.retain(|_, asked| asked.client != client);
        self.lifts.retain(|_, (owner, _)| *owner != client);
        self.early.retain(|_, (owner, _)| *owner != client);
    }

    /// Every client is gone at once, and nothing is owed to them. Of what was stored, the frames
    /// that a scan will find are still there, where no link of their chain is missing.
    pub(super) fn crashed(
        &mut self,
        frames: &[FoundFrame],
        scanned: Time,
        machine: &Machine,
    ) -> Checked {
        let Self { loaded_blocks, failed_blocks, outage_changes, may_change_promises, .. } = *self;
        let durable = std::mem::take(&mut self.durable);
        *self = Self {
            outage_changes,
            may_change_promises,
            durable,
            loaded_blocks,
            failed_blocks,
            ..Self::default()
        };
        let mut metas: Vec<_> = frames.iter().map(|frame| frame.header.meta).collect();
        metas.sort_by_key(|meta| meta.position);
        for meta in metas {
            self.attempted.insert(meta.key);
            if meta.parent.is_none_or(|parent| self.stored.contains_key(&parent)) {
                self.stored.insert(meta.key, (u64::MAX, scanned));
            }
        }
        let is_left = |key: &&Key| self.stored.contains_key(*key) || machine.peek(**key).is_some();
        match self.durable.iter().find(|key| !is_left(key)) {
            None => Ok(()),
            Some(lost) => Err(format!("{lost} was told to be durable, and the power took it")),
        }
    }

    /// An operation was accepted; gives its completion if that came before the reply was read.
    pub(super) fn accepted(
        &mut self,
        op: OpId,
        mut asked: Asked,
        now: Time,
        machine: &Machine,
    ) -> Checked<Option<Completion>> {
        asked.outage_changes = self.outage_changes;
        if asked.kind == OpKind::Store {
            self.attempted.extend(&asked.keys);
        }
        if self.ops.insert(op, asked).is_some() || self.ended.contains(&op) {
            return Err(format!("{op:?} was given out twice"));
        }
        match self.early.remove(&op) {
            None => Ok(None),
            Some((client, completion)) => {
                self.completed(client, &completion, now, machine).map(|()| Some(completion))
            }
        }
    }

    /// The manager is told what an object's header says.
    pub(super) fn hear_header(&mut self, meta: &FrameMeta) {
        self.read.insert(meta.key);
        let RetentionRecord { delete_after, scope, .. } = meta.record;
        if scope == Scope::Session && delete_after != Time::ZERO {
            self.promised.insert(meta.key, delete_after);
        }
    }

    /// The manager is told that it has written an object.
    pub(super) fn hear_written(&mut self, key: Key) {
        self.read.insert(key);
    }

    /// Whether the manager may know what the header of the block's object says.
    pub(super) fn knows_header(&self, key: Key) -> bool {
        self.read.contains(&key)
    }

    /// Whether the block's time is up, by what the manager was told and no client has since changed.
    pub(super) fn is_to_be_forgotten(&self, key: Key, now: Time) -> bool {
        let promised = self.promised.get(&key).is_some_and(|at| *at <= now);
        promised && !self.may_change_promises && !self.attempted.contains(&key)
    }

    /// A lift was begun; it may have ended in its first step.
    pub(super) fn lift_begun(&mut self, op: OpId, client: ClientId, blocks: u32) -> Checked {
        self.lifts.insert(op, (client, blocks));
        match self.early.remove(&op) {
            None => Ok(()),
            Some((client, completion)) => self.lift_ended(client, &completion),
        }
    }

    fn lift_ended(&mut self, client: ClientId, completion: &Completion) -> Checked {
        let begun = self.lifts.remove(&completion.op);
        self.ended.insert(completion.op);
        let rising = completion.failed.is_sorted_by(|a, b| a < b);
        let within = completion.failed.last().is_none_or(|last| *last < completion.blocks);
        let answers = begun == Some((client, completion.blocks));
        if answers && rising && within && completion.kind == OpKind::Prefetch {
            return Ok(());
        }
        Err(format!("{completion:?} does not answer a lift of {begun:?}"))
    }

    /// A completion arrived. False if its operation is not known yet.
    pub(super) fn hear(
        &mut self,
        client: ClientId,
        completion: &Completion,
        now: Time,
        machine: &Machine,
    ) -> Checked<bool> {
        if self.gone.contains(&client) {
            return Err(format!("{client:?} is gone but was told of {:?}", completion.op));
        }
        if self.lifts.contains_key(&completion.op) {
            return self.lift_ended(client, completion).map(|()| false);
        }
        if self.ops.contains_key(&completion.op) {
            return self.completed(client, completion, now, machine).map(|()| true);
        }
        let twice = self.ended.contains(&completion.op)
            || self.early.insert(completion.op, (client, completion.clone())).is_some();
        if twice { Err(format!("{:?} completed twice", completion.op)) } else { Ok(false) }
    }

    fn completed(
        &mut self,
        client: ClientId,
        completion: &Completion,
        now: Time,
        machine: &Machine,
    ) -> Checked {
        let op = completion.op;
        let asked = self.ops.remove(&op).expect("the caller found it");
        self.ended.insert(op);
        let rising = completion.failed.is_sorted_by(|a, b| a < b);
        let within = completion.failed.last().is_none_or(|last| *last < completion.blocks);
        if asked.client != client
            || asked.request != completion.request
            || asked.kind != completion.kind
            || asked.keys.len() != completion.blocks as usize
            || !rising
            || !within
        {
            return Err(format!("{completion:?} does not answer {asked:?}"));
        }
        self.failed_blocks += completion.failed.len() as u64;
        let is_undisturbed = asked.outage_changes == self.outage_changes;
        if asked.must_land && is_undisturbed && !completion.failed.is_empty() {
            return Err(format!("{completion:?} failed without a fault: {asked:?}"));
        }
        let failed: BTreeSet<u32> = completion.failed.iter().copied().collect();
        for ((index, key), slot) in (0_u32..).zip(&asked.keys).zip(&asked.slots) {
            if failed.contains(&index) {
                continue;
            }
            if asked.kind == OpKind::Store {
                self.note_stored(*key, &asked, now);
                if !completion.not_durable.contains(&index) {
                    self.note_durable(*key, &asked);
                }
                continue;
            }
            self.loaded_blocks += 1;
            if !machine.slot_holds(asked.pool, *slot, *key) {
                let pool = asked.pool;
                return Err(format!("{op:?} served {key} into {pool:?} slot {slot} wrongly"));
            }
        }
        Ok(())
    }

    fn note_stored(&mut self, key: Key, asked: &Asked, now: Time) {
        if asked.all_taken {
            let (shards, since) = self.stored.entry(key).or_insert((0, Time::MAX));
            *shards |= 1 << asked.shard;
            if *shards == u64::MAX >> (64 - asked.shard_count) {
                *since = now.min(*since);
            }
        }
    }

    /// A block is durable when all that it hangs on is.
    fn note_durable(&mut self, key: Key, asked: &Asked) {
        let Some(chain) = &asked.durable else { return };
        if let Some(at) = chain.iter().position(|block| *block == key) {
            self.durable.extend(&chain[..=at]);
        }
    }

    /// One of the operations that their clients still wait for.
    pub(super) fn owed_one(&self) -> String {
        match self.ops.first_key_value() {
            Some((op, asked)) => format!("{op:?}: {asked:?}"),
            None => format!("a lift of {:?}", self.lifts.first_key_value()),
        }
    }

    /// Operations that their clients still wait for.
    pub(super) fn owed(&self) -> usize {
        self.ops.len() + self.early.len() + self.lifts.len()
    }

    /// Where nothing is evicted and nothing fails, what was stored is found, and nothing else is. From the
    /// block `sure` on less may be.
    pub(super) fn check_lookup(
        &self,
        keys: &[Key],
        (hits, now): (usize, Time),
        sure: usize,
        machine: &Machine,
    ) -> Checked {
        let surely = keys
            .iter()
            .take_while(|key| {
                self.stored
                    .get(*key)
                    .is_some_and(|(_, since)| *since < Time::MAX && now.since(*since) >= SETTLES)
            })
            .count();
        let is_stored = |key: &&Key| self.attempted.contains(*key) || machine.peek(**key).is_some();
        let perhaps = keys.iter().take_while(is_stored).count();
        let at_least = surely.min(sure);
        if (at_least..=perhaps).contains(&hits) {
            return Ok(());
        }
        Err(format!("{hits} blocks were found of {surely} to {perhaps} that were stored"))
    }

    /// After every client went and all had time to end, nothing is left.
    pub(super) fn check_rest(status: &Status, machine: &Machine) -> Checked {
        let left = [
            ("clients", status.clients),
            ("pools", status.pools),
            ("leases", status.leases),
            ("operations", status.ops_in_flight),
            ("transfers in flight", status.transfers_in_flight),
            ("transfers queued", status.transfers_queued),
            ("pools not freed", machine.pools_left() as u64),
            ("locks", u64::from(!machine.is_quiet())),
        ];
        match left.iter().find(|(_, count)| *count > 0) {
            None => Ok(()),
            Some((what, count)) => Err(format!("{count} {what} are left when everybody has gone")),
        }
    }
}
