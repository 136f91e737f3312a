//! This node's own folder of packs: what is written there, and under which number.
//!
//! A number is begun only when all that are so many below it have ended. So whoever has seen a number
//! looks no further back than that for what came late. A run begins at the microsecond it is, so it stays
//! above every run before it, also when their last objects are gone; nobody else's clock counts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::name::{Holds, Name, Writer};
use crate::domain::units::Time;
use crate::tiers::object::blobs::{Answer, Blobs};
use crate::tiers::store::StoreError;

/// How far a number may be ahead of the first one that has not ended.
pub(super) const WINDOW: u64 = 32;

/// How an object is put.
type Put = for<'a> fn(&'a dyn Blobs, &'a str, Vec<Bytes>) -> Answer<'a, ()>;

pub(super) struct Log {
    blobs: Arc<dyn Blobs>,
    writer: Writer,
    numbers: Mutex<Numbers>,
    ended: Notify,
}

#[derive(Default)]
struct Numbers {
    /// Unknown until the folder was looked at: a run before this one wrote there too.
    next: Option<u64>,
    under_way: BTreeSet<u64>,
    /// What this run stored, until it is too old to be listed again.
    stored: BTreeSet<Name>,
}

/// What this run has to do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It stored it, and knows what is in it.
    Stored,
    /// It is storing it, and knows in a moment how that ends.
    UnderWay,
    /// Nothing: another node or run wrote it, or a write of this one was not answered.
    Foreign,
}

impl Log {
    pub fn new(blobs: Arc<dyn Blobs>, writer: Writer) -> Self {
        Self { blobs, writer, numbers: Mutex::default(), ended: Notify::new() }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Numbers) -> T) -> T {
        look(&mut self.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The folder was looked at; this is the last number in it.
    pub fn seen(&self, last: Option<u64>, now: Time) {
        self.with(|numbers| numbers.seen(last, now));
    }

    pub fn origin(&self, name: &Name) -> Origin {
        self.with(|numbers| match () {
            () if numbers.stored.contains(name) => Origin::Stored,
            () if name.writer == self.writer && numbers.under_way.contains(&name.number) => {
                Origin::UnderWay
            }
            () => Origin::Foreign,
        })
    }

    /// Nobody asks any more for numbers below this one.
    pub fn trim(&self, first: u64) {
        self.with(|numbers| numbers.stored.retain(|name| name.number >= first));
    }

    /// Whether anything can be written.
    pub fn is_ready(&self) -> bool {
        self.with(|numbers| numbers.next.is_some())
    }

    /// Writes one object, whose body is made for its name.
    pub async fn write(
        &self,
        kind: (Holds, u16),
        body: impl FnOnce(&Name) -> Vec<Bytes>,
    ) -> Result<Name, StoreError> {
        self.write_by(kind, body, |blobs, name, body| blobs.put(name, body)).await
    }

    /// The same, and it outlasts a power cut from here on: something else goes because of it.
    pub async fn write_lasting(
        &self,
        kind: (Holds, u16),
        body: impl FnOnce(&Name) -> Vec<Bytes>,
    ) -> Result<Name, StoreError> {
        self.write_by(kind, body, |blobs, name, body| blobs.put_lasting(name, body)).await
    }

    async fn write_by(
        &self,
        (holds, head_pages): (Holds, u16),
        body: impl FnOnce(&Name) -> Vec<Bytes>,
        put: Put,
    ) -> Result<Name, StoreError> {
        let turn = self.turn().await?;
        let name = Name::new(self.writer, turn.number, holds, head_pages);
        let text = name.to_string();
        let body = body(&name);
        let written = put(&*self.blobs, &text, body).await;
        match &written {
            Ok(()) => drop(self.with(|numbers| numbers.stored.insert(name))),
            // It may be there all the same. If it stays, the next look reads it as another one's.
            Err(_) => drop(self.blobs.delete(&text).await),
        }
        written.map(|()| name)
    }

    async fn turn(&self) -> Result<Turn<'_>, StoreError> {
        loop {
            // Hears of what ends from here on.
            let ended = self.ended.notified();
            match self.with(Numbers::begin) {
                Begun::Number(number) => return Ok(Turn { log: self, number }),
                Begun::Unknown => return Err(StoreError::Busy),
                Begun::TooFar => ended.await,
            }
        }
    }
}

enum Begun {
    Number(u64),
    /// Too far ahead of one that has not ended.
    TooFar,
    Unknown,
}

impl Numbers {
    fn seen(&mut self, last: Option<u64>, now: Time) {
        let is_behind = |next: u64| last.is_some_and(|last| last >= next);
        if self.next.is_none_or(is_behind) {
            let after = last.map_or(0, |last| last.saturating_add(1));
            self.next = Some(after.max(now.micros));
        }
    }

    fn begin(&mut self) -> Begun {
        let Some(number) = self.next else { return Begun::Unknown };
        if self.under_way.first().is_some_and(|first| number - first >= WINDOW) {
            return Begun::TooFar;
        }
        self.next = Some(number.saturating_add(1));
        self.under_way.insert(number);
        Begun::Number(number)
    }
}

/// A number while it is under way.
struct Turn<'a> {
    log: &'a Log,
    number: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.log.with(|numbers| numbers.under_way.remove(&self.number));
        self.log.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_above_every_run_before_it_although_their_objects_are_gone() {
        let first = |last, micros| {
            let mut numbers = Numbers::default();
            numbers.seen(last, Time { micros });
            numbers.next
        };
        assert_eq!(first(None, 70), Some(70));
        assert_eq!(first(Some(69), 70), Some(70));
        assert_eq!(first(Some(90), 70), Some(91), "its clock was set back");
    }

    #[test]
    fn a_run_goes_on_from_where_it_began_and_behind_who_takes_itself_for_the_same_node() {
        let mut numbers = Numbers::default();
        numbers.seen(None, Time { micros: 70 });
        numbers.seen(Some(69), Time { micros: 99 });
        assert_eq!(numbers.next, Some(70));
        numbers.seen(Some(80), Time { micros: 75 });
        assert_eq!(numbers.next, Some(81));
    }

    #[test]
    fn a_number_waits_for_those_far_below_it() {
        let mut numbers = Numbers::default();
        assert!(matches!(numbers.begin(), Begun::Unknown));
        numbers.next = Some(7);
        for number in 7..7 + WINDOW {
            assert!(matches!(numbers.begin(), Begun::Number(found) if found == number));
        }
        numbers.under_way.remove(&8);
        assert!(matches!(numbers.begin(), Begun::TooFar));
        numbers.under_way.remove(&7);
        assert!(matches!(numbers.begin(), Begun::Number(number) if number == 7 + WINDOW));
        assert!(matches!(numbers.begin(), Begun::Number(_)));
        assert!(matches!(numbers.begin(), Begun::TooFar));
    }
}
