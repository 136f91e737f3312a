//! What is urgent among changed records: promises to forget, and what a durable store waits for.

use super::super::durable;
use super::*;

/// Thirty blocks on NVMe whose records have changed: more than there may be in line, and long due.
fn behind_thirty() -> Bench {
    let limits = RewriteLimits { under_way_max: 4, queued_max: 20, ..RewriteLimits::default() };
    let mut bench = Bench::with_config([0, 2, 50, 0], 1, |config| config.rewrites = limits);
    durable::persist(&mut bench, None, &[41, 42], |_| None);
    let blocks: Vec<u64> = (1..=30).collect();
    bench.store(None, &blocks);
    bench.store(None, &[91, 92]);
    bench.retain(&blocks, priority(70));
    bench.wait(SECOND);
    assert!(bench.restamps.iter().all(|(_, _, record)| record.priority == 70));
    assert!(bench.restamps.len() > 2);
    bench
}

/// Which blocks' records are being written.
fn under_way(bench: &Bench) -> Vec<Key> {
    bench.restamps.iter().map(|(_, key, _)| *key).collect()
}

#[test]
fn a_promise_is_written_before_all_that_is_in_line() {
    let mut bench = behind_thirty();
    // One of them is in line already, one found it full, and one was never changed.
    for promised in [10, 30, 41] {
        bench.retain(&[promised], forget_after(HOUR));
        bench.wait(SECOND / 10);
        bench.written(RestampEnd::Written);
        bench.wait(SECOND / 10);
        assert!(under_way(&bench).contains(&key(promised)), "{promised} waits behind others");
    }
}

#[test]
fn a_promise_that_meets_a_copy_that_moves_or_fails_stays_ahead() {
    let mut bench = behind_thirty();
    bench.start_load(&[41]);
    bench.retain(&[41], forget_after(HOUR));
    bench.written(RestampEnd::Written);
    bench.wait(SECOND / 10);
    assert!(!under_way(&bench).contains(&key(41)), "it is being read");
    bench.run();
    bench.written(RestampEnd::Written);
    bench.wait(SECOND);
    assert!(under_way(&bench).contains(&key(41)));
    bench.written(RestampEnd::Failed);
    bench.wait(30 * SECOND);
    assert!(under_way(&bench).contains(&key(41)), "tried again before the others");
}

#[test]
fn a_durable_store_waits_for_its_own_records_only() {
    let mut bench = behind_thirty();
    let claim = Directive { tokens: TokenRange::ALL, wish: priority(80) };
    let directives = Directives::admit(vec![claim]).expect("it makes sense");
    durable::start(&mut bench, None, &[41, 42], directives);
    bench.run();
    for _ in 0..2 {
        bench.written(RestampEnd::Written);
        bench.wait(SECOND / 10);
    }
    bench.written(RestampEnd::Written);
    bench.run();
    let end = bench.completions.pop().expect("it completes");
    assert_eq!((end.failed.len(), end.not_durable.len()), (0, 0));
}

/// As many as a chain has, whatever there may be in line: each starts as soon as another has ended.
#[test]
fn promises_find_their_place_however_many_they_are_and_wait_for_no_tick() {
    let mut bench = behind_thirty();
    let blocks: Vec<u64> = (1..=30).collect();
    bench.retain(&blocks, forget_after(HOUR));
    let mut written = std::collections::BTreeSet::new();
    while !bench.restamps.is_empty() {
        assert!(bench.restamps.len() <= 4, "{} at once", bench.restamps.len());
        let promises = |(_, _, record): &&(Tier, Key, RetentionRecord)| record.has_times();
        written.extend(bench.restamps.iter().filter(promises).map(|(_, key, _)| *key));
        bench.written(RestampEnd::Written);
    }
    assert_eq!(written.len(), 30);
}

#[test]
fn a_disk_waits_for_no_object_store() {
    let mut bench = Bench::recovering([0, 10, 50, 500]);
    let objects: Vec<u64> = (101..=300).collect();
    for block in objects.iter().copied().chain([41]) {
        bench.found_object(frame(block, None, 0, RetentionRecord::default()));
    }
    bench.scanned(frame(41, None, 0, RetentionRecord::default()));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    bench.retain(&objects, forget_after(HOUR));
    bench.wait(SECOND / 10);
    bench.retain(&[41], forget_after(HOUR));
    bench.wait(SECOND / 10);
    let at = |tier| bench.restamps.iter().filter(|(at, ..)| *at == tier).count();
    assert_eq!((at(Tier::Nvme), at(Tier::Object)), (1, 128));
    let written = bench.restamps.iter().find(|(tier, ..)| *tier == Tier::Nvme).expect("it is");
    assert_eq!(written.1, key(41));
    // As the objects' writes end the others follow, and its own object comes as well.
    let mut objects = 0;
    while !bench.restamps.is_empty() {
        let ended = bench.written(RestampEnd::Written);
        objects += ended.iter().filter(|(tier, _)| *tier == Tier::Object).count();
    }
    assert_eq!(objects, 201);
}

#[test]
fn hits_that_renew_write_nothing_to_a_disk_while_the_object_store_fails() {
    let mut bench = Bench::recovering([0, 10, 50, 500]);
    bench.now = Time::ZERO + HOUR;
    bench.found_object(frame(41, None, 0, RetentionRecord::default()));
    bench.scanned(frame(41, None, 0, RetentionRecord::default()));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    bench.retain(&[41], shield(HOUR));
    let mut on_disk = 0;
    for _ in 0..60 {
        bench.wait(2 * SECOND);
        bench.found(&[41]);
        for (tier, key, _) in bench.restamps.drain(..).collect::<Vec<_>>() {
            let is_disk = tier == Tier::Nvme;
            on_disk += u32::from(is_disk);
            let end = if is_disk { RestampEnd::Written } else { RestampEnd::Failed };
            bench.event(Event::Restamped { tier, key, end });
        }
    }
    assert_eq!(on_disk, 1, "less than a quarter of the hour has passed");
}

/// What goes up brings the header that the object has, and that is about to be written.
#[test]
fn a_header_that_was_to_be_written_where_a_block_lay_is_written_where_it_goes() {
    for promises in [false, true] {
        let mut bench = Bench::new([0, 0, 10, 10]);
        bench.found_object(frame(1, None, 0, RetentionRecord::default()));
        bench.retain(&[1], if promises { forget_after(HOUR) } else { priority(70) });
        assert_eq!(bench.found(&[1]), "object:1");
        durable::start(&mut bench, None, &[1], Directives::default());
        bench.run();
        let mut written = Vec::new();
        for _ in 0..3 {
            bench.wait(2 * SECOND);
            written.extend(bench.written(RestampEnd::Written));
            bench.run();
        }
        assert_eq!(bench.found(&[1]), "nvme:1", "{promises}");
        assert!(written.contains(&(Tier::Nvme, key(1))), "{written:?}");
    }
}

#[test]
fn what_was_written_sooner_does_not_fill_the_line() {
    let mut bench = Bench::sunk([0, 2, 10, 0], priority(60), |_| {});
    let at = bench.manager.directory.find(key(1)).expect("it is here");
    for _ in 0..5000 {
        bench.manager.now = bench.manager.now + Duration::from_micros(1);
        bench.manager.hurry_rewrite(at, Tier::Nvme);
    }
    assert!(bench.manager.urgent_rewrites() < 1100);
    bench.wait(SECOND);
    assert_eq!(under_way(&bench), [key(1)], "once all the same");
}
