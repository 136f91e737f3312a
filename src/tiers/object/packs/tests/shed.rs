//! Packs that lost frames give their room back, and nobody loses a block by it.

use std::fs;
use std::time::Duration;

use super::faults::{Call, Faults};
use super::ground::{Ground, Node, options};
use super::{ANYWHERE, block, erase, on_both, priority, read_all, restamp, write_all};
use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;
use crate::env::Stopwatch;
use crate::tiers::object::packs::PackOptions;
use crate::tiers::sample;
use crate::tiers::store::StoreOp;

/// Promises to forget the block, and does.
pub(super) fn forget(node: &Node, number: u32) {
    let record = RetentionRecord { delete_after: Time { micros: 1 }, ..RetentionRecord::default() };
    let op =
        StoreOp::Restamp { key: block(number).key(), place: ANYWHERE, record, known: Time::ZERO };
    sample::run(&*node.store, op).unwrap();
    erase(node, number).unwrap();
}

/// How often the block's payload lies in the store.
pub(super) fn copies(ground: &Ground, number: u32) -> usize {
    let bytes = block(number).bytes();
    let some = &bytes[8192..8256];
    let files = ground.files('p');
    let holds =
        |bytes: &Vec<u8>| bytes.chunks_exact(4096).filter(|page| &page[..64] == some).count();
    files.iter().map(|file| holds(&fs::read(file).unwrap())).sum()
}

#[test]
fn a_pack_in_which_nothing_lives_goes_by_itself() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        (0..4).for_each(|number| erase(&one, number).unwrap());
        let mut tries = 0..200;
        while !ground.files('p').is_empty() {
            assert!(tries.next().is_some(), "it stays");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(priority(&ground.node(2), 0), None);
    });
}

#[test]
fn what_lives_in_a_pack_that_lost_most_moves_and_is_found_by_who_knew_where_it_was() {
    on_both(|ground| {
        let late = PackOptions { freshness: Duration::from_mins(10), ..options(2) };
        let one = ground.node(1);
        write_all(&one, 0..8);
        let two = ground.node_with(late, |blobs| blobs);
        assert_eq!(priority(&two, 7), Some(35));
        restamp(&one, 7, 80).unwrap();
        (0..3).for_each(|number| erase(&one, number).unwrap());
        one.shed(&ground.handle).unwrap();
        assert_eq!(copies(ground, 1), 1, "half of it is still needed");
        assert_eq!(read_all(&two, 3..8).len(), 5);
        (3..6).for_each(|number| erase(&one, number).unwrap());
        one.shed(&ground.handle).unwrap();
        assert_eq!((ground.files('p').len(), copies(ground, 1), copies(ground, 7)), (1, 0, 1));
        assert_eq!(read_all(&two, 6..8), [6, 7]);
        assert_eq!((priority(&two, 7), priority(&ground.node(3), 7)), (Some(80), Some(80)));
    });
}

#[test]
fn bytes_that_were_promised_to_go_are_gone_whoever_wrote_them() {
    on_both(|ground| {
        let (one, two) = (ground.node(1), ground.node(2));
        write_all(&one, 0..8);
        assert_eq!(copies(ground, 3), 1);
        forget(&two, 3);
        two.shed(&ground.handle).unwrap();
        assert_eq!((copies(ground, 3), copies(ground, 4), ground.files('p').len()), (0, 1, 1));
        for node in [&one, &two, &ground.node(3)] {
            assert_eq!(read_all(node, 0..8), [0, 1, 2, 4, 5, 6, 7]);
        }
    });
}

#[test]
fn a_restart_keeps_the_promise_that_the_run_before_it_gave() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        let two = ground.node(2);
        forget(&two, 3);
        drop((one, two));
        let two = ground.node(2);
        assert_eq!(priority(&two, 3), None);
        two.shed(&ground.handle).unwrap();
        assert_eq!((copies(ground, 3), read_all(&two, 0..4)), (0, vec![0, 1, 2]));
    });
}

