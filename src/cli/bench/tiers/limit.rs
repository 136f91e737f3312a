//! What each path is held against, chosen by the path and by where HBM is.

use std::io;

use super::args::{Against, Cell, TiersArgs};
use super::device::{Hbm, no_memory};
use super::ground::Ground;
use super::limits::disk::{Frames, RawDisk};
use super::limits::files::PlainFiles;
use super::limits::gpu::GpuCopies;
use super::limits::http::BareHttp;
use super::limits::memory::{Copies, Memories};
use super::measure::Mover;
use super::path::Path;
use super::set::BlockSet;
use crate::cli::Failure;
use crate::domain::tier::Tier;
use crate::tiers::hbm::cuda::PlainCopies;
use crate::tiers::shm::MemoryRoom;

/// Plain memories, as long as the set: what HBM is held against. Kept over all rows.
pub enum Plain {
    None,
    Host(Memories),
    Gpu(PlainCopies),
}

impl Plain {
    /// Memories that the cells need, on the machine that HBM is on.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn make(args: &TiersArgs, cells: &[Cell], hbm: &Hbm) -> Result<Self, Failure> {
        if !cells.iter().any(|cell| cell.path.far_tier() == Tier::Hbm) {
            return Ok(Self::None);
        }
        match hbm {
            Hbm::Host(_) => {
                // The arena and the tier are taken by now.
                let room = MemoryRoom::of_this_machine().available_bytes;
                if room.is_some_and(|room| room < 2 * args.set_bytes) {
                    return Err(no_memory(&io::ErrorKind::OutOfMemory.into()));
                }
                let memories = Memories::new(in_memory(args.set_bytes));
                memories.map(Self::Host).map_err(|error| no_memory(&error))
            }
            Hbm::Gpu(gpu) => {
                gpu.plain_copies(args.set_bytes).map(Self::Gpu).map_err(Failure::Failed)
            }
        }
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("the set was found to fit in memory")
}

/// What a path is held against.
pub enum Limit<'a> {
    Memory { plain: &'a mut Plain, cell: Cell, calls: bool, blocks: usize },
    Disk(RawDisk),
    Files(PlainFiles),
    Http(BareHttp),
}

impl<'a> Limit<'a> {
    /// # Errors
    /// The machine refuses its files.
    pub fn of(
        cell: Cell,
        ground: &Ground,
        set: &BlockSet,
        plain: &'a mut Plain,
    ) -> Result<Self, Failure> {
        let refused = |what: &'static str| {
            move |error: std::io::Error| Failure::Failed(format!("can't make {what}: {error}"))
        };
        let frame_bytes = set.frames[0].slot_bytes as usize;
        match cell.path.far_tier() {
            Tier::Hbm | Tier::Dram => {
                let (calls, blocks) = (ground.against == Against::Calls, set.len());
                Ok(Self::Memory { plain, cell, calls, blocks })
            }
            Tier::Nvme => {
                let offsets = set.frames.iter().map(|place| place.offset).collect();
                let frames = Frames { bytes: frame_bytes, offsets };
                let direct = ground.nvme.as_ref().is_some_and(|facts| facts.direct);
                let file = ground.beside("raw");
                let disk = RawDisk::open(&file, direct, &frames, ground.depth);
                disk.map(Self::Disk).map_err(refused("the raw file beside NVMe's"))
            }
            Tier::Object => {
                if let Some(objects) = ground.sign(set.len())? {
                    let bare = BareHttp::open(objects, frame_bytes, ground.depth);
                    return bare.map(Self::Http).map_err(refused("the bare HTTP client"));
                }
                let folder = ground.beside_objects("plain");
                let files =
                    PlainFiles::open(&folder, frame_bytes, ground.depth, ground.syncs_objects);
                files.map(Self::Files).map_err(refused("the files beside the object store's"))
            }
        }
    }

    /// Writes what reads will read.
    ///
    /// # Errors
    /// The machine refuses.
    pub fn fill(&mut self, blocks: usize) -> Result<(), Failure> {
        match self {
            Self::Memory { .. } => Ok(()),
            Self::Disk(disk) => disk.writes().go(0..blocks).map(drop),
            Self::Http(bare) => bare.writes().go(0..blocks).map(drop),
            Self::Files(files) => {
                let mut writes = files.writes();
                writes.rewind(0..blocks)?;
                writes.go(0..blocks).map(drop)
            }
        }
    }

    /// Takes away what is not in a folder that goes by itself.
    ///
    /// # Errors
    /// The server refused.
    pub fn clear(&self) -> Result<(), Failure> {
        if let Self::Http(bare) = self { bare.clear() } else { Ok(()) }
    }

    /// Runs `work` with the limit of the path's direction.
    pub fn with<T>(&mut self, path: Path, work: impl FnOnce(&mut dyn Mover) -> T) -> T {
        let reads = path.ends().1 == Tier::Dram;
        match self {
            Self::Memory { plain, cell, calls, blocks } => {
                work(&mut *copies(plain, *cell, *calls, *blocks))
            }
            Self::Disk(disk) if reads => work(&mut disk.reads()),
            Self::Disk(disk) => work(&mut disk.writes()),
            Self::Http(bare) if reads => work(&mut bare.reads()),
            Self::Http(bare) => work(&mut bare.writes()),
            Self::Files(files) if reads => work(&mut files.reads()),
            Self::Files(files) => work(&mut files.writes()),
        }
    }
}

/// The cell's bytes between plain memories: in calls of a fragment each, or as long as they can be.
fn copies(plain: &mut Plain, cell: Cell, calls: bool, blocks: usize) -> Box<dyn Mover + '_> {
    let Cell { path, block_bytes, fragment_bytes } = cell;
    match plain {
        Plain::None => unreachable!("paths to HBM have memories beside them"),
        Plain::Host(memories) => Box::new(Copies {
            memories,
            block_bytes: in_memory(block_bytes),
            call_bytes: in_memory(if calls { fragment_bytes } else { block_bytes }),
            beside: if path == Path::HbmBoth { path.ends_far(blocks).len() } else { 0 },
        }),
        Plain::Gpu(copies) => {
            let call_bytes = calls.then_some(fragment_bytes);
            Box::new(GpuCopies { copies, path, block_bytes, call_bytes })
        }
    }
}
