//! Reads what there is: this node's packs of before, and what others wrote since they were looked at.
//!
//! Every writer's folder is listed from where it was read up to, all at once; then the heads of what is
//! new are read, many at once. Asks no clock of another node. What is no pack of ours is complained of
//! once and passed over. Never says that it looked when a folder or a head could not be read, or when what
//! was in one that is gone may have been moved to where it did not look.

mod place;
mod refused;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::time::Instant;

use super::format::{self, Head};
use super::index::Index;
use super::log::{Log, Origin};
use super::name::{self, Name, Writer};
use super::promises::{self, Promises};
use super::{FOLDER, same_for_all};
use crate::env::{Clock, SystemClock};
use crate::tiers::object::blobs::{Blobs, Listed};
use crate::tiers::object::refused::is_refused_alone;
use crate::tiers::store::StoreError;

use place::Place;

pub(super) struct Feed {
    blobs: Arc<dyn Blobs>,
    index: Arc<Mutex<Index>>,
    promises: Arc<Promises>,
    log: Arc<Log>,
    own: Writer,
    clock: SystemClock,
    /// One reads at a time; who waits finds it done.
    state: tokio::sync::Mutex<State>,
    /// When the last look began for which every folder could be listed.
    listed_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    /// When the last look began, and how it ended.
    looked: Option<(Instant, Result<(), StoreError>)>,
    writers: BTreeMap<Writer, Place>,
    /// Names that were complained of.
    foreign: BTreeSet<String>,
    /// Whether somebody was told that not all can be listed, and that packs are passed over.
    is_told: bool,
    is_told_full: bool,
    is_told_refused: bool,
}

/// What the folders have, as far as they could be listed.
#[derive(Default)]
struct Lists {
    found: BTreeMap<Writer, Vec<String>>,
    failed: BTreeSet<Writer>,
    error: Option<StoreError>,
    /// Writers whose folder is not there any more, and had nothing new.
    gone: BTreeSet<Writer>,
}

impl Lists {
    fn take(&mut self, writer: Writer, list: Result<Vec<String>, StoreError>) {
        if list.as_ref().map_or(true, |names| !names.is_empty()) {
            self.gone.remove(&writer);
        }
        match list {
            Ok(names) => drop(self.found.insert(writer, names)),
            Err(error) => {
                self.failed.insert(writer);
                self.error = Some(error);
            }
        }
    }
}

/// Foreign names that are remembered.
const FOREIGN_MAX: usize = 1_000;

/// Heads that are read at once.
const HEADS_AT_ONCE: usize = 64;

/// So often all is listed in one look, while what was listed is gone when it is read.
const ROUNDS_MAX: usize = 4;

/// For how long reads go on without news, while others' folders can't be listed.
const BEHIND_MAX: Duration = Duration::from_secs(30);

impl Feed {
    pub fn new(
        blobs: Arc<dyn Blobs>,
        (index, promises): (Arc<Mutex<Index>>, Arc<Promises>),
        log: Arc<Log>,
        own: Writer,
    ) -> Self {
        let (clock, state) = (SystemClock::start(), tokio::sync::Mutex::default());
        Self { blobs, index, promises, log, own, clock, state, listed_at: Mutex::default() }
    }

    /// Knows what was there when this was called, or as little earlier as is said.
    ///
    /// # Errors
    /// Not all could be read: what was is known all the same. Who asks a moment later hears the same, so
    /// that a store that is out is not asked by everybody in turn.
    pub async fn catch_up(&self, age_max: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        let since = now.checked_sub(age_max).unwrap_or(now);
        let mut state = self.state.lock().await;
        if let Some((at, ended)) = &state.looked
            && *at >= since
        {
            return ended.as_ref().copied().map_err(same_for_all);
        }
        let began = Instant::now();
        let ended = self.look(&mut state, began).await;
        state.looked = Some((began, ended.as_ref().copied().map_err(same_for_all)));
        ended
    }

    /// Whether what others did is not known for so long that what they erased might be served.
    pub fn is_behind(&self) -> bool {
        let listed_at = *self.listed_at.lock().unwrap_or_else(PoisonError::into_inner);
        listed_at.is_none_or(|at| at.elapsed() > BEHIND_MAX)
    }

