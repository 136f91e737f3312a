//! Objects that the store refuses by themselves, as those that a rule moved into an archive: they cost what
//! they hold, and nothing is lost when they are given again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use s3s::S3ErrorCode;

use super::faults::{Call, Faults};
use super::ground::{Ground, Node, options};
use super::{block, erase, on_both, priority, read_all, restamp, write_all};
use crate::domain::units::Time;
use crate::tiers::health::Health;
use crate::tiers::object::ObjectOptions;
use crate::tiers::object::s3::tests::server::{Mood, Server};
use crate::tiers::sample;
use crate::tiers::store::{StoreError, TierStore};

/// More looks than an object is asked for with.
const LOOKS: u32 = 8;

fn name_of(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

/// Looks for a block that nobody has, until the node says that it is missing.
fn until_a_miss(node: &Node) {
    let is_missing = |_: &u32| {
        let found = sample::peek(&*node.store, block(99));
        matches!(found, Err(StoreError::Missing(_)))
    };
    assert_ne!((0..LOOKS).position(|look| is_missing(&look)), None, "it is never missing");
}

/// A node that is refused the head of each object whose name has this part.
fn refused(ground: &Ground, node: u8, part: &str) -> (Node, Faults) {
    let faults = Faults::default();
    faults.fail(Call::HeadAlone, part);
    (ground.node_with(options(node), |blobs| faults.around(blobs)), faults)
}

#[test]
fn a_pack_that_is_refused_costs_what_it_holds_and_is_found_when_it_is_given_again() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        let lost = one.pack_of(0);
        write_all(&one, 4..8);
        let (two, faults) = refused(ground, 2, &lost);
        assert!(erase(&two, 99).is_err(), "it may be given in a moment");
        until_a_miss(&two);
        let asked = faults.made(Call::Head, &lost);
        assert_eq!(priority(&two, 0), None);
        erase(&two, 4).unwrap();
        restamp(&two, 5, 80).unwrap();
        two.shed(&ground.handle).unwrap();
        assert_eq!((priority(&two, 4), priority(&two, 5)), (None, Some(80)));
        assert_eq!(faults.made(Call::Head, &lost), asked, "it is not asked for with each look");
        ground.handle.block_on(two.store.packs.sweep()).unwrap();
        assert_eq!(priority(&two, 0), None);
        faults.heal();
        ground.handle.block_on(two.store.packs.sweep()).unwrap();
        assert_eq!(read_all(&two, 0..8), [0, 1, 2, 3, 5, 6, 7]);
    });
}

#[test]
fn what_is_erased_while_its_pack_is_refused_is_erased_when_it_is_given_again() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        let (two, faults) = refused(ground, 2, &one.pack_of(0));
        until_a_miss(&two);
        erase(&two, 1).unwrap();
        erase(&two, 2).unwrap();
        // It is not the one that was erased.
        write_all(&two, 2..3);
        faults.heal();
        ground.handle.block_on(two.store.packs.sweep()).unwrap();
        for node in [&two, &one, &ground.node(3)] {
            // One that knew of the erased frame looks first: else it may find out while it reads it.
            assert_eq!(priority(node, 2), Some(35));
            assert_eq!(read_all(node, 0..4), [0, 2, 3]);
        }
    });
}

#[test]
fn what_was_packed_after_it_was_erased_is_found_when_its_pack_is_given_again() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        let (two, faults) = refused(ground, 2, &one.pack_of(0));
        until_a_miss(&two);
        erase(&two, 9).unwrap();
        write_all(&one, 8..10);
        faults.fail(Call::HeadAlone, &one.pack_of(9));
        until_a_miss(&two);
        faults.heal();
        ground.handle.block_on(two.store.packs.sweep()).unwrap();
        assert_eq!(read_all(&two, 0..10), [0, 1, 2, 3, 8, 9]);
    });
}

/// The change is forgotten meanwhile, since no known pack has its frame.
#[test]
fn what_was_erased_in_a_pack_before_it_was_refused_stays_erased() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        erase(&one, 2).unwrap();
        let lost = one.pack_of(0);
        drop(one);
        let (one, faults) = refused(ground, 1, &lost);
        until_a_miss(&one);
        one.store.packs.with(|index| index.prune(Time { micros: u64::MAX }));
        one.shed(&ground.handle).unwrap();
        faults.heal();
        ground.handle.block_on(one.store.packs.sweep()).unwrap();
        assert_eq!(read_all(&one, 0..4), [0, 1, 3]);
    });
}

#[test]
fn a_record_outdoes_those_in_objects_that_are_refused() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        (40..46).for_each(|record| restamp(&one, 1, record).unwrap());
        let (two, _faults) = refused(ground, 2, "-c0001");
        until_a_miss(&two);
        restamp(&two, 1, 80).unwrap();
        assert_eq!((priority(&one, 1), priority(&ground.node(3), 1)), (Some(80), Some(80)));
    });
}

#[test]
fn many_packs_that_a_bucket_refuses_are_no_outage_of_it() {
    for code in [S3ErrorCode::InvalidObjectState, S3ErrorCode::AccessDenied] {
        let server = Arc::new(Server::start());
        let ground = Ground::bucket_of(&server, ObjectOptions::default());
        let one = ground.node(1);
        (0..13).for_each(|round| write_all(&one, round * 2..round * 2 + 2));
        let packs: Vec<String> = ground.files('p').iter().map(|file| name_of(file)).collect();
        let given = one.pack_of(24);
        let lost = packs.into_iter().filter(|name| !given.ends_with(name)).collect::<Vec<_>>();
        assert_eq!(lost.len(), 12);
        server.becomes(Mood::RefusesObjects(lost, code));
        let two = ground.node(2);
        until_a_miss(&two);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!((priority(&two, 0), priority(&two, 24)), (None, Some(35)));
            assert_eq!(two.store.health(), Health::Well);
        }
        erase(&two, 25).unwrap();
    }
}

/// As where the right to read objects was taken, or the key of all of them was disabled.
#[test]
fn a_refusal_of_all_that_is_there_makes_nothing_missing() {
    let server = Arc::new(Server::start());
    let ground = Ground::bucket_of(&server, ObjectOptions::default());
    let one = ground.node(1);
    write_all(&one, 0..4);
    let lost = ground.files('p').iter().map(|file| name_of(file)).collect();
    for mood in [
        Mood::RefusesObjects(lost, S3ErrorCode::AccessDenied),
        Mood::Refuses(S3ErrorCode::AccessDenied),
    ] {
        server.becomes(mood);
        let two = ground.node(2);
        for _ in 0..LOOKS {
            let found = sample::peek(&*two.store, block(0)).unwrap_err();
            assert!(!matches!(found, StoreError::Missing(_)), "{found}");
            assert!(erase(&two, 0).is_err());
        }
    }
}
