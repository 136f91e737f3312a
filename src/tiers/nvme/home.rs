//! The tier's folder: locked for one daemon, holding the slot file and its superblock.
//!
//! Never makes a slot file shorter than it finds it, and never overwrites one, whatever it finds.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::NvmeConfig;
use super::page::Page;
use super::slots::Straight;
use super::superblock::{self, CHUNKS_MAX, Stripe, Superblock};
use crate::domain::units::{Bytes, CHUNK_BYTES};
use crate::env;
use crate::tiers::open::{OpenError, check_writable, try_lock};

pub const SLOTS_NAME: &str = "nvme-0.slots";

/// The folder, opened: everything the engines need.
#[derive(Debug)]
pub struct Home {
    pub dir: PathBuf,
    pub slots: File,
    /// Whether the slot file is read and written past the page cache.
    pub direct: bool,
    /// Whether the file system gave the room for good.
    pub preallocated: bool,
    pub superblock: Superblock,
    /// Holds the folder's lock; the kernel lets go of it when the daemon dies.
    pub lock: File,
}

impl Home {
    /// Opens the folder, or makes it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`]; what was there before is untouched, except that a slot file may have
    /// grown.
    pub fn open(config: &NvmeConfig) -> Result<Self, OpenError> {
        let chunks = chunks_of(config.capacity_bytes)?;
        let dir = config.dir.clone();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(OpenError::io("create the folder", &dir))?;
        let lock = lock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        let found = judge(config, &dir, chunks)?;
        let save = |block: &Superblock| {
            block.save(&dir, &Straight).map_err(OpenError::io("write the superblock in", &dir))
        };
        // Ours before the slot file is there, and larger only after it has the room: so a start
        // that fails or is cut short is taken up by the next one. One that stands is left alone: a full
        // disk keeps no tier down that needs nothing of it.
        let mut superblock = match found {
            Some(found) => found,
            None => {
                let node_id = config.node_id.unwrap_or_else(env::random_bytes);
                let made = Superblock { stripe: config.stripe, ..Superblock::new(node_id, 0) };
                save(&made)?;
                made
            }
        };
        let path = dir.join(SLOTS_NAME);
        let slots =
            private_file().create(true).open(&path).map_err(OpenError::io("open", &path))?;
        let Room { preallocated, is_new } = make_room(&slots, &path, config.capacity_bytes)?;
        let is_larger = superblock.slot_bytes.len() < chunks;
        // Room that a former start made and was cut short by may not be durable either.
        if is_new || is_larger {
            // From here on the superblock may name chunks that lie there: a file that a loss of power
            // leaves shorter is refused.
            slots.sync_all().map_err(OpenError::io("sync", &path))?;
            lock.sync_all().map_err(OpenError::io("sync the folder", &dir))?;
        }
        if is_larger {
            superblock.slot_bytes.resize(chunks, 0);
            save(&superblock)?;
        }
        superblock.keep_room(&dir);
        let direct = reopen_direct(&path)?;
        let (slots, direct) = direct.map_or((slots, false), |direct| (direct, true));
        Ok(Self { dir, slots, direct, preallocated, superblock, lock })
    }
}

/// Whether [`Home::open`] would take the folder as it is. Changes nothing; a
/// daemon that starts at this moment waits for it, and is taken for one that has the folder.
///
/// # Errors
/// What [`Home::open`] would say, as far as that is known without making anything.
pub fn look(config: &NvmeConfig) -> Result<(), OpenError> {
    let (chunks, dir) = (chunks_of(config.capacity_bytes)?, &config.dir);
    let _lock = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = dir.ancestors().find(|folder| folder.exists());
            above.map_or(Ok(()), check_writable).map(|()| None)?
        }
        _ => Some(lock(dir, FlockOperation::NonBlockingLockShared)?),
    };
    judge(config, dir, chunks)?;
    let path = dir.join(SLOTS_NAME);
    match private_file().open(&path) {
        Ok(slots) => room_lacking(&slots, &path, config.capacity_bytes).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::io("open", &path)(error)),
    }
}

/// Options for the tier's files: KV is as private as the prompts it was made from.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

