//! The superblock: whose slot file this is, and how its chunks are cut into slots.
//!
//! ```text
//!      0  magic "TERRNVME"           8 bytes
//!      8  format version             u32
//!     12  chunks                     u32
//!     16  node id                   16 bytes
//!     32  bytes of a chunk           u64
//!     40  checksum (CRC-64/NVME)     u64, over bytes 0..40 and the table
//!     48  slot bytes of chunk 0, 1…  u32 each; 0: the chunk was never written
//! ```
//! Format version 2 is that of one of several folders that slots are striped over: before the table, at
//! 48, stand this folder's index among them and their count, u32 each. A folder alone has version 1.
//!
//! All numbers are little-endian. The file is replaced whole, by exchanging it with one beside it, so a
//! crash leaves the old one or the new one; and none is written over before the exchange is durable. Never repairs or guesses: what can't be read is refused.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::slots::Access;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::frame::{self, HEADER_SPAN_BYTES};
use crate::tiers::open::{OpenError, read_plain};

pub const FILE_NAME: &str = "nvme.superblock";
const MAGIC: [u8; 8] = *b"TERRNVME";
const VERSION: u32 = 1;
const VERSION_STRIPED: u32 = 2;
const HEAD_BYTES: usize = 48;
const STRIPE_BYTES: usize = 8;
const CHECKSUM_AT: usize = 40;

/// Chunks that a superblock can name: 64 TiB of slots.
pub const CHUNKS_MAX: usize = 1 << 20;

/// Which of the folders that slots are striped over, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    pub index: u32,
    pub count: u32,
}

impl Stripe {
    pub const ALONE: Self = Self { index: 0, count: 1 };
}

impl std::fmt::Display for Stripe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "folder {} of {}", self.index + 1, self.count)
    }
}

/// A decoded superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub node_id: [u8; 16],
    pub stripe: Stripe,
    /// For each chunk the length of its slots in bytes; 0: never written.
    pub slot_bytes: Vec<u32>,
}

impl Superblock {
    #[must_use]
    pub fn new(node_id: [u8; 16], chunks: usize) -> Self {
        Self { node_id, stripe: Stripe::ALONE, slot_bytes: vec![0; chunks] }
    }

    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.slot_bytes.len() as u64 * CHUNK_BYTES
    }

    /// Bytes from the file's start to the end of the last chunk that was ever written.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let written =
            self.slot_bytes.iter().rposition(|slot| *slot != 0).map_or(0, |last| last + 1);
        written as u64 * CHUNK_BYTES
    }

    /// Where the chunks start that were ever written.
    #[must_use]
    pub fn written_chunks(&self) -> Vec<u64> {
        let chunks = (0_u64..).zip(&self.slot_bytes).filter(|(_, slot)| **slot != 0);
        chunks.map(|(chunk, _)| chunk * CHUNK_BYTES).collect()
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let chunks = u32::try_from(self.slot_bytes.len()).expect("chunks are bounded");
        let is_alone = self.stripe == Stripe::ALONE;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + STRIPE_BYTES + self.slot_bytes.len() * 4);
        bytes.extend(MAGIC);
        let version = if is_alone { VERSION } else { VERSION_STRIPED };
        bytes.extend(version.to_le_bytes());
        bytes.extend(chunks.to_le_bytes());
        bytes.extend(self.node_id);
        bytes.extend(CHUNK_BYTES.to_le_bytes());
        bytes.extend([0; 8]);
        if !is_alone {
            bytes.extend(self.stripe.index.to_le_bytes());
            bytes.extend(self.stripe.count.to_le_bytes());
        }
        bytes.extend(self.slot_bytes.iter().flat_map(|slot| slot.to_le_bytes()));
        let sum = checksum(&bytes);
        bytes[CHECKSUM_AT..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes, to be followed by a remedy.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < HEAD_BYTES || bytes[..8] != MAGIC {
            return Err("is not a superblock of Terrace".into());
        }
        let version = u32_at(bytes, 8);
        let table_at = match version {
            VERSION => HEAD_BYTES,
            VERSION_STRIPED => HEAD_BYTES + STRIPE_BYTES,
            _ => {
                return Err(format!(
                    "has format version {version}, this daemon knows {VERSION} and {VERSION_STRIPED}"
                ));
            }
        };
        let chunks = u32_at(bytes, 12) as usize;
        if chunks > CHUNKS_MAX || bytes.len() != table_at + chunks * 4 {
            return Err(format!("is damaged: {chunks} chunks in {} bytes", bytes.len()));
        }
        if u64_at(bytes, CHECKSUM_AT) != checksum(bytes) {
            return Err("is damaged: its checksum does not match".into());
        }
        if u64_at(bytes, 32) != CHUNK_BYTES {
            return Err(format!("has chunks of {} bytes, not {CHUNK_BYTES}", u64_at(bytes, 32)));
        }
        let slot_bytes: Vec<u32> = (0..chunks).map(|i| u32_at(bytes, table_at + i * 4)).collect();
        if let Some(slot) = slot_bytes.iter().find(|slot| !is_slot_length(**slot) && **slot != 0) {
            return Err(format!("is damaged: slots of {slot} bytes"));
        }
        let node_id = bytes[16..32].try_into().expect("a node id has 16 bytes");
        let stripe = match version {
            VERSION => Stripe::ALONE,
            _ => Stripe { index: u32_at(bytes, 48), count: u32_at(bytes, 52) },
        };
        Ok(Self { node_id, stripe, slot_bytes })
    }

    /// Reads the folder's superblock; nothing when it has none.
    ///
    /// # Errors
    /// It can't be read, or is not ours: both with the remedy, and nothing was changed.
    pub fn load(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE_NAME);
        let bytes = match read_plain(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::io("read", &path)(error)),
        };
        Self::decode(&bytes).map(Some).map_err(|wrong| {
            OpenError::Refused(format!(
                "{} {wrong}; nothing was changed: use another folder, or move everything out of \
                 this one to start with an empty tier",
                path.display()
            ))
        })
    }

    /// Replaces the folder's superblock and waits until it is durable. The one before stays beside it, as
    /// the room for the next: so a disk that is full takes one of the same length.
    ///
    /// # Errors
    /// The machine's; the folder has the old one or this one then, and may have the other after a loss of
    /// power.
    pub fn save(&self, dir: &Path, access: &dyn Access) -> io::Result<()> {
        let (fresh, path) = (fresh_path(dir), dir.join(FILE_NAME));
        let bytes = self.encode();
        // An exchange before this one may not be durable yet: what is written over here would be the
        // superblock after a loss of power.
        access.sync_folder(dir)?;
        // Not truncated: its blocks are written over.
        let file = super::home::private_file().create(true).truncate(false).open(&fresh)?;
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        match renameat_with(CWD, &fresh, CWD, &path, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // The first one; or a file system that can't exchange two.
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => fs::rename(&fresh, &path)?,
            Err(errno) => return Err(errno.into()),
        }
        access.sync_folder(dir)
    }

    /// Sees that there is room for the next [`Superblock::save`], if the disk has any.
    pub fn keep_room(&self, dir: &Path) {
        let (fresh, bytes) = (fresh_path(dir), self.encode());
        if fs::metadata(&fresh).is_ok_and(|found| found.len() >= bytes.len() as u64) {
            return;
        }
        let file = super::home::private_file().create(true).truncate(false).open(&fresh);
        // Without it the next one may still find room.
        let _ = file.and_then(|file| file.write_all_at(&bytes, 0));
    }
}

