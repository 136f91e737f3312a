//! Reads what there is: this node's packs of before, and what others wrote since they were looked at.
//!
//! Every writer's folder is listed from where it was read up to, all at once; then the heads of what is
//! new are read, all at once. Asks no clock of another node. What is no pack of ours is complained of
//! once and passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;

use super::FOLDER;
use super::format::{self, Head};
use super::index::Index;
use super::log::{Log, WINDOW};
use super::name::{self, Holds, Name, Writer};
use crate::env::{Clock, SystemClock};
use crate::tiers::object::blobs::Blobs;
use crate::tiers::store::StoreError;

pub(super) struct Feed {
    blobs: Arc<dyn Blobs>,
    index: Arc<Mutex<Index>>,
    log: Arc<Log>,
    own: Writer,
    clock: SystemClock,
    /// One reads at a time; who waits finds it done.
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the last look began.
    looked_at: Option<Instant>,
    writers: BTreeMap<Writer, Place>,
    /// Names that were complained of.
    foreign: BTreeSet<String>,
    /// Whether the log was told that nothing can be listed.
    is_told: bool,
}

/// How far a writer's folder was read.
#[derive(Default)]
struct Place {
    last: u64,
    /// What was read of the numbers that may still get company.
    read: BTreeSet<Name>,
    /// What could not be read and is tried again.
    missed: BTreeSet<Name>,
}

impl Place {
    fn after(&self) -> String {
        name::before(self.last.saturating_sub(WINDOW))
    }

    /// `whole`: its number is one that a writer gave.
    fn is_read(&mut self, name: Name, whole: bool) {
        self.missed.remove(&name);
        self.read.insert(name);
        self.last = if whole { self.last.max(name.number) } else { self.last };
        let first = self.last.saturating_sub(WINDOW);
        self.read.retain(|name| name.number >= first);
    }
}

/// Foreign names that are remembered.
const FOREIGN_MAX: usize = 1_000;

impl Feed {
    pub fn new(
        blobs: Arc<dyn Blobs>,
        index: Arc<Mutex<Index>>,
        log: Arc<Log>,
        own: Writer,
    ) -> Self {
        let (clock, state) = (SystemClock::start(), tokio::sync::Mutex::default());
        Self { blobs, index, log, own, clock, state }
    }

    /// Knows what was there when this was called, or as little earlier as is said.
    pub async fn catch_up(&self, age_max: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        let since = now.checked_sub(age_max).unwrap_or(now);
        let mut state = self.state.lock().await;
        if state.looked_at.is_some_and(|at| at >= since) {
            return Ok(());
        }
        // One that fails counts too: a store that is out is not asked by everybody in turn.
        state.looked_at = Some(Instant::now());
        let looked = self.look(&mut state).await;
        if let Err(why) = &looked
            && !self.log.is_ready()
            && !std::mem::replace(&mut state.is_told, true)
        {
            tracing::warn!("packs can't be listed, and nothing is packed until they can: {why}");
        }
        looked
    }

    async fn look(&self, state: &mut State) -> Result<(), StoreError> {
        let known: Vec<Writer> = state.writers.keys().copied().collect();
        let lists = known.iter().map(|writer| self.list_of(*writer, &state.writers[writer]));
        let (folders, lists) =
            futures_util::future::try_join(self.blobs.list(FOLDER, ""), try_join_all(lists))
                .await?;
        let mut listed: BTreeMap<Writer, Vec<String>> = known.into_iter().zip(lists).collect();
        let mut fresh = Vec::new();
        for folder in folders {
            match name::writer_of(&folder.name).filter(|_| folder.is_folder) {
                Some(writer) if !listed.contains_key(&writer) => fresh.push(writer),
                Some(_) => {}
                None => state.complain(&format!("{FOLDER}{}", folder.name), "is no node's folder"),
            }
        }
        let nowhere = Place::default();
        let lists = fresh.iter().map(|writer| self.list_of(*writer, &nowhere));
        let lists = try_join_all(lists).await?;
        listed.extend(fresh.into_iter().zip(lists));
        let names = state.new_names(listed);
        self.read_all(state, names).await;
        self.log.seen(state.writers.get(&self.own).map(|place| place.last));
        Ok(())
    }

    async fn list_of(&self, writer: Writer, place: &Place) -> Result<Vec<String>, StoreError> {
        let listed = self.blobs.list(&name::folder_of(writer), &place.after()).await?;
        Ok(listed.into_iter().map(|one| one.name).collect())
    }

    /// Reads these objects' heads, as many as there is room for: of packs the newest.
    async fn read_all(&self, state: &mut State, names: Vec<Name>) {
        let (mine, mut names): (Vec<Name>, Vec<Name>) =
            names.into_iter().partition(|name| self.log.wrote(name));
        for name in mine {
            state.place(&name).is_read(name, true);
        }
        names.sort_by_key(|name| (name.holds, std::cmp::Reverse(name.number)));
        let mut room = self.with(|index| index.frames_max());
        let (wanted, passed): (Vec<Name>, Vec<Name>) = names.into_iter().partition(|name| {
            let fits = name.holds == Holds::Changes || room > 0;
            room = room.saturating_sub(format::entries_max(name));
            fits
        });
        let heads = wanted.iter().map(|name| self.read(name));
        let heads = join_all(heads).await;
        let now = self.clock.now();
        // The oldest first: it is the first to make room.
        for (name, head) in wanted.into_iter().zip(heads).rev() {
            let whole = head.is_ok();
            match head {
                Ok(Head::Frames(frames)) => self.with(|index| index.add(name, frames, now)),
                Ok(Head::Changes(changes)) => self.with(|index| {
                    let is_mine = name.writer == self.own;
                    index.change_all(&changes, is_mine, now);
                    if is_mine {
                        index.logged(name, &changes);
                    }
                }),
                // Deleted since it was listed.
                Err(StoreError::Missing(_)) => {}
                Err(StoreError::Corrupt(why)) => state.complain(&why, "(it is passed over)"),
                Err(error) => {
                    tracing::debug!(%error, "the head of a pack could not be read");
                    state.place(&name).missed.insert(name);
                    continue;
                }
            }
            state.place(&name).is_read(name, whole);
        }
        for name in passed {
            state.place(&name).is_read(name, true);
        }
        self.with(|index| index.prune(now));
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

    /// Those of the listed names that were not read yet.
    fn new_names(&mut self, listed: BTreeMap<Writer, Vec<String>>) -> Vec<Name> {
        let mut names = Vec::new();
        for (writer, texts) in listed {
            let place = self.writers.entry(writer).or_default();
            names.extend(std::mem::take(&mut place.missed));
            let mut foreign = Vec::new();
            for text in texts {
                match Name::parse(writer, &text) {
                    Some(name) if place.read.contains(&name) => {}
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

    fn complain(&mut self, name: &str, what: &str) {
        if self.foreign.len() < FOREIGN_MAX && self.foreign.insert(name.to_owned()) {
            tracing::warn!("the object store: {name} {what}");
        }
    }
}
