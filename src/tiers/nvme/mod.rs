//! NVMe: a preallocated file of frame slots, read and written past the page cache.
//!
//! ```text
//!   submit --+-------------------> engine (ring or blocking threads) --> verifiers --> done
//!            |                        ^
//!            +--> clerk (new cut) ----+
//!            +--> stampers (a record in a header) -----------------------------> done
//!   sync -------> syncer (one flush for all who wait) ------------------------> done
//! ```
//! The address space is the file: a place's offset is the file's. Never chooses places, never
//! evicts, and never shortens what it finds. Several folders, each with all this of its own, make one
//! tier (`striped`).

mod blocking;
mod flights;
mod home;
mod page;
mod queue;
mod recovery;
mod ring;
mod slots;
mod stall;
mod stamp;
mod store;
mod striped;
mod superblock;
mod survey;
mod table;
mod uring;

#[cfg(test)]
mod tests;

pub use striped::{Opened, Striped, look_striped, open_striped};
pub use superblock::Stripe;
pub use survey::Survey;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use slots::{Access, Straight};

use super::dram::Arena;
use super::open::OpenError;
use super::store::{Place, StoreError, TierStore};
use super::ticket::OPS_MAX_DEFAULT;
use crate::domain::units::Bytes;

/// Pieces of IO that the device works on at once, unless the config says otherwise.
pub const QUEUE_DEPTH_DEFAULT: u32 = 32;
pub const QUEUE_DEPTH_MAX: u32 = 4096;

/// A frame is read and written in pieces of this many bytes, unless the config says otherwise.
pub const IO_BYTES_DEFAULT: u32 = 1 << 20;

/// How the tier is set up.
#[derive(Clone, Debug)]
pub struct NvmeConfig {
    /// The folder that holds the slot file; made if there is none.
    pub dir: PathBuf,
    /// A multiple of the chunk. A file that is there may grow, never shrink.
    pub capacity_bytes: u64,
    pub engine: EngineChoice,
    /// IOs that the device works on at once, 1..=4096.
    pub queue_depth: u32,
    /// Larger frames are split into IOs of this length: whole pages, at most 64 MiB.
    pub io_bytes: u32,
    /// Operations under way at most; beyond it the store answers `Busy`.
    pub ops_max: usize,
    /// Try the device out at the start, where there is something to read, and take the depth and the
    /// length of IOs that it likes best instead.
    pub tuned: bool,
    /// The node that the folder must belong to; a new folder without one gets a random id.
    pub node_id: Option<[u8; 16]>,
    /// Which of several folders this is; [`open_striped`] sets it.
    pub stripe: Stripe,
}

impl NvmeConfig {
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, capacity_bytes: u64) -> Self {
        Self {
            dir: dir.into(),
            capacity_bytes,
            engine: EngineChoice::Auto,
            queue_depth: QUEUE_DEPTH_DEFAULT,
            io_bytes: IO_BYTES_DEFAULT,
            ops_max: OPS_MAX_DEFAULT,
            tuned: false,
            node_id: None,
            stripe: Stripe::ALONE,
        }
    }

    fn check(&self) -> Result<(), OpenError> {
        let said = if !(1..=QUEUE_DEPTH_MAX).contains(&self.queue_depth) {
            format!("the queue depth is {}: use 1 to {QUEUE_DEPTH_MAX}", self.queue_depth)
        } else if !self.io_bytes.is_multiple_of(4096) || !(4096..=64 << 20).contains(&self.io_bytes)
        {
            format!("IOs of {} bytes: use whole 4 KiB pages up to 64 MiB", self.io_bytes)
        } else if !(1..=1 << 20).contains(&self.ops_max) {
            format!("{} operations at once: use 1 to {}", self.ops_max, 1 << 20)
        } else {
            return Ok(());
        };
        Err(OpenError::Config(format!("nvme: {said}")))
    }
}

/// Which engine the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// `io_uring`, or blocking threads where it is refused.
    #[default]
    Auto,
    Uring,
    Blocking,
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "blocking" => Ok(Self::Blocking),
            _ => Err(format!("unknown NVMe engine `{name}`: use auto, uring or blocking")),
        }
    }
}

/// The engine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Uring,
    Blocking,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Uring => "uring",
            Self::Blocking => "blocking",
        })
    }
}

/// What the tier turned out to be, for the log, `status` and `doctor`.
#[derive(Clone, Debug)]
pub struct NvmeFacts {
    pub dir: PathBuf,
    pub engine: Engine,
    /// Why this engine, and what to do for a better one.
    pub why: String,
    /// Whether the page cache is passed by; false where the file system refuses it.
    pub direct: bool,
    /// Whether the file system has promised the room.
    pub preallocated: bool,
    pub capacity_bytes: u64,
    pub io_bytes: u32,
    pub queue_depth: u32,
    /// What the device did when it was tried out, if it was.
    pub survey: Option<Survey>,
    /// Whether the arena is registered with the ring.
    pub fixed_buffers: bool,
    /// The node that the folder belongs to.
    pub node_id: [u8; 16],
}

impl fmt::Display for NvmeFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {}, engine {} ({}), direct {}, preallocated {}, queue depth {}, IOs of {}, \
             fixed buffers {}",
            Bytes(self.capacity_bytes),
            self.dir.display(),
            self.engine,
            self.why,
            self.direct,
            self.preallocated,
            self.queue_depth,
            Bytes(u64::from(self.io_bytes)),
            self.fixed_buffers,
        )?;
        match &self.survey {
            Some(survey) => write!(f, ", tried out: {survey}"),
            None => Ok(()),
        }
    }
}

/// Opens the tier, or makes it if the folder is new.
///
/// # Errors
/// See [`OpenError`]; every text names the remedy, and nothing that was there is lost.
pub fn open(
    config: &NvmeConfig,
    arena: &Arc<Arena>,
) -> Result<(Arc<dyn TierStore>, NvmeFacts), OpenError> {
    open_through(config, arena, &(Arc::new(Straight) as Arc<dyn Access>))
}

/// [`open`], with what lies between the store and its device.
fn open_through(
    config: &NvmeConfig,
    arena: &Arc<Arena>,
    access: &Arc<dyn Access>,
) -> Result<(Arc<dyn TierStore>, NvmeFacts), OpenError> {
    config.check()?;
    let home = home::Home::open(config)?;
    let (store, facts) = store::NvmeStore::start(config, home, arena, access)?;
    Ok((Arc::new(store), facts))
}

/// Tries out the disk under `folder`, through a file of its own that goes again.
///
/// # Errors
/// The folder takes no such file, or the machine no such memory.
pub fn try_out(folder: &Path) -> io::Result<Survey> {
    survey::of_folder(folder)
}

/// Names an error of the device by what the caller does next.
fn failed(verb: &'static str, place: Place) -> impl FnOnce(io::Error) -> StoreError {
    move |source| {
        let what = format!("can't {verb} {} bytes at {}", place.slot_bytes, place.offset);
        match source.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::EBADF) => {
                StoreError::TierLost(format!("{what}: {source}"))
            }
            _ => StoreError::Io { what, source },
        }
    }
}
