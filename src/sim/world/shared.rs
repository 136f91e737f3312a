//! The shared store, as lookups that ask it see it, and the nodes that write to it beside this one.
//!
//! What is found of a chain comes to the manager as the shell tells it: a part of the headers at once,
//! the rest presumed, and read afterwards. In between much can happen, but where nothing may fail.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::block::{HashTail, Key};
use crate::domain::retention::{RetentionRecord, Scope};
use crate::domain::tier::Tier;
use crate::manager::api::{ClientId, End, Event, ItemFailure, Transfer};
use crate::manager::{Looked, Stray};
use crate::sim::machine::{Checked, NamespaceFacts, THIS_NODE};
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{FoundFrame, FrameMeta};

use super::Subject;
use super::core::{Core, Due, SCAN};

/// What the shared store has of a chain behind what is known here.
pub(in crate::sim) struct Stretch {
    /// The chain, up to the last block that is there.
    keys: Vec<Key>,
    known: usize,
    /// One a block from `known` on; none where the block is presumed.
    headers: Vec<Option<FrameHeader>>,
}

impl Stretch {
    /// Where it ends: an index into the chain.
    pub(in crate::sim) fn end(&self) -> usize {
        self.keys.len()
    }
}

impl<S: Subject> Core<S> {
    /// What the shared store has of the chain; nothing if it can't be asked, or not for this chain.
    pub(in crate::sim) fn look_further(&mut self, keys: &[Key]) -> Option<Stretch> {
        if self.scenario.config.tiers[Tier::Object.index()].is_none() || !self.is_read(Tier::Object)
        {
            return None;
        }
        let known = self.subject.known_prefix(keys)?;
        let stored = (known..keys.len()).map_while(|at| self.header_at(keys, at));
        let mut headers: Vec<_> = stored.map(Some).collect();
        for header in &mut headers {
            if !self.draw.percent(60) {
                *header = None;
            }
        }
        self.shared_blocks += headers.len() as u64;
        let keys = keys[..known + headers.len()].to_vec();
        (!headers.is_empty()).then_some(Stretch { keys, known, headers })
    }

    /// The header of the chain's block at this index, if it is its chain's.
    fn header_at(&self, keys: &[Key], at: usize) -> Option<FrameHeader> {
        let parent = at.checked_sub(1).map(|before| keys[before]);
        let header = self.machine.peek(keys[at])?;
        (header.meta.parent == parent && header.meta.position as usize == at).then_some(header)
    }

    /// How long a client waits for it. Where a block may only be missing that was evicted, nothing may
    /// happen meanwhile.
    pub(in crate::sim) fn answers_after(&mut self) -> Duration {
        let waits = self.scenario.keeps_everything || !self.scenario.is_faultless;
        let micros = if waits { self.draw.below(60_000) } else { 0 };
        Duration::from_micros(micros.into())
    }

    /// Tells the manager what was found for the client, which may have gone.
    pub(in crate::sim) fn tell_stretch(&mut self, client: ClientId, stretch: Stretch) -> Checked {
        let Stretch { keys, known, headers } = stretch;
        let mut presumed = Vec::new();
        for (at, header) in (known..).zip(headers) {
            self.machine.note_told(keys[at]);
            match header {
                Some(header) => self.tell_header(header)?,
                None => {
                    presumed.push(at);
                    self.tell(Event::Presumed {
                        client,
                        key: keys[at],
                        parent: at.checked_sub(1).map(|before| keys[before]),
                        position: u32::try_from(at).expect("chains are short"),
                    })?;
                }
            }
        }
        if !presumed.is_empty() && self.draw.percent(60) {
            let after = self.answers_after();
            self.timeline.add(self.now + after, Due::Headers { keys, presumed });
        }
        Ok(())
    }

    /// Reads the headers of what was presumed, up to the first that is not there.
    pub(super) fn follow_up(&mut self, keys: &[Key], presumed: &[usize]) -> Checked {
        for at in presumed {
            let header = self.header_at(keys, *at).filter(|_| self.is_read(Tier::Object));
            let Some(header) = header else { break };
            self.tell_header(header)?;
        }
        Ok(())
    }

    fn tell_header(&mut self, header: FrameHeader) -> Checked {
        self.checker.hear_header(&header.meta);
        self.tell(Event::Found { tier: Tier::Object, frame: Box::new(FoundFrame::object(header)) })
    }

