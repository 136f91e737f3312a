//! Objects that runs of this node before this one left in the shared store.

use super::*;
use crate::domain::residency::CopyState;
use crate::manager::Stray;

const OURS: [u8; 16] = [0; 16];
const ANOTHERS: [u8; 16] = [7; 16];

fn stored_at(second: u64) -> Time {
    Time::ZERO + Duration::from_secs(second)
}

fn promised(delete_after: Time) -> RetentionRecord {
    RetentionRecord { delete_after, ..RetentionRecord::default() }
}

/// An object, when it was stored, and who stored it.
fn object(mut frame: FoundFrame, second: u64, node_id: [u8; 16]) -> FoundFrame {
    frame.header.meta.created_at = stored_at(second);
    frame.header.node_id = node_id;
    frame
}

impl Bench {
    /// A node that keeps so many blocks in memory and in the shared store, an hour after its clock began.
    fn after(blocks: [u64; 4]) -> Self {
        let mut bench = Self::new(blocks);
        bench.now = Time::ZERO + HOUR;
        bench
    }

    fn strays(&mut self, objects: &[FoundFrame]) {
        let of = |frame: &FoundFrame| Stray::of(frame.header, OURS);
        let found = objects.iter().filter_map(of);
        let found = found.map(|stray| (stray.header.meta.key, stray)).collect();
        for stray in Stray::linked(found) {
            self.event(Event::Stray(Box::new(stray)));
        }
    }

    fn erased_objects(&mut self) -> Vec<Key> {
        let erased: Vec<_> = self.erases.drain(..).map(|(.., key)| key).collect();
        for key in &erased {
            self.event(Event::Erased { tier: Tier::Object, place: None, key: *key, done: true });
        }
        erased
    }
}

/// The chain 1, 2, 3 of this node.
fn chain() -> [FoundFrame; 3] {
    let plain = RetentionRecord::default();
    [(1, None), (2, Some(1)), (3, Some(2))].map(|(n, parent)| {
        let position = u32::try_from(n - 1).expect("small");
        object(frame(n, parent, position, plain), n, OURS)
    })
}

#[test]
fn they_count_at_once_and_are_found_by_who_looks_their_chain_up() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    let shielded = RetentionRecord {
        shield_until: bench.now + HOUR,
        priority: 80,
        ..RetentionRecord::default()
    };
    let mut objects = chain();
    objects[1].header.meta.record = shielded;
    bench.strays(&objects);
    let taken = bench.tier(Tier::Object);
    assert_eq!((taken.blocks, bench.manager.directory.len()), (3, 0));
    assert!(bench.block(2).is_none(), "nobody has asked for it");
    assert_eq!(bench.found(&[1, 2, 3]), "object:3");
    assert_eq!(bench.record(2), shielded);
    assert_eq!(bench.tier(Tier::Object).used_bytes, taken.used_bytes);
    assert_eq!(bench.load(&[1, 2, 3]).failed, Vec::<u32>::new());
}

#[test]
fn one_whose_chain_is_not_whole_waits_for_it() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.strays(&chain()[1..]);
    assert_eq!(bench.found(&[1, 2, 3]), "");
    bench.store(None, &[1]);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:1 object:2");
}

#[test]
fn for_room_they_go_before_all_others_the_oldest_chain_first_and_its_end_before_its_root() {
    let mut bench = Bench::after([0, 2, 0, 5]);
    let plain = RetentionRecord::default();
    let shielded = RetentionRecord { shield_until: bench.now + HOUR, ..plain };
    // The root was stored long ago, and is needed by what was stored last.
    let [root, two, three] = chain();
    let objects = [
        root,
        object(two, 3, OURS),
        object(three, 90, OURS),
        object(frame(8, Some(1), 1, plain), 50, OURS),
        object(frame(9, Some(1), 1, shielded), 2, OURS),
    ];
    bench.strays(&objects);
    bench.pass(SECOND);
    assert_eq!(bench.erased_objects(), []);
    let mut gone = Vec::new();
    for n in 0..5 {
        bench.store(None, &[100 + 2 * n, 101 + 2 * n]);
        bench.pass(SECOND);
        gone.extend(bench.erased_objects());
    }
    // Of the others too there are more than the tier holds.
    gone.retain(|key| objects.iter().any(|object| object.header.meta.key == *key));
    assert_eq!(gone, keys(&[8, 3, 2, 9, 1]));
    assert!(bench.tier(Tier::Object).evicted_blocks >= 5);
}