fn fresh_path(dir: &Path) -> PathBuf {
    dir.join(format!("{FILE_NAME}.new"))
}

/// Whether slots can have this length: a header page, at least one page of payload, whole pages,
/// at most a chunk.
#[must_use]
pub fn is_slot_length(bytes: u32) -> bool {
    let page = HEADER_SPAN_BYTES;
    bytes.is_multiple_of(page) && bytes >= 2 * page && u64::from(bytes) <= CHUNK_BYTES
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut plain = bytes.to_vec();
    plain[CHECKSUM_AT..HEAD_BYTES].fill(0);
    frame::checksum(&plain)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::DirEntryExt;

    use super::*;
    use crate::tiers::nvme::slots::Straight;
    use proptest::prelude::*;

    fn example() -> Superblock {
        let slot_bytes = vec![8192, 0, 1 << 20, 64 << 20];
        Superblock { node_id: [9; 16], stripe: Stripe::ALONE, slot_bytes }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(Superblock::decode(&example().encode()), Ok(example()));
        let striped = Superblock { stripe: Stripe { index: 2, count: 3 }, ..example() };
        assert_eq!(Superblock::decode(&striped.encode()), Ok(striped));
        assert_eq!(example().written_bytes(), 4 * CHUNK_BYTES);
        assert_eq!(Superblock::new([0; 16], 3).written_bytes(), 0);
    }

    #[test]
    fn one_that_replaces_another_takes_no_further_room() {
        let dir = tempfile::tempdir().unwrap();
        let files = || {
            let entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().ino());
            entries.collect::<std::collections::BTreeSet<_>>()
        };
        example().save(dir.path(), &Straight).unwrap();
        example().keep_room(dir.path());
        let before = files();
        assert_eq!(before.len(), 2);
        for chunk in 0..3 {
            let mut next = example();
            next.slot_bytes[chunk] = 4 << 20;
            next.save(dir.path(), &Straight).unwrap();
            assert_eq!(Superblock::load(dir.path()).unwrap(), Some(next));
        }
        assert_eq!(files(), before, "two files in turn");
    }

    /// A folder whose names are not made durable.
    struct NeverSynced;

    impl Access for NeverSynced {
        fn sync_folder(&self, _: &Path) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }

    #[test]
    fn what_a_loss_of_power_may_bring_back_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        example().save(dir.path(), &Straight).unwrap();
        let next = Superblock { node_id: [7; 16], ..example() };
        next.save(dir.path(), &Straight).unwrap();
        let files = || {
            [FILE_NAME, "nvme.superblock.new"].map(|name| fs::read(dir.path().join(name)).unwrap())
        };
        let before = files();
        assert_eq!(before, [next.encode(), example().encode()]);
        Superblock::new([5; 16], 4).save(dir.path(), &NeverSynced).unwrap_err();
        assert_eq!(files(), before, "either may be the superblock");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = example().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_wrong_version_says_both_versions() {
        let mut bytes = example().encode();
        bytes[8] = 7;
        let said = Superblock::decode(&bytes).unwrap_err();
        assert!(said.contains('7') && said.contains('1'), "{said}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut claimed = MAGIC.to_vec();
            claimed.extend(VERSION.to_le_bytes());
            claimed.extend(&bytes);
            prop_assert!(Superblock::decode(&bytes).is_err());
            prop_assert!(Superblock::decode(&claimed).is_err());
        }
    }
}
