//! Frames of blocks that were stored anew before the scan came to them.

use super::*;

#[test]
fn the_record_of_a_frame_counts_where_nobody_asked_for_anything_since() {
    let mut bench = recovering();
    bench.now = Time::ZERO + HOUR;
    let kept = RetentionRecord {
        priority: 80,
        shield_until: bench.now + HOUR,
        refresh_on_hit_ms: 1000,
        floor: Tier::Nvme,
        ..RetentionRecord::default()
    };
    bench.store(None, &[1, 3]);
    bench.store_wishing(&[2], priority(10));
    bench.scanned(frame(1, None, 0, kept));
    bench.scanned(frame(2, None, 0, kept));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    assert_eq!(bench.record(1), kept);
    assert_eq!(bench.manager.directory.shielded_blocks(0), 1);
    let child = bench.manager.directory.find(key(3)).expect("it is here");
    assert_eq!(bench.manager.directory.get(child).floor, Tier::Nvme);
    assert_eq!(bench.record(2).priority, 10, "who stored it asked for something");
    bench.wait(10 * SECOND);
    let rewritten = bench.written(RestampEnd::Written);
    assert_eq!(rewritten, [(Tier::Nvme, key(2))], "the other header says what counts");
}

#[test]
fn a_second_frame_says_nothing_but_when_the_block_is_to_be_forgotten() {
    let mut bench = recovering();
    bench.now = Time::ZERO + HOUR;
    bench.scanned(frame(1, None, 0, RetentionRecord::default()));
    let until = bench.now + HOUR;
    let older = RetentionRecord { priority: 80, delete_after: until, ..RetentionRecord::default() };
    let mut second = frame(1, None, 0, older);
    second.place.offset *= 10;
    bench.scanned(second);
    let record = bench.record(1);
    assert_eq!((record.priority, record.delete_after), (35, until));
}

#[test]
fn a_block_that_is_stored_anew_during_the_scan_keeps_its_frame_and_its_chain() {
    let ordinary = RetentionRecord::default();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut bench = recovering();
        bench.store(None, &[1]);
        let frames = [
            frame(1, None, 0, ordinary),
            frame(2, Some(1), 1, ordinary),
            frame(3, Some(2), 2, ordinary),
        ];
        for index in order {
            bench.scanned(frames[index].clone());
        }
        bench.event(Event::ScanDone { tier: Tier::Nvme });
        assert_eq!(bench.found(&[1, 2, 3]), "dram:1 nvme:2", "{order:?}");
        assert_eq!(bench.tier(Tier::Nvme).blocks, 3, "the next restart needs the first one");
        assert!(bench.erases.is_empty());
    }
}

#[test]
fn what_hangs_on_a_block_that_is_only_stored_anew_is_taken_in() {
    let mut bench = recovering();
    bench.store(None, &[1]);
    bench.scanned(frame(2, Some(1), 1, RetentionRecord::default()));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    assert_eq!(bench.found(&[1, 2]), "dram:1 nvme:1");
}

#[test]
fn a_frame_whose_parent_is_found_in_the_shared_store_first_stays_where_it_lies() {
    let ordinary = RetentionRecord::default();
    let mut bench = Bench::recovering([0, 10, 20, 20]);
    bench.scanned(frame(3, Some(2), 2, ordinary));
    bench.scanned(frame(2, Some(1), 1, ordinary));
    // A lookup asks the shared store while the scan is under way.
    bench.found_object(frame(1, None, 0, ordinary));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    assert_eq!(bench.found(&[1, 2, 3]), "object:1 nvme:2");
    assert_eq!(bench.tier(Tier::Object).blocks, 1);
}

/// It goes while its record waits to be written, but for a lease that holds its row.
#[test]
fn the_record_of_a_block_that_comes_anew_is_written_again_when_it_changes() {
    let mut bench = Bench::sunk([0, 2, 10, 0], priority(60), |_| {});
    let lease = bench.lease(&[1]);
    bench.retain(&[1], priority(70));
    bench.start_load(&[1]);
    let is_read = |copy: &TransferItem| matches!(copy.from, End::Nvme(_));
    bench.run_with(|copy| is_read(copy).then_some(FailureKind::SourceCorrupt));
    bench.wait(SECOND);
    assert!(bench.restamps.is_empty(), "there is no header");
    assert!(bench.store(None, &[1]).failed.is_empty());
    bench.ask(Command::ReleaseLease { lease });
    bench.store(None, &[81, 82]);
    assert_eq!(bench.found(&[1]), "nvme:1");
    bench.retain(&[1], priority(80));
    bench.wait(SECOND);
    let written: Vec<u8> = bench.restamps.iter().map(|(.., record)| record.priority).collect();
    assert_eq!(written, [80]);
}
