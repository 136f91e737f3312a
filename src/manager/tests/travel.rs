//! Records travel: down with their blocks, again when they change, and back after a restart.

mod anew;

mod presumed;

mod promises;

mod stale;
mod strays;

mod urgent;

use super::*;
use crate::domain::hint::{Action, Outcome, Target};
use crate::domain::retention::{Directive, Shield, TokenRange, Wish};
use crate::manager::RewriteLimits;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{FoundFrame, FrameMeta};

const HOUR: Duration = Duration::from_hours(1);
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn shield(ttl: Duration) -> Wish {
    Wish { shield: Some(Shield { ttl, refresh_on_hit: true }), ..Wish::default() }
}

fn forget_after(after: Duration) -> Wish {
    Wish { delete_after: Some(after), ..Wish::default() }
}

fn priority(priority: u8) -> Wish {
    Wish { priority: Some((priority, None)), ..Wish::default() }
}

impl Bench {
    /// Two blocks that have sunk from DRAM to where there is room, with this wish.
    fn sunk(blocks: [u64; 4], wish: Wish, adjust: impl FnOnce(&mut ManagerConfig)) -> Self {
        let mut bench = Self::with_config(blocks, 1, adjust);
        bench.store_wishing(&[1, 2], wish);
        bench.store(None, &[91, 92]);
        bench
    }

    fn store_wishing(&mut self, blocks: &[u64], wish: Wish) {
        let claim = Directive { tokens: TokenRange::ALL, wish };
        let (pool, slots) = (self.pool, (0..).take(blocks.len()).collect());
        let reply = self.ask(Command::Store {
            request: RequestId(1),
            session: None,
            directives: Directives::admit(vec![claim]).expect("it makes sense"),
            parent: None,
            keys: keys(blocks),
            labels: Labels::default(),
            pool,
            slots,
            durable: false,
        });
        assert!(matches!(reply, Reply::Store { clipped: 0, dropped: 0, .. }), "{reply:?}");
        self.run();
    }

    pub(super) fn retain(&mut self, blocks: &[u64], wish: Wish) {
        let action = Action::Retain { target: Target::Keys(keys(blocks)), wish };
        let reply = self.ask(Command::Hint { actions: vec![action] });
        let Reply::Hint { outcomes } = reply else { panic!("{reply:?}") };
        assert!(matches!(outcomes[..], [Outcome::Accepted { .. }]), "{outcomes:?}");
    }

