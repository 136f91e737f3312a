//! The journal of residency: the last changes, numbered, for whoever follows them.
//!
//! A ring: the manager's thread appends and waits for nobody, and each reader goes at its own pace.
//! One that is too slow finds its place gone and is told so; it never holds anything up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::directory::Change;
use crate::domain::units::Time;
use crate::manager::NamespaceEntry;

/// Changes of one namespace that happened at once, in order.
#[derive(Debug)]
pub struct Batch {
    /// Counts up by one from a batch to the next, from 0.
    pub sequence: u64,
    pub at: Time,
    pub namespace: Arc<NamespaceEntry>,
    pub changes: Vec<Change>,
}

/// What a reader finds at its place.
#[derive(Clone, Debug)]
pub enum Entry {
    Batch(Arc<Batch>),
    /// It is gone; the oldest that is left is this one.
    Lost {
        oldest: u64,
    },
}

/// A stretch of the directory as it stood when so many batches had been appended.
#[derive(Debug)]
pub struct Page {
    /// The batch that comes after what the page says.
    pub as_of: u64,
    /// As changes from nowhere.
    pub parts: Vec<(Arc<NamespaceEntry>, Vec<Change>)>,
    /// Where the directory goes on.
    pub next_row: Option<u32>,
}

/// The last changes of residency.
#[derive(Debug)]
pub struct Journal {
    /// Tells this daemon's numbers from those of the one before.
    life: u64,
    changes_max: usize,
    ring: Mutex<Ring>,
    /// The number that the next batch gets.
    next: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<Arc<Batch>>,
    changes: usize,
}

impl Journal {
    /// Keeps so many changes; a batch that is larger by itself is kept until the next one comes.
    #[must_use]
    pub fn new(life: u64, changes_max: usize) -> Self {
        Self { life, changes_max, ring: Mutex::default(), next: watch::Sender::new(0) }
    }

    #[must_use]
    pub fn life(&self) -> u64 {
        self.life
    }

    /// The number that the next batch gets.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        *self.next.borrow()
    }

    /// What stands at `sequence`; nothing if that is still to come.
    #[must_use]
    pub fn at(&self, sequence: u64) -> Option<Entry> {
        let ring = self.ring();
        let oldest = ring.batches.front().map_or(self.next_sequence(), |batch| batch.sequence);
        match sequence.checked_sub(oldest) {
            None => Some(Entry::Lost { oldest }),
            Some(offset) => {
                let batch = usize::try_from(offset).ok().and_then(|at| ring.batches.get(at));
                batch.map(|batch| Entry::Batch(Arc::clone(batch)))
            }
        }
    }

    /// As [`Self::at`]; waits for what is still to come.
    pub async fn follow(&self, sequence: u64) -> Entry {
        let mut next = self.next.subscribe();
        loop {
            if let Some(entry) = self.at(sequence) {
                return entry;
            }
            // The sender is this journal's own, so it is there.
            let _ = next.wait_for(|next| *next > sequence).await;
        }
    }

    /// Only the manager's thread appends.
    pub fn append(&self, at: Time, namespace: Arc<NamespaceEntry>, changes: Vec<Change>) {
        let mut ring = self.ring();
        let sequence = self.next_sequence();
        ring.changes += changes.len();
        ring.batches.push_back(Arc::new(Batch { sequence, at, namespace, changes }));
        while ring.changes > self.changes_max && ring.batches.len() > 1 {
            let oldest = ring.batches.pop_front();
            ring.changes -= oldest.map_or(0, |batch| batch.changes.len());
        }
        self.next.send_replace(sequence + 1);
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Both fields change together, so a panic leaves them whole.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::namespace::NamespaceDigest;

    fn journal(changes_max: usize, batches: &[usize]) -> Journal {
        let journal = Journal::new(1, changes_max);
        let entry = NamespaceEntry {
            digest: NamespaceDigest([1; 32]),
            payload_bytes: 4096,
            namespace: None,
        };
        let entry = Arc::new(entry);
        for changes in batches {
            let changes = vec![change(); *changes];
            journal.append(Time::ZERO, Arc::clone(&entry), changes);
        }
        journal
    }

    fn change() -> Change {
        use crate::domain::block::{HashTail, Key};
        use crate::domain::tier::TierSet;
        Change {
            key: Key([1; 16]),
            namespace: 0,
            position: 0,
            tail: HashTail(1),
            parent_tail: HashTail::UNKNOWN,
            tokens: bytes::Bytes::new(),
            before: TierSet::EMPTY,
            after: TierSet::EMPTY,
        }
    }

    #[track_caller]
    fn check(journal: &Journal, sequence: u64, wanted: &str) {
        let found = match journal.at(sequence) {
            None => "to come".into(),
            Some(Entry::Batch(batch)) => format!("batch {}", batch.sequence),
            Some(Entry::Lost { oldest }) => format!("lost, {oldest} is left"),
        };
        assert_eq!(found, wanted, "at {sequence}");
    }

    #[test]
    fn a_reader_finds_a_batch_or_hears_that_it_is_gone() {
        let empty = journal(4, &[]);
        check(&empty, 0, "to come");
        check(&empty, 7, "to come");
        let kept = journal(4, &[1, 2, 1]);
        check(&kept, 0, "batch 0");
        check(&kept, 2, "batch 2");
        check(&kept, 3, "to come");
        let full = journal(4, &[1, 2, 2]);
        check(&full, 0, "lost, 1 is left");
        check(&full, 1, "batch 1");
        let flooded = journal(4, &[1, 2, 9]);
        check(&flooded, 1, "lost, 2 is left");
        check(&flooded, 2, "batch 2");
    }

    #[test]
    fn whoever_waits_is_woken() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let journal = Arc::new(journal(4, &[1]));
        let entry = Arc::clone(match journal.at(0) {
            Some(Entry::Batch(ref batch)) => &batch.namespace,
            other => panic!("{other:?}"),
        });
        let writer = Arc::clone(&journal);
        let appends = crate::env::spawn_thread("appends", move || {
            writer.append(Time::ZERO, entry, vec![change()]);
        });
        let found = runtime.block_on(journal.follow(1));
        appends.expect("a thread").join().expect("it ends well");
        assert!(matches!(found, Entry::Batch(batch) if batch.sequence == 1));
    }
}
