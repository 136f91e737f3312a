//! Durable stores: when a block counts as durable, and what is said of those that do not.

mod above;
mod sinking;

use super::*;
use crate::domain::retention::{TokenRange, Wish};

const NONE: Vec<u32> = Vec::new();

/// A durable store of `blocks`; its completion once everything has ended, `fail` saying how items do.
pub(super) fn persist(
    bench: &mut Bench,
    parent: Option<u64>,
    blocks: &[u64],
    fail: impl FnMut(&TransferItem) -> Option<FailureKind>,
) -> Completion {
    start(bench, parent, blocks, Directives::default());
    bench.run_with(fail);
    bench.completions.pop().expect("a durable store completes")
}

pub(super) fn start(
    bench: &mut Bench,
    parent: Option<u64>,
    blocks: &[u64],
    directives: Directives,
) -> [u32; 3] {
    let reply = bench.ask(Command::Store {
        request: RequestId(1),
        session: None,
        directives,
        parent: parent.map(key),
        keys: keys(blocks),
        labels: Labels::default(),
        pool: bench.pool,
        slots: (0..).take(blocks.len()).collect(),
        durable: true,
    });
    let Reply::Store { taken, present, dropped, .. } = reply else { panic!("{reply:?}") };
    [taken, present, dropped]
}

/// Whether the copies in this tier would all be found after a restart.
fn are_durable(bench: &Bench, tier: Tier, blocks: &[u64]) -> bool {
    let directory = &bench.manager.directory;
    blocks.iter().all(|n| {
        let at = directory.find(key(*n)).expect("the block is here");
        directory.get(at).is_durable(tier)
    })
}

fn wish(wish: Wish) -> Directives {
    let tokens = TokenRange { start: 0, end: None };
    Directives::admit(vec![Directive { tokens, wish }]).expect("it makes sense")
}

#[test]
fn a_durable_store_ends_when_its_blocks_are_down_and_kept() {
    let mut bench = Bench::new([8, 8, 8, 0]);
    start(&mut bench, None, &[1, 2, 3], Directives::default());
    let mut written = 0;
    bench.run_with(|item| {
        let down = item.from.kind() != item.to.kind() && matches!(item.to, End::Nvme(_));
        assert_eq!(item.durable, down, "{item:?}");
        written += u32::from(down);
        None
    });
    assert_eq!(written, 3);
    let end = bench.completions.pop().expect("it completes");
    assert_eq!((end.failed, end.not_durable), (NONE, NONE));
    assert_eq!(bench.found(&[1, 2, 3]), "hbm:3");
    assert!(are_durable(&bench, Tier::Nvme, &[1, 2, 3]));
}

#[test]
fn a_store_that_does_not_ask_writes_nothing_down() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    let end = bench.store(None, &[1, 2]);
    assert_eq!(end.not_durable, NONE);
    assert_eq!(bench.tier(Tier::Nvme).bytes_in, 0);
}

#[test]
fn what_is_here_already_is_made_durable_and_so_are_its_ancestors() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    bench.store(None, &[1, 2, 3]);
    // The ancestors 1 and 2 were never asked for: without them, 3 would not come back.
    let counts = start(&mut bench, Some(2), &[3, 4], Directives::default());
    assert_eq!(counts, [1, 1, 0], "one taken, one present");
    bench.run();
    let end = bench.completions.pop().expect("it completes");
    assert_eq!((end.failed, end.not_durable), (NONE, NONE));
    assert!(are_durable(&bench, Tier::Nvme, &[1, 2, 3, 4]));
    // Asked again, nothing is written again: the tier is only asked to keep it.
    let before = bench.tier(Tier::Nvme).bytes_in;
    let mut synced = 0;
    persist(&mut bench, None, &[1, 2, 3, 4], |item| {
        assert!(item.durable && item.from == item.to, "{item:?}");
        synced += 1;
        None
    });
    assert_eq!((synced, bench.tier(Tier::Nvme).bytes_in), (4, before));
}

#[test]
fn a_block_is_not_durable_while_an_ancestor_is_not() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    let bad = key(2);
    let down = |item: &TransferItem| matches!(item.to, End::Nvme(_)) && item.meta.key == bad;
    let end = persist(&mut bench, None, &[1, 2, 3], |item| {
        down(item).then_some(FailureKind::TargetFailed)
    });
    // The third was written, but hangs on one that a restart will not find.
    assert_eq!((end.failed, end.not_durable), (NONE, vec![1, 2]));
    assert!(are_durable(&bench, Tier::Nvme, &[1]));
    assert!(!are_durable(&bench, Tier::Nvme, &[2, 3]));
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
    // The next store that asks makes good what is missing.
    let end = persist(&mut bench, Some(2), &[3], |_| None);
    assert_eq!(end.not_durable, NONE);
    assert!(are_durable(&bench, Tier::Nvme, &[1, 2, 3]));
}