#[test]
fn nodes_that_clear_the_same_pack_at_once_lose_nothing_and_leave_one_copy() {
    on_both(|ground| {
        let nodes = [ground.node(1), ground.node(2), ground.node(3)];
        write_all(&nodes[0], 0..12);
        for (number, node) in (0..).zip(&nodes) {
            forget(node, number);
        }
        let on = &ground.handle;
        std::thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| node.shed(on).unwrap());
            }
        });
        for _ in 0..2 {
            for node in &nodes {
                assert_eq!(priority(node, 0), None);
                node.shed(on).unwrap();
            }
        }
        for node in nodes.iter().chain([&ground.node(4)]) {
            assert_eq!(read_all(node, 0..12), (3..12).collect::<Vec<_>>());
        }
        let left: Vec<usize> = (0..12).map(|number| copies(ground, number)).collect();
        assert_eq!(left, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    });
}

#[test]
fn many_objects_of_changes_become_one_and_those_that_nobody_needs_go() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        for round in 0..70 {
            restamp(&one, round % 4, u8::try_from(round).unwrap()).unwrap();
        }
        one.shed(&ground.handle).unwrap();
        assert_eq!(ground.files('c').len(), 4, "few are left as they are");
        let two = ground.node(2);
        let told: Vec<_> = (0..4).map(|number| priority(&two, number)).collect();
        assert_eq!(told, [68, 69, 66, 67].map(Some));
        change_many(&one);
        one.shed(&ground.handle).unwrap();
        assert_eq!(ground.files('c').len(), 1);
        assert_many_changed(&ground.node(3));
    });
}

/// So many objects of changes are too many.
const MANY: u32 = 65;

/// Gives each of many blocks another record, by an object of its own.
pub(super) fn change_many(node: &Node) {
    for first in (0..MANY).step_by(13) {
        write_all(node, first..first + 13);
    }
    for number in 0..MANY {
        restamp(node, number, changed_to(number)).unwrap();
    }
}

/// No record is like this one before it is changed.
fn changed_to(number: u32) -> u8 {
    36 + u8::try_from(number).unwrap()
}

pub(super) fn assert_many_changed(node: &Node) {
    for number in 0..MANY {
        assert_eq!(priority(node, number), Some(changed_to(number)));
    }
}

/// As by who has the right to write, and not to delete.
#[test]
fn objects_of_changes_that_can_not_be_deleted_are_made_one_once() {
    on_both(|ground| {
        let (one, faults) = ground.node_with_faults(1);
        change_many(&one);
        faults.fail(Call::Delete, "-c");
        for round in 1..4 {
            assert!(one.shed(&ground.handle).is_err());
            assert_eq!(ground.files('c').len(), MANY as usize + 1);
            assert_eq!(faults.made(Call::Delete, "-c"), 3 * round, "the store is not out by it");
        }
        // One that stays for ever holds up no other one.
        faults.heal();
        let stays = ground.files('c')[0].file_name().unwrap().to_string_lossy().into_owned();
        faults.fail(Call::Delete, &stays);
        assert!(one.shed(&ground.handle).is_err());
        assert_eq!(ground.files('c').len(), 2);
        assert_many_changed(&ground.node(2));
        faults.heal();
        one.shed(&ground.handle).unwrap();
        assert_eq!(ground.files('c').len(), 1);
        assert_many_changed(&ground.node(3));
    });
}

/// As a node that dies between the new pack and the end of the old one.
#[test]
fn what_was_moved_and_not_deleted_is_deleted_later() {
    on_both(|ground| {
        let faults = Faults::default();
        faults.fail(Call::Delete, "");
        let one = ground.node_with(options(1), |blobs| faults.around(blobs));
        write_all(&one, 0..8);
        forget(&one, 0);
        assert!(one.shed(&ground.handle).is_err());
        assert_eq!((copies(ground, 1), copies(ground, 0)), (2, 1));
        assert_eq!(read_all(&ground.node(2), 0..8).len(), 7);
        drop(one);
        let one = ground.node(1);
        assert_eq!(priority(&one, 1), Some(35));
        one.shed(&ground.handle).unwrap();
        assert_eq!((copies(ground, 1), copies(ground, 0)), (1, 0));
        assert_eq!(read_all(&one, 0..8).len(), 7);
    });
}

