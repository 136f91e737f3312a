//! The manager: the single writer of the directory. `step(now, event) -> effects`.
//!
//! Synchronous and deterministic: the same events give the same effects. Performs nothing itself:
//! no IO, clock, lock or thread; `shell` performs the effects in the daemon, `sim` in virtual time.

pub mod api;

pub mod config;

mod state;

mod clients;

mod sessions;

mod requests;

mod hints;

mod retain;

mod targets;

mod shields;

mod presumed;

mod strays;

mod went;

mod unread;

mod known;

mod ranks;

mod rewrite;

mod durable;

mod admit;

mod heed;

mod ops;

mod lookup;

mod plan;

mod lifts;

mod store;

mod load;

mod lent;

mod room;

mod recut;

mod holders;

mod transfers;

mod behind;

mod landing;

mod books;

mod going;

mod recovery;

mod residency;

mod outages;

mod owed;

mod status;

mod check;

mod check_moves;
mod check_ranks;

mod check_retention;

#[cfg(test)]
mod tests;

pub mod shell;

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::admission::Gate;
use crate::domain::block::Key;
use crate::domain::directory::{BlockIndex, Directory};
use crate::domain::slots::SlotPage;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::movement::Links;
use crate::tiers::store::{Erasure, Place};

use api::{
    ClientId, Command, Effect, Event, LeaseId, NamespaceId, OpId, PoolId, Refusal, Reply, ReplyTag,
    Transfer, TransferId,
};
use behind::Behind;
pub use config::{ManagerConfig, PolicyName, RewriteLimits, ShieldShares, TierConfig};
use durable::Durables;
use heed::Learned;
use known::Known;
use lent::Lent;
use lifts::Lifts;
use outages::Outages;
use owed::Owed;
use recovery::Recovery;
use requests::Requests;
use retain::Deadlines;
use rewrite::Rewrites;
use sessions::Sessions;
pub use state::NamespaceEntry;
use state::{Batch, Client, Counters, Flight, Lease, Op, Part, Partial, Pool, TierSpace, Want};
use strays::Strays;
pub use strays::{Looked, STRAYS_MAX, Stray};
use unread::Unread;
use went::Went;

/// The whole state of a node's cache.
pub struct Manager {
    config: ManagerConfig,
    now: Time,
    /// Counts uses; starts at the wall clock so that blocks found after a restart rank before all.
    tick: u64,
    directory: Directory,
    tiers: [Option<TierSpace>; Tier::COUNT],
    namespaces: Vec<NamespaceEntry>,
    clients: BTreeMap<ClientId, Client>,
    pools: BTreeMap<PoolId, Pool>,
    leases: BTreeMap<LeaseId, Lease>,
    sessions: Sessions,
    deadlines: Deadlines,
    requests: Requests,
    learned: Learned,
    ops: BTreeMap<OpId, Op>,
    flights: BTreeMap<TransferId, Flight>,
    links: Links<Transfer>,
    behind: Behind,
    lifts: Lifts,
    lent: Lent,
    /// Deliveries that wait for a copy to land.
    joined: BTreeMap<(BlockIndex, Tier), Vec<Part>>,
    partials: BTreeMap<BlockIndex, Partial>,
    /// Objects whose deletion is under way, or is owed: not to be written meanwhile.
    erasing: BTreeMap<Key, Erasure>,
    owed: Owed,
    /// Slots whose frames are being made unreadable: nobody's until that is done.
    erasing_slots: BTreeSet<(Tier, SlotPage)>,
    /// Slots of NVMe that copies have left in this step.
    vacated: Vec<(Key, Place)>,
    rewrites: Rewrites,
    durables: Durables,
    /// Before writes to NVMe.
    gate: Gate,
    recovery: Recovery,
    outages: Outages,
    unread: Unread,
    known: Known,
    strays: Strays,
    went: Went,
    counters: Counters,
    /// Work that this step still owes: batches to start, classes whose room changed, transfers
    /// that found their queue full.
    batches: Vec<Batch>,
    unsettled: BTreeSet<(Tier, usize)>,
    bounced: Vec<TransferId>,
    /// Blocks that may not even wait for room; the deepest is last, and goes first.
    refused: Vec<(Tier, Want)>,
    ended_ops: Vec<OpId>,
    out: Vec<Effect>,
}

impl Manager {
    #[must_use]
    pub fn new(config: ManagerConfig) -> Self {
        let mut directory = Directory::default();
        if config.tells_residency {
            directory.note_changes();
        }
        let mut memory = [Tier::Hbm, Tier::Dram].into_iter();
        if let Some(top) = memory.find(|tier| config.tiers[tier.index()].is_some()) {
            directory.set_top(top);
        }
        Self {
            now: Time::ZERO,
            tick: 0,
            directory,
            tiers: Tier::ALL.map(|tier| {
                let stripes = if tier == Tier::Nvme { config.nvme_stripes } else { 1 };
                config.tiers[tier.index()].map(|space| TierSpace::new(space, stripes))
            }),
            namespaces: Vec::new(),
            clients: BTreeMap::new(),
            pools: BTreeMap::new(),
            leases: BTreeMap::new(),
            sessions: Sessions::default(),
            deadlines: Deadlines::default(),
            requests: Requests::default(),
            learned: Learned::new(config.policy),
            ops: BTreeMap::new(),
            flights: BTreeMap::new(),
            links: Links::new(config.links),
            behind: Behind::default(),
            lifts: Lifts::default(),
            lent: Lent::default(),
            joined: BTreeMap::new(),
            partials: BTreeMap::new(),
            erasing: BTreeMap::new(),
            owed: Owed::default(),
            erasing_slots: BTreeSet::new(),
            vacated: Vec::new(),
            rewrites: Rewrites::default(),
            durables: Durables::default(),
            gate: Gate::new(config.nvme_writes),
            recovery: Recovery::default(),
            outages: Outages::default(),
            unread: Unread::default(),
            known: Known::default(),
            strays: Strays::default(),
            went: Went::default(),
            counters: Counters::default(),
            batches: Vec::new(),
            unsettled: BTreeSet::new(),
            bounced: Vec::new(),
            refused: Vec::new(),
            ended_ops: Vec::new(),
            out: Vec::new(),
            config,
        }
    }

