//! The NVMe tier against the contract, and against what only a disk can do.

mod disk;
mod engines;
mod faults;
mod folder;
mod neighbours;
mod striped;
mod unread;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::home::SLOTS_NAME;
use super::slots::Access;
use super::{EngineChoice, NvmeConfig, NvmeFacts, open, open_through};
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::contract::{self, Fixture};
use crate::tiers::dram::Arena;
use crate::tiers::store::TierStore;

const CHUNKS: u64 = 2;

fn config(dir: &Path, engine: EngineChoice) -> NvmeConfig {
    NvmeConfig { engine, ..NvmeConfig::new(dir, CHUNKS * CHUNK_BYTES) }
}

fn opened(config: &NvmeConfig, arena: &Arc<Arena>) -> (Arc<dyn TierStore>, NvmeFacts) {
    open(config, arena).unwrap_or_else(|error| panic!("{config:?}: {error}"))
}

/// Checks a store as `change` has it, with `access` between it and its device.
fn keeps_the_contract(access: &Arc<dyn Access>, change: impl Fn(&mut NvmeConfig)) {
    assert_eq!(contract::CAPACITY_BYTES, CHUNKS * CHUNK_BYTES);
    contract::check_store(|| {
        let arena = contract::arena(0);
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), EngineChoice::Auto);
        change(&mut config);
        let (store, _) = open_through(&config, &arena, access).unwrap();
        let (again, access, flipped) =
            (Arc::clone(&arena), Arc::clone(access), dir.path().to_owned());
        Fixture::new(arena, store)
            .restarted_by(move |old| {
                drop(old);
                open_through(&config, &again, &access).unwrap().0
            })
            .corrupted_by(move |_, place, byte| {
                overwrite(&flipped, place.offset + byte as u64, |found| found ^ 1, 1);
            })
            .keeping(dir)
    });
}

/// Changes bytes of the slot file as a failing disk would.
fn overwrite(dir: &Path, at: u64, change: impl Fn(u8) -> u8, bytes: usize) {
    let file = OpenOptions::new().read(true).write(true).open(dir.join(SLOTS_NAME)).unwrap();
    let mut found = vec![0; bytes];
    file.read_exact_at(&mut found, at).unwrap();
    for byte in &mut found {
        *byte = change(*byte);
    }
    file.write_all_at(&found, at).unwrap();
    file.sync_all().unwrap();
}