#[test]
fn a_flush_that_fails_is_told() {
    for tiers in [[0, 8, 8, 0], [0, 8, 0, 8]] {
        let mut bench = Bench::new(tiers);
        persist(&mut bench, None, &[1, 2], |_| None);
        let end = persist(&mut bench, None, &[1, 2], |item| {
            (item.from == item.to).then_some(FailureKind::TargetFailed)
        });
        assert_eq!((end.failed, end.not_durable), (NONE, vec![0, 1]));
        bench.pass(Duration::from_mins(1));
        assert!(bench.erases.is_empty(), "what was not flushed is there all the same");
    }
}

#[test]
fn without_a_tier_that_outlives_the_daemon_nothing_is_durable() {
    let mut bench = Bench::new([8, 8, 0, 0]);
    let end = persist(&mut bench, None, &[1, 2], |_| None);
    assert_eq!((end.failed, end.not_durable), (NONE, vec![0, 1]));
    assert_eq!(bench.found(&[1, 2]), "hbm:2");
}

#[test]
fn without_nvme_the_object_store_keeps_it() {
    let mut bench = Bench::new([0, 8, 0, 8]);
    let end = persist(&mut bench, None, &[1, 2], |_| None);
    assert_eq!(end.not_durable, NONE);
    assert!(are_durable(&bench, Tier::Object, &[1, 2]));
}

#[test]
fn while_the_disk_is_scanned_nothing_is_durable() {
    let mut bench = Bench::recovering([0, 8, 8, 8]);
    let end = persist(&mut bench, None, &[1], |_| None);
    assert_eq!((end.failed, end.not_durable), (NONE, vec![0]));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    let end = persist(&mut bench, None, &[1], |_| None);
    assert_eq!(end.not_durable, NONE);
}

#[test]
fn a_floor_above_the_disk_is_not_broken_for_durability() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    let stays = Wish { floor: Some(Tier::Dram), ..Default::default() };
    start(&mut bench, None, &[1], wish(stays));
    bench.run();
    let end = bench.completions.pop().expect("it completes");
    assert_eq!((end.failed, end.not_durable), (NONE, vec![0]));
    assert_eq!(bench.tier(Tier::Nvme).blocks, 0);
}

/// Of a chain, too, whichever tier outlives the daemon and however the blocks come: children force down
/// nothing that may not be there, and what hangs on that is not durable.
#[test]
fn a_chain_ends_where_its_floor_keeps_it_above() {
    let chain: Vec<u64> = (1..=6).collect();
    for ([nvme, object], floor) in
        [([8, 0], Tier::Dram), ([0, 8], Tier::Dram), ([0, 8], Tier::Nvme)]
    {
        let stays = |bench: &Bench, blocks| {
            let cold = if nvme > 0 { Tier::Nvme } else { Tier::Object };
            assert_eq!(bench.tier(cold).blocks, blocks, "{cold}, floor {floor}");
        };
        let floored = |start| {
            let wish = Wish { floor: Some(floor), ..Wish::default() };
            let tokens = TokenRange { start, end: None };
            Directives::admit(vec![Directive { tokens, wish }]).expect("it makes sense")
        };
        let mut bench = Bench::new([0, 20, nvme, object]);
        start(&mut bench, None, &chain, floored(0));
        bench.run();
        let end = bench.completions.pop().expect("it completes");
        assert_eq!((end.failed, end.not_durable), (NONE, (0..6).collect()));
        stays(&bench, 0);
        for n in &chain {
            let parent = n.checked_sub(1).filter(|parent| *parent > 0);
            start(&mut bench, parent, &[*n], floored(0));
            bench.run();
            assert_eq!(bench.completions.pop().expect("it completes").not_durable, [0]);
        }
        stays(&bench, 0);
        // The first two may be there, but not for the sake of those that may not.
        let mut bench = Bench::new([0, 20, nvme, object]);
        bench.store(None, &chain[..2]);
        start(&mut bench, Some(2), &chain[2..], floored(32));
        bench.run();
        assert_eq!(bench.completions.pop().expect("it completes").not_durable, [0, 1, 2, 3]);
        stays(&bench, 0);
        start(&mut bench, None, &chain, Directives::default());
        bench.run();
        assert_eq!(bench.completions.pop().expect("it completes").not_durable, [2, 3, 4, 5]);
        stays(&bench, 2);
    }
}

