//! Blocks that the shared store is presumed to have.

use proptest::prelude::*;

use super::*;
use crate::domain::retention::{Kind, Ownership};

impl Bench {
    fn presume(&mut self, n: u64, parent: Option<u64>, position: u32) {
        let (client, parent) = (self.client, parent.map(key));
        self.event(Event::Presumed { client, key: key(n), parent, position });
    }

    /// A node whose shared store is presumed to have the chain 1, 2, 3.
    fn presuming() -> Self {
        let mut bench = Self::new([0, 10, 0, 20]);
        bench.now = Time::ZERO + HOUR;
        bench.presume(1, None, 0);
        bench.presume(2, Some(1), 1);
        bench.presume(3, Some(2), 2);
        bench
    }
}

fn promised(delete_after: Time) -> RetentionRecord {
    RetentionRecord { delete_after, ..RetentionRecord::default() }
}

#[test]
fn they_are_found_and_served_and_their_headers_count_once_they_are_read() {
    let mut bench = Bench::presuming();
    assert_eq!(bench.found(&[1, 2, 3]), "object:3");
    let shield_until = bench.now + HOUR;
    let shielded = RetentionRecord { shield_until, priority: 80, ..RetentionRecord::default() };
    bench.found_object(frame(2, Some(1), 1, shielded));
    assert_eq!(bench.record(2), shielded);
    assert_eq!(bench.record(1), RetentionRecord::default());
    assert_eq!(bench.manager.directory.shielded_blocks(0), 1);
    // What is known counts more than what a header says later.
    bench.found_object(frame(2, Some(1), 1, RetentionRecord::default()));
    assert_eq!(bench.record(2), shielded);
    assert!(bench.load(&[1, 2, 3]).failed.is_empty());
}

/// Whoever looked for it found it before.
#[test]
fn what_went_while_a_lookup_asked_is_not_found_again_by_that() {
    let mut bench = Bench::presuming();
    bench.found_object(frame(3, Some(2), 2, promised(bench.now + SECOND)));
    bench.pass(SECOND);
    while let Some((tier, place, key)) = bench.erases.pop_front() {
        bench.event(Event::Erased { tier, place, key, done: true });
    }
    bench.presume(3, Some(2), 2);
    assert_eq!(bench.found(&[1, 2, 3]), "object:2");
    // It may have come anew, from another node.
    bench.pass(3 * SECOND);
    bench.presume(3, Some(2), 2);
    assert_eq!(bench.found(&[1, 2, 3]), "object:3");
}

#[test]
fn a_promise_that_only_the_header_tells_of_is_kept_before_the_block_is_served() {
    let mut bench = Bench::presuming();
    bench.start_load(&[1, 2, 3]);
    // Its bytes have come, and with them the header.
    let due = promised(bench.now);
    bench.found_object(frame(2, Some(1), 1, due));
    bench.run();
    let end = bench.completions.pop().expect("a load completes");
    assert_eq!(end.failed, [1, 2], "what hangs on it goes with it");
    assert_eq!(bench.found(&[1, 2, 3]), "dram:1");
    let erased: Vec<_> = bench.erases.iter().map(|(.., key)| *key).collect();
    assert!(erased.contains(&key(2)) && erased.contains(&key(3)), "{erased:?}");
}

#[test]
fn nothing_is_written_into_a_header_that_nobody_has_read() {
    let mut bench = Bench::presuming();
    let until = bench.now + HOUR;
    bench.retain(&[1], Wish { priority: Some((70, None)), ..Wish::default() });
    for _ in 0..10 {
        bench.wait(10 * SECOND);
    }
    assert_eq!(bench.written(RestampEnd::Written), []);
    bench.found_object(frame(1, None, 0, promised(until)));
    bench.wait(10 * SECOND);
    let (.., record) = bench.restamps[0];
    assert_eq!((record.priority, record.delete_after), (70, until), "both nodes' wishes");
    assert_eq!(bench.written(RestampEnd::Written), [(Tier::Object, key(1))]);
}

