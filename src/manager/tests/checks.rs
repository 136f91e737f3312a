//! That the invariants find out a state that no manager should be in.

use super::*;
use crate::domain::directory::BlockIndex;
use crate::domain::residency::CopyEvent;

fn row(bench: &Bench, block: u64) -> BlockIndex {
    bench.manager.directory.find(key(block)).expect("it was stored")
}

#[test]
fn a_fill_whose_transfer_was_lost_is_found_out() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    bench.start_store(None, &[1]);
    assert_eq!(bench.manager.check_moves(), Ok(()));
    bench.manager.flights.clear();
    let broken = bench.manager.check_moves().expect_err("nobody fills it");
    assert!(broken.ends_with("fills in dram for ever"), "{broken}");
}

#[test]
fn a_drain_that_leads_nowhere_is_found_out() {
    let mut bench = Bench::new([0, 4, 4, 0]);
    bench.store(None, &[1]);
    assert_eq!(bench.manager.check_moves(), Ok(()));
    let block = row(&bench, 1);
    bench.manager.directory.apply(block, Tier::Dram, CopyEvent::DrainStarted);
    let broken = bench.manager.check_moves().expect_err("it has no way down");
    assert!(broken.ends_with("drains in dram for ever"), "{broken}");
}

#[test]
fn a_load_that_waits_for_no_fill_is_found_out() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    bench.store(None, &[1]);
    assert_eq!(bench.manager.check_moves(), Ok(()));
    bench.manager.joined.insert((row(&bench, 1), Tier::Dram), Vec::new());
    let broken = bench.manager.check_moves().expect_err("its fill is over");
    assert!(broken.ends_with("waited for in dram, where it does not fill"), "{broken}");
}

#[test]
fn a_shard_that_nobody_brings_is_found_out() {
    let mut bench = Bench::with_config([0, 4, 0, 0], 2, |_| {});
    bench.store(None, &[1]);
    assert_eq!(bench.manager.check_moves(), Ok(()));
    let block = row(&bench, 1);
    let partial = bench.manager.partials.get_mut(&block).expect("one shard is not here yet");
    partial.started |= 0b10;
    let broken = bench.manager.check_moves().expect_err("only the first shard came");
    assert!(broken.ends_with("waits for a shard that nobody brings"), "{broken}");
}

#[test]
fn a_copy_that_its_list_lost_is_found_out() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    bench.store(None, &[1]);
    assert_eq!(bench.manager.check_ranks(), Ok(()));
    let space = bench.manager.tiers[Tier::Dram.index()].as_mut().expect("it is there");
    space.classes[0].ranks.tidy(|_| false);
    let broken = bench.manager.check_ranks().expect_err("nobody will ever ask it to go");
    assert!(broken.ends_with("is said to be on a list of dram, and is not"), "{broken}");
}
