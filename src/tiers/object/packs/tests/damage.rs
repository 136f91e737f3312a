//! What is damaged, foreign or half there costs what it holds and nothing else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::ground::options;
use super::{block, erase, on_both, priority, read_all, restamp, store_of, write_all};
use crate::tiers::object::blobs::{Answer, Blobs, Listed, Piece};
use crate::tiers::sample;
use crate::tiers::store::StoreError;

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
        let ended: Vec<_> = (0..4)
            .map(|number| {
                sample::read(&*store_of(&two), &two.arena, block(number), super::ANYWHERE)
            })
            .collect();
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

/// Refuses writes while it is told to.
struct ReadOnly(Arc<dyn Blobs>, Arc<AtomicBool>);

impl Blobs for ReadOnly {
    fn put<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        if !self.1.load(Ordering::Relaxed) {
            return self.0.put(name, body);
        }
        drop(body);
        Box::pin(async { Err(StoreError::TierLost("on purpose".into())) })
    }

    fn head<'a>(&'a self, name: &'a str, bytes: u64) -> Answer<'a, Vec<u8>> {
        self.0.head(name, bytes)
    }

    fn fetch<'a>(&'a self, name: &'a str, pieces: &'a [Piece]) -> Answer<'a, ()> {
        self.0.fetch(name, pieces)
    }

    fn list<'a>(&'a self, folder: &'a str, after: &'a str) -> Answer<'a, Vec<Listed>> {
        self.0.list(folder, after)
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.0.delete(name)
    }
}

#[test]
fn what_was_erased_while_nothing_could_be_written_is_not_served_and_is_written_later() {
    on_both(|ground| {
        let refuses = Arc::new(AtomicBool::new(false));
        let around = |blobs| Arc::new(ReadOnly(blobs, Arc::clone(&refuses))) as Arc<dyn Blobs>;
        let one = ground.node_with(options(1), around);
        write_all(&one, 0..4);
        refuses.store(true, Ordering::Relaxed);
        assert!(erase(&one, 1).is_err() && restamp(&one, 2, 80).is_err());
        assert_eq!((read_all(&one, 0..4), priority(&one, 2)), (vec![0, 2, 3], Some(35)));
        assert_eq!(read_all(&ground.node(2), 0..4).len(), 4);
        refuses.store(false, Ordering::Relaxed);
        // Whoever tries again has it stored, although nothing of it is left to erase here.
        erase(&one, 1).unwrap();
        assert_eq!(read_all(&ground.node(3), 0..4), [0, 2, 3]);
    });
}