/// What another node asked for, with times that are still ahead.
fn anothers(now: Time) -> RetentionRecord {
    RetentionRecord {
        priority: 90,
        shield_until: now + 2 * HOUR,
        kind: Kind::System,
        floor: Tier::Nvme,
        ..RetentionRecord::default()
    }
}

#[test]
fn what_a_wish_does_not_name_stays_as_the_header_says_that_is_read_later() {
    let mut bench = Bench::presuming();
    let there = anothers(bench.now);
    bench.retain(&[1], Wish { shield: shield(HOUR).shield, ..priority(20) });
    let asked = bench.now;
    bench.wait(SECOND);
    bench.retain(&[1], priority(70));
    bench.wait(SECOND);
    bench.found_object(frame(1, None, 0, there));
    let new = RetentionRecord {
        priority: 70,
        shield_until: asked + HOUR,
        refresh_on_hit_ms: 3_600_000,
        ..there
    };
    assert_eq!(bench.record(1), new);
    assert_eq!(bench.manager.directory.shielded_blocks(0), 1);
    bench.wait(10 * SECOND);
    assert_eq!(bench.restamps.iter().map(|(.., record)| *record).collect::<Vec<_>>(), [new]);
}

#[test]
fn a_release_holds_for_what_the_header_asks_that_is_read_later() {
    let mut bench = Bench::presuming();
    let there = anothers(bench.now);
    bench.hint(Action::Release { target: Target::Keys(keys(&[1])) });
    bench.found_object(frame(1, None, 0, there));
    assert_eq!(bench.record(1), there.released());
    assert_eq!(bench.manager.directory.shielded_blocks(0), 0);
    // What comes after the release counts.
    bench.hint(Action::Release { target: Target::Keys(keys(&[2])) });
    bench.retain(&[2], priority(60));
    bench.found_object(frame(2, Some(1), 1, there));
    assert_eq!(bench.record(2), RetentionRecord { priority: 60, ..there.released() });
}

#[test]
fn what_was_asked_is_remembered_no_longer_than_the_header_is_unread() {
    let mut bench = Bench::presuming();
    bench.retain(&[1, 2, 3], priority(70));
    for round in 0..100 {
        bench.retain(&[3], priority(round));
    }
    assert_eq!(bench.manager.unread.len(), 3);
    bench.found_object(frame(1, None, 0, RetentionRecord::default()));
    assert_eq!(bench.manager.unread.len(), 2);
    bench.start_load(&[1, 2, 3]);
    let lost = |item: &TransferItem| {
        (item.meta.key == key(2) && item.from == End::Object).then_some(FailureKind::SourceMissing)
    };
    bench.run_with(lost);
    assert_eq!(bench.manager.unread.len(), 0, "it and what hangs on it is gone");
}

#[test]
fn what_was_asked_before_a_block_was_copied_to_nvme_stands_in_its_header_there() {
    let mut bench = Bench::new([0, 0, 10, 10]);
    bench.now = Time::ZERO + HOUR;
    bench.presume(1, None, 0);
    bench.retain(&[1], Wish { delete_after: Some(HOUR), ..Wish::default() });
    // It is read: its header comes with its bytes, and says nothing.
    durable::start(&mut bench, None, &[1], Directives::default());
    bench.found_object(frame(1, None, 0, RetentionRecord::default()));
    bench.run();
    assert_eq!(bench.found(&[1]), "nvme:1");
    bench.wait(SECOND);
    let promised = |(tier, _, record): &(Tier, Key, RetentionRecord)| {
        *tier == Tier::Nvme && record.delete_after != Time::ZERO
    };
    assert!(bench.restamps.iter().any(promised), "{:?}", bench.restamps);
}

