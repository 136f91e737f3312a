//! Frames that are left in slots: none is there to be believed after a restart.

use super::*;
use crate::tiers::health::Refuses;

impl Bench {
    /// Two slots of NVMe, taken by blocks that are in memory as well.
    fn written_through() -> Self {
        let mut bench = Self::with_config([0, 20, 2, 0], 1, |_| {});
        for block in [1, 11] {
            let reply = bench.store_durable(block);
            assert!(matches!(reply, Reply::Store { .. }), "{reply:?}");
            bench.run();
        }
        assert_eq!(bench.tier(Tier::Nvme).blocks, 2);
        bench
    }

    fn store_durable(&mut self, block: u64) -> Reply {
        let (request, pool) = (RequestId(block), self.pool);
        self.ask(Command::Store {
            request,
            session: None,
            directives: Directives::default(),
            parent: None,
            keys: vec![key(block)],
            labels: Labels::default(),
            pool,
            slots: vec![0],
            durable: true,
        })
    }

    /// As `run_with`, and whose frames are made unreadable meanwhile.
    fn run_wiping(&mut self, failure: Option<FailureKind>) -> Vec<Key> {
        let mut wiped = Vec::new();
        while let Some(transfer) = self.transfers.pop_front() {
            let items = (0..).take(transfer.items.len());
            let failed = items.filter_map(|item| Some(ItemFailure { item, kind: failure? }));
            let (transfer, failed) = (transfer.id, failed.collect());
            self.event(Event::TransferDone { transfer, failed });
            wiped.extend(self.erases.iter().map(|(_, _, key)| *key));
            self.end_slot_erases();
        }
        wiped
    }
}

/// The scan after a restart would take in what its owner was promised would be forgotten.
#[test]
fn one_that_could_not_be_erased_keeps_its_slot_until_it_is() {
    let mut bench = Bench::sunk([0, 2, 3, 0], forget_after(10 * SECOND), |_| {});
    bench.event(Event::Outage { tier: Tier::Nvme, refuses: Refuses::WRITES });
    bench.now = bench.now + 10 * SECOND;
    bench.event(Event::Tick);
    let fail = |bench: &mut Bench| {
        let asked: Vec<_> = bench.erases.drain(..).collect();
        for (tier, place, key) in &asked {
            bench.event(Event::Erased { tier: *tier, place: *place, key: *key, done: false });
        }
        asked
    };
    let asked = fail(&mut bench);
    assert_eq!(asked.len(), 2, "{asked:?}");
    for refuses in [Refuses::WRITES, Refuses::ALL, Refuses::WRITES] {
        bench.event(Event::Outage { tier: Tier::Nvme, refuses });
        bench.wait(HOUR);
        let asked = fail(&mut bench).len();
        assert_eq!(asked, usize::from(!refuses.reads), "one says whether it takes writes again");
        bench.wait(29 * SECOND);
        assert!(bench.erases.is_empty(), "the tier takes no writes");
    }
    bench.event(Event::Outage { tier: Tier::Nvme, refuses: Refuses::NOTHING });
    bench.event(Event::Tick);
    assert_eq!(fail(&mut bench).len(), asked.len(), "once more as soon as it does");
    assert_eq!(bench.tier(Tier::Nvme).blocks, 2, "nobody has the slots, and nobody gets them");
    bench.wait(30 * SECOND);
    assert_eq!(bench.erases.len(), asked.len());
    bench.end_slot_erases();
    assert_eq!(bench.tier(Tier::Nvme).blocks, 0);
}

#[test]
fn one_that_turned_out_corrupt_is_erased() {
    let mut bench = recovering();
    bench.scanned(frame(1, None, 0, RetentionRecord::default()));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    bench.start_load(&[1]);
    assert_eq!(bench.run_wiping(Some(FailureKind::SourceCorrupt)), [key(1)]);
    assert_eq!(bench.found(&[1]), "");
}

