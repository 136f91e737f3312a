//! Tiers that are out: nothing of theirs is promised or asked for, and nothing of theirs is lost.

use super::durable::{self, persist};
use super::*;
use crate::domain::retention::{TokenRange, Wish};
use crate::tiers::health::Refuses;

/// Chain 1 is on `NVMe`, chain 11 in memory.
fn with_a_chain_on_nvme(blocks: [u64; 4]) -> Bench {
    let mut bench = Bench::new(blocks);
    bench.store(None, &[1, 2]);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    bench
}

fn outage(bench: &mut Bench, refuses: Refuses) {
    bench.event(Event::Outage { tier: Tier::Nvme, refuses });
}

#[test]
fn what_is_in_a_tier_that_is_out_is_a_miss_and_found_again() {
    let mut bench = with_a_chain_on_nvme([0, 2, 4, 0]);
    outage(&mut bench, Refuses::ALL);
    assert_eq!(bench.found(&[1, 2]), "");
    assert_eq!(bench.found(&[11, 12]), "dram:2", "memory serves on");
    let Reply::Overlap(overlap) = bench.ask(Command::Overlap { keys: keys(&[1, 2]) }) else {
        panic!("an overlap answers")
    };
    assert_eq!((overlap.runs.len(), overlap.held_blocks), (0, [0; Tier::COUNT]));
    bench.start_load(&[1, 2]);
    assert!(bench.transfers.is_empty(), "nothing is asked of it");
    assert_eq!(bench.completions.pop().map(|end| end.failed), Some(vec![0, 1]));
    outage(&mut bench, Refuses::NOTHING);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    assert!(bench.load(&[1, 2]).failed.is_empty());
}

#[test]
fn a_chain_is_promised_as_far_as_it_can_be_read() {
    let mut bench = Bench::new([0, 3, 4, 0]);
    bench.store(None, &[1, 2, 3]);
    bench.store(None, &[11]);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:2 nvme:1");
    outage(&mut bench, Refuses::READS);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:2");
}

#[test]
fn the_next_tiers_copy_is_promised_instead() {
    // Written down once more, from memory, while the tier below has it as well.
    let mut bench = Bench::new([0, 2, 4, 8]);
    bench.store(None, &[1, 2]);
    outage(&mut bench, Refuses::WRITES);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[1, 2]), "object:2");
    outage(&mut bench, Refuses::NOTHING);
    bench.load(&[1, 2]);
    assert!(persist(&mut bench, None, &[1, 2], |_| None).not_durable.is_empty());
    bench.store(None, &[21, 22]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    outage(&mut bench, Refuses::ALL);
    assert_eq!(bench.found(&[1, 2]), "object:2");
    assert!(bench.load(&[1, 2]).failed.is_empty());
}

#[test]
fn what_was_computed_again_meanwhile_is_kept_above() {
    let mut bench = with_a_chain_on_nvme([0, 2, 4, 0]);
    outage(&mut bench, Refuses::ALL);
    assert!(bench.store(None, &[1, 2]).failed.is_empty());
    assert_eq!(bench.found(&[1, 2]), "dram:2");
}

#[test]
fn the_only_copy_that_is_read_is_not_spare() {
    for (object, found) in [(8, "object:2"), (0, "")] {
        let mut bench = Bench::new([0, 2, 4, object]);
        assert!(persist(&mut bench, None, &[1, 2], |_| None).not_durable.is_empty());
        assert_eq!(bench.found(&[1, 2]), "dram:2", "and below");
        outage(&mut bench, Refuses::ALL);
        bench.store(None, &[11, 12]);
        assert_eq!(bench.found(&[11, 12]), "dram:2");
        assert_eq!(bench.found(&[1, 2]), found, "it sinks where a tier takes it");
        outage(&mut bench, Refuses::NOTHING);
        assert_eq!(bench.found(&[1, 2]), "nvme:2", "and what was out is there again");
    }
}

#[test]
fn nothing_sinks_into_a_tier_that_takes_no_writes() {
    let mut bench = with_a_chain_on_nvme([0, 2, 4, 8]);
    outage(&mut bench, Refuses::WRITES);
    assert_eq!(bench.found(&[1, 2]), "nvme:2", "it is read as ever");
    bench.start_store(None, &[21, 22]);
    bench.run_with(|copy| {
        assert!(!matches!(copy.to, End::Nvme(_)), "{copy:?}");
        None
    });
    assert_eq!(bench.found(&[11, 12]), "object:2", "it passed the tier by");
    outage(&mut bench, Refuses::NOTHING);
    bench.store(None, &[31, 32]);
    assert_eq!(bench.found(&[21, 22]), "nvme:2");
}