#[test]
fn a_promise_is_not_forgotten_for_what_is_asked_later() {
    let mut bench = Bench::presuming();
    bench.retain(
        &[1],
        Wish { delete_after: Some(HOUR), kind: Some(Kind::Reasoning), ..Wish::default() },
    );
    for value in 0..50 {
        bench.retain(&[1], priority(value));
    }
    bench.found_object(frame(1, None, 0, RetentionRecord::default()));
    let record = bench.record(1);
    assert_eq!((record.delete_after, record.priority), (bench.now + HOUR, 49));
    assert_eq!((record.kind, record.floor), (Kind::Reasoning, Tier::Dram));
}

fn asked() -> impl Strategy<Value = Option<Wish>> {
    let priority = prop::option::of((0_u8..=100).prop_map(|value| (value, None)));
    let ttl = prop::option::of((1_u32..8, any::<bool>()));
    let kind = prop::option::of(prop::sample::select(Kind::ALL.to_vec()));
    let floor = prop::option::of(prop::sample::select(Tier::ALL.to_vec()));
    prop::option::weighted(
        0.8,
        (priority, ttl, kind, floor).prop_map(|(priority, ttl, kind, floor)| {
            let shield =
                ttl.map(|(hours, refresh_on_hit)| Shield { ttl: hours * HOUR, refresh_on_hit });
            Wish { priority, shield, kind, floor, ..Wish::default() }
        }),
    )
}

proptest! {
    #[test]
    fn it_is_all_the_same_when_the_header_is_read(
        there in asked(),
        wishes in prop::collection::vec(asked(), 0..6),
        read_after in 0_usize..6,
    ) {
        let record_if_read = |after: usize| {
            let mut bench = Bench::presuming();
            let there = RetentionRecord::default()
                .asked(&there.unwrap_or_default(), bench.now, Ownership::Sole);
            let read = |bench: &mut Bench, n| {
                if n == after {
                    bench.found_object(frame(1, None, 0, there));
                }
            };
            for (n, asked) in wishes.iter().enumerate() {
                read(&mut bench, n);
                bench.wait(SECOND);
                match asked {
                    Some(wish) => bench.retain(&[1], *wish),
                    None => {
                        bench.hint(Action::Release { target: Target::Keys(keys(&[1])) });
                    }
                }
            }
            (wishes.len()..=after).for_each(|n| read(&mut bench, n));
            bench.record(1)
        };
        prop_assert_eq!(record_if_read(0), record_if_read(read_after));
    }
}

#[test]
fn a_header_that_nobody_has_read_holds_up_no_other_copy() {
    let mut bench = Bench::new([0, 10, 10, 20]);
    bench.presume(1, None, 0);
    let end = durable::persist(&mut bench, None, &[1], |_| None);
    assert_eq!((end.failed, end.not_durable), (Vec::new(), Vec::new()));
    bench.retain(&[1], Wish { priority: Some((70, None)), ..Wish::default() });
    bench.wait(10 * SECOND);
    assert_eq!(bench.written(RestampEnd::Written), [(Tier::Nvme, key(1))]);
    bench.found_object(frame(1, None, 0, RetentionRecord::default()));
    bench.wait(10 * SECOND);
    assert_eq!(bench.written(RestampEnd::Written), [(Tier::Object, key(1))]);
}

#[test]
fn one_that_is_not_there_costs_its_load_and_what_hangs_on_it() {
    let mut bench = Bench::presuming();
    bench.start_load(&[1, 2, 3]);
    let lost = |item: &TransferItem| {
        (item.meta.key == key(2) && item.from == End::Object).then_some(FailureKind::SourceMissing)
    };
    bench.run_with(lost);
    let end = bench.completions.pop().expect("a load completes");
    assert!(end.failed.contains(&1), "{:?}", end.failed);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:1");
    assert!(bench.erases.is_empty(), "another node may have written it since: {:?}", bench.erases);
    assert_eq!(bench.manager.status().corrupt_copies, 0, "who wrote it has erased it");
}

