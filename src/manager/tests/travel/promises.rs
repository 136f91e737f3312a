//! Promises to forget: kept at one go however long the chain, and against whoever asks for more.

use super::*;
use crate::domain::retention::Scope;
use crate::tiers::store::Erasure;

#[test]
fn a_long_chain_that_somebody_holds_is_forgotten_in_one_walk() {
    // Each block has the promise's time, and none can leave the directory before the lease ends.
    let blocks: Vec<u64> = (1..=800).collect();
    let mut bench = Bench::new([0, 1000, 0, 0]);
    bench.store_wishing(&blocks, forget_after(10 * SECOND));
    let lease = bench.lease(&blocks);
    bench.now = bench.now + 10 * SECOND;
    bench.manager.directory.looks.take();
    bench.manager.step(bench.now, Event::Tick, &mut bench.effects);
    let looks = bench.manager.directory.looks.take();
    assert!(looks < 40 * 800, "{looks} looks");
    assert_eq!(bench.manager.status().forgotten_blocks, 800);
    bench.ask(Command::ReleaseLease { lease });
    assert!(bench.manager.directory.is_empty());
}

#[test]
fn what_is_gone_for_another_reason_is_to_be_forgotten_all_the_same() {
    let mut bench = Bench::new([0, 1, 1, 10]);
    bench.store_wishing(&[1], forget_after(10 * SECOND));
    bench.store(Some(1), &[2, 3]);
    bench.store(None, &[91]);
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:1 object:2");
    bench.start_load(&[1, 2, 3]);
    // The second block is lost while others are read; what is left of the third is still its object.
    let row = bench.manager.directory.find(key(2)).expect("it is here");
    bench.manager.doom(row);
    bench.now = bench.now + 10 * SECOND;
    bench.event(Event::Tick);
    bench.run();
    let erased: Vec<_> = bench.erases.iter().map(|(.., key)| *key).collect();
    assert!(erased.contains(&key(2)) && erased.contains(&key(3)), "{erased:?}");
    assert_eq!(bench.manager.status().forgotten_blocks, 1, "two were gone already");
}

/// What brings a block in with its frame, and how.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Bench, FoundFrame));

/// A session's own promise comes back with its frame, in whatever order that is read and others ask.
#[test]
fn what_a_session_promised_before_a_restart_is_not_undone_by_another() {
    let scan = |bench: &mut Bench, frame: FoundFrame| {
        bench.scanned(frame);
        bench.event(Event::ScanDone { tier: Tier::Nvme });
    };
    let turn = |bench: &mut Bench| bench.turn(Some("other"), &[], &[1]).clipped;
    let cases: [Case<'_>; 5] = [
        ("scanned", &|bench, frame| {
            scan(bench, frame);
            turn(bench);
        }),
        ("stored anew before the scan", &|bench, frame| {
            turn(bench);
            scan(bench, frame);
        }),
        ("stored anew and asked for before the scan", &|bench, frame| {
            turn(bench);
            bench.retain(&[1], priority(50));
            scan(bench, frame);
        }),
        ("found in the shared store", &|bench, frame| {
            bench.found_object(frame);
            turn(bench);
        }),
        ("presumed, and asked for before its header was read", &|bench, frame| {
            let client = bench.client;
            bench.event(Event::Presumed { client, key: key(1), parent: None, position: 0 });
            turn(bench);
            bench.retain(&[1], priority(50));
            bench.found_object(frame);
        }),
    ];
    for (case, enters) in cases {
        let mut bench = Bench::recovering([0, 10, 20, 20]);
        bench.now = Time::ZERO + HOUR;
        let delete_after = bench.now + HOUR;
        let own = RetentionRecord { delete_after, scope: Scope::Session, ..Default::default() };
        enters(&mut bench, frame(1, None, 0, own));
        for _ in 0..2 {
            let target = Target::Session { session: name("other"), tokens: TokenRange::ALL };
            bench.hint(Action::Retain { target, wish: forget_after(100 * HOUR) });
            assert_eq!(bench.record(1).delete_after, delete_after, "{case}");
        }
        bench.wait(HOUR);
        assert_eq!(bench.found(&[1]), "", "{case}");
    }
}

#[test]
fn who_asks_first_after_a_restart_may_change_what_is_no_sessions_own() {
    let mut bench = recovering();
    bench.now = Time::ZERO + HOUR;
    let delete_after = bench.now + HOUR;
    let theirs = RetentionRecord { delete_after, priority: 80, ..RetentionRecord::default() };
    bench.scanned(frame(1, None, 0, theirs));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    bench.retain(&[1], priority(20));
    assert_eq!((bench.record(1).priority, bench.record(1).delete_after), (20, delete_after));
    bench.retain(&[1], forget_after(3 * HOUR));
    assert_eq!(bench.record(1).delete_after, bench.now + 3 * HOUR);
}