fn chunks_of(capacity_bytes: u64) -> Result<usize, OpenError> {
    let chunks = usize::try_from(capacity_bytes / CHUNK_BYTES).unwrap_or(usize::MAX);
    if capacity_bytes.is_multiple_of(CHUNK_BYTES) && (1..=CHUNKS_MAX).contains(&chunks) {
        return Ok(chunks);
    }
    Err(OpenError::Config(format!(
        "an NVMe capacity of {capacity_bytes} bytes can't be used: give a multiple of {} between \
         {} and {}",
        Bytes(CHUNK_BYTES),
        Bytes(CHUNK_BYTES),
        Bytes(CHUNKS_MAX as u64 * CHUNK_BYTES)
    )))
}

fn lock(dir: &Path, how: FlockOperation) -> Result<File, OpenError> {
    // A pipe in its place is not waited for.
    let lock = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(dir);
    let lock = lock.map_err(OpenError::io("open the folder", dir))?;
    if try_lock(&lock, how).map_err(OpenError::io("lock the folder", dir))? {
        // A new cut of a chunk makes a file here.
        return check_writable(dir).map(|()| lock);
    }
    Err(OpenError::InUse(format!(
        "{} is in use by another daemon: stop that one, or give this one another folder",
        dir.display()
    )))
}

/// The folder's superblock, if it goes with the config; nothing in a new folder.
fn judge(config: &NvmeConfig, dir: &Path, chunks: usize) -> Result<Option<Superblock>, OpenError> {
    let path = dir.join(SLOTS_NAME);
    let slots_bytes = match fs::symlink_metadata(&path) {
        Ok(found) if found.is_file() => Some(found.len()),
        Ok(_) => return Err(refused(&path, "is not a plain file", "move it away")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(OpenError::io("look at", &path)(error)),
    };
    let Some(found) = Superblock::load(dir)? else {
        if slots_bytes.is_none() {
            return Ok(None);
        }
        return Err(refused(
            &path,
            &format!("has no {} beside it", superblock::FILE_NAME),
            &to_start_empty(config.stripe, "the slot file"),
        ));
    };
    check_owner(config, dir, &found)?;
    if found.stripe != config.stripe {
        let said = format!("is {}, and configured as {}", found.stripe, config.stripe);
        let remedy = "name the folders of nvme.path and nvme.more_paths as before, all of them in \
                      their order, or move all away to start with an empty tier";
        return Err(refused(dir, &said, remedy));
    }
    if slots_bytes.unwrap_or(0) < found.written_bytes() {
        let said = format!("has {} bytes of {}", slots_bytes.unwrap_or(0), found.written_bytes());
        let alone = format!("it and {}", superblock::FILE_NAME);
        return Err(refused(&path, &said, &to_start_empty(config.stripe, &alone)));
    }
    if chunks < found.slot_bytes.len() {
        return Err(OpenError::Refused(format!(
            "{} has {} of slots and {} are configured: a slot file never shrinks; configure at \
             least its size, or move the folder away to start with an empty tier",
            path.display(),
            Bytes(found.capacity_bytes()),
            Bytes(config.capacity_bytes),
        )));
    }
    Ok(Some(found))
}

/// Of several folders none starts empty alone.
fn to_start_empty(stripe: Stripe, alone: &str) -> String {
    let what =
        if stripe == Stripe::ALONE { alone } else { "everything in all of the tier's folders" };
    format!("put it back, or move {what} away to start with an empty tier")
}

fn check_owner(config: &NvmeConfig, dir: &Path, found: &Superblock) -> Result<(), OpenError> {
    if config.node_id.is_none_or(|ours| ours == found.node_id) {
        return Ok(());
    }
    let said = format!("belongs to node {:032x}", u128::from_be_bytes(found.node_id));
    Err(refused(dir, &said, "use another folder, or run with that node's id"))
}

fn refused(path: &Path, said: &str, remedy: &str) -> OpenError {
    OpenError::Refused(format!("{} {said}; nothing was changed: {remedy}", path.display()))
}

/// What the file has not of `capacity_bytes`, in bytes. An error if the disk has no room for it.
fn room_lacking(slots: &File, path: &Path, capacity_bytes: u64) -> Result<u64, OpenError> {
    let found = slots.metadata().map_err(OpenError::io("look at", path))?;
    let needed_bytes = capacity_bytes.saturating_sub(found.blocks() * 512);
    let free_bytes = free_bytes(slots, path)?;
    if needed_bytes > free_bytes {
        return Err(no_space(path, needed_bytes, free_bytes));
    }
    // A file may be too short for what it holds.
    Ok(needed_bytes.max(capacity_bytes.saturating_sub(found.len())))
}

fn free_bytes(slots: &File, path: &Path) -> Result<u64, OpenError> {
    let free = rustix::fs::fstatvfs(slots).map_err(|e| OpenError::io("look at", path)(e.into()))?;
    Ok(free.f_bavail.saturating_mul(free.f_frsize))
}

fn no_space(path: &Path, needed_bytes: u64, free_bytes: u64) -> OpenError {
    let what = format!("the slot file {}", path.display());
    OpenError::NoSpace { what, needed_bytes, free_bytes }
}

/// The room of the slot file.
struct Room {
    /// Whether the file system has promised it.
    preallocated: bool,
    /// Whether some of it was made just now.
    is_new: bool,
}

/// Gives the file `capacity_bytes`, as room for good where the file system can promise that.
fn make_room(slots: &File, path: &Path, capacity_bytes: u64) -> Result<Room, OpenError> {
    let needed_bytes = room_lacking(slots, path, capacity_bytes)?;
    if needed_bytes == 0 {
        return Ok(Room { preallocated: true, is_new: false });
    }
    let found = slots.metadata().map_err(OpenError::io("look at", path))?;
    match rustix::fs::fallocate(slots, FallocateFlags::empty(), 0, capacity_bytes) {
        Ok(()) => Ok(Room { preallocated: true, is_new: true }),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            lengthen(slots, capacity_bytes).map_err(OpenError::io("grow", path))?;
            Ok(Room { preallocated: false, is_new: true })
        }
        Err(errno) => {
            // Gives back what the attempt took: the length before is the length after.
            let back = slots.set_len(found.len());
            let full = errno == rustix::io::Errno::NOSPC && back.is_ok();
            if full {
                return Err(no_space(path, needed_bytes, free_bytes(slots, path)?));
            }
            Err(OpenError::io("grow", path)(errno.into()))
        }
    }
}