    /// Whoever looks at the store after a start finds what this node left there, and all promises.
    pub(super) fn find_strays(&mut self) {
        if self.scenario.config.tiers[Tier::Object.index()].is_none() {
            return;
        }
        let headers = self.machine.object_headers();
        let found = headers.filter_map(|header| Stray::of(header, THIS_NODE));
        let found = found.map(|stray| (stray.header.meta.key, stray)).collect();
        self.timeline.add(self.now, Due::LookForStrays { begins: true });
        for stray in Stray::linked(found) {
            let after = SCAN + SCAN / 100 * (self.faults.any() % 100);
            self.timeline.add(self.now + after, Due::Stray(Box::new(stray)));
        }
        self.timeline.add(self.now + 2 * SCAN, Due::LookForStrays { begins: false });
    }

    /// What the header of a stray says whose promise is due.
    pub(super) fn looked_at(&mut self, key: Key) -> Checked {
        let found = match self.machine.peek(key) {
            _ if !self.is_read(Tier::Object) => Looked::Unknown,
            None => Looked::Gone,
            Some(header) => {
                self.checker.hear_header(&header.meta);
                Looked::Header(Box::new(header))
            }
        };
        self.tell(Event::StrayLookedAt { key, found })
    }

    pub(super) fn tell_stray(&mut self, stray: Box<Stray>) -> Checked {
        self.machine.note_told(stray.header.meta.key);
        self.checker.hear_header(&stray.header.meta);
        self.tell(Event::Stray(stray))
    }

    /// The object was given the record. Tells of another promise that stood there, and holds.
    pub(super) fn tell_outdone(&mut self, key: Key, given: &RetentionRecord) -> Checked {
        match self.machine.peek(key) {
            Some(header) if header.meta.record != *given => self.tell_header(header),
            _ => Ok(()),
        }
    }

    /// Tells of the headers that came with the objects that were read, and notes those that were written.
    /// What should not be served any more is not what its reader asked for.
    pub(super) fn tell_fetched(&mut self, transfer: &Transfer, failed: &[ItemFailure]) -> Checked {
        let failed: BTreeSet<u32> = failed.iter().map(|failure| failure.item).collect();
        let landed = (0..).zip(&transfer.items).filter(|(index, _)| !failed.contains(index));
        for (_, item) in landed {
            let key = item.meta.key;
            if item.to == End::Object {
                self.checker.hear_written(key);
                self.tell_outdone(key, &item.meta.record)?;
            }
            if item.from != End::Object {
                continue;
            }
            let Some(header) = self.machine.peek(key) else { continue };
            self.checker.hear_header(&header.meta);
            if self.checker.is_to_be_forgotten(key, self.now) {
                self.machine.spoil(&item.to)?;
            }
            self.tell_header(header)?;
        }
        Ok(())
    }

    /// The index of the chain's first block that other nodes promised to forget.
    pub(in crate::sim) fn promised_from(&self, keys: &[Key]) -> Option<usize> {
        keys.iter().position(|key| self.scenario.promise(*key).is_some())
    }

    /// Checks what a lookup found of the chain, of which the shared store was found to have the blocks
    /// before `shared`. Those are known from then on, whether they can be had already or not.
    pub(in crate::sim) fn check_lookup(&self, keys: &[Key], hits: usize, shared: usize) -> Checked {
        let promised = self.promised_from(keys).unwrap_or(keys.len());
        let sure = if self.is_out() { 0 } else { promised };
        self.checker.check_lookup(keys, (hits, self.now), sure, &self.machine)?;
        match self.subject.known_prefix(keys) {
            Some(known) if known < shared.min(sure) => {
                Err(format!("{known} blocks are known of {shared} that the shared store has"))
            }
            _ => Ok(()),
        }
    }

    /// Another node stores a chain, or makes room.
    pub(super) fn other_nodes(&mut self) {
        let erases = self.faults.other_erases();
        if !erases && !self.faults.other_writes() {
            return;
        }
        let number = self.faults.any() as usize % self.scenario.namespaces.len();
        let keys = self.scenario.chain(number, self.faults.draw_mut());
        let from = if erases { self.faults.any() as usize % keys.len() } else { 0 };
        let facts = NamespaceFacts::of(&self.scenario.namespaces[number]);
        for at in from..keys.len() {
            if erases {
                self.machine.other_erases(keys[at]);
            } else {
                let meta = self.meta_of_others(&keys, at);
                self.machine.other_writes(&facts, meta);
            }
        }
    }

    fn meta_of_others(&self, keys: &[Key], at: usize) -> FrameMeta {
        let key = keys[at];
        let plain = RetentionRecord::default();
        let record = self.scenario.promise(key).map_or(plain, |delete_after| RetentionRecord {
            delete_after,
            scope: Scope::Session,
            ..plain
        });
        FrameMeta {
            key,
            tail: HashTail(key.low_bits()),
            parent: at.checked_sub(1).map(|before| keys[before]),
            position: u32::try_from(at).expect("chains are short"),
            created_at: self.now,
            record,
        }
    }
}
