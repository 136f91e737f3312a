//! What is written to NVMe and what is not: admission, write-through, the budget.

use crate::domain::admission::{Reason, Rule, Spared, WriteMode, WriteRules};
use crate::domain::residency::CopyState;
use crate::domain::retention::{Kind, TokenRange, Wish};

use super::*;

/// A frame of the test's namespace.
const FRAME_BYTES: u64 = 20_480;

/// Of two frames that this brings in ten seconds, an ordinary block may have the first.
const TWO_FRAMES_PER_S: u64 = FRAME_BYTES * 2 / 10;

fn bench(blocks: [u64; 4], rules: WriteRules) -> Bench {
    Bench::with_config(blocks, 1, |config| config.nvme_writes = rules)
}

fn ruled(rule: Rule) -> WriteRules {
    WriteRules { rule, ..WriteRules::default() }
}

fn budgeted(bytes_per_s: u64) -> WriteRules {
    WriteRules { rule: Rule::All, bytes_per_s, ..WriteRules::default() }
}

/// Frames that were written, and that were not, by reason: `demoted 2; unlikely 1`.
fn frames(bench: &Bench) -> String {
    let counts = bench.manager.status().nvme_writes;
    let shown =
        |name: &str, bytes: u64| (bytes > 0).then(|| format!("{name} {}", bytes / FRAME_BYTES));
    let written = Reason::ALL.iter().map(|reason| reason.name()).zip(counts.written_bytes);
    let spared = Spared::ALL.iter().map(|why| why.name()).zip(counts.spared_bytes);
    let written: Vec<_> = written.filter_map(|(name, bytes)| shown(name, bytes)).collect();
    let spared: Vec<_> = spared.filter_map(|(name, bytes)| shown(name, bytes)).collect();
    format!("{}; {}", written.join(" "), spared.join(" "))
}

#[test]
fn what_nobody_read_leaves_from_the_tail_and_is_not_written() {
    let mut bench = bench([0, 3, 10, 0], ruled(Rule::Read));
    bench.store(None, &[1, 2, 3]);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:1");
    assert_eq!(frames(&bench), "; unlikely 2");
}

#[test]
fn what_was_read_is_written_with_all_that_it_hangs_on() {
    let mut bench = bench([0, 4, 10, 0], ruled(Rule::Read));
    bench.store(None, &[1, 2, 3, 4]);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3", "which reads the first three");
    bench.store(None, &[11, 12, 13, 14]);
    assert_eq!(bench.found(&[1, 2, 3, 4]), "nvme:3");
    assert_eq!(frames(&bench), "demoted 3; unlikely 1");
}

#[test]
fn what_is_refused_goes_to_the_object_tier() {
    let mut bench = bench([0, 2, 10, 10], ruled(Rule::Read));
    bench.store(None, &[1, 2]);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[1, 2]), "object:2");
    assert_eq!(frames(&bench), "; unlikely 2");
}