    /// Takes in one event and appends what is to be done to `effects`, in order.
    pub fn step(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        self.tick = (self.tick + 1).max(if self.tick == 0 { now.micros } else { 0 });
        std::mem::swap(&mut self.out, effects);
        // Whatever happens, it finds nothing that was to be forgotten by now.
        self.expire_records();
        self.expire_strays();
        match event {
            Event::Command { tag, client, command } => self.command(tag, client, command),
            Event::ClientGone { client } => self.client_gone(client),
            Event::EngineCame { op, came } => self.engine_came(op, came),
            Event::TransferDone { transfer, failed } => self.transfer_done(transfer, &failed),
            Event::Erased { tier, place, key, done } => self.erased(tier, (key, place), done),
            Event::Restamped { tier, key, end } => self.restamped(tier, key, end),
            Event::Found { tier, frame } => self.found(tier, *frame),
            Event::Presumed { client, key, parent, position } => {
                self.presume(client, (key, parent, position));
            }
            Event::ScanDone { tier } => self.scan_done(tier),
            Event::LookForStrays { begins } => self.went.keep_all(begins),
            Event::Stray(stray) => self.stray_found(*stray),
            Event::StrayLookedAt { key, found } => self.stray_looked_at(key, found),
            Event::Outage { tier, refuses } => self.outage(tier, refuses),
            Event::Tick => self.time_passed(),
            Event::Stopping => self.hurry_rewrites(),
        }
        self.time_lifts();
        self.settle_all();
        self.erase_vacated();
        self.erase_let_go();
        self.finish_before_stop();
        self.complete_ops();
        self.tell_residency();
        std::mem::swap(&mut self.out, effects);
    }

    /// What is known of a namespace.
    ///
    /// # Panics
    /// The number was never given out.
    #[must_use]
    pub fn namespace(&self, id: NamespaceId) -> &NamespaceEntry {
        &self.namespaces[id.0 as usize]
    }

    fn command(&mut self, tag: ReplyTag, client: ClientId, command: Command) {
        let answer = match command {
            Command::Hello { namespace, engine, prefill_tokens_per_s } => {
                self.hello(client, namespace, engine, prefill_tokens_per_s)
            }
            Command::RegisterPool { shard, slots, has_events } => {
                self.register_pool(client, shard, (slots, has_events))
            }
            Command::UnregisterPool { pool } => self.unregister_pool(client, pool),
            Command::Lookup { request, session, keys, ask_shared: _, queued } => {
                self.lookup((client, request), session.as_ref(), &keys, queued)
            }
            Command::Store {
                request,
                session,
                directives,
                parent,
                keys,
                labels,
                pool,
                slots,
                durable,
            } => {
                let asked = (session.as_ref(), &directives, durable);
                self.store((client, request), asked, parent, (&keys, &labels), (pool, &slots))
            }
            Command::Load { request, keys, pool, slots, timeout } => {
                self.load(client, request, &keys, (pool, &slots), timeout)
            }
            Command::Borrow { request, keys } => self.borrow((client, request), &keys),
            Command::GiveBack { request } => {
                let known = self.client(client).map(drop);
                known.map(|()| Reply::GiveBack { blocks: self.give_back((client, request)) })
            }
            Command::ReleaseLease { lease } => self.release_lease(client, lease),
            Command::EndRequest { request, stop, output_tokens, prefill } => {
                self.end_request((client, request), (stop, output_tokens), prefill)
            }
            Command::Hint { actions } => self.hint(client, actions),
            Command::Sessions { sessions_max } => Ok(self.session_list(sessions_max)),
            Command::Inspect { key } => {
                self.take_in_named(&[key]);
                self.inspect(key)
            }
            Command::Overlap { keys } => {
                self.take_in_strays(&keys, 0);
                Ok(Reply::Overlap(self.overlap(&keys)))
            }
            Command::Lift { op } => self.lift_status(client, op),
            Command::Status => Ok(Reply::Status(Box::new(self.status()))),
        };
        let reply = answer.unwrap_or_else(Reply::Refused);
        self.out.push(Effect::Reply { tag, reply });
    }

    /// Does what the step owes until nothing is owed. Every round grants, refuses or frees
    /// something, so it ends.
    fn settle_all(&mut self) {
        loop {
            if let Some((tier, want)) = self.refused.pop() {
                self.refuse(tier, want);
            } else if let Some((tier, class)) = self.unsettled.pop_first() {
                self.settle(tier, class);
            } else if let Some(transfer) = self.bounced.pop() {
                self.bounce(transfer);
            } else if !self.batches.is_empty() {
                self.launch();
            } else if self.lifts.stirred {
                self.move_lifts();
            } else {
                return;
            }
        }
    }
}

type Answer = Result<Reply, Refusal>;