#[test]
fn what_does_not_hang_together_is_not_taken_in() {
    let mut bench = Bench::new([0, 10, 0, 20]);
    bench.presume(2, Some(1), 1);
    bench.presume(1, None, 3);
    bench.presume(5, None, 0);
    bench.presume(6, Some(5), 4);
    assert_eq!(bench.manager.status().blocks, 1);
    bench.store(None, &[11, 12]);
    bench.presume(12, Some(11), 1);
    assert_eq!(bench.found(&[11, 12]), "dram:2", "what is here already stays as it is");
}

#[test]
fn a_chain_finds_room_in_a_full_tier_whatever_the_policy() {
    for policy in [PolicyName::Value, PolicyName::Lru, PolicyName::S3Fifo] {
        let mut bench = Bench::with_config([0, 100, 0, 8], 1, |config| config.policy = policy);
        for chain in 0..10 {
            let first = 100 * chain;
            for (position, block) in (0..).zip(first..first + 6) {
                let parent = (position > 0).then(|| block - 1);
                let mut found = frame(block, parent, position, RetentionRecord::default());
                found.header.node_id = [7; 16];
                bench.found_object(found);
            }
            let blocks: Vec<u64> = (first..first + 6).collect();
            assert_eq!(bench.found(&blocks), "object:6", "{policy:?}, chain {chain}");
            bench.start_load(&blocks);
            bench.run();
        }
    }
}

#[test]
fn what_hangs_on_one_is_told_with_its_parent_once_that_has_a_name() {
    let mut bench = Bench::with_config([0, 10, 0, 20], 1, |config| config.tells_residency = true);
    bench.now = Time::ZERO + HOUR;
    let ordinary = RetentionRecord::default();
    bench.found_object(frame(1, None, 0, ordinary));
    bench.presume(2, Some(1), 1);
    bench.found_object(frame(3, Some(2), 2, ordinary));
    bench.presume(4, Some(2), 2);
    // Routers have a name for these blocks, and for those before them.
    let named = |bench: &mut Bench| -> Vec<u64> {
        let known = |change: &Change| {
            change.tail.known()?;
            (change.position == 0 || change.parent_tail.known().is_some()).then_some(change.tail.0)
        };
        bench.changes.drain(..).filter_map(|change| known(&change)).collect()
    };
    assert_eq!(named(&mut bench), [1]);
    bench.found_object(frame(2, Some(1), 1, ordinary));
    assert_eq!(named(&mut bench), [2, 3], "the fourth has no name yet");
    bench.found_object(frame(2, Some(1), 1, ordinary));
    assert!(named(&mut bench).is_empty());
    bench.found_object(frame(4, Some(2), 2, ordinary));
    assert_eq!(named(&mut bench), [4]);
}

#[test]
fn the_floor_that_a_header_tells_of_holds_for_what_hangs_on_the_block() {
    let mut bench = Bench::presuming();
    let bounded = RetentionRecord { floor: Tier::Nvme, ..RetentionRecord::default() };
    bench.found_object(frame(2, Some(1), 1, bounded));
    let floor = |n| {
        let row = bench.manager.directory.find(key(n)).expect("it is here");
        bench.manager.directory.get(row).floor
    };
    assert_eq!([1, 2, 3].map(floor), [Tier::Object, Tier::Nvme, Tier::Nvme]);
}

#[test]
fn the_priority_that_a_header_tells_of_decides_who_goes() {
    let mut bench = Bench::with_config([0, 20, 0, 2], 1, |_| {});
    bench.now = Time::ZERO + HOUR;
    bench.presume(1, None, 0);
    bench.presume(2, None, 0);
    let lowered = RetentionRecord { priority: 10, ..RetentionRecord::default() };
    bench.found_object(frame(2, None, 0, lowered));
    bench.presume(3, None, 0);
    assert_eq!((bench.found(&[1]), bench.found(&[2])), ("object:1".into(), String::new()));
}
