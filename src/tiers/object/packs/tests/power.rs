//! A power cut: what only this machine's memory had is gone, and whatever was deleted is too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::ground::{Ground, options};
use super::shed::{assert_many_changed, change_many};
use super::{priority, restamp, write_all};
use crate::tiers::object::blobs::{Answer, Blobs, Listed, Piece};

/// The objects that a power cut takes.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeSet<String>>>);

impl Memory {
    fn around(&self, blobs: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
        Arc::new(Machine { blobs, memory: self.clone() })
    }

    /// After a while all of it is on the disk.
    fn settle(&self) {
        self.0.lock().unwrap().clear();
    }

    fn cut(&self, root: &Path) {
        let names = std::mem::take(&mut *self.0.lock().unwrap());
        for name in names {
            fs::remove_file(root.join(name)).unwrap();
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

struct Machine {
    blobs: Arc<dyn Blobs>,
    memory: Memory,
}

impl Blobs for Machine {
    fn put<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        Box::pin(async move {
            self.blobs.put(name, body).await?;
            self.memory.with(|memory| memory.insert(name.to_owned()));
            Ok(())
        })
    }

    fn put_lasting<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        self.blobs.put_lasting(name, body)
    }

    fn settle(&self, names: Vec<String>) -> Answer<'_, ()> {
        self.memory.with(|memory| memory.retain(|name| !names.contains(name)));
        self.blobs.settle(names)
    }

    fn head<'a>(&'a self, name: &'a str, bytes: u64) -> Answer<'a, Vec<u8>> {
        self.blobs.head(name, bytes)
    }

    fn fetch<'a>(&'a self, name: &'a str, pieces: &'a [Piece]) -> Answer<'a, ()> {
        self.blobs.fetch(name, pieces)
    }

    fn list<'a>(&'a self, folder: &'a str, after: &'a str) -> Answer<'a, Vec<Listed>> {
        self.blobs.list(folder, after)
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.memory.with(|memory| memory.remove(name));
        self.blobs.delete(name)
    }
}

#[test]
fn changes_that_were_on_the_disk_outlast_a_power_cut_when_they_have_become_one() {
    let (ground, memory) = (Ground::folder(), Memory::default());
    let one = ground.node_with(options(1), |blobs| memory.around(blobs));
    change_many(&one);
    memory.settle();
    one.shed(&ground.handle).unwrap();
    assert_eq!(ground.files('c').len(), 1);
    drop(one);
    memory.cut(&ground.root);
    assert_many_changed(&ground.node(2));
}

#[test]
fn a_change_outlasts_a_power_cut_although_a_newer_one_outdoes_it() {
    let (ground, memory) = (Ground::folder(), Memory::default());
    let [one, two] = [1, 2].map(|node| ground.node_with(options(node), |b| memory.around(b)));
    write_all(&one, 0..2);
    (0..2).for_each(|number| restamp(&one, number, 80).unwrap());
    memory.settle();
    // Its own newer one, and another daemon's on this machine.
    restamp(&one, 0, 81).unwrap();
    restamp(&two, 1, 81).unwrap();
    assert_eq!(priority(&one, 1), Some(81));
    one.shed(&ground.handle).unwrap();
    assert_eq!(ground.files('c').len(), 2, "the older ones went");
    drop((one, two));
    memory.cut(&ground.root);
    let three = ground.node(3);
    assert_eq!([0, 1].map(|number| priority(&three, number)), [Some(81); 2]);
}