#[test]
fn what_a_clock_that_was_ahead_wrote_counts_for_no_longer_than_anybody_may_ask() {
    let mut bench = recovering();
    bench.now = Time::ZERO + HOUR;
    let ahead = bench.now + 87_600 * HOUR;
    let written = RetentionRecord {
        priority: 80,
        priority_until: ahead,
        shield_until: ahead,
        refresh_on_hit_ms: u32::MAX,
        ..RetentionRecord::default()
    };
    bench.scanned(frame(1, None, 0, written));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    let (record, day) = (bench.record(1), bench.now + 24 * HOUR);
    assert_eq!((record.priority_until, record.shield_until), (day, day));
    assert_eq!(record.refresh_on_hit_ms, 86_400_000);
    bench.wait(2 * SECOND);
    let rewritten = bench.written(RestampEnd::Written);
    assert_eq!(rewritten, [(Tier::Nvme, key(1))], "the next restart finds it so");
    bench.wait(24 * HOUR);
    assert_eq!(bench.manager.directory.shielded_blocks(0), 0);
    assert_eq!(bench.record(1).priority, 35);
}

/// A block's frame and its object say different things. The object is found first and asks for nothing, or
/// is presumed first and read last.
#[test]
fn what_one_header_asks_for_is_written_into_the_other() {
    let nothing = RetentionRecord::default();
    let delete_after = Time::ZERO + 3 * HOUR;
    let asks = [
        RetentionRecord { priority: 80, ..nothing },
        RetentionRecord { delete_after, priority: 50, ..nothing },
    ];
    for (asked, presumed) in asks.into_iter().flat_map(|asked| [(asked, false), (asked, true)]) {
        let mut bench = Bench::recovering([0, 10, 20, 20]);
        bench.now = Time::ZERO + HOUR;
        let (client, weaker) = (bench.client, RetentionRecord { priority: 50, ..nothing });
        let [by_frame, by_object] = if presumed {
            bench.event(Event::Presumed { client, key: key(1), parent: None, position: 0 });
            let promises = asked.delete_after != Time::ZERO;
            [if promises { weaker } else { nothing }, asked]
        } else {
            bench.found_object(frame(1, None, 0, nothing));
            [asked, nothing]
        };
        bench.scanned(frame(1, None, 0, by_frame));
        bench.event(Event::ScanDone { tier: Tier::Nvme });
        if presumed {
            bench.found_object(frame(1, None, 0, by_object));
        }
        assert_eq!(bench.record(1), asked);
        bench.wait(2 * SECOND);
        let other = if presumed { Tier::Nvme } else { Tier::Object };
        assert_eq!(bench.written(RestampEnd::Written), [(other, key(1))], "{asked:?}");
    }
}

/// A write, or that of a record, finds another node's promise in the header, where it stays.
#[test]
fn a_promise_that_stands_in_an_object_is_kept_by_who_writes_there() {
    let cases: [Case<'_>; 3] = [
        ("heard of during the write", &|bench, frame| {
            bench.start_store(None, &[2]);
            bench.found_object(frame);
            bench.run();
        }),
        ("heard of after the write", &|bench, frame| {
            bench.store(None, &[2]);
            bench.found_object(frame);
        }),
        ("heard of before the write", &|bench, frame| {
            bench.found_object(frame);
            bench.store(None, &[2]);
        }),
    ];
    for (case, writes) in cases {
        let mut bench = Bench::new([0, 1, 0, 10]);
        bench.now = Time::ZERO + HOUR;
        bench.store(None, &[1]);
        let delete_after = bench.now + HOUR;
        let theirs = RetentionRecord { delete_after, scope: Scope::Session, ..Default::default() };
        writes(&mut bench, frame(1, None, 0, theirs));
        assert_eq!(bench.found(&[1]), "object:1", "{case}");
        assert_eq!(bench.record(1), theirs, "{case}");
        bench.retain(&[1], priority(50));
        assert_eq!(bench.record(1).delete_after, delete_after, "{case}: it is not theirs to undo");
        bench.wait(HOUR);
        assert_eq!(bench.found(&[1]), "", "{case}");
        assert!(bench.erases.iter().any(|(.., erased)| *erased == key(1)), "{case}");
    }
}

