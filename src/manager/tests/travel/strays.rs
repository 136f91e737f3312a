//! Objects that runs of this node before this one left in the shared store.

use super::*;
use crate::domain::residency::CopyState;
use crate::manager::{Looked, Stray};
use crate::tiers::health::Refuses;

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

fn sorted(mut keys: Vec<Key>) -> Vec<Key> {
    keys.sort_unstable();
    keys
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

    /// Tells what the headers say that are looked at: those of these objects, and of no others.
    fn look(&mut self, objects: &[FoundFrame]) {
        for key in std::mem::take(&mut self.looks) {
            let found = objects.iter().find(|object| object.header.meta.key == key);
            let found =
                found.map_or(Looked::Gone, |object| Looked::Header(Box::new(object.header)));
            self.event(Event::StrayLookedAt { key, found });
        }
        self.event(Event::Tick);
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
    let all = [&[root, two, three][..], &others[..]].concat();
    bench.strays(&all);
    bench.event(Event::Tick);
    bench.look(&all);
    assert_eq!(bench.erased_objects(), keys(&[7]), "it was due before the start");
    assert_eq!(bench.tier(Tier::Object).blocks, 3, "of this node");
    assert_eq!(bench.found(&[5, 6]), "", "it is looked up as all others are");
    bench.pass(SECOND);
    assert_eq!(bench.erased_objects(), [], "they may have been put off");
    bench.look(&all);
    assert_eq!(sorted(bench.erased_objects()), sorted(keys(&[2, 3, 5])));
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
    assert_eq!(sorted(bench.erased_objects()), sorted(keys(&[2, 3])));
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

#[test]
fn a_promise_that_its_writer_put_off_is_kept_at_its_new_date() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    let written = |at: Time| object(frame(5, None, 0, promised(at)), 1, ANOTHERS);
    let (soon, later) = (bench.now + SECOND, bench.now + HOUR);
    bench.strays(&[written(soon)]);
    bench.pass(SECOND);
    bench.look(&[written(later)]);
    bench.pass(SECOND);
    assert_eq!((bench.looks.len(), bench.erased_objects()), (0, vec![]));
    bench.pass(HOUR);
    bench.look(&[written(later)]);
    assert_eq!(bench.erased_objects(), keys(&[5]));
}

#[test]
fn one_that_can_not_be_looked_at_is_looked_at_again() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    let due = object(frame(5, None, 0, promised(bench.now)), 1, OURS);
    bench.strays(std::slice::from_ref(&due));
    bench.event(Event::Tick);
    let key = bench.looks.pop().expect("it is due");
    bench.event(Event::StrayLookedAt { key, found: Looked::Unknown });
    bench.event(Event::Tick);
    assert_eq!(bench.looks, [], "not at once");
    assert_eq!(bench.found(&[5]), "", "nobody is served what is due");
    bench.pass(RewriteLimits::default().retry_delay);
    bench.look(&[due]);
    assert_eq!(bench.erased_objects(), keys(&[5]));
}

#[test]
fn nothing_is_looked_at_while_the_store_takes_nothing_and_a_bounded_number_at_a_time() {
    let mut bench = Bench::after([0, 10, 0, 2000]);
    let due = |n| object(frame(n, None, 0, promised(stored_at(1))), 1, OURS);
    let all: Vec<_> = (1..=1000).map(due).collect();
    bench.event(Event::Outage { tier: Tier::Object, refuses: Refuses::ALL });
    bench.strays(&all);
    bench.pass(SECOND);
    assert_eq!((bench.looks.len(), bench.tier(Tier::Object).blocks), (0, 1000));
    bench.event(Event::Outage { tier: Tier::Object, refuses: Refuses::NOTHING });
    let mut erased = 0;
    while bench.tier(Tier::Object).blocks > 0 {
        bench.event(Event::Tick);
        assert!((1..=RewriteLimits::default().under_way_max).contains(&bench.looks.len()));
        bench.look(&all);
        erased += bench.erased_objects().len();
    }
    assert_eq!(erased, 1000);
}

#[test]
fn what_was_due_before_the_block_was_stored_anew_is_over() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.store(None, &[1, 2, 3]);
    let before = promised(stored_at(60));
    bench.strays(&[object(frame(1, None, 0, before), 1, OURS)]);
    assert_eq!(bench.erased_objects(), keys(&[1]), "the object of before");
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
    assert_eq!(bench.record(1).delete_after, Time::ZERO);
    // One that was promised of the block as it is counts.
    let until = bench.now + SECOND;
    bench.strays(&[object(frame(2, Some(1), 1, promised(until)), 1, OURS)]);
    bench.pass(SECOND);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:1");
}