    /// Reads all there is. What lived in an object that went since it was listed was moved before to
    /// another one, which that list may lack.
    async fn look(&self, state: &mut State, began: Instant) -> Result<(), StoreError> {
        for _ in 0..ROUNDS_MAX {
            let is_any_gone = self.look_once(state, began).await?;
            if !is_any_gone {
                let now = self.clock.now();
                self.with(|index| index.prune(now));
                return Ok(());
            }
        }
        // It moves faster than it can be read.
        Err(StoreError::Busy)
    }

    /// Whether something that was listed was gone when it was read.
    async fn look_once(&self, state: &mut State, began: Instant) -> Result<bool, StoreError> {
        let lists = self.list_all(state).await;
        let is_own_listed = lists.error.is_none() || lists.found.contains_key(&self.own);
        let listed = lists.error.map_or(Ok(()), Err);
        let names = state.new_names(lists.found);
        let read = self.read_all(state, names).await;
        self.drop_gone(state, &lists.gone);
        if is_own_listed {
            let own = state.writers.get(&self.own);
            self.log.seen(own.and_then(Place::greatest), self.clock.now());
            self.log.trim(own.map_or(0, Place::first));
        }
        match &listed {
            Ok(()) => {
                state.is_told = false;
                *self.listed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
            }
            Err(why) if !std::mem::replace(&mut state.is_told, true) => {
                tracing::warn!(
                    "packs can't all be listed: erases fail, and soon reads from packs too: {why}"
                );
            }
            Err(_) => {}
        }
        listed.and(read)
    }

    /// Lists the folders that are known, and those that have come.
    async fn list_all(&self, state: &mut State) -> Lists {
        let known: Vec<Writer> = state.writers.keys().copied().collect();
        let listing = join_all(known.iter().map(|one| self.list_of(*one, &state.writers[one])));
        let (folders, of_known) = join(self.blobs.list(FOLDER, ""), listing).await;
        let mut lists = Lists::default();
        let fresh = match folders {
            Ok(folders) => {
                self.promises.looked(folders.iter().any(promises::is_marker));
                lists.gone = known.iter().copied().collect();
                let there = folders.iter().filter_map(|folder| name::writer_of(&folder.name));
                there.for_each(|writer| {
                    lists.gone.remove(&writer);
                });
                state.fresh(folders)
            }
            Err(error) => {
                lists.error = Some(error);
                Vec::new()
            }
        };
        let nowhere = Place::default();
        let of_fresh = join_all(fresh.iter().map(|one| self.list_of(*one, &nowhere))).await;
        let all = known.into_iter().chain(fresh).zip(of_known.into_iter().chain(of_fresh));
        all.for_each(|(writer, list)| lists.take(writer, list));
        lists
    }

    /// Lists those no more of whom nothing is left: a node without a disk is another one after each start.
    /// Whoever comes back has a folder again, which is read from its beginning.
    fn drop_gone(&self, state: &mut State, gone: &BTreeSet<Writer>) {
        for writer in gone.iter().filter(|writer| **writer != self.own) {
            let waits = state.writers.get(writer).is_some_and(Place::waits);
            if !waits && !self.with(|index| index.has_of(*writer)) {
                state.writers.remove(writer);
            }
        }
    }

    async fn list_of(&self, writer: Writer, place: &Place) -> Result<Vec<String>, StoreError> {
        let listed = self.blobs.list(&name::folder_of(writer), &place.after()).await?;
        Ok(listed.into_iter().map(|one| one.name).collect())
    }

    /// Reads these objects' heads: what was changed, then this node's packs, then the newest. Also where
    /// there is no room for more: what is known may have been moved there. Gives whether any of them is gone.
    async fn read_all(&self, state: &mut State, names: Vec<Name>) -> Result<bool, StoreError> {
        let mut names = self.unknown(state, names);
        let is_others = |name: &Name| name.writer != self.own;
        names.sort_by_key(|name| {
            (Reverse(name.holds), is_others(name), Reverse(name.number), name.salt)
        });
        let mut ended = Ok(false);
        for group in names.chunks(HEADS_AT_ONCE) {
            let heads = join_all(group.iter().map(|name| self.read(name))).await;
            for (name, head) in group.iter().zip(heads) {
                let is_gone = matches!(head, Err(StoreError::Missing(_)));
                let kept = self.keep(state, *name, head);
                ended = ended.and_then(|is_any_gone| kept.map(|()| is_any_gone || is_gone));
            }
        }
        ended
    }

