//! Durable blocks that make room: where their copies go, and what goes along.

use super::*;

/// A prefix that is read again and again is in memory, and its copies on NVMe are the ones used least.
#[test]
fn what_memory_serves_stays_where_it_outlives_the_daemon() {
    let mut bench = Bench::new([0, 3, 3, 20]);
    persist(&mut bench, None, &[1, 2, 3], |_| None);
    assert_eq!(tiers(&mut bench, &[1, 2, 3]), "dn dn dn");
    for other in 11..=16 {
        persist(&mut bench, None, &[other], |_| None);
        bench.load(&[1, 2]);
    }
    assert_eq!(tiers(&mut bench, &[1, 2, 3]), "do do o");
    assert_eq!(bench.tier(Tier::Nvme).evicted_blocks, 0);
}

/// The prefix comes from the object store, and what was computed after it lies on NVMe.
#[test]
fn what_sinks_to_nvme_takes_along_what_is_only_in_the_object_store() {
    let mut bench = Bench::new([0, 3, 4, 20]);
    bench.store(None, &[1, 2]);
    for other in 11..=17 {
        bench.store(None, &[other]);
    }
    assert_eq!(tiers(&mut bench, &[1, 2]), "o o");
    bench.load(&[1, 2]);
    bench.store(Some(2), &[3]);
    assert_eq!(tiers(&mut bench, &[1, 2, 3]), "do do d");
    for other in 21..=23 {
        bench.store(None, &[other]);
    }
    assert_eq!(tiers(&mut bench, &[1, 2, 3]), "no no n");
}