#[test]
fn what_was_promised_is_erased_when_it_is_due_with_all_that_hangs_on_it_whoever_wrote_it() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    let soon = promised(bench.now + SECOND);
    let plain = RetentionRecord::default();
    let [root, mut two, three] = chain();
    two.header.meta.record = soon;
    let others = [
        object(frame(5, None, 0, soon), 1, ANOTHERS),
        object(frame(6, Some(5), 1, plain), 1, ANOTHERS),
        object(frame(7, None, 0, promised(stored_at(1))), 1, ANOTHERS),
    ];
    bench.strays(&[&[root, two, three][..], &others[..]].concat());
    bench.event(Event::Tick);
    assert_eq!(bench.erased_objects(), keys(&[7]), "it was due before the start");
    assert_eq!(bench.tier(Tier::Object).blocks, 3, "of this node");
    assert_eq!(bench.found(&[5, 6]), "", "it is looked up as all others are");
    bench.pass(SECOND);
    let mut erased = bench.erased_objects();
    erased.sort_unstable();
    let mut due = keys(&[2, 3, 5]);
    due.sort_unstable();
    assert_eq!(erased, due);
    assert_eq!(bench.found(&[1, 2, 3]), "object:1");
}

#[test]
fn one_that_is_looked_up_keeps_its_promise_as_well() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    let mut objects = chain();
    objects[1].header.meta.record = promised(bench.now + SECOND);
    bench.strays(&objects);
    assert_eq!(bench.found(&[1, 2, 3]), "object:3");
    bench.pass(SECOND);
    assert_eq!(bench.found(&[1, 2, 3]), "object:1");
    let mut erased = bench.erased_objects();
    erased.sort_unstable();
    let mut due = keys(&[2, 3]);
    due.sort_unstable();
    assert_eq!(erased, due);
}

#[test]
fn a_block_that_is_here_by_another_frame_gets_its_object_as_a_copy() {
    let mut bench = Bench::recovering([0, 10, 20, 20]);
    bench.now = Time::ZERO + HOUR;
    let until = bench.now + HOUR;
    let [root, two, _] = chain();
    bench.scanned(frame(1, None, 0, RetentionRecord::default()));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    let mut promising = root;
    promising.header.meta.record = promised(until);
    bench.strays(&[promising, two]);
    let copies = bench.block(1).expect("it is on NVMe").copies;
    assert_eq!(copies[Tier::Object.index()], CopyState::Resident);
    assert_eq!(bench.record(1).delete_after, until, "the sooner promise counts");
    assert_eq!(bench.tier(Tier::Object).blocks, 2);
    assert_eq!(bench.found(&[1, 2]), "nvme:1 object:1");
}

#[test]
fn one_that_is_stored_anew_is_no_stray_and_is_not_erased_for_room() {
    let mut bench = Bench::after([0, 2, 0, 1]);
    bench.strays(&chain()[..1]);
    // By somebody who had not looked.
    bench.store(None, &[1]);
    bench.store(None, &[100]);
    bench.found(&[1]);
    // Has the other one sink, for which there is no room beside the stray.
    bench.store(None, &[101]);
    bench.pass(SECOND);
    assert_eq!(bench.erased_objects(), keys(&[100]));
    let copies = bench.block(1).expect("it is in memory").copies;
    assert_eq!(copies[Tier::Object.index()], CopyState::Resident);
    assert!(bench.manager.strays.remove(key(1)).is_none());
}
