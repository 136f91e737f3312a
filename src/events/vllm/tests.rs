//! Payloads, byte by byte as vLLM's own encoder writes them, and what is told of which changes.

use std::fmt::Write;

use bytes::Bytes;

use super::*;
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::{NamespaceDigest, example};
use crate::manager::NamespaceEntry;

const NONE: &[Tier] = &[];
const HBM: &[Tier] = &[Tier::Hbm];
const DRAM: &[Tier] = &[Tier::Dram];
const NVME: &[Tier] = &[Tier::Nvme];

/// Block `n` at `position`, whose parent is `parent`; 0 is a block that nobody named.
fn change((n, parent): (u64, u64), position: u32, before: &[Tier], after: &[Tier]) -> Change {
    Change {
        key: Key([1; 16]),
        namespace: 0,
        position,
        tail: HashTail(n),
        parent_tail: HashTail(parent),
        tokens: Bytes::new(),
        before: before.iter().copied().collect(),
        after: after.iter().copied().collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// The payload must be this one, made by
/// `msgspec.msgpack.Encoder().encode(KVEventBatch(ts=.., events=[..], data_parallel_rank=0))` with the
/// classes of vLLM 0.32.0 and msgspec 0.22.0.
#[track_caller]
fn check(at_micros: u64, block_tokens: u32, changes: &[Change], golden: &str) {
    let found = payload(Time { micros: at_micros }, block_tokens, changes);
    assert_eq!(hex(&found), golden.replace(' ', ""));
}

#[test]
fn payloads_are_those_of_vllm() {
    let root_and_child = [
        change((0x191a_1b1c_1d1e_1f20, 0), 0, NONE, DRAM),
        change((7, 0x191a_1b1c_1d1e_1f20), 1, NONE, DRAM),
    ];
    check(
        1_500_000,
        4,
        &root_and_child,
        "93 cb3ff8000000000000 91 88a474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657392 \
         cf191a1b1c1d1e1f20 07 b1706172656e745f626c6f636b5f68617368c0 a9746f6b656e5f69647390 \
         aa626c6f636b5f73697a6504 a76c6f72615f6964c0 a66d656469756da3435055 a96c6f72615f6e616d65c0 00",
    );
    let tokens = |ids: [u32; 4]| ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut spelled = root_and_child.clone();
    spelled[0].tokens = tokens([1, 2, 127, 128]);
    spelled[1].tokens = tokens([255, 256, 65_535, 65_536]);
    check(
        1_500_000,
        4,
        &spelled,
        "93cb3ff80000000000009188a474797065ab426c6f636b53746f726564ac626c6f636b5f6861736865739\
         2cf191a1b1c1d1e1f2007b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f69647398\
         01027fcc80ccffcd0100cdffffce00010000aa626c6f636b5f73697a6504a76c6f72615f6964c0a66d6564\
         69756da3435055a96c6f72615f6e616d65c000",
    );
    let sunk = [
        change((u64::MAX, 7), 2, NONE, NVME),
        change((7, 6), 1, HBM, NONE),
        change((300, 7), 2, HBM, NONE),
    ];
    check(
        1_732_600_000_250_000,
        16,
        &sunk,
        "93cb41d9d158301000009288a474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391cf\
         ffffffffffffffffb1706172656e745f626c6f636b5f6861736807a9746f6b656e5f69647390aa626c6f636b\
         5f73697a6510a76c6f72615f6964c0a66d656469756da753544f52414745a96c6f72615f6e616d65c083a474\
         797065ac426c6f636b52656d6f766564ac626c6f636b5f6861736865739207cd012ca66d656469756da34750\
         5500",
    );
    let many: Vec<Change> = (1..18).map(|n| change((n, n + 1), 9, NVME, NONE)).collect();
    check(
        2_000_000,
        16,
        &many,
        "93cb40000000000000009183a474797065ac426c6f636b52656d6f766564ac626c6f636b5f686173686573dc\
         00110102030405060708090a0b0c0d0e0f1011a66d656469756da753544f5241474500",
    );
    check(2_000_000, 16, &[], "93cb40000000000000009000");
}

/// Events in words: `+GPU 1,2<0` is blocks 1 and 2 stored, `-CPU 3` is 3 removed.
fn told(changes: &[Change]) -> String {
    let events = events(changes);
    let events = events.iter().map(|event| {
        let hashes: Vec<_> = event.iter().map(|one| one.change.tail.0.to_string()).collect();
        let sign = if event[0].came { '+' } else { '-' };
        format!("{sign}{} {}", event[0].medium.name(), hashes.join(","))
    });
    events.collect::<Vec<_>>().join("; ")
}

#[test]
fn a_medium_is_told_once_whatever_tiers_it_stands_for() {
    let both: &[Tier] = &[Tier::Nvme, Tier::Object];
    let object: &[Tier] = &[Tier::Object];
    for (before, after, says) in [
        (NONE, DRAM, "+CPU 5"),
        (NONE, NVME, "+STORAGE 5"),
        (NVME, both, ""),
        (both, object, ""),
        (object, NONE, "-STORAGE 5"),
        (&[Tier::Hbm, Tier::Dram, Tier::Nvme], NONE, "-GPU 5; -CPU 5; -STORAGE 5"),
        (HBM, DRAM, "+CPU 5; -GPU 5"),
    ] {
        assert_eq!(told(&[change((5, 0), 0, before, after)]), says, "{before:?} {after:?}");
    }
}

#[test]
fn only_blocks_in_a_chain_share_an_event() {
    let came = |name, position| change(name, position, NONE, DRAM);
    assert_eq!(told(&[came((1, 0), 0), came((2, 1), 1), came((3, 2), 2)]), "+CPU 1,2,3");
    assert_eq!(told(&[came((1, 0), 0), came((2, 1), 1), came((9, 1), 1)]), "+CPU 1,2; +CPU 9");
    let mut spelled = came((2, 1), 1);
    spelled.tokens = Bytes::from_static(&[1; 64]);
    assert_eq!(told(&[came((1, 0), 0), spelled]), "+CPU 1; +CPU 2", "one has no tokens");
    let went = change((7, 3), 4, DRAM, NONE);
    assert_eq!(told(&[came((1, 0), 0), went, came((2, 1), 1)]), "+CPU 1,2; -CPU 7");
}

#[test]
fn a_chain_that_drains_is_two_events() {
    let chain = |n: u64| (n, n - 1);
    let sinks = |n: u64| {
        let position = u32::try_from(n - 1).unwrap();
        let both: &[Tier] = &[Tier::Dram, Tier::Nvme];
        [change(chain(n), position, DRAM, both), change(chain(n), position, both, NVME)]
    };
    assert_eq!(told(&[sinks(1), sinks(2)].concat()), "+STORAGE 1,2; -CPU 1,2");
    assert_eq!(told(&[sinks(3), sinks(1), sinks(2)].concat()), "+STORAGE 1,2,3; -CPU 3,1,2");
    let other = change((9, 0), 0, NONE, NVME);
    let between = [sinks(1).to_vec(), vec![other], sinks(2).to_vec()].concat();
    assert_eq!(told(&between), "+STORAGE 1,2; +STORAGE 9; -CPU 1,2");
}

#[test]
fn what_a_block_does_on_a_medium_is_told_in_order() {
    let (came, went) = (change((1, 0), 0, NONE, DRAM), change((1, 0), 0, DRAM, NONE));
    let mut spelled = came.clone();
    spelled.tokens = Bytes::from_static(&[1; 64]);
    assert_eq!(told(&[went.clone(), spelled]), "-CPU 1; +CPU 1");
    let child = change((2, 1), 1, NONE, DRAM);
    let moves = [came.clone(), went.clone(), came, child, went];
    assert_eq!(told(&moves), "+CPU 1; -CPU 1; +CPU 1,2; -CPU 1");
}

#[test]
fn what_nobody_named_is_not_told() {
    assert_eq!(told(&[change((0, 0), 0, NONE, DRAM)]), "");
    assert_eq!(told(&[change((4, 0), 3, NONE, DRAM)]), "", "its parent has no name");
    assert_eq!(told(&[change((4, 0), 0, NONE, DRAM)]), "+CPU 4", "a root needs none");
}

fn journal(changes_max: usize) -> Arc<Journal> {
    Arc::new(Journal::new(2_000_000, changes_max))
}

fn append(journal: &Journal, n: u64, known: bool) {
    let namespace = known.then(example);
    let digest = NamespaceDigest([1; 32]);
    let entry = Arc::new(NamespaceEntry { digest, payload_bytes: 4096, namespace });
    journal.append(Time { micros: 1 }, entry, vec![change((n, 0), 0, NONE, DRAM)]);
}

#[test]
fn numbers_count_from_a_daemon_that_has_nothing() {
    let journal = journal(2);
    let feed = Feed::new(Arc::clone(&journal), "kv@node@{model}".into());
    assert_eq!(feed.next_sequence(), 1);
    assert_eq!(feed.at(1), None);
    let Some(Found::Message(first)) = feed.at(0) else { panic!("the first message is made") };
    assert_eq!((first.sequence, first.topic.as_slice()), (0, &b"kv@node@"[..]));
    let golden = "93cb40000000000000009181a474797065b0416c6c426c6f636b73436c656172656400";
    assert_eq!(hex(&first.payload), golden);

    append(&journal, 1, false);
    append(&journal, 2, true);
    let Some(Found::Message(second)) = feed.at(2) else { panic!("two were appended") };
    assert_eq!(second.topic, format!("kv@node@{}", example().model).into_bytes());
    append(&journal, 3, true);
    for gone in [0, 1] {
        assert_eq!(feed.at(gone), Some(Found::Lost { oldest: 2 }), "{gone}");
    }
    assert_eq!(feed.next_sequence(), 4);
}

#[tokio::test]
async fn what_many_want_is_packed_once_and_what_nobody_wants_never() {
    let journal = journal(10);
    let feed = Feed::new(Arc::clone(&journal), "kv@".into());
    append(&journal, 1, true);
    append(&journal, 2, true);
    assert_eq!(feed.follow(2, |topic| topic == b"other").await, None);
    assert_eq!(*feed.newest.lock().unwrap(), None);
    let payload = async |sequence| match feed.follow(sequence, |_| true).await {
        Some(Found::Message(message)) => message.payload,
        other => panic!("{other:?}"),
    };
    let first = payload(2).await;
    assert_eq!(payload(2).await.as_ptr(), first.as_ptr(), "packed anew");
    // One that is behind does not push it out.
    assert_ne!(payload(1).await, first);
    assert_eq!(payload(2).await.as_ptr(), first.as_ptr(), "packed anew");
    assert_eq!(feed.at(2), feed.follow(2, |_| true).await);
}