/// The root of chain 1 in memory, its end on `NVMe`, which is out, and so the root had to stay when room
/// was made for another.
fn with_a_root_kept(others: u64) -> Bench {
    let mut bench = Bench::new([0, 2 + others, 4, 0]);
    bench.store(None, &[1, 2]);
    bench.store(None, &(100..100 + others).collect::<Vec<_>>());
    bench.store(None, &[11]);
    assert_eq!(bench.found(&[1, 2]), "dram:1 nvme:1");
    outage(&mut bench, Refuses::WRITES);
    // The root is the one used least lately.
    bench.found(&[11]);
    bench.found(&(100..100 + others).collect::<Vec<_>>());
    bench.store(None, &[21]);
    assert_eq!(bench.found(&[1, 2]), "dram:1 nvme:1", "what hangs on it can be read");
    assert_eq!(bench.found(&[11]), "", "the other one went");
    bench
}

#[test]
fn what_was_kept_while_nothing_took_it_sinks_when_the_tier_is_back() {
    let mut bench = with_a_root_kept(0);
    outage(&mut bench, Refuses::NOTHING);
    bench.store(None, &[31, 32]);
    assert_eq!(bench.found(&[31, 32]), "dram:2");
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
}

#[test]
fn what_one_write_that_failed_kept_is_proposed_again_after_a_while() {
    let mut bench = Bench::new([0, 2, 4, 0]);
    bench.store(None, &[1, 2]);
    bench.store(None, &[11]);
    assert_eq!(bench.found(&[1, 2]), "dram:1 nvme:1");
    bench.found(&[11]);
    bench.start_store(None, &[21]);
    let of_root = |item: &TransferItem| item.meta.key == key(1) && matches!(item.to, End::Nvme(_));
    bench.run_with(|item| of_root(item).then_some(FailureKind::TargetFailed));
    assert_eq!(bench.found(&[1, 2]), "dram:1 nvme:1", "what hangs on it can be read");
    bench.pass(Duration::from_secs(31));
    bench.store(None, &[31, 32]);
    assert_eq!(bench.found(&[31, 32]), "dram:2");
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
}

#[test]
fn a_flip_looks_at_what_was_kept_for_the_tier_and_at_nothing_else() {
    let looks = |others| {
        let mut bench = with_a_root_kept(others);
        let mut looked = |refuses| {
            bench.manager.directory.looks.take();
            bench.manager.outage(Tier::Nvme, refuses);
            bench.manager.directory.looks.take()
        };
        [Refuses::ALL, Refuses::NOTHING, Refuses::READS, Refuses::WRITES].map(&mut looked)
    };
    assert_eq!(looks(10), looks(500));
    let [out, back, ..] = looks(10);
    assert!(out == 0 && back > 0, "{out} rows as it went, {back} as it came back");
}

/// A block in the object tier alone, to be forgotten after a second, whose time has come.
fn with_a_promise_due() -> Bench {
    let mut bench = Bench::with_config([0, 1, 0, 4], 1, |config| config.rewrites.queued_max = 1);
    let wish = Wish { delete_after: Some(Duration::from_secs(1)), ..Wish::default() };
    let claim = Directive { tokens: TokenRange::ALL, wish };
    bench.turn(None, &[claim], &[1]);
    bench.store(None, &[2]);
    assert_eq!(bench.found(&[1]), "object:1");
    bench.pass(Duration::from_secs(1));
    bench
}

/// Ends the erase that is under way.
fn end_erase(bench: &mut Bench, done: bool) {
    let (tier, place, erased) = bench.erases.pop_front().expect("it is to go");
    assert_eq!((tier, place, erased, bench.erases.len()), (Tier::Object, None, key(1), 0));
    bench.event(Event::Erased { tier, place, key: erased, done });
}

#[test]
fn what_was_promised_to_go_while_the_store_is_out_goes_when_it_is_back() {
    let mut bench = with_a_promise_due();
    let tell = |bench: &mut Bench, refuses| {
        bench.event(Event::Outage { tier: Tier::Object, refuses });
    };
    tell(&mut bench, Refuses::ALL);
    end_erase(&mut bench, false);
    bench.pass(Duration::from_hours(1));
    assert!(bench.erases.is_empty(), "nothing is asked of a store that is out");
    tell(&mut bench, Refuses::NOTHING);
    bench.pass(Duration::from_millis(100));
    end_erase(&mut bench, true);
    bench.pass(Duration::from_hours(1));
    assert!(bench.erases.is_empty(), "it is gone");
}

#[test]
fn what_was_promised_to_go_and_failed_is_tried_again_after_a_while_and_not_found_meanwhile() {
    let mut bench = with_a_promise_due();
    for _ in 0..3 {
        end_erase(&mut bench, false);
        bench.pass(Duration::from_secs(29));
        assert!(bench.erases.is_empty(), "not at once");
        // Stored anew it has no promise: what is to be erased is not written over.
        bench.store(None, &[1]);
        bench.store(None, &[2]);
        assert_eq!(bench.found(&[1]), "", "nor is it served from where it still lies");
        bench.pass(Duration::from_secs(1));
    }
    end_erase(&mut bench, true);
    bench.store(None, &[1]);
    bench.store(None, &[2]);
    assert_eq!(bench.found(&[1]), "object:1", "it may be written again");
}