    /// Lets time pass, with a tick at its end.
    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.event(Event::Tick);
    }

    /// Ends the writes of records that were asked for: which blocks', in what tier.
    fn written(&mut self, end: RestampEnd) -> Vec<(Tier, Key)> {
        let asked: Vec<_> = self.restamps.drain(..).collect();
        for (tier, key, _) in &asked {
            self.event(Event::Restamped { tier: *tier, key: *key, end });
        }
        asked.into_iter().map(|(tier, key, _)| (tier, key)).collect()
    }

    fn record(&mut self, block: u64) -> RetentionRecord {
        match self.ask(Command::Inspect { key: key(block) }) {
            Reply::Inspect(found) => found.record,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_block_takes_its_record_along_as_it_is_then() {
    let mut bench = Bench::new([0, 2, 4, 0]);
    bench.store_wishing(&[1, 2], shield(HOUR));
    bench.retain(&[1, 2], priority(80));
    bench.wait(10 * SECOND);
    assert!(bench.restamps.is_empty(), "nothing is written for a block in memory");
    bench.start_store(None, &[91]);
    let down = bench.transfers.front().expect("one block sinks");
    assert!(down.items.iter().all(|item| item.restamp && item.meta.record.priority == 80));
    // What changes while it sinks is written once it has landed.
    bench.retain(&[1, 2], priority(90));
    bench.wait(2 * SECOND);
    assert!(bench.restamps.is_empty());
    bench.run();
    bench.wait(2 * SECOND);
    assert_eq!(bench.restamps.len(), 1);
    assert_eq!(bench.restamps[0].2.priority, 90);
}

#[test]
fn a_burst_of_changes_is_one_write_of_the_last() {
    let mut bench = Bench::sunk([0, 2, 10, 0], shield(HOUR), |_| {});
    for wanted in 50..80 {
        bench.retain(&[1], priority(wanted));
    }
    bench.event(Event::Tick);
    assert!(bench.restamps.is_empty(), "it may change further");
    bench.wait(SECOND);
    assert_eq!(bench.restamps.len(), 1);
    let record = bench.record(1);
    assert_eq!(bench.restamps[0].2, record);
    bench.retain(&[1], priority(85));
    bench.wait(2 * SECOND);
    assert_eq!(bench.restamps.len(), 1, "never two at once");
    bench.written(RestampEnd::Written);
    bench.wait(2 * SECOND);
    assert_eq!(bench.restamps[0].2.priority, 85);
}

#[test]
fn every_cold_copy_gets_the_record() {
    let mut bench = Bench::sunk([0, 2, 2, 10], priority(60), |_| {});
    bench.store(None, &[81, 82]);
    assert_eq!(bench.found(&[1, 2]), "object:2");
    bench.retain(&[1, 2], priority(70));
    bench.wait(SECOND);
    assert_eq!(
        bench.written(RestampEnd::Written),
        [(Tier::Object, key(1)), (Tier::Object, key(2))]
    );
}

#[test]
fn hits_that_renew_are_written_a_few_times_an_hour() {
    let mut bench = Bench::sunk([0, 2, 10, 0], shield(HOUR), |_| {});
    let mut writes = 0;
    for _ in 0..720 {
        assert_eq!(bench.found(&[1, 2]), "nvme:2");
        bench.wait(5 * SECOND);
        writes += bench.written(RestampEnd::Written).len();
    }
    assert!((6..=8).contains(&writes), "{writes} writes for two blocks and an hour of hits");
}

#[test]
fn writes_are_bounded_and_none_is_forgotten() {
    let limits = RewriteLimits { under_way_max: 4, queued_max: 3, ..RewriteLimits::default() };
    let mut bench = Bench::with_config([0, 2, 50, 0], 1, |config| config.rewrites = limits);
    let blocks: Vec<u64> = (1..=30).collect();
    bench.store(None, &blocks);
    bench.store(None, &[91, 92]);
    bench.retain(&blocks, priority(70));
    let mut written = std::collections::BTreeSet::new();
    for _ in 0..60 {
        bench.wait(SECOND);
        assert!(bench.restamps.len() <= 4, "{} at once", bench.restamps.len());
        written.extend(bench.written(RestampEnd::Written).into_iter().map(|(_, key)| key));
    }
    assert_eq!(written.len(), 30);
}

#[test]
fn a_write_that_fails_is_tried_again_and_a_lost_copy_goes() {
    let mut bench = Bench::sunk([0, 2, 10, 0], priority(60), |_| {});
    bench.retain(&[2], priority(70));
    bench.wait(SECOND);
    assert_eq!(bench.written(RestampEnd::Failed).len(), 1);
    bench.wait(2 * SECOND);
    assert!(bench.restamps.is_empty());
    bench.wait(30 * SECOND);
    assert_eq!(bench.written(RestampEnd::Corrupt).len(), 1);
    assert_eq!(bench.found(&[1, 2]), "nvme:1");
}

#[test]
fn a_copy_whose_header_is_written_keeps_its_slot() {
    let mut bench = Bench::sunk([0, 2, 2, 0], priority(60), |_| {});
    bench.retain(&[1, 2], priority(61));
    bench.wait(SECOND);
    assert_eq!(bench.restamps.len(), 2);
    bench.store(None, &[71, 72]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2", "they can't go now");
    bench.written(RestampEnd::Written);
    bench.store(None, &[61, 62]);
    assert_eq!(bench.found(&[1, 2]), "", "and now they can");
}

#[test]
fn what_is_to_be_forgotten_goes_from_every_tier_with_all_that_hangs_on_it() {
    let mut bench = Bench::with_config([0, 1, 1, 10], 1, |_| {});
    bench.store_wishing(&[1], forget_after(10 * SECOND));
    bench.store(Some(1), &[2, 3]);
    bench.store(None, &[91]);
    let lease = bench.lease(&[1, 2, 3]);
    assert_eq!((bench.tier(Tier::Object).blocks, bench.tier(Tier::Nvme).blocks), (2, 1));
    bench.now = bench.now + 10 * SECOND;
    assert_eq!(bench.found(&[1, 2, 3]), "", "not even before the next tick");
    assert_eq!(bench.load(&[1, 2, 3]).failed, [0, 1, 2]);
    assert_eq!((bench.tier(Tier::Object).blocks, bench.tier(Tier::Nvme).blocks), (0, 0));
    let erased = bench.erases.iter().filter(|(tier, ..)| *tier == Tier::Object).count();
    assert_eq!(erased, 3, "perhaps another run of the daemon wrote the third");
    bench.ask(Command::ReleaseLease { lease });
    assert_eq!(bench.manager.status().blocks, 1, "the one that was not to be forgotten");
}

#[test]
fn a_slot_is_used_again_only_after_its_frame_was_erased() {
    let mut bench = Bench::with_config([0, 0, 2, 0], 1, |_| {});
    bench.store_wishing(&[1, 2], forget_after(10 * SECOND));
    bench.wait(10 * SECOND);
    let erased: Vec<_> =
        bench.erases.iter().map(|(tier, place, _)| (*tier, place.is_some())).collect();
    assert_eq!(erased, [(Tier::Nvme, true), (Tier::Nvme, true)]);
    bench.start_store(None, &[11, 12]);
    assert!(bench.transfers.is_empty(), "both slots wait for that");
    bench.run();
    assert_eq!(bench.found(&[11, 12]), "nvme:2");
}

#[test]
fn a_load_that_is_still_under_way_when_its_block_is_forgotten_fails() {
    let mut bench = Bench::sunk([0, 2, 10, 0], forget_after(10 * SECOND), |_| {});
    bench.start_load(&[1, 2]);
    bench.now = bench.now + 10 * SECOND;
    bench.run();
    let end = bench.completions.pop().expect("a load completes");
    assert_eq!(end.failed, [0, 1]);
    assert_eq!(bench.found(&[1]), "");
}

/// A frame as a scan reports it, or a shared store's header.
fn frame(n: u64, parent: Option<u64>, position: u32, record: RetentionRecord) -> FoundFrame {
    let namespace = namespace(1);
    let meta = FrameMeta {
        key: key(n),
        tail: HashTail(n),
        parent: parent.map(key),
        position,
        created_at: Time::ZERO,
        record,
    };
    let header = FrameHeader {
        namespace: namespace.digest(),
        meta,
        payload_bytes: namespace.payload_bytes(),
        payload_checksum: 0,
        node_id: [0; 16],
    };
    let slot_bytes = u32::try_from(namespace.frame_bytes()).expect("small");
    let place = Place { offset: n * u64::from(slot_bytes), slot_bytes };
    FoundFrame { place, header }
}

fn recovering() -> Bench {
    Bench::recovering([0, 10, 20, 0])
}

impl Bench {
    fn scanned(&mut self, frame: FoundFrame) {
        self.event(Event::Found { tier: Tier::Nvme, frame: Box::new(frame) });
    }

    fn found_object(&mut self, frame: FoundFrame) {
        self.event(Event::Found { tier: Tier::Object, frame: Box::new(frame) });
    }
}

#[test]
fn after_a_restart_records_count_for_what_is_left_of_their_time() {
    let mut bench = recovering();
    bench.now = Time::ZERO + HOUR;
    let ordinary = RetentionRecord::default();
    let shielded = RetentionRecord {
        priority: 80,
        shield_until: bench.now + HOUR,
        refresh_on_hit_ms: 1000,
        ..ordinary
    };
    let expired = RetentionRecord { shield_until: Time::from_millis(5), ..ordinary };
    let promised = RetentionRecord { delete_after: bench.now + 10 * SECOND, ..ordinary };
    bench.scanned(frame(1, None, 0, shielded));
    bench.scanned(frame(2, Some(1), 1, expired));
    bench.scanned(frame(3, Some(2), 2, promised));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    assert_eq!(bench.record(1), shielded);
    assert_eq!(bench.record(2), ordinary);
    assert_eq!(bench.manager.directory.shielded_blocks(0), 1);
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    bench.wait(10 * SECOND);
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:2", "the promise is kept when it is due");
    bench.wait(HOUR);
    assert_eq!(bench.manager.directory.shielded_blocks(0), 0);
}

#[test]
fn a_scan_takes_in_nothing_that_is_due_in_whatever_order_it_comes() {
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
    for order in orders {
        let mut bench = recovering();
        bench.now = Time::ZERO + HOUR;
        let ordinary = RetentionRecord::default();
        let due = RetentionRecord { delete_after: Time::from_millis(5), ..ordinary };
        // An older frame of the same block, made before anybody asked for it to be forgotten.
        let mut before = frame(2, Some(1), 1, ordinary);
        before.place.offset *= 10;
        let frames = [
            frame(1, None, 0, ordinary),
            frame(2, Some(1), 1, due),
            before,
            frame(3, Some(2), 2, ordinary),
        ];
        for index in order {
            bench.scanned(frames[index].clone());
        }
        bench.event(Event::ScanDone { tier: Tier::Nvme });
        let mut erased: Vec<_> = bench.erases.iter().map(|(_, _, key)| *key).collect();
        erased.sort_unstable();
        let mut wanted = vec![key(2), key(2), key(3)];
        wanted.sort_unstable();
        assert_eq!(erased, wanted, "{order:?}");
        assert_eq!(bench.found(&[1, 2, 3]), "nvme:1");
        bench.run();
        assert_eq!(bench.tier(Tier::Nvme).blocks, 1);
    }
}

#[test]
fn objects_of_other_nodes_are_found_and_left_to_them() {
    let other = |mut frame: FoundFrame| {
        frame.header.node_id = [7; 16];
        frame
    };
    let ordinary = RetentionRecord::default();
    let mut bench = Bench::new([0, 4, 0, 2]);
    bench.now = Time::ZERO + HOUR;
    let until = bench.now + HOUR;
    let shielded = RetentionRecord { shield_until: until, refresh_on_hit_ms: 9000, ..ordinary };
    bench.found_object(other(frame(1, None, 0, shielded)));
    bench.found_object(other(frame(2, Some(1), 1, ordinary)));
    assert_eq!(bench.found(&[1, 2, 3]), "object:2");
    assert_eq!(bench.record(1).shield_until, until);
    // No room for both and a third: the oldest of what hangs nowhere is forgotten here, not erased.
    bench.found_object(frame(5, None, 0, ordinary));
    assert_eq!(bench.found(&[1, 2]), "object:1");
    assert!(bench.erases.is_empty());
    bench.found_object(other(frame(6, None, 0, ordinary)));
    assert_eq!(bench.erases.len(), 1, "the own one is erased");
    // What is promised to be forgotten is, whoever wrote it.
    let due = RetentionRecord { delete_after: Time::from_millis(5), ..ordinary };
    bench.found_object(other(frame(8, None, 0, due)));
    bench.found_object(other(frame(9, Some(8), 1, ordinary)));
    assert_eq!(bench.found(&[8, 9]), "");
    assert_eq!(bench.erases.len(), 3, "with what hangs on it");
}

#[test]
fn objects_that_contradict_their_chain_are_not_taken_in() {
    let ordinary = RetentionRecord::default();
    let mut bench = Bench::new([0, 4, 0, 20]);
    bench.found_object(frame(2, Some(1), 1, ordinary));
    bench.found_object(frame(3, None, 5, ordinary));
    bench.found_object(frame(1, None, 0, ordinary));
    bench.found_object(frame(4, Some(1), 2, ordinary));
    let mut elsewhere = frame(5, Some(1), 1, ordinary);
    elsewhere.header.namespace = crate::domain::namespace::NamespaceDigest([9; 32]);
    bench.found_object(elsewhere);
    let mut longer = frame(6, Some(1), 1, ordinary);
    longer.header.payload_bytes += 1;
    bench.found_object(longer);
    assert_eq!(bench.manager.status().blocks, 1);
    assert!(bench.erases.is_empty(), "they may be of use to others");
    let load = bench.load(&[1]);
    assert!(load.failed.is_empty());
}

#[test]
fn a_daemon_that_stops_writes_what_is_in_line() {
    let mut bench = Bench::sunk([0, 2, 10, 0], priority(60), |config| {
        config.rewrites.under_way_max = 2;
    });
    bench.retain(&[1, 2], priority(70));
    bench.event(Event::Stopping);
    let first = bench.written(RestampEnd::Written).len();
    assert!(first > 0);
    assert_eq!(first + bench.written(RestampEnd::Written).len(), 2, "one end starts the next");
}

#[test]
fn an_object_that_was_due_says_nothing_of_what_is_stored_in_its_place() {
    let ordinary = RetentionRecord::default();
    let mut bench = Bench::new([0, 4, 0, 20]);
    bench.now = Time::ZERO + HOUR;
    let due = RetentionRecord { delete_after: Time::from_millis(5), ..ordinary };
    bench.found_object(frame(7, None, 0, ordinary));
    bench.found_object(frame(8, Some(7), 1, due));
    let (tier, place, erased) = bench.erases.pop_front().expect("what is due goes");
    bench.event(Event::Erased { tier, place, key: erased, done: true });

    // Another node stores it anew, without that promise, and one behind it.
    bench.found_object(frame(8, Some(7), 1, ordinary));
    bench.found_object(frame(9, Some(8), 2, ordinary));
    assert_eq!(bench.found(&[7, 8, 9]), "object:3");

    // Or an engine of this node does.
    bench.found_object(frame(17, None, 0, due));
    let (tier, place, erased) = bench.erases.pop_front().expect("what is due goes");
    bench.event(Event::Erased { tier, place, key: erased, done: true });
    bench.store(None, &[17]);
    bench.found_object(frame(18, Some(17), 1, ordinary));
    assert_eq!(bench.found(&[17, 18]), "dram:1 object:1");
    assert!(bench.erases.is_empty(), "{:?}", bench.erases);
}