#[test]
fn a_promise_that_was_kept_before_the_block_was_stored_anew_is_over() {
    let mut bench = Bench::new([0, 1, 0, 10]);
    bench.now = Time::ZERO + HOUR;
    bench.store(None, &[1]);
    let over = RetentionRecord { delete_after: Time::from_millis(1), ..Default::default() };
    bench.found_object(frame(1, None, 0, over));
    assert_eq!((bench.found(&[1]).as_str(), bench.record(1).delete_after), ("dram:1", Time::ZERO));
}

#[test]
fn who_puts_a_promise_off_names_the_one_that_the_header_has() {
    let mut bench = Bench::new([0, 1, 0, 10]);
    bench.now = Time::ZERO + HOUR;
    let first = bench.now + HOUR;
    bench.store_wishing(&[1], forget_after(HOUR));
    bench.store(None, &[2]);
    bench.retain(&[1], priority(50));
    for hours in 2..4 {
        bench.retain(&[1], forget_after(hours * HOUR));
    }
    bench.wait(SECOND);
    let before = frame(1, None, 0, RetentionRecord { delete_after: first, ..Default::default() });
    bench.found_object(before.clone());
    assert_eq!(bench.written(RestampEnd::Failed), [(Tier::Object, key(1))]);
    bench.found_object(before);
    bench.wait(30 * SECOND);
    assert_eq!(bench.written(RestampEnd::Written), [(Tier::Object, key(1))]);
    let third = bench.record(1).delete_after;
    assert_eq!(third, Time::ZERO + 4 * HOUR, "it was this node's to put off");
    bench.retain(&[1], forget_after(9 * HOUR));
    bench.wait(SECOND);
    assert_eq!(bench.known, [first, first, third]);
}

/// The block is in an object whose header promises to forget it after an hour.
fn in_an_object() -> (Bench, [Time; 4]) {
    let mut bench = Bench::new([0, 1, 0, 10]);
    bench.now = Time::ZERO + HOUR;
    let hours = [1, 2, 3, 4].map(|hours| bench.now + hours * HOUR);
    bench.store_wishing(&[1], forget_after(HOUR));
    bench.store(None, &[2]);
    (bench, hours)
}

fn put_off(bench: &mut Bench, to: Time) {
    bench.retain(&[1], forget_after(to.since(bench.now)));
}

#[test]
fn a_promise_that_is_put_off_while_that_is_written_stays_its_nodes_own() {
    for end in [RestampEnd::Written, RestampEnd::Failed] {
        let (mut bench, [first, second, third, fourth]) = in_an_object();
        put_off(&mut bench, second);
        bench.wait(Duration::ZERO);
        assert_eq!(bench.restamps.len(), 1);
        put_off(&mut bench, third);
        // Somebody reads the header as it is by then.
        let written = RetentionRecord { delete_after: second, ..Default::default() };
        bench.found_object(frame(1, None, 0, written));
        bench.written(end);
        bench.wait(30 * SECOND);
        let stands = if end == RestampEnd::Written { second } else { first };
        assert_eq!(bench.known, [first, stands]);
        assert_eq!(bench.restamps[0].2.delete_after, third);
        // The write that was taken for failed was carried out.
        let left = RetentionRecord { delete_after: second, ..Default::default() };
        let ends = if end == RestampEnd::Failed { RestampEnd::Outdone(left) } else { end };
        bench.written(ends);
        bench.wait(SECOND);
        if end == RestampEnd::Failed {
            assert_eq!(bench.known[2..], [second]);
            bench.written(RestampEnd::Written);
        }
        assert_eq!(bench.record(1).delete_after, third, "it was this node's to put off");
        assert_eq!(bench.manager.known.len(), 0, "all is as it was asked for");
        put_off(&mut bench, fourth);
        bench.wait(SECOND);
        assert_eq!(bench.known.last(), Some(&third));
    }
}

#[test]
fn a_promise_is_put_off_again_though_somebody_read_the_object_or_another_record_was_in_line() {
    let (mut bench, [first, second, third, _]) = in_an_object();
    put_off(&mut bench, second);
    bench.wait(Duration::ZERO);
    bench.start_load(&[1]);
    bench.written(RestampEnd::Written);
    // What the load has read may be from before.
    let before = RetentionRecord { delete_after: first, ..Default::default() };
    bench.found_object(frame(1, None, 0, before));
    bench.run();
    bench.retain(&[1], priority(50));
    put_off(&mut bench, third);
    bench.wait(2 * SECOND);
    assert_eq!(bench.known, [first, second]);
    assert_eq!(bench.record(1).delete_after, third);
    bench.written(RestampEnd::Written);
    assert_eq!(bench.manager.known.len(), 0);
}

