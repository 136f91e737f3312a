//! Packs against the contract, and between nodes that share them: in a folder and in a bucket.

mod contract;
mod damage;
mod erase;
mod faults;
mod fleet;
mod ground;
mod outage;
mod power;
mod promises;
mod refused;
mod room;
mod shed;
mod stale;

use std::sync::mpsc::Receiver;

use crate::tiers::dram::Arena;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Erasure, Place, StoreError, StoreOp, TierStore};

use ground::{Ground, Node};

const ANYWHERE: Place = Place { offset: 0, slot_bytes: 0 };

/// Runs a test in a folder and in a bucket.
fn on_both(test: impl Fn(&Ground)) {
    test(&Ground::folder());
    test(&Ground::bucket());
}

fn block(number: u32) -> Sample {
    Sample { number, payload_bytes: 20_000 }
}

fn start(
    node: &Node,
    op: impl Fn(Sample, u32) -> StoreOp,
    numbers: std::ops::Range<u32>,
) -> Vec<Receiver<Result<(), StoreError>>> {
    let submit = |(lane, number)| {
        let (done, told) = sample::heard();
        node.store.submit(op(block(number), lane), done);
        told
    };
    (0..).zip(numbers).map(submit).collect()
}

/// Writes these blocks at once: at most as many as the arena has lanes.
fn write_all(node: &Node, numbers: std::ops::Range<u32>) {
    assert_eq!(write_some(node, numbers), Vec::<u32>::new());
}

/// The same; gives those whose promise to forget stood there before.
fn write_some(node: &Node, numbers: std::ops::Range<u32>) -> Vec<u32> {
    // All are made before the first is written: a pack does not wait for long.
    let frames =
        (0..).zip(numbers.clone()).map(|(lane, number)| block(number).fill(&node.arena, lane));
    let frames: Vec<_> = frames.collect();
    let write = |block: Sample, lane: u32| StoreOp::Write {
        key: block.key(),
        place: ANYWHERE,
        frame: frames[lane as usize],
    };
    let told = numbers.clone().zip(start(node, write, numbers));
    let outdone = told.filter_map(|(number, told)| match told.recv().unwrap() {
        Ok(()) => None,
        Err(StoreError::Outdone(_)) => Some(number),
        Err(error) => panic!("block {number}: {error}"),
    });
    outdone.collect()
}

/// Reads these blocks at once; gives those that came, each with the right bytes but for its record.
fn read_all(node: &Node, numbers: std::ops::Range<u32>) -> Vec<u32> {
    let read = |block: Sample, lane| {
        let frame = block.span(lane);
        StoreOp::Read { key: block.key(), place: ANYWHERE, frame }
    };
    let told = start(node, read, numbers.clone());
    let came = (0..).zip(numbers).zip(told).filter_map(|((lane, number), told)| {
        match told.recv().unwrap() {
            Ok(()) => assert!(holds(&node.arena, block(number), lane), "block {number} is another"),
            Err(StoreError::Missing(_)) => return None,
            Err(error) => panic!("block {number}: {error}"),
        }
        Some(number)
    });
    came.collect()
}

fn holds(arena: &Arena, block: Sample, lane: u32) -> bool {
    // SAFETY: the operation is over.
    let found = unsafe { arena.bytes(block.span(lane)) };
    let (records, wanted) = (crate::tiers::frame::RECORDS, block.bytes());
    found[..records.start] == wanted[..records.start]
        && found[records.end..] == wanted[records.end..]
}

fn erase(node: &Node, number: u32) -> Result<(), StoreError> {
    erase_for(node, number, Erasure::Unusable)
}

fn erase_for(node: &Node, number: u32, why: Erasure) -> Result<(), StoreError> {
    sample::run(&*node.store, StoreOp::Erase { key: block(number).key(), place: ANYWHERE, why })
}

/// The priority in the block's record, as the node tells it; nothing if it knows of no such block.
fn priority(node: &Node, number: u32) -> Option<u8> {
    match sample::peek(&*node.store, block(number)) {
        Ok(priority) => Some(priority),
        Err(StoreError::Missing(_)) => None,
        Err(error) => panic!("block {number}: {error}"),
    }
}

fn restamp(node: &Node, number: u32, priority: u8) -> Result<(), StoreError> {
    sample::restamp(&*node.store, block(number), ANYWHERE, priority)
}