/// Has the file end no sooner than after `capacity_bytes`. One that is longer keeps its length.
fn lengthen(slots: &File, capacity_bytes: u64) -> io::Result<()> {
    slots.set_len(capacity_bytes.max(slots.metadata()?.len()))
}

/// The slot file past the page cache; nothing if the file system has no such way.
fn reopen_direct(path: &Path) -> Result<Option<File>, OpenError> {
    let mut options = private_file();
    options.custom_flags(libc::O_NOFOLLOW | libc::O_DIRECT);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
        Err(error) => return Err(OpenError::io("open", path)(error)),
    };
    // tmpfs takes the flag and ignores it.
    let kind = rustix::fs::fstatfs(&file).map_err(|e| OpenError::io("look at", path)(e.into()))?;
    if kind.f_type == libc::TMPFS_MAGIC {
        return Ok(None);
    }
    Ok(takes_pages(&file).then_some(file))
}

/// Whether single pages can be read past the page cache: a device whose blocks are larger refuses at the
/// first read. Any other error is one of that page, and costs what lies there.
fn takes_pages(slots: &dyn FileExt) -> bool {
    let read = slots.read_exact_at(Page::zeroed().bytes_mut(), 0);
    read.err().and_then(|error| error.raw_os_error()) != Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of which every read ends with the errno.
    struct Refuses(i32);

    impl FileExt for Refuses {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(self.0))
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            unreachable!("only looks")
        }
    }

    #[test]
    fn a_file_that_is_longer_than_needed_keeps_its_end() {
        let file = tempfile::tempfile().unwrap();
        for (capacity_bytes, length) in [(4096, 4096), (12_288, 12_288), (8192, 12_288)] {
            lengthen(&file, capacity_bytes).unwrap();
            assert_eq!(file.metadata().unwrap().len(), length);
        }
    }

    #[test]
    fn a_bad_first_page_is_no_reason_to_read_through_the_cache_or_not_to_start() {
        assert!(takes_pages(&Refuses(libc::EIO)));
        assert!(!takes_pages(&Refuses(libc::EINVAL)));
    }
}
