//! Searches over a store that counts the rounds in which it is asked.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::domain::block::HashTail;
use crate::domain::namespace::example;
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::store::{Done, FrameMeta, Peeked, StoreOp};

fn key(at: usize) -> Key {
    example().digest().key(&at.to_le_bytes())
}

fn chain(blocks: usize) -> Vec<Key> {
    (0..blocks).map(key).collect()
}

/// The header of the chain's block at this index.
pub(super) fn header(at: usize) -> FrameHeader {
    let meta = FrameMeta {
        key: key(at),
        tail: HashTail::UNKNOWN,
        parent: at.checked_sub(1).map(key),
        position: u32::try_from(at).unwrap(),
        created_at: Time::ZERO,
        record: RetentionRecord::default(),
    };
    let namespace = example().digest();
    FrameHeader { namespace, meta, payload_bytes: 4096, payload_checksum: 0, node_id: [1; 16] }
}

/// Keeps questions until it is told to answer all of them: one round trip.
#[derive(Default)]
struct Far {
    there: BTreeMap<Key, FrameHeader>,
    waiting: Mutex<Vec<(Key, Peeked)>>,
}

impl TierStore for Far {
    fn tier(&self) -> Tier {
        Tier::Object
    }

    fn submit(&self, _op: StoreOp, _done: Done) {
        unreachable!("searches only look at headers")
    }

    fn peek(&self, key: Key, told: Peeked) {
        self.waiting.lock().unwrap().push((key, told));
    }
}

struct Asked {
    stretch: Stretch,
    rounds: usize,
    questions: usize,
}

fn store(indices: impl IntoIterator<Item = usize>) -> Arc<Far> {
    let there = indices.into_iter().map(|at| (key(at), header(at))).collect();
    Arc::new(Far { there, waiting: Mutex::default() })
}

async fn follow(shared: &Arc<Shared>, far: &Far, blocks: usize, known: usize) -> Asked {
    let asking = Arc::clone(shared);
    let task = crate::env::spawn_task(async move {
        asking.follow(&chain(blocks), known, Duration::from_secs(9)).await
    });
    let (mut rounds, mut questions) = (0, 0);
    while !task.is_finished() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let waiting = std::mem::take(&mut *far.waiting.lock().unwrap());
        rounds += usize::from(!waiting.is_empty());
        questions += waiting.len();
        for (key, told) in waiting {
            let found = far.there.get(&key).copied();
            told(found.ok_or_else(|| StoreError::Missing("no".into())));
        }
    }
    Asked { stretch: task.await.unwrap(), rounds, questions }
}

#[tokio::test]
async fn eight_thousand_blocks_are_found_within_two_round_trips() {
    for stored in [1, 16, 17, 129, 4_321, 7_999, 8_000] {
        let far = store(0..stored);
        let shared = Arc::new(Shared::new(Arc::clone(&far) as _));
        let asked = follow(&shared, &far, 8_000, 0).await;
        assert_eq!(asked.stretch.end, stored);
        assert!(asked.rounds <= 2, "{stored} blocks took {} rounds", asked.rounds);
        assert!(asked.questions <= 3 * ROUND_MAX, "{stored} blocks: {}", asked.questions);
        let first: Vec<usize> = asked.stretch.headers.keys().copied().collect();
        assert!(first.iter().copied().take(stored.min(100)).eq(0..stored.min(100)));
    }
}

#[tokio::test]
async fn what_was_not_there_is_not_asked_for_again_at_once() {
    let far = store(0..40);
    let shared = Arc::new(Shared::new(Arc::clone(&far) as _));
    assert_eq!(follow(&shared, &far, 8_000, 0).await.stretch.end, 40);
    let again = follow(&shared, &far, 8_000, 40).await;
    assert_eq!((again.stretch.end, again.questions), (40, 0));
    // Another chain's are.
    assert!(follow(&shared, &far, 8_000, 39).await.questions > 0);
}

#[tokio::test]
async fn nothing_costs_one_round_and_a_hole_is_never_crossed_by_the_headers_that_were_read() {
    let far = store([]);
    let shared = Arc::new(Shared::new(Arc::clone(&far) as _));
    let asked = follow(&shared, &far, 8_000, 0).await;
    assert_eq!((asked.stretch.end, asked.rounds), (0, 1));

    let far = store((0..50).chain(51..100));
    let shared = Arc::new(Shared::new(Arc::clone(&far) as _));
    let asked = follow(&shared, &far, 100, 0).await;
    assert_eq!(asked.stretch.end, 50);
    assert!(asked.stretch.headers.keys().copied().eq(0..50));
}

#[tokio::test]
async fn another_chains_block_ends_it() {
    let mut far =
        Far { there: (0..20).map(|at| (key(at), header(at))).collect(), ..Far::default() };
    far.there.insert(key(9), FrameHeader { meta: header(8).meta, ..header(9) });
    let far = Arc::new(far);
    let shared = Arc::new(Shared::new(Arc::clone(&far) as _));
    assert_eq!(follow(&shared, &far, 20, 0).await.stretch.end, 9);
}