#[test]
fn scratch_of_a_subagent_is_not_durable() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    bench.turn(Some("lead"), &[], &[1]);
    let (session, parent) = (name("sub"), Some(name("lead")));
    bench.hint(Action::SessionStart { session, parent });
    bench.turn(Some("sub"), &[], &[1, 2, 3]);
    let end = persist(&mut bench, None, &[1, 2, 3], |_| None);
    assert_eq!((end.failed, end.not_durable), (NONE, vec![1, 2]));
    assert_eq!(bench.tier(Tier::Nvme).blocks, 1);
}

#[test]
fn a_block_on_its_way_down_already_is_not_written_twice() {
    let mut bench = Bench::new([0, 2, 8, 0]);
    bench.store(None, &[1, 2]);
    // The third needs room: the second starts to drain.
    bench.start_store(None, &[3]);
    assert!(bench.transfers.iter().any(|transfer| matches!(transfer.items[0].to, End::Nvme(_))));
    start(&mut bench, None, &[1, 2], Directives::default());
    let mut written = Vec::new();
    bench.run_with(|item| {
        if item.from != item.to && matches!(item.to, End::Nvme(_)) {
            written.push(item.meta.key);
        }
        None
    });
    written.sort_unstable();
    written.dedup();
    let end = bench.completions.iter().find(|end| end.blocks == 2).expect("it completes");
    assert_eq!((&end.failed, &end.not_durable), (&NONE, &NONE));
    assert!(are_durable(&bench, Tier::Nvme, &[1, 2]));
    let frames = bench.tier(Tier::Nvme).bytes_in / bench.manager.namespaces[0].payload_bytes;
    assert_eq!(frames, written.len() as u64);
}

#[test]
fn a_changed_record_is_written_before_the_block_counts_as_durable() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    persist(&mut bench, None, &[1], |_| None);
    let higher = Wish { priority: Some((90, None)), ..Default::default() };
    start(&mut bench, None, &[1], wish(higher));
    bench.run();
    assert_eq!(bench.completions.len(), 0, "the header still says what it said");
    bench.pass(Duration::from_millis(100));
    let (tier, at, record) = bench.restamps.pop_front().expect("the record is written at once");
    assert_eq!((tier, at, record.priority), (Tier::Nvme, key(1), 90));
    bench.event(Event::Restamped { tier, key: at, end: RestampEnd::Written });
    bench.run();
    let end = bench.completions.pop().expect("it completes");
    assert_eq!(end.not_durable, NONE);
}

/// Nobody has heard of an end; the header is written with this priority, and then all ends come.
fn ends_after_restamp(bench: &mut Bench, priority: u8, ends: usize) {
    bench.run();
    assert_eq!(bench.completions.len(), 0, "the header says what was asked for before");
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.completions.len(), 0, "nor is it written yet");
    let (tier, at, record) = bench.restamps.pop_front().expect("the record is written at once");
    assert_eq!((tier, at, record.priority), (Tier::Nvme, key(1), priority));
    bench.event(Event::Restamped { tier, key: at, end: RestampEnd::Written });
    bench.run();
    assert_eq!(bench.completions.len(), ends);
    assert!(bench.completions.iter().all(|end| (&end.failed, &end.not_durable) == (&NONE, &NONE)));
    assert!(bench.restamps.is_empty() && are_durable(bench, Tier::Nvme, &[1]));
}

fn priority(priority: u8) -> Directives {
    wish(Wish { priority: Some((priority, None)), ..Default::default() })
}

/// Ends transfers until the next one is to be kept by its tier.
fn run_until_durable(bench: &mut Bench) {
    while bench.transfers.front().is_some_and(|next| !next.items[0].durable) {
        let transfer = bench.transfers.pop_front().expect("there is a next one").id;
        bench.event(Event::TransferDone { transfer, failed: Vec::new() });
    }
    assert_eq!(bench.transfers.len(), 1);
}

#[test]
fn a_record_that_changes_while_the_frame_is_written_is_written_after_it() {
    for shards in [1, 2] {
        let mut bench = Bench::with_config([0, 8, 8, 0], shards, |_| {});
        start(&mut bench, None, &[1], Directives::default());
        if shards == 2 {
            bench.run();
            bench.pool = bench.register(1);
            start(&mut bench, None, &[1], Directives::default());
        }
        run_until_durable(&mut bench);
        start(&mut bench, None, &[1], priority(90));
        ends_after_restamp(&mut bench, 90, 1 + shards as usize);
    }
}