#[test]
fn no_object_goes_for_room_while_too_many_are_to_be_erased() {
    let mut bench = Bench::with_config([0, 2, 0, 4], 1, |config| config.rewrites.queued_max = 2);
    for block in 1..=6 {
        bench.store(None, &[block]);
    }
    assert_eq!(bench.tier(Tier::Object).blocks, 4);
    bench.store(None, &[7, 8]);
    assert_eq!(bench.erases.len(), 2, "two went for those that came down");
    bench.store(None, &[9, 10]);
    assert_eq!(bench.erases.len(), 2, "what comes down then finds no room");
    assert_eq!(bench.found(&[9]), "dram:1", "and memory has room all the same");

    // What the store did not do is not forgotten: it is done later, and counts until then.
    for done in [true, false] {
        let (tier, place, key) = bench.erases.pop_front().expect("both are under way");
        bench.event(Event::Erased { tier, place, key, done });
    }
    bench.store(None, &[11, 12]);
    assert_eq!(bench.erases.len(), 1);
    bench.now = bench.now + Duration::from_secs(31);
    bench.event(Event::Tick);
    assert_eq!(bench.erases.len(), 2, "the one that failed, again");
}

/// A store of block 3 that waits for a slot of `NVMe`, which is being erased.
fn with_a_store_in_line(object: u64) -> (Bench, (Tier, Option<Place>, Key)) {
    let mut bench = Bench::new([0, 0, 2, object]);
    bench.store(None, &[1]);
    bench.lease(&[1]);
    bench.start_store(None, &[2]);
    let transfer = bench.transfers.pop_front().expect("it has room");
    let failed = vec![ItemFailure { item: 0, kind: FailureKind::TargetFailed }];
    bench.event(Event::TransferDone { transfer: transfer.id, failed });
    let erase = bench.erases.pop_front().expect("the slot may hold a whole frame");
    bench.completions.clear();
    bench.start_store(None, &[3]);
    assert!(bench.transfers.is_empty() && bench.completions.is_empty(), "room is coming");
    (bench, erase)
}

#[test]
fn nobody_waits_for_a_slot_that_could_not_be_erased() {
    let (mut bench, (tier, place, key)) = with_a_store_in_line(0);
    bench.event(Event::Erased { tier, place, key, done: false });
    assert_eq!(bench.completions.pop().map(|end| end.failed), Some(vec![0]));
}

#[test]
fn nobody_waits_in_line_for_a_tier_that_is_out() {
    for (object, failed, found) in [(0, vec![0], ""), (8, vec![], "object:1")] {
        let (mut bench, _) = with_a_store_in_line(object);
        outage(&mut bench, Refuses::WRITES);
        bench.run();
        assert_eq!(bench.completions.pop().map(|end| end.failed), Some(failed));
        assert_eq!(bench.found(&[3]), found);
    }
}

#[test]
fn no_durable_copy_is_begun_into_a_tier_that_went_out_meanwhile() {
    let mut bench = Bench::new([0, 1, 2, 0]);
    bench.store(None, &[1]);
    bench.start_store(None, &[2]);
    bench.lease(&[1]);
    durable::start(&mut bench, None, &[1], Directives::default());
    outage(&mut bench, Refuses::WRITES);
    let mut asked = 0;
    bench.run_with(|copy| {
        let is_refused = matches!(copy.to, End::Nvme(_));
        asked += usize::from(is_refused);
        is_refused.then_some(FailureKind::TargetFailed)
    });
    assert_eq!(asked, 1, "the copy that was on its way down already");
    let end = bench.completions.iter().find(|end| !end.not_durable.is_empty());
    assert_eq!(end.map(|end| &end.not_durable), Some(&vec![0]));
}

#[test]
fn what_a_tier_does_not_write_goes_to_the_next_one() {
    let mut bench = Bench::new([0, 2, 4, 8]);
    bench.store(None, &[1, 2]);
    bench.start_store(None, &[11, 12]);
    let is_nvme = |copy: &TransferItem| matches!(copy.to, End::Nvme(_));
    bench.run_with(|copy| is_nvme(copy).then_some(FailureKind::TargetFailed));
    assert_eq!(bench.found(&[1, 2]), "object:2");
    assert_eq!(bench.found(&[11, 12]), "dram:2");
}

