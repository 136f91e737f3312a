//! Promises to forget: kept at one go however long the chain, and against whoever asks for more.

use super::*;

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
