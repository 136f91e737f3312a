//! Retention: wishes become records, shields stay inside their budgets, and what is due is done.
//!
//! Decides nothing about order: that is `ranks`. Never blocks a request for a record's sake: a wish
//! over its budget is clipped, and the client is told.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::domain::directory::{BlockIndex, Owner};
use crate::domain::hint::{Outcome, Target};
use crate::domain::retention::record::PRIORITY_DEFAULT;
use crate::domain::retention::{Directives, Kind, Ownership, RetentionRecord, Wish};
use crate::domain::session::SessionIndex;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::Manager;
use super::api::{ClientId, NamespaceId, RequestId};
use super::targets::Asker;
use super::unread::Asked;

/// What `cache_control` bills as its short class: shields of up to five minutes.
const SHORT_TTL: Duration = Duration::from_mins(5);

/// When which block's record asks for something to be done.
#[derive(Default)]
pub(super) struct Deadlines {
    due: BinaryHeap<Reverse<(Time, BlockIndex)>>,
}

/// What became of a wish for one block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Granted {
    Whole,
    /// All but the shield, which was over a budget.
    Clipped,
    /// All but what another owner of the block wants otherwise.
    Outdone,
}

/// Whether the record asks for no more than what the wish names of priority, kind and promise: what makes
/// the block stay. Of its other fields the one that keeps more is good for both owners.
fn heeds(record: &RetentionRecord, wish: &Wish, now: Time) -> bool {
    let in_time = |after| record.delete_after != Time::ZERO && record.delete_after <= now + after;
    wish.priority.is_none_or(|(priority, _)| record.priority <= priority)
        && wish.kind.is_none_or(|kind| record.kind == kind)
        && wish.delete_after.is_none_or(in_time)
}

impl Manager {
    /// The record and owner of a block that a store brings in. Shields are granted when the store
    /// has been placed: see [`Self::settle_retention`].
    pub(super) fn first_record(
        &self,
        session: Option<SessionIndex>,
        directives: &Directives,
        (position, block_tokens): (u32, u32),
    ) -> (RetentionRecord, Owner) {
        let mut record = RetentionRecord::default();
        if self.is_subagent(session) {
            (record.kind, record.floor) = (Kind::Subagent, Kind::Subagent.floor());
        }
        for directive in directives.iter() {
            if directive.tokens.covers(position, block_tokens) {
                let wish = Wish { shield: None, ..directive.wish };
                record = record.asked(&wish, self.now, Ownership::Sole);
            }
        }
        (record, self.asker(session).owner)
    }

    pub(super) fn is_subagent(&self, session: Option<SessionIndex>) -> bool {
        session.is_some_and(|session| self.sessions.get(session).is_subagent)
    }

    /// After a store was placed: its session reaches down to `tip`, and its directives count for
    /// the whole chain up to there. Gives for how many blocks not all that was asked for is granted.
    pub(super) fn settle_retention(
        &mut self,
        (client, request): (ClientId, RequestId),
        session: Option<SessionIndex>,
        directives: &Directives,
        (tip, new): (BlockIndex, &[BlockIndex]),
    ) -> u32 {
        if let Some(session) = session {
            self.session_stored(session, tip, (client, request));
        }
        self.heed_store((client, request), session, tip);
        let (mut clipped, mut created) = (0, [0, 0]);
        if !directives.is_empty() {
            let asker = self.asker(session);
            // A block between two ranges is asked for twice and counts once, as the last says.
            for wishes in self.covered(tip, directives).chunk_by(|a, b| a.0 == b.0) {
                let (block, mut is_whole, mut class) = (wishes[0].0, true, None);
                for (_, wish) in wishes {
                    let granted = self.ask(block, wish, asker);
                    is_whole &= granted == Granted::Whole;
                    let shield = wish.shield.filter(|_| granted != Granted::Clipped);
                    class = shield.map(|shield| usize::from(shield.ttl > SHORT_TTL)).or(class);
                }
                clipped += u32::from(!is_whole);
                if let Some(class) = class.filter(|_| new.binary_search(&block).is_ok()) {
                    created[class] += 1;
                }
            }
        }
        self.request_created((client, request), tip, created);
        clipped
    }