/// The writer has the greater name, and does not know that its pack was cleared by somebody else.
#[test]
fn what_another_node_moved_is_not_taken_for_what_is_still_where_it_was() {
    on_both(|ground| {
        let (one, nine) = (ground.node(1), ground.node(9));
        write_all(&nine, 0..3);
        forget(&one, 1);
        one.shed(&ground.handle).unwrap();
        assert_eq!((ground.files('p').len(), copies(ground, 0)), (1, 1));
        forget(&nine, 2);
        nine.shed(&ground.handle).unwrap();
        assert_eq!([0, 1, 2].map(|number| copies(ground, number)), [1, 0, 0]);
        for node in [&one, &nine, &ground.node(3)] {
            assert_eq!(read_all(node, 0..3), [0]);
        }
    });
}

/// As above, but nothing lives where the writer takes its frames to be, so nothing is read there.
#[test]
fn a_pack_goes_only_while_those_are_there_that_have_its_frames() {
    on_both(|ground| {
        let (nine, faults) = ground.node_with_faults(9);
        write_all(&nine, 0..4);
        let one = ground.node(1);
        forget(&one, 1);
        one.shed(&ground.handle).unwrap();
        assert_eq!(priority(&nine, 0), Some(35));
        // What is asked for of its old pack fails as if the store were busy.
        let old = nine.pack_of(0);
        faults.fail(Call::Head, &old);
        forget(&nine, 2);
        assert!(nine.shed(&ground.handle).is_err());
        assert_eq!(copies(ground, 0), 1, "nothing goes while that is not known");
        faults.heal();
        nine.shed(&ground.handle).unwrap();
        assert_eq!(copies(ground, 2), 0);
        assert_eq!(read_all(&ground.node(3), 0..4), [0, 3]);
    });
}

#[test]
fn a_pack_that_can_not_be_deleted_holds_up_no_other_and_is_moved_once() {
    on_both(|ground| {
        let (one, faults) = ground.node_with_faults(1);
        write_all(&one, 0..4);
        faults.fail(Call::Delete, &one.pack_of(0));
        write_all(&one, 4..8);
        write_all(&one, 8..12);
        forget(&one, 0);
        forget(&one, 4);
        (8..12).for_each(|number| erase(&one, number).unwrap());
        for _ in 0..3 {
            assert!(one.shed(&ground.handle).is_err());
            let left = [0, 1, 4, 5, 8].map(|number| copies(ground, number));
            assert_eq!(left, [1, 2, 0, 1, 0]);
        }
        faults.heal();
        one.shed(&ground.handle).unwrap();
        assert_eq!((copies(ground, 0), copies(ground, 1)), (0, 1));
        assert_eq!(read_all(&ground.node(2), 0..12), [1, 2, 3, 5, 6, 7]);
    });
}

#[test]
fn what_can_not_be_cleared_is_asked_for_now_and_then_and_holds_up_nothing_new() {
    let ground = Ground::folder();
    let (one, faults) = ground.node_with_faults(1);
    write_all(&one, 0..4);
    let stuck = one.pack_of(0);
    write_all(&one, 4..8);
    faults.fail(Call::Delete, &stuck);
    (0..4).for_each(|number| erase(&one, number).unwrap());
    let tried = || faults.made(Call::Delete, &stuck);
    let soon = Duration::from_secs(10);
    await_that("it is tried", soon, || tried() > 0);
    std::thread::sleep(Duration::from_millis(200));
    let before = (tried(), faults.made(Call::List, ""));
    // Long enough for two more tries, had it woken itself.
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!((tried(), faults.made(Call::List, "")), before);
    forget(&one, 4);
    await_that("another one's bytes go", soon, || copies(&ground, 4) == 0);
    assert_eq!(tried(), 1);
}

fn await_that(what: &str, patience: Duration, is_so: impl Fn() -> bool) {
    let waiting = Stopwatch::start();
    while !is_so() {
        assert!(waiting.elapsed() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
