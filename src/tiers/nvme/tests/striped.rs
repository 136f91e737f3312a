//! Slots over several folders: the contract, and folders that are missing, swapped or alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{config, overwrite};
use crate::domain::tier::Tier;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::contract::{self, Fixture};
use crate::tiers::dram::Arena;
use crate::tiers::health::{Health, Refuses};
use crate::tiers::nvme::{EngineChoice, NvmeConfig, Striped, open_striped};
use crate::tiers::open::OpenError;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Done, Place, StoreError, StoreOp, TierStore};

const BLOCK: Sample = Sample { number: 1, payload_bytes: 64 << 10 };
const CHUNKS: u64 = 6;

fn part(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

fn opened(dir: &Path, names: &[&str], arena: &Arc<Arena>) -> Result<Arc<dyn TierStore>, OpenError> {
    let first = part(dir, names[0]);
    let capacity_bytes = CHUNKS * CHUNK_BYTES;
    let config = NvmeConfig { capacity_bytes, ..config(&first, EngineChoice::Auto) };
    let more: Vec<_> = names[1..].iter().map(|name| part(dir, name)).collect();
    let stores = open_striped(&config, &more, arena)?;
    Ok(Arc::new(Striped::new(stores.into_iter().map(|(store, _)| store).collect())))
}

/// A slot in each chunk.
fn places() -> Vec<Place> {
    (0..CHUNKS).map(|chunk| BLOCK.place(chunk * CHUNK_BYTES, 3)).collect()
}

/// Folders in which a former run left a block in each chunk.
fn used(names: &[&str]) -> tempfile::TempDir {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let store = opened(dir.path(), names, &arena).unwrap();
    for place in places() {
        sample::write(&*store, &arena, BLOCK, place).unwrap();
    }
    dir
}

fn finds_all(dir: &Path, names: &[&str]) {
    let arena = sample::arena();
    let store = opened(dir, names, &arena).unwrap();
    let wanted: Vec<_> = places().into_iter().map(|place| (place, BLOCK.key())).collect();
    assert_eq!(sample::scan(&*store), wanted);
    for place in places() {
        sample::read(&*store, &arena, BLOCK, place).unwrap();
    }
}

fn check_refused(dir: &Path, names: &[&str], words: &str) {
    let refused = opened(dir, names, &sample::arena()).err().expect("they are refused");
    assert!(matches!(refused, OpenError::Refused(_)), "{refused:?}");
    assert!(refused.to_string().contains(words), "{refused}");
}

#[test]
fn two_folders_keep_the_contract() {
    contract::check_store(|| {
        let (arena, dir) = (contract::arena(0), tempfile::tempdir().unwrap());
        let names = ["a", "b"];
        let store = opened(dir.path(), &names, &arena).unwrap();
        let (again, folder, flipped) =
            (Arc::clone(&arena), dir.path().to_owned(), dir.path().to_owned());
        Fixture::new(arena, store)
            .restarted_by(move |old| {
                drop(old);
                opened(&folder, &names, &again).unwrap()
            })
            .corrupted_by(move |_, place, byte| {
                let (chunk, within) = (place.offset / CHUNK_BYTES, place.offset % CHUNK_BYTES);
                let dir = part(&flipped, names[usize::from(chunk % 2 == 1)]);
                let at = chunk / 2 * CHUNK_BYTES + within + byte as u64;
                overwrite(&dir, at, |found| found ^ 1, 1);
            })
            .keeping(dir)
    });
}

#[test]
fn a_restart_finds_the_slots_of_all_folders() {
    let names = ["a", "b", "c"];
    let dir = used(&names);
    for name in names {
        let slots = part(dir.path(), name).join(crate::tiers::nvme::home::SLOTS_NAME);
        let length = std::fs::metadata(slots).unwrap().len();
        assert_eq!(length, CHUNKS / 3 * CHUNK_BYTES, "each has its part");
    }
    finds_all(dir.path(), &names);
}

#[test]
fn a_folder_that_is_missing_is_named_and_nothing_is_lost() {
    let names = ["a", "b"];
    for missing in names {
        let dir = used(&names);
        let away = dir.path().join("away");
        std::fs::rename(part(dir.path(), missing), &away).unwrap();
        check_refused(dir.path(), &names, "mount its disk");
        // As a mount point without its disk looks.
        std::fs::create_dir(part(dir.path(), missing)).unwrap();
        check_refused(dir.path(), &names, missing);
        std::fs::remove_dir(part(dir.path(), missing)).unwrap();
        std::fs::rename(away, part(dir.path(), missing)).unwrap();
        finds_all(dir.path(), &names);
    }
}

#[test]
fn folders_in_another_order_or_number_are_refused() {
    let dir = used(&["a", "b"]);
    check_refused(dir.path(), &["b", "a"], "in their order");
    check_refused(dir.path(), &["a"], "is folder 1 of 2, and configured as folder 1 of 1");
    check_refused(dir.path(), &["a", "b", "c"], "holds no slots");
    finds_all(dir.path(), &["a", "b"]);
}

#[test]
fn one_folder_by_two_names_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |names: &[&str]| {
        let said = opened(dir.path(), names, &sample::arena()).err().unwrap().to_string();
        assert!(said.contains("are one folder"), "{said}");
    };
    refused(&["a", "none/../a"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("link")).unwrap();
    refused(&["a", "link"]);
    refused(&["a", "./a"]);
    assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 0);
}

#[test]
fn a_folder_that_can_not_be_had_keeps_the_others_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("b"), "a file").unwrap();
    opened(dir.path(), &["a", "b"], &sample::arena()).err().unwrap();
    assert!(!dir.path().join("a").exists());
}

#[test]
fn a_first_start_that_was_cut_short_is_taken_up() {
    for missing in ["a", "b"] {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        drop(opened(dir.path(), &["a", "b"], &arena).unwrap());
        std::fs::remove_dir_all(part(dir.path(), missing)).unwrap();
        opened(dir.path(), &["a", "b"], &arena).unwrap();
    }
}

/// A folder's store that is out.
struct Out(Refuses);

impl TierStore for Out {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn submit(&self, _: StoreOp, done: Done) {
        done(Err(StoreError::Busy));
    }

    fn health(&self) -> Health {
        let why = String::new();
        Health::Out { refuses: self.0, on_trial: false, lasting: Duration::ZERO, why }
    }
}

#[test]
fn the_folder_that_refuses_most_speaks_for_the_tier() {
    let mut folders = [Refuses::WRITES, Refuses::ALL, Refuses::NOTHING];
    for _ in 0..folders.len() {
        folders.rotate_left(1);
        let stores = folders.map(|refuses| Arc::new(Out(refuses)) as Arc<dyn TierStore>);
        assert_eq!(Striped::new(stores.into()).health().refuses(), Refuses::ALL);
    }
}