    /// The blocks of the chain that ends in `tip` which directives speak of, root first.
    pub(super) fn covered(
        &self,
        tip: BlockIndex,
        directives: &Directives,
    ) -> Vec<(BlockIndex, Wish)> {
        let namespace = NamespaceId(self.directory.get(tip).namespace);
        let block_tokens = self.namespace(namespace).block_tokens();
        let start = directives.start().unwrap_or(u64::MAX);
        let is_spoken_of = |(_, position): &(BlockIndex, u32)| {
            (u64::from(*position) + 1) * u64::from(block_tokens) > start
        };
        let mut chain: Vec<_> = self.chain_with_positions(tip).take_while(is_spoken_of).collect();
        chain.reverse();
        let mut covered = Vec::new();
        for (block, position) in chain {
            // A block between two ranges is given what each of them asks for, in order.
            let all = directives.iter().filter(|d| d.tokens.covers(position, block_tokens));
            covered.extend(all.map(|directive| (block, directive.wish)));
        }
        covered
    }

    /// The chain from `tip` up to its root, with positions.
    fn chain_with_positions(
        &self,
        tip: BlockIndex,
    ) -> impl Iterator<Item = (BlockIndex, u32)> + '_ {
        self.directory.chain_up(Some(tip)).map(|at| (at, self.directory.get(at).position))
    }

    fn ask(&mut self, at: BlockIndex, wish: &Wish, asker: Asker) -> Granted {
        let block = self.directory.get(at);
        let others = block.claims > asker.claims;
        let is_own = match block.owner {
            // Who asked before the restart, or on another node, is not known: a promise that a session made of
            // its own counts as another's.
            Owner::Nobody => !block.record.is_sessions_promise(),
            owner => owner == asker.owner,
        };
        let ownership = if is_own && !others { Ownership::Sole } else { Ownership::Shared };
        let before = block.record;
        let mut after = before.asked(wish, self.now, ownership);
        let mut granted = Granted::Whole;
        let floor = self.directory.floor_behind(block.parent(), after.floor);
        let fits = block.shielded || self.shield_fits(at, floor);
        let mut heard = *wish;
        if after.shield_until > self.now && !fits {
            after.shield_until = before.shield_until;
            after.refresh_on_hit_ms = before.refresh_on_hit_ms;
            heard.shield = None;
            granted = Granted::Clipped;
        }
        self.unread.note((at, block), Asked::Wish { wish: heard, at: self.now, ownership });
        if granted == Granted::Whole && !heeds(&after, wish, self.now) {
            granted = Granted::Outdone;
        }
        let block = self.directory.get_mut(at);
        // Who only reads the block asks for nothing, so it stays its owner's to release.
        block.owner = if is_own { asker.owner } else { Owner::Many };
        // A floor that is named is no mere sub-agent's.
        block.scratch &= wish.floor.is_none();
        self.set_record(at, after);
        granted
    }

    /// Gives the block its new record, and does what follows from the difference.
    pub(super) fn set_record(&mut self, at: BlockIndex, record: RetentionRecord) {
        let before = std::mem::replace(&mut self.directory.get_mut(at).record, record);
        if before == record {
            return;
        }
        if before.floor != record.floor {
            self.spread_floor(at);
        }
        let shielded = record.shield_until > self.now;
        let was = self.directory.get(at).shielded;
        self.directory.set_shielded(at, shielded);
        // Shields are listed by their ends: one that was shortened would end in its old turn.
        let ends_sooner = record.shield_until < before.shield_until;
        // Who was over the budget because its end was the soonest may not be any more.
        let ends_later = record.shield_until > before.shield_until;
        let restored = ends_later && self.directory.restore_shield(at);
        if was != shielded || ends_sooner || restored || before.priority != record.priority {
            self.rank_changed(at);
        }
        self.watch(at);
        self.record_changed(at, &before);
    }

    /// A block never sinks below its parent's floor: there it would hang on nothing.
    pub(super) fn spread_floor(&mut self, at: BlockIndex) {
        let mut stack = vec![at];
        while let Some(next) = stack.pop() {
            if self.directory.refloor(next) {
                for tier in Tier::ALL {
                    self.reconsider(next, tier);
                }
                stack.extend(self.directory.children(next));
            }
        }
    }

    /// Sees to it that the block is looked at when its record asks for that.
    pub(super) fn watch(&mut self, at: BlockIndex) {
        let block = self.directory.get_mut(at);
        let record = &block.record;
        if !block.shielded && !record.has_times() {
            return;
        }
        let times = [
            if block.shielded { record.shield_until } else { Time::ZERO },
            record.delete_after,
            record.priority_until,
        ];
        let next = times.into_iter().filter(|time| *time > Time::ZERO).min();
        if let Some(next) = next.filter(|next| block.wake == Time::ZERO || *next < block.wake) {
            block.wake = next;
            self.note_due(next, at);
        }
    }

    fn note_due(&mut self, next: Time, at: BlockIndex) {
        self.deadlines.due.push(Reverse((next, at)));
        // Entries of blocks that went, or that are looked at sooner, go when they prevail.
        if self.deadlines.due.len() > 2 * self.directory.len() + 1024 {
            let directory = &self.directory;
            self.deadlines.due.retain(|Reverse((time, at))| {
                directory.is_here(*at) && directory.get(*at).wake == *time
            });
        }
    }

    /// Does what records ask for by now: shields end, promises to forget are kept.
    pub(super) fn expire_records(&mut self) {
        while let Some(Reverse((time, at))) = self.deadlines.due.peek().copied()
            && time <= self.now
        {
            self.deadlines.due.pop();
            // A row may serve another block by now, which has its own time.
            if self.directory.is_here(at) && self.directory.get(at).wake == time {
                self.directory.get_mut(at).wake = Time::ZERO;
                self.woken(at);
            }
        }
    }

    fn woken(&mut self, at: BlockIndex) {
        let mut record = self.directory.get(at).record;
        if record.is_due(self.now) {
            self.forget(at);
            return;
        }
        if record.shield_until <= self.now {
            // The block returns to ordinary life: a later hit renews nothing.
            (record.shield_until, record.refresh_on_hit_ms) = (Time::ZERO, 0);
        }
        if record.priority_until != Time::ZERO && record.priority_until <= self.now {
            (record.priority, record.priority_until) = (PRIORITY_DEFAULT, Time::ZERO);
        }
        self.set_record(at, record);
        self.watch(at);
    }

    /// A hit renews the shields that ask for it.
    pub(super) fn renew(&mut self, at: BlockIndex) {
        let block = self.directory.get_mut(at);
        let ttl = Duration::from_millis(block.record.refresh_on_hit_ms.into());
        let until = self.now + ttl;
        if !block.shielded || until <= block.record.shield_until {
            return;
        }
        let before = block.record;
        block.record.shield_until = until;
        if self.directory.restore_shield(at) {
            self.rank_changed(at);
        }
        self.record_changed(at, &before);
    }

    pub(super) fn retain(
        &mut self,
        namespace: NamespaceId,
        target: &Target,
        wish: &Wish,
    ) -> Outcome {
        let (wish, time_clipped) = match wish.admit() {
            Ok(admitted) => admitted,
            Err(why) => return Outcome::Rejected(why),
        };
        let found = match self.targets(namespace, target) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        let mut clipped = 0;
        for (block, asker) in &found {
            clipped += u32::from(self.ask(*block, &wish, *asker) != Granted::Whole);
        }
        let blocks = count(found.len());
        if time_clipped || clipped > 0 {
            return Outcome::Clipped { blocks: blocks - clipped, clipped };
        }
        Outcome::Accepted { blocks }
    }

    /// Shields and raised priorities end now, where nobody else asked for the block.
    pub(super) fn release(&mut self, namespace: NamespaceId, target: &Target) -> Outcome {
        let found = match self.targets(namespace, target) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        let mut clipped = 0;
        for (at, asker) in &found {
            let block = self.directory.get(*at);
            if block.owner != asker.owner && block.owner != Owner::Nobody {
                clipped += 1;
                continue;
            }
            self.unread.note((*at, block), Asked::Release);
            let record = block.record.released();
            self.set_record(*at, record);
        }
        let blocks = count(found.len()) - clipped;
        if clipped > 0 {
            Outcome::Clipped { blocks, clipped }
        } else {
            Outcome::Accepted { blocks }
        }
    }

    pub(super) fn demote(&mut self, namespace: NamespaceId, target: &Target, to: Tier) -> Outcome {
        let found = match self.targets(namespace, target) {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        for (at, _) in &found {
            let before = self.directory.get_mut(*at).cold_above.replace(to);
            if before != Some(to) {
                self.rank_changed(*at);
            }
        }
        Outcome::Accepted { blocks: count(found.len()) }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
