//! What is damaged, foreign or half there costs what it holds and nothing else.

use std::fs;
use std::time::Duration;

use super::faults::Call;
use super::ground::options;
use super::{block, erase, on_both, priority, read_all, restamp, start, write_all};
use crate::tiers::object::packs::PackOptions;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Erasure, StoreError, StoreOp};

#[test]
fn foreign_and_torn_objects_are_passed_over() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        let pack = ground.files('p').remove(0);
        let folder = pack.parent().unwrap();
        let good = fs::read(&pack).unwrap();
        // A pack of ours under another name, half a head, and a note.
        fs::write(folder.join("0000000000000040-00000001-p0001"), &good).unwrap();
        fs::write(folder.join("ffffffffffffffff-00000001-p0001"), &good[..100]).unwrap();
        fs::write(folder.join("0000000000000042-00000001-c0001"), vec![7; 4096]).unwrap();
        fs::write(folder.join("a note"), "mine").unwrap();
        fs::create_dir_all(ground.root.join("v1/packs/lost+found")).unwrap();
        fs::write(ground.root.join("v1/packs/lost+found/note"), "mine").unwrap();
        let two = ground.node(2);
        assert_eq!(read_all(&two, 0..4).len(), 4);
        write_all(&two, 4..8);
        // Who has that folder goes on behind what others put there.
        drop(one);
        let one = ground.node(1);
        write_all(&one, 8..12);
        assert_eq!(read_all(&ground.node(3), 0..12).len(), 12);
        assert_eq!(fs::read(folder.join("a note")).unwrap(), b"mine");
    });
}

#[test]
fn a_pack_that_lost_its_end_serves_what_is_whole_and_calls_the_rest_corrupt() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        let pack = ground.files('p').remove(0);
        let good = fs::read(&pack).unwrap();
        fs::write(&pack, &good[..good.len() - 9_000]).unwrap();
        let two = ground.node(2);
        let read = |block: Sample, lane| {
            let frame = block.span(lane);
            StoreOp::Read { key: block.key(), place: super::ANYWHERE, frame }
        };
        assert_eq!(priority(&two, 0), Some(35));
        let told = start(&two, read, 0..4);
        let ended: Vec<_> = told.into_iter().map(|told| told.recv().unwrap()).collect();
        let corrupt = ended.iter().filter(|end| matches!(end, Err(StoreError::Corrupt(_)))).count();
        assert_eq!((corrupt, ended.iter().filter(|end| end.is_ok()).count()), (1, 3), "{ended:?}");
    });
}

#[test]
fn a_pack_that_is_gone_is_a_miss() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        fs::remove_file(ground.files('p').remove(0)).unwrap();
        assert_eq!(read_all(&one, 0..4), Vec::<u32>::new());
        assert_eq!(priority(&one, 0), None);
        write_all(&one, 0..4);
        assert_eq!(read_all(&one, 0..4).len(), 4);
    });
}

#[test]
fn errors_name_the_pack() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..1);
        let pack = one.pack_of(0);
        let file = ground.files('p').remove(0);
        let read = || {
            let (key, frame) = (block(0).key(), block(0).span(0));
            let read = StoreOp::Read { key, place: super::ANYWHERE, frame };
            sample::run(&*one.store, read).unwrap_err()
        };
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 9_000;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        let error = read();
        assert!(
            matches!(error, StoreError::Corrupt(_)) && error.to_string().contains(&pack),
            "{error}"
        );
        fs::remove_file(&file).unwrap();
        let error = read();
        assert!(
            matches!(error, StoreError::Missing(_)) && error.to_string().contains(&pack),
            "{error}"
        );
    });
}

/// As a lifecycle rule does while nobody reads or writes what it takes.
#[test]
fn a_pack_that_is_gone_is_noticed_although_nobody_asks_for_it() {
    on_both(|ground| {
        let often = PackOptions { swept_every: Duration::from_millis(200), ..options(1) };
        let one = ground.node_with(often, |blobs| blobs);
        write_all(&one, 0..4);
        write_all(&one, 4..8);
        let knows = |number| one.store.packs.find(block(number).key()).is_some();
        let first = one.pack_of(0);
        fs::remove_file(ground.root.join(first)).unwrap();
        let mut tries = 0..200;
        while knows(0) {
            assert!(tries.next().is_some(), "it is still told");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!((knows(3), knows(4), knows(7)), (false, true, true));
    });
}

#[test]
fn a_write_counts_on_no_pack_that_can_not_be_asked_for() {
    on_both(|ground| {
        let (one, faults) = ground.node_with_faults(1);
        write_all(&one, 0..4);
        faults.fail(Call::Head, "v1/packs/");
        let write = |block: Sample, lane| {
            let frame = block.fill(&one.arena, lane);
            StoreOp::Write { key: block.key(), place: super::ANYWHERE, frame }
        };
        let told = start(&one, write, 0..4);
        assert!(told.into_iter().all(|told| told.recv().unwrap().is_err()));
        faults.heal();
        write_all(&one, 0..4);
        assert_eq!(ground.files('p').len(), 1);
    });
}

/// As a lifecycle rule of the bucket does.
#[test]
fn a_block_whose_pack_is_gone_is_stored_again_by_who_knows_of_the_pack() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        assert_eq!(priority(&one, 0), Some(35));
        fs::remove_file(ground.files('p').remove(0)).unwrap();
        write_all(&one, 0..4);
        assert_eq!(ground.files('p').len(), 1);
        assert_eq!(read_all(&ground.node(2), 0..4).len(), 4);
    });
}

#[test]
fn what_was_erased_while_nothing_could_be_written_is_not_served_and_is_written_later() {
    on_both(|ground| {
        let (one, faults) = ground.node_with_faults(1);
        write_all(&one, 0..4);
        faults.fail(Call::Put, "");
        assert!(erase(&one, 1).is_err() && restamp(&one, 2, 80).is_err());
        assert_eq!((read_all(&one, 0..4), priority(&one, 2)), (vec![0, 2, 3], Some(35)));
        assert_eq!(read_all(&ground.node(2), 0..4).len(), 4);
        faults.heal();
        // Whoever tries again has it stored, although nothing of it is left to erase here.
        erase(&one, 1).unwrap();
        assert_eq!(read_all(&ground.node(3), 0..4), [0, 2, 3]);
    });
}

#[test]
fn an_erase_that_owes_nothing_works_where_nothing_can_be_written() {
    on_both(|ground| {
        let (one, faults) = ground.node_with_faults(1);
        write_all(&one, 0..4);
        let long = Sample { number: 9, payload_bytes: sample::PAYLOAD_BYTES_MAX };
        let (key, frame) = (long.key(), long.fill(&one.arena, 0));
        let place = super::ANYWHERE;
        sample::run(&*one.store, StoreOp::Write { key, place, frame }).unwrap();
        faults.fail(Call::Put, "");
        assert!(erase(&one, 0).is_err());
        sample::run(&*one.store, StoreOp::Erase { key, place, why: Erasure::Unusable }).unwrap();
        assert_eq!(ground.singles(), 0);
    });
}