#[test]
fn what_its_owner_asked_for_is_written_and_so_is_what_it_hangs_on() {
    let mut bench = bench([0, 2, 10, 0], ruled(Rule::Read));
    let wish = Wish { priority: Some((80, None)), ..Wish::default() };
    let tail = Directive { tokens: TokenRange { start: 16, end: None }, wish };
    bench.turn(None, &[tail], &[1, 2]);
    bench.store(None, &[11, 12]);
    bench.store(None, &[21, 22]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    assert_eq!(frames(&bench), "demoted 2; unlikely 2");
}

#[test]
fn what_a_session_reaches_is_written_until_it_ends() {
    let mut bench = bench([0, 2, 10, 0], ruled(Rule::Read));
    bench.turn(Some("a"), &[], &[1, 2]);
    bench.turn(Some("b"), &[], &[11, 12]);
    bench.hint(Action::SessionEnd { session: name("b"), tree: false });
    bench.store(None, &[21, 22]);
    assert_eq!((bench.found(&[1, 2]), bench.found(&[11])), ("nvme:2".into(), String::new()));
    assert_eq!(frames(&bench), "demoted 2; dead 2");
}

#[test]
fn scratch_is_spared_by_its_floor() {
    let mut bench = bench([0, 2, 10, 0], ruled(Rule::All));
    let wish = Wish { kind: Some(Kind::Reasoning), ..Wish::default() };
    bench.turn(None, &[Directive { tokens: TokenRange::ALL, wish }], &[1, 2]);
    bench.store(None, &[11, 12]);
    assert_eq!(frames(&bench), "; floor 2");
}

/// Whatever hangs on it in memory.
#[test]
fn scratch_is_not_written_through() {
    let through = WriteRules { mode: WriteMode::Through, ..ruled(Rule::All) };
    let mut bench = bench([0, 8, 10, 0], through);
    let wish = Wish { kind: Some(Kind::Reasoning), ..Wish::default() };
    let tokens = TokenRange { start: 32, end: None };
    bench.turn(None, &[Directive { tokens, wish }], &[1, 2, 3, 4, 5]);
    bench.hint(Action::SessionStart { session: name("lead"), parent: None });
    bench.hint(Action::SessionStart { session: name("sub"), parent: Some(name("lead")) });
    bench.turn(Some("sub"), &[], &[1, 2, 11, 12, 13]);
    assert_eq!(frames(&bench), "through 2; ");
}

/// Nor does a child in a faster tier force it down.
#[test]
fn scratch_stays_in_memory_for_what_is_above_it() {
    let mut bench = bench([2, 2, 10, 10], ruled(Rule::All));
    let wish = Wish { kind: Some(Kind::Reasoning), ..Wish::default() };
    bench.turn(None, &[Directive { tokens: TokenRange::ALL, wish }], &[1]);
    bench.store(None, &[11, 12]);
    bench.store(Some(1), &[2]);
    bench.store(None, &[21]);
    bench.store(None, &[31]);
    let [scratch, other] = [1, 11].map(|n| bench.block(n).map(|block| block.copies));
    let is_cold =
        |copies: [CopyState; 4]| copies[2..].iter().any(|copy| *copy != CopyState::Absent);
    assert_eq!((scratch.map(is_cold), other.map(is_cold)), (Some(false), Some(true)));
}

#[test]
fn what_lay_lower_than_its_floor_already_keeps_what_it_hangs_on() {
    let mut bench = bench([0, 2, 10, 0], ruled(Rule::All));
    bench.store(None, &[1, 2]);
    bench.store(None, &[11]);
    assert_eq!(bench.found(&[1]), "dram:1", "and the second went down");
    let wish = Wish { floor: Some(Tier::Dram), ..Wish::default() };
    let target = crate::domain::hint::Target::Keys(keys(&[1]));
    bench.hint(Action::Retain { target, wish });
    bench.store(None, &[21, 22]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
}

#[test]
fn written_through_is_written_once_and_makes_room_at_once() {
    let through = WriteRules { mode: WriteMode::Through, ..ruled(Rule::All) };
    let mut bench = bench([0, 2, 10, 0], through);
    bench.store(None, &[1, 2]);
    assert_eq!(frames(&bench), "through 2; ");
    assert_eq!(bench.found(&[1, 2]), "dram:2");
    bench.start_store(None, &[11, 12]);
    let ends: Vec<_> = bench.transfers.iter().map(|transfer| transfer.link).collect();
    assert_eq!(ends, [crate::movement::Link::DeviceDown], "nothing has to be written first");
    bench.run();
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    assert_eq!(frames(&bench), "through 4; ");
}

#[test]
fn a_write_through_that_fails_leaves_the_copy_above() {
    let through = WriteRules { mode: WriteMode::Through, ..ruled(Rule::All) };
    let mut bench = bench([2, 2, 10, 0], through);
    bench.start_store(None, &[1, 2]);
    let to_nvme = |item: &TransferItem| matches!(item.to, End::Nvme(_));
    bench.run_with(|item| to_nvme(item).then_some(FailureKind::TargetFailed));
    assert_eq!(bench.found(&[1, 2]), "hbm:2");
    assert_eq!((bench.tier(Tier::Nvme).blocks, frames(&bench).as_str()), (0, "; "));
}

#[test]
fn the_budget_bounds_what_is_written_and_time_fills_it() {
    let mut bench = bench([0, 1, 10, 0], budgeted(TWO_FRAMES_PER_S));
    for root in 1..=3 {
        bench.store(None, &[root]);
    }
    assert_eq!(frames(&bench), "demoted 1; budget 1");
    bench.pass(Duration::from_secs(10));
    bench.store(None, &[4]);
    assert_eq!(frames(&bench), "demoted 2; budget 1");
    assert_eq!([1, 2, 3].map(|root| bench.found(&[root])), ["nvme:1", "", "nvme:1"]);
}

#[test]
fn what_hangs_together_is_not_torn_by_the_budget() {
    let mut bench = bench([0, 4, 10, 0], budgeted(TWO_FRAMES_PER_S));
    bench.store(None, &[1, 2, 3, 4]);
    bench.store(None, &[11, 12, 13, 14]);
    assert_eq!(
        bench.found(&[1, 2, 3, 4]),
        "nvme:4",
        "the tail had its bytes, the rest went with it"
    );
    assert_eq!(frames(&bench), "demoted 4; ");
}

/// However long it is: what it takes beyond the budget is paid back before anything else is written.
#[test]
fn a_chain_that_overdraws_the_budget_is_paid_back_in_full() {
    let mut bench = bench([0, 8, 40, 0], budgeted(TWO_FRAMES_PER_S));
    bench.store(None, &[1, 2, 3, 4, 5, 6, 7, 8]);
    bench.store(None, &[11, 12, 13, 14, 15, 16, 17, 18]);
    assert_eq!(bench.found(&[1, 2, 3, 4, 5, 6, 7, 8]), "nvme:8");
    assert_eq!(frames(&bench), "demoted 8; ");
    bench.pass(Duration::from_secs(35));
    bench.store(None, &[21, 22, 23, 24, 25, 26, 27, 28]);
    assert_eq!(frames(&bench), "demoted 8; budget 8", "one frame of two is there again");
    bench.pass(Duration::from_secs(5));
    bench.store(None, &[31]);
    assert_eq!(frames(&bench), "demoted 9; budget 8");
}

/// However many blocks hang together: what is let through hangs together from the root, and what the budget
/// has no bytes for obliges to nothing.
#[test]
fn what_is_written_through_keeps_to_the_budget() {
    let through = WriteRules { mode: WriteMode::Through, ..budgeted(FRAME_BYTES) };
    let mut bench = bench([0, 400, 400, 0], through);
    let chains: Vec<Vec<u64>> = (0..30).map(|n| (10 * n + 1..10 * n + 11).collect()).collect();
    for chain in &chains {
        bench.store(None, chain);
    }
    assert_eq!(frames(&bench), "through 8; budget 30", "of ten frames ordinary blocks leave two");
    bench.pass(Duration::from_secs(3));
    bench.store(Some(chains[0][9]), &[1001]);
    bench.store(Some(chains[1][9]), &[1002]);
    bench.store(None, &[1003, 1004, 1005, 1006]);
    assert_eq!(frames(&bench), "through 11; budget 31");
    for block in (1..=300).chain(1001..=1006) {
        let is_written = block <= 8 || [1003, 1004, 1005].contains(&block);
        let there = bench.block(block).map(|block| block.copies[Tier::Nvme.index()]);
        let expected = if is_written { CopyState::Resident } else { CopyState::Absent };
        assert_eq!(there, Some(expected), "{block}");
    }
}

#[test]
fn what_lands_before_its_parent_is_written_through_after_it() {
    let through = WriteRules { mode: WriteMode::Through, ..ruled(Rule::All) };
    let mut bench = bench([0, 10, 10, 0], through);
    bench.start_store(None, &[1]);
    bench.start_store(Some(1), &[2]);
    bench.start_store(Some(2), &[3, 4]);
    bench.transfers.make_contiguous().reverse();
    bench.run();
    assert_eq!(frames(&bench), "through 4; ");
}

#[test]
fn without_memory_the_budget_drops_stores_from_the_tail() {
    let mut bench = bench([0, 0, 10, 0], budgeted(TWO_FRAMES_PER_S));
    let reply = bench.start_store(None, &[1, 2, 3]);
    assert!(matches!(reply, Reply::Store { taken: 1, dropped: 2, .. }), "{reply:?}");
    bench.run();
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:1");
    assert_eq!(frames(&bench), "stored 1; budget 1");
}

#[test]
fn what_its_floor_keeps_off_nvme_costs_no_budget() {
    let mut bench = bench([0, 0, 10, 0], budgeted(TWO_FRAMES_PER_S));
    let wish = Wish { floor: Some(Tier::Dram), ..Wish::default() };
    for root in 1..=3 {
        bench.turn(None, &[Directive { tokens: TokenRange::ALL, wish }], &[root]);
    }
    bench.store(None, &[11]);
    assert_eq!(frames(&bench), "stored 1; floor 3");
}

#[test]
fn what_never_started_is_given_back() {
    let mut bench = bench([0, 1, 10, 0], budgeted(TWO_FRAMES_PER_S));
    bench.store(None, &[1]);
    bench.start_store(None, &[2]);
    let to_nvme = |item: &TransferItem| matches!(item.to, End::Nvme(_));
    bench.run_with(|item| to_nvme(item).then_some(FailureKind::NotDone));
    bench.store(None, &[3]);
    assert_eq!(frames(&bench), "demoted 1; ");
}

#[test]
fn records_that_are_written_anew_count() {
    let mut bench = bench([0, 1, 10, 0], ruled(Rule::All));
    bench.store(None, &[1]);
    bench.store(None, &[2]);
    let wish = Wish { priority: Some((80, None)), ..Wish::default() };
    let target = crate::domain::hint::Target::Keys(keys(&[1]));
    bench.hint(Action::Retain { target, wish });
    bench.pass(Duration::from_secs(2));
    let (tier, key, _) = bench.restamps.pop_front().expect("the record is written anew");
    bench.event(Event::Restamped { tier, key, end: RestampEnd::Written });
    let written = bench.manager.status().nvme_writes.written_bytes;
    assert_eq!(written[Reason::Record.index()], 4096);
}

#[test]
fn a_durable_store_is_asked_about_by_nobody_and_paid_for() {
    let rules = WriteRules { rule: Rule::Read, ..budgeted(TWO_FRAMES_PER_S) };
    let mut bench = bench([0, 4, 10, 0], rules);
    let pool = bench.pool;
    bench.ask(Command::Store {
        request: RequestId(1),
        session: None,
        directives: Directives::default(),
        parent: None,
        keys: keys(&[1, 2, 3]),
        pool,
        slots: vec![0, 1, 2],
        durable: true,
        labels: Labels::default(),
    });
    bench.run();
    assert_eq!(bench.completions.pop().map(|end| end.not_durable), Some(Vec::new()));
    assert_eq!(frames(&bench), "durable 3; ");
    let left = bench.manager.status().nvme_writes.budget_left_bytes;
    assert_eq!(left, Some(-FRAME_BYTES.cast_signed()), "one of the three is owed");
}

/// A write that failed may have left a whole frame, and one that never began leaves the one before: a
/// restart would find it, whatever was promised of its block meanwhile.
#[test]
fn a_slot_whose_write_failed_is_made_unreadable_before_it_is_free() {
    for kind in [FailureKind::TargetFailed, FailureKind::NotDone] {
        let mut bench = Bench::new([0, 1, 1, 0]);
        bench.store(None, &[1]);
        // The first block sinks, for the sake of the second.
        bench.start_store(None, &[2]);
        let transfer = bench.transfers.pop_front().expect("it is on its way down");
        assert!(matches!(transfer.items[0].to, End::Nvme(_)), "{transfer:?}");
        let failed = vec![ItemFailure { item: 0, kind }];
        bench.event(Event::TransferDone { transfer: transfer.id, failed });
        let erased: Vec<_> = bench.erases.iter().map(|(tier, place, _)| (*tier, *place)).collect();
        let End::Nvme(place) = transfer.items[0].to else { unreachable!("it was looked at") };
        assert_eq!(erased, [(Tier::Nvme, Some(place))]);
        bench.run();
        bench.start_store(None, &[3]);
        let next = bench.transfers.front().expect("the second one sinks");
        assert_eq!(next.items[0].to, End::Nvme(place), "its slot is free");
        bench.run();
        assert_eq!((bench.found(&[2]), bench.found(&[3])), ("nvme:1".into(), "dram:1".into()));
    }
}