#[test]
fn a_record_that_changes_while_the_tier_is_asked_to_keep_the_frame_is_written_after_that() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    persist(&mut bench, None, &[1], |_| None);
    start(&mut bench, None, &[1], Directives::default());
    run_until_durable(&mut bench);
    start(&mut bench, None, &[1], priority(90));
    ends_after_restamp(&mut bench, 90, 2);
}

#[test]
fn a_record_that_changes_while_the_one_before_is_written_is_written_as_well() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    persist(&mut bench, None, &[1], |_| None);
    start(&mut bench, None, &[1], priority(90));
    bench.pass(Duration::from_millis(100));
    let (tier, at, _) = bench.restamps.pop_front().expect("the record is written at once");
    start(&mut bench, None, &[1], priority(95));
    bench.event(Event::Restamped { tier, key: at, end: RestampEnd::Written });
    ends_after_restamp(&mut bench, 95, 2);
}

#[test]
fn a_record_that_cannot_be_written_is_told() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    persist(&mut bench, None, &[1], |_| None);
    let higher = Wish { priority: Some((90, None)), ..Default::default() };
    start(&mut bench, None, &[1], wish(higher));
    bench.pass(Duration::from_millis(100));
    let (tier, at, _) = bench.restamps.pop_front().expect("the record is written at once");
    bench.event(Event::Restamped { tier, key: at, end: RestampEnd::Failed });
    bench.run();
    assert_eq!(bench.completions.pop().expect("it completes").not_durable, vec![0]);
}

#[test]
fn shards_are_durable_when_the_block_is_whole() {
    let mut bench = Bench::with_config([0, 8, 8, 0], 2, |_| {});
    start(&mut bench, None, &[1], Directives::default());
    bench.run();
    assert_eq!(bench.completions.len(), 0, "the other rank's shard is missing");
    bench.pool = bench.register(1);
    start(&mut bench, None, &[1], Directives::default());
    bench.run();
    assert_eq!(bench.completions.len(), 2);
    assert!(
        bench.completions.iter().all(|end| end.failed.is_empty() && end.not_durable.is_empty())
    );
    assert!(are_durable(&bench, Tier::Nvme, &[1]));
}

#[test]
fn what_hangs_on_a_block_that_is_only_presumed_lands_and_is_not_durable() {
    let mut bench = Bench::with_config([0, 8, 0, 8], 2, |_| {});
    let client = bench.client;
    bench.event(Event::Presumed { client, key: key(1), parent: None, position: 0 });
    for rank in [0, 1] {
        if rank > 0 {
            bench.pool = bench.register(rank);
        }
        start(&mut bench, Some(1), &[2], Directives::default());
        bench.run();
    }
    let ends: Vec<_> =
        bench.completions.iter().map(|end| (&*end.failed, &*end.not_durable)).collect();
    assert_eq!(ends, [(&[][..], &[0][..]); 2]);
    assert_eq!(bench.found(&[1, 2]), "object:1 dram:1");
}

#[test]
fn a_lost_frame_makes_what_hangs_on_it_volatile() {
    let mut bench = Bench::new([0, 4, 8, 0]);
    persist(&mut bench, None, &[1, 2], |_| None);
    bench.store(None, &[11, 12, 13, 14]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    let reply = bench.start_load(&[1]);
    assert!(matches!(reply, Reply::Load { .. }), "{reply:?}");
    bench.run_with(|item| matches!(item.from, End::Nvme(_)).then_some(FailureKind::SourceCorrupt));
    assert_eq!(bench.found(&[1, 2]), "", "the chain went with its root");
}

#[test]
fn a_client_that_dies_leaves_nothing_behind() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    start(&mut bench, None, &[1, 2], Directives::default());
    let client = bench.client;
    bench.event(Event::ClientGone { client });
    bench.run();
    assert!(bench.completions.is_empty());
    bench.join(ClientId(2), 1);
    let status = bench.manager.status();
    assert_eq!(status.ops_in_flight, 0);
}

/// In which tiers each of these blocks is: `dn` for DRAM and NVMe.
fn tiers(bench: &mut Bench, blocks: &[u64]) -> String {
    let mut shown = Vec::new();
    for n in blocks {
        let copies = bench.block(*n).map_or_else(Default::default, |block| block.copies);
        let here = "hdno".chars().zip(copies).filter(|(_, state)| state.is_readable());
        shown.push(here.map(|(tier, _)| tier).collect::<String>());
    }
    shown.join(" ")
}