    /// Without those that this run wrote or is writing, and those that are known.
    fn unknown(&self, state: &mut State, names: Vec<Name>) -> Vec<Name> {
        let mut unknown = Vec::with_capacity(names.len());
        for name in names {
            match self.log.origin(&name) {
                Origin::Stored => state.place(&name).note_read(name),
                Origin::UnderWay => {}
                // All was read before, and is looked through again.
                Origin::Foreign if self.with(|index| index.has(&name)) => {
                    state.place(&name).note_read(name);
                }
                Origin::Foreign => unknown.push(name),
            }
        }
        unknown
    }

    /// Knows what was read.
    ///
    /// # Errors
    /// It could not be read, and is tried again.
    fn keep(
        &self,
        state: &mut State,
        name: Name,
        head: Result<Head, StoreError>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        match head {
            Ok(Head::Frames(frames)) => {
                if !self.with(|index| index.learn(name, frames, now)) {
                    state.tell_full();
                }
            }
            Ok(Head::Changes(changes)) => self.with(|index| {
                let is_mine = name.writer == self.own;
                index.change_all(&changes, is_mine, now);
                if is_mine {
                    index.logged(name, &changes);
                } else {
                    index.note_stored(name, &changes);
                }
            }),
            // Deleted since it was listed.
            Err(StoreError::Missing(_)) => {
                self.pass_over(state, &name);
                return Ok(());
            }
            Err(StoreError::Corrupt(why)) => {
                state.complain(&why, "(it is passed over)");
                self.pass_over(state, &name);
                return Ok(());
            }
            Err(error) if is_refused_alone(&error) => {
                return self.keep_refused(state, &name, error);
            }
            Err(error) => {
                state.complain(&name.to_string(), &format!("can't be read now: {error}"));
                state.place(&name).miss(name);
                return Err(error);
            }
        }
        state.place(&name).note_read(name);
        Ok(())
    }

    /// It has nothing for anybody: nor is it waited for, if it was refused.
    fn pass_over(&self, state: &mut State, name: &Name) {
        state.place(name).pass_over(*name);
        let now = self.clock.now();
        self.with(|index| index.unhide(name, now));
    }

    async fn read(&self, name: &Name) -> Result<Head, StoreError> {
        let bytes = self.blobs.head(&name.to_string(), name.head_bytes() as u64).await?;
        format::decode(name, &bytes)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Index) -> T) -> T {
        look(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn place(&mut self, name: &Name) -> &mut Place {
        self.writers.entry(name.writer).or_default()
    }

    /// The writers among these folders that were not known.
    fn fresh(&mut self, folders: Vec<Listed>) -> Vec<Writer> {
        let mut fresh = Vec::new();
        for folder in folders {
            match name::writer_of(&folder.name).filter(|_| folder.is_folder) {
                Some(writer) if !self.writers.contains_key(&writer) => fresh.push(writer),
                Some(_) => {}
                None if promises::is_marker(&folder) => {}
                None => self.complain(&format!("{FOLDER}{}", folder.name), "is no node's folder"),
            }
        }
        fresh
    }

    /// Those of the listed names that were not read yet.
    fn new_names(&mut self, listed: BTreeMap<Writer, Vec<String>>) -> Vec<Name> {
        let mut names = Vec::new();
        for (writer, texts) in listed {
            let place = self.writers.entry(writer).or_default();
            names.extend(place.missed());
            let mut foreign = Vec::new();
            for text in texts {
                match Name::parse(writer, &text) {
                    Some(name) if place.has_read(&name) => {}
                    Some(name) => names.push(name),
                    None => foreign.push(text),
                }
            }
            let folder = name::folder_of(writer);
            for text in foreign {
                self.complain(&format!("{folder}{text}"), "is no pack of ours (it is passed over)");
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    fn tell_full(&mut self) {
        if !std::mem::replace(&mut self.is_told_full, true) {
            tracing::warn!(
                "there are more packed blocks than this node may know: some that others wrote are not \
                 found here; raise object.pack_blocks_known"
            );
        }
    }

    fn complain(&mut self, name: &str, what: &str) {
        if self.foreign.len() < FOREIGN_MAX && self.foreign.insert(name.to_owned()) {
            tracing::warn!("the object store: {name} {what}");
        }
    }
}