#[test]
fn a_slot_that_is_given_on_is_written_over_and_one_that_is_not_is_erased() {
    let mut bench = Bench::written_through();
    bench.store_durable(21);
    assert_eq!(bench.run_wiping(None), [], "it has the slot of another");

    // Blocks of another length count as well, and lie elsewhere.
    let mut longer = namespace(1);
    longer.shape.page_bytes *= 2;
    bench.client = ClientId(2);
    bench.ask(Command::hello(longer));
    bench.pool = bench.register(0);
    bench.store_durable(1_000_001);
    let wiped = bench.run_wiping(None);
    assert_eq!(wiped.len(), 1, "its room came from one of the others: {wiped:?}");
    assert_eq!(bench.tier(Tier::Nvme).blocks, 2);
}

#[test]
fn what_was_written_by_a_clock_ahead_is_older_than_what_is_used_now() {
    let mut bench = recovering();
    let mut ahead = frame(1, None, 0, RetentionRecord::default());
    ahead.header.meta.created_at = bench.now + 24 * HOUR;
    bench.scanned(ahead);
    bench.scanned(frame(2, None, 0, RetentionRecord::default()));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    bench.found(&[2]);
    let tick = |n| {
        let row = bench.manager.directory.find(key(n)).expect("it is here");
        bench.manager.directory.get(row).copy(Tier::Nvme).tick
    };
    assert!(tick(1) < tick(2), "{} and {}", tick(1), tick(2));
}

/// A later scan would take them in where their parents have come back, whatever was promised since.
#[test]
fn those_that_a_scan_lets_go_are_erased_but_where_somebody_has_the_slot() {
    let (orphans, at_once_max) = (20, 4);
    let mut bench = Bench::with_config([0, 0, 100, 0], 1, |config| {
        config.rewrites.under_way_max = at_once_max;
        config.tiers[Tier::Nvme.index()].as_mut().expect("present").recovers = true;
    });
    for n in 0..orphans {
        bench.scanned(frame(n, Some(1000 + n), 1, RetentionRecord::default()));
    }
    assert!(bench.erases.is_empty(), "their parents may come yet");
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    bench.start_store(None, &[2001, 2002]);
    let given: Vec<Place> = bench
        .transfers
        .iter()
        .flat_map(|transfer| &transfer.items)
        .filter_map(|item| if let End::Nvme(place) = item.to { Some(place) } else { None })
        .collect();
    let mut erased = Vec::new();
    while !bench.erases.is_empty() {
        assert!(bench.erases.len() <= at_once_max, "{} at once", bench.erases.len());
        erased.extend(bench.erases.iter().filter_map(|(_, place, _)| *place));
        bench.end_slot_erases();
    }
    erased.sort_unstable_by_key(|place| place.offset);
    let mut wanted: Vec<Place> = (0..orphans)
        .map(|n| frame(n, None, 0, RetentionRecord::default()).place)
        .filter(|place| !given.contains(place))
        .collect();
    wanted.sort_unstable_by_key(|place| place.offset);
    assert_eq!((given.len(), wanted.len()), (2, 18));
    assert_eq!(erased, wanted);
    bench.run();
    assert_eq!(bench.found(&[2001, 2002]), "nvme:2");
    assert_eq!(bench.tier(Tier::Nvme).blocks, 2);
}

/// Once a block's parent is to be forgotten, so is the block, and its frame must not outlast that.
#[test]
fn a_frame_whose_parent_is_gone_but_for_its_holder_is_erased() {
    let mut bench = recovering();
    bench.store_wishing(&[1], forget_after(10 * SECOND));
    bench.lease(&[1]);
    bench.wait(10 * SECOND);
    bench.scanned(frame(2, Some(1), 1, RetentionRecord::default()));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    assert_eq!(bench.erases.iter().map(|(.., key)| *key).collect::<Vec<_>>(), [key(2)]);
    bench.run();
    assert_eq!(bench.tier(Tier::Nvme).blocks, 0);
}