#[test]
fn a_write_that_was_taken_for_failed_is_this_nodes_own_though_the_promise_was_taken_back() {
    let mut bench = Bench::new([0, 1, 0, 10]);
    bench.now = Time::ZERO + HOUR;
    let due = bench.now + HOUR;
    bench.store(None, &[1]);
    bench.store(None, &[2]);
    bench.retain(&[1], forget_after(HOUR));
    bench.wait(Duration::ZERO);
    // Another one has it too, and does not agree.
    let claim = Directive { tokens: TokenRange::ALL, wish: priority(50) };
    bench.turn(Some("other"), &[claim], &[1]);
    assert_eq!(bench.record(1).delete_after, Time::ZERO);
    bench.written(RestampEnd::Failed);
    bench.wait(30 * SECOND);
    let left = RetentionRecord { delete_after: due, ..Default::default() };
    bench.written(RestampEnd::Outdone(left));
    assert_eq!(bench.record(1).delete_after, Time::ZERO, "nobody else promised it");
    bench.wait(SECOND);
    assert_eq!(bench.known.last(), Some(&due));
    bench.written(RestampEnd::Written);
    assert_eq!(bench.manager.known.len(), 0);
}

#[test]
fn anothers_promise_that_a_write_finds_is_kept_and_can_be_put_off_once_it_is_known() {
    let (mut bench, [_, second, third, fourth]) = in_an_object();
    put_off(&mut bench, fourth);
    bench.wait(Duration::ZERO);
    let theirs = RetentionRecord { delete_after: second, ..Default::default() };
    bench.written(RestampEnd::Outdone(theirs));
    assert_eq!(bench.record(1).delete_after, second);
    bench.wait(2 * SECOND);
    assert!(bench.restamps.is_empty(), "the header says so already");
    put_off(&mut bench, third);
    bench.wait(SECOND);
    assert_eq!(bench.known.last(), Some(&second));
}

/// All of it may have been sent, and only the answer was lost.
#[test]
fn an_object_whose_write_failed_is_erased_in_case_it_is_there() {
    let erased = |bench: &Bench| bench.erases.iter().map(|(.., key)| *key).collect::<Vec<_>>();
    for (kind, unsure) in [(FailureKind::TargetFailed, true), (FailureKind::NotDone, false)] {
        let fails = |copy: &TransferItem| (copy.to == End::Object).then_some(kind);
        let mut bench = Bench::new([0, 1, 0, 10]);
        bench.store(None, &[1]);
        bench.start_store(None, &[2]);
        bench.run_with(fails);
        assert_eq!(erased(&bench), [], "the store may not be there for a moment");
        bench.wait(30 * SECOND);
        let wanted = if unsure { vec![key(1)] } else { Vec::new() };
        assert_eq!(erased(&bench), wanted, "{kind:?}");

        let mut bench = Bench::new([0, 1, 0, 10]);
        bench.store_wishing(&[1], forget_after(10 * SECOND));
        bench.start_store(None, &[2]);
        bench.now = bench.now + 10 * SECOND;
        bench.run_with(fails);
        assert_eq!(erased(&bench), wanted, "{kind:?}, and it is to be forgotten by now");
    }
}

#[test]
fn what_is_promised_goes_from_the_shared_store_though_nobody_here_saw_it_there() {
    let objects = |bench: &Bench| -> Vec<Key> {
        let objects = bench.erases.iter().filter(|(tier, ..)| *tier == Tier::Object);
        objects.map(|(.., key)| *key).collect()
    };
    // In memory only, as far as is known.
    let mut bench = Bench::new([0, 4, 0, 10]);
    bench.store_wishing(&[1], forget_after(SECOND));
    bench.store(Some(1), &[2]);
    bench.wait(SECOND);
    assert_eq!(objects(&bench), keys(&[1, 2]), "with what hangs on it");
    // A start finds it due on NVMe.
    let mut bench = Bench::recovering([0, 10, 20, 10]);
    bench.now = Time::ZERO + HOUR;
    let due = RetentionRecord { delete_after: Time::from_millis(5), ..RetentionRecord::default() };
    bench.scanned(frame(1, None, 0, due));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    assert_eq!(objects(&bench), keys(&[1]));
    // It was going for room, which leaves what another node wrote.
    let mut bench = Bench::new([0, 4, 0, 10]);
    bench.store_wishing(&[1], forget_after(SECOND));
    bench.manager.erase_object(key(1), Erasure::ForRoom);
    bench.wait(SECOND);
    assert_eq!(objects(&bench), [], "that is under way");
    bench.event(Event::Erased { tier: Tier::Object, place: None, key: key(1), done: true });
    bench.event(Event::Tick);
    assert_eq!(objects(&bench), keys(&[1]));
}
