//! The NVMe tier against the contract, and against what only a disk can do.

mod disk;
mod engines;
mod folder;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::home::SLOTS_NAME;
use super::{EngineChoice, NvmeConfig, NvmeFacts, open};
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::dram::Arena;
use crate::tiers::store::TierStore;

const CHUNKS: u64 = 2;

fn config(dir: &Path, engine: EngineChoice) -> NvmeConfig {
    NvmeConfig { engine, ..NvmeConfig::new(dir, CHUNKS * CHUNK_BYTES) }
}

fn opened(config: &NvmeConfig, arena: &Arc<Arena>) -> (Arc<dyn TierStore>, NvmeFacts) {
    open(config, arena).unwrap_or_else(|error| panic!("{config:?}: {error}"))
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