#[test]
fn one_that_is_stored_anew_while_it_is_looked_at_is_not_erased_under_the_write() {
    let mut bench = Bench::after([0, 0, 0, 20]);
    let due = object(frame(1, None, 0, promised(bench.now)), 1, OURS);
    bench.strays(std::slice::from_ref(&due));
    bench.event(Event::Tick);
    bench.now = bench.now + SECOND;
    bench.start_store(None, &[1]);
    assert_eq!(bench.transfers.len(), 1, "it is being written");
    bench.look(&[due]);
    assert_eq!(bench.erased_objects(), []);
    bench.run();
    assert_eq!(bench.found(&[1]), "object:1");
}

#[test]
fn what_hangs_on_a_forgotten_block_goes_with_it() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.strays(&chain());
    assert_eq!(bench.found(&[1]), "object:1");
    bench.retain(&[1], Wish { delete_after: Some(SECOND), ..Wish::default() });
    bench.pass(SECOND);
    bench.event(Event::Tick);
    assert_eq!(sorted(bench.erased_objects()), sorted(keys(&[1, 2, 3])));
    bench.store(None, &[1]);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:1");
}

#[test]
fn what_is_found_after_the_block_that_it_hangs_on_was_forgotten_goes_with_that() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.event(Event::LookForStrays { begins: true });
    let [mut root, two, three] = chain();
    root.header.meta.record = promised(bench.now);
    bench.strays(&[root.clone()]);
    bench.event(Event::Tick);
    bench.look(&[root]);
    assert_eq!(bench.erased_objects(), keys(&[1]));
    // In the order of their keys, which is any.
    bench.strays(&[three]);
    bench.strays(&[two]);
    bench.event(Event::Tick);
    assert_eq!(sorted(bench.erased_objects()), sorted(keys(&[2, 3])));
}

#[test]
fn a_forgotten_one_that_is_stored_anew_is_erased_before_it_is_written() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.strays(&chain());
    assert_eq!(bench.found(&[1]), "object:1");
    bench.retain(&[1], Wish { delete_after: Some(SECOND), ..Wish::default() });
    bench.event(Event::Outage { tier: Tier::Object, refuses: Refuses::ALL });
    bench.pass(SECOND);
    bench.store(None, &[1, 2, 3]);
    // A second look finds them as they are.
    bench.strays(&chain()[1..]);
    bench.event(Event::Outage { tier: Tier::Object, refuses: Refuses::NOTHING });
    bench.event(Event::Tick);
    let mut erased = bench.erased_objects();
    erased.sort_unstable();
    erased.dedup();
    let mut all = keys(&[1, 2, 3]);
    all.sort_unstable();
    assert_eq!(erased, all);
    assert_eq!(bench.tier(Tier::Object).blocks, 0);
}

#[test]
fn whoever_names_them_by_themselves_finds_them() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.strays(&chain());
    assert!(bench.block(3).is_some(), "and all that it hangs on");
    assert_eq!(bench.manager.directory.len(), 3);

    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.strays(&chain());
    bench.retain(&[2], Wish { priority: Some((70, None)), ..Wish::default() });
    assert_eq!(bench.record(2).priority, 70);
    assert_eq!(bench.store(Some(3), &[4]).failed, Vec::<u32>::new());
    assert_eq!(bench.found(&[1, 2, 3, 4]), "object:3 dram:1");

    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.strays(&chain());
    assert_eq!(bench.load(&[1, 2, 3]).failed, Vec::<u32>::new());

    // Of a chain that is not whole nobody can be served.
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.strays(&chain()[1..]);
    assert!(bench.block(3).is_none() && bench.block(2).is_none());
}

/// Its header was read before.
#[test]
fn what_is_erased_while_the_store_is_looked_through_is_no_stray() {
    let mut bench = Bench::after([0, 10, 0, 20]);
    bench.event(Event::LookForStrays { begins: true });
    let [root, ..] = chain();
    bench.found_object(root.clone());
    bench.retain(&[1], Wish { delete_after: Some(SECOND), ..Wish::default() });
    bench.pass(SECOND);
    assert_eq!(bench.erased_objects(), keys(&[1]));
    bench.strays(std::slice::from_ref(&root));
    assert_eq!((bench.tier(Tier::Object).blocks, bench.found(&[1])), (0, String::new()));
    bench.event(Event::LookForStrays { begins: false });
    bench.pass(3 * SECOND);
    // The next one finds what has come since.
    bench.strays(&[root]);
    assert_eq!(bench.found(&[1]), "object:1");
}

#[test]
fn what_is_written_there_anew_counts_once() {
    let mut bench = Bench::after([0, 1, 0, 20]);
    bench.strays(&chain()[..1]);
    bench.store(None, &[1]);
    bench.store(None, &[11]);
    let copies = bench.block(1).expect("it has sunk").copies;
    assert_eq!(copies[Tier::Object.index()], CopyState::Resident);
    assert_eq!(bench.tier(Tier::Object).blocks, 1);
}
