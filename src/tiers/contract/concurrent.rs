//! Many operations at once: they may end in any order, and each is told once.

use std::sync::Arc;

use crate::tiers::store::{StoreError, StoreOp};

use super::rig::{Block, Pending, Rig};
use super::{Fixture, PAYLOADS_BYTES};

/// Operations under way at once: one for each staging frame but the one for comparisons.
const AT_ONCE: u32 = super::STAGING_FRAMES - 1;

pub(super) fn check(make: &dyn Fn() -> Fixture) {
    for payload_bytes in [PAYLOADS_BYTES[0], PAYLOADS_BYTES[3]] {
        different_places_at_once(&Rig::new(make()), payload_bytes);
        submitted_from_many_threads(&Rig::new(make()), payload_bytes);
    }
    told_also_when_dropped(Rig::new(make()), PAYLOADS_BYTES[2]);
}

fn different_places_at_once(rig: &Rig, payload_bytes: u32) {
    let block = |number| Block { number, payload_bytes };
    for round in 0..3 {
        for number in 0..AT_ONCE {
            rig.fill(number, block(number + round));
        }
        all_end_well(rig, |number| write(rig, number, block(number + round)));
        for number in 0..AT_ONCE {
            rig.blank(number, block(number + round));
        }
        all_end_well(rig, |number| read(rig, number, block(number + round)));
        for number in 0..AT_ONCE {
            assert!(rig.holds(number, block(number + round)), "block {number} of round {round}");
        }
    }
}

fn submitted_from_many_threads(rig: &Rig, payload_bytes: u32) {
    let ops: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let block = Block { number, payload_bytes };
            rig.fill(number, block);
            write(rig, number, block)
        })
        .collect();
    let store = rig.store();
    std::thread::scope(|scope| {
        for op in &ops {
            scope.spawn(move || {
                while let Err(error) = Pending::start(&**store, *op).wait() {
                    assert!(matches!(error, StoreError::Busy), "{error}");
                    std::thread::yield_now();
                }
            });
        }
    });
    for number in 0..AT_ONCE {
        let block = Block { number, payload_bytes };
        rig.blank(number, block);
        let ended = Pending::start(&**store, read(rig, number, block)).wait();
        assert!(ended.is_ok() && rig.holds(number, block), "block {number}: {ended:?}");
    }
}

fn told_also_when_dropped(rig: Rig, payload_bytes: u32) {
    let block = |number| Block { number, payload_bytes };
    for number in 0..AT_ONCE {
        rig.fill(number, block(number));
    }
    let ops: Vec<_> = (0..AT_ONCE).map(|number| write(&rig, number, block(number))).collect();
    let store = Arc::clone(rig.store());
    let pending: Vec<_> = ops.iter().map(|op| Pending::start(&*store, *op)).collect();
    drop(store);
    // The arena stays: a store may not touch it any more once all are told, but must not be first.
    let arena = Arc::clone(&rig.fixture.arena);
    drop(rig);
    for one in pending {
        // How it ended does not matter: `wait` panics if nobody was told.
        let _ = one.wait();
    }
    drop(arena);
}

/// Starts `op(0..AT_ONCE)`, as many at once as the store takes, and waits for all.
fn all_end_well(rig: &Rig, op: impl Fn(u32) -> StoreOp) {
    let mut left: Vec<u32> = (0..AT_ONCE).collect();
    while !left.is_empty() {
        let started: Vec<_> = left
            .iter()
            .map(|number| (*number, Pending::start(&**rig.store(), op(*number))))
            .collect();
        let took = left.len();
        left.clear();
        for (number, pending) in started {
            match pending.wait() {
                Ok(()) => {}
                Err(StoreError::Busy) => left.push(number),
                Err(error) => panic!("operation {number} of {took}: {error}"),
            }
        }
        assert!(left.len() < took, "a store with nothing to do is busy");
    }
}

fn write(rig: &Rig, number: u32, block: Block) -> StoreOp {
    let place = rig.place(0, number, block.payload_bytes);
    StoreOp::Write { key: block.key(), place, frame: rig.span(number, block) }
}

fn read(rig: &Rig, number: u32, block: Block) -> StoreOp {
    let place = rig.place(0, number, block.payload_bytes);
    StoreOp::Read { key: block.key(), place, frame: rig.span(number, block) }
}