#[test]
fn slots_that_could_not_be_erased_are_tried_again_a_bounded_number_at_a_time() {
    let mut bench = Bench::with_config([0, 0, 10, 0], 1, |config| {
        config.rewrites.under_way_max = 3;
    });
    let fail_erases = |bench: &mut Bench| {
        let asked: Vec<_> = bench.erases.drain(..).collect();
        for (tier, place, key) in &asked {
            let (tier, place, key) = (*tier, *place, *key);
            bench.event(Event::Erased { tier, place, key, done: false });
        }
        asked.len()
    };
    bench.start_store(None, &(0..10).collect::<Vec<_>>());
    while let Some(transfer) = bench.transfers.pop_front() {
        let items = (0..).take(transfer.items.len());
        let failed = items.map(|item| ItemFailure { item, kind: FailureKind::TargetFailed });
        bench.event(Event::TransferDone { transfer: transfer.id, failed: failed.collect() });
    }
    assert_eq!(fail_erases(&mut bench), 10);
    bench.now = bench.now + Duration::from_secs(30);
    for asked in [3, 3, 3, 1, 0] {
        bench.event(Event::Tick);
        bench.event(Event::Tick);
        assert_eq!(fail_erases(&mut bench), asked);
    }
}

#[test]
fn what_is_owed_is_tried_once_more_before_a_stop() {
    let mut bench = Bench::with_config([0, 0, 10, 0], 1, |config| {
        config.rewrites.under_way_max = 3;
    });
    let end_all = |bench: &mut Bench, done: bool| {
        let mut ended = 0;
        while let Some((tier, place, key)) = bench.erases.pop_front() {
            ended += 1;
            bench.event(Event::Erased { tier, place, key, done });
        }
        ended
    };
    bench.start_store(None, &(0..10).collect::<Vec<_>>());
    while let Some(transfer) = bench.transfers.pop_front() {
        let items = (0..).take(transfer.items.len());
        let failed = items.map(|item| ItemFailure { item, kind: FailureKind::TargetFailed });
        bench.event(Event::TransferDone { transfer: transfer.id, failed: failed.collect() });
    }
    assert_eq!(end_all(&mut bench, false), 10);
    bench.event(Event::Stopping);
    assert_eq!(bench.erases.len(), 3, "a bounded number at a time");
    assert_eq!(end_all(&mut bench, false), 10, "each once, whatever comes of it");
}

/// LRU would have read from the tier that is out no more than the policy can.
#[test]
fn what_an_outage_hides_is_not_held_against_the_policy() {
    let mut bench = Bench::with_config([0, 100, 300, 0], 1, |config| {
        config.policy = PolicyName::Value;
    });
    let chains: Vec<Vec<u64>> =
        (0..4).map(|chain| (0..100).map(|n| chain * 1000 + n).collect()).collect();
    for chain in &chains {
        bench.found(chain);
        bench.store(None, chain);
    }
    outage(&mut bench, Refuses::READS);
    for chain in &chains {
        bench.found(chain);
    }
    assert!(bench.manager.lru_decides().is_empty());
    outage(&mut bench, Refuses::NOTHING);
    let found: Vec<_> = chains.iter().map(|chain| bench.found(chain)).collect();
    assert_eq!(found.iter().filter(|found| found.contains("nvme:100")).count(), 3, "{found:?}");
}

/// Copies that came into memory, those that went for their room and those that are there.
fn memory_s_books(bench: &mut Bench) -> [u64; 3] {
    let payload_bytes = namespace(1).payload_bytes();
    let tier = bench.tier(Tier::Dram);
    [tier.bytes_in / payload_bytes, tier.evicted_copies, tier.blocks]
}

#[test]
fn a_copy_that_stays_after_all_is_not_counted_as_evicted() {
    // Block 1 is on its way down for the sake of block 2.
    let sinking = || {
        let mut bench = Bench::new([0, 1, 2, 0]);
        bench.store(None, &[1]);
        bench.start_store(None, &[2]);
        assert_eq!(memory_s_books(&mut bench), [1, 0, 1]);
        bench
    };
    let fails =
        |item: &TransferItem| matches!(item.to, End::Nvme(_)).then_some(FailureKind::TargetFailed);
    let mut bench = sinking();
    bench.run();
    assert_eq!(memory_s_books(&mut bench), [2, 1, 1]);

    let mut bench = sinking();
    bench.start_load(&[1]);
    bench.run();
    assert_eq!(memory_s_books(&mut bench), [1, 0, 1], "it was read while it sank");

    let mut bench = sinking();
    bench.lease(&[1]);
    bench.run_with(fails);
    assert_eq!(memory_s_books(&mut bench), [1, 0, 1], "it is leased, and could not sink");

    let mut bench = sinking();
    bench.run_with(fails);
    assert_eq!(memory_s_books(&mut bench), [2, 1, 1], "it was dropped instead");
    assert_eq!(bench.tier(Tier::Dram).evicted_blocks, 1);
}
