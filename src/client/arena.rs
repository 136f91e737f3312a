//! The daemon's memories, as a client sees them: read-only.

use std::os::fd::OwnedFd;
use std::ptr;

use memmap2::{MmapOptions, MmapRaw};

use super::ClientError;

/// A memory of the daemon's, mapped read-only. Bytes of the arena change under the reader: what is
/// copied out counts only once its frame's checksum was verified. Bytes of the HBM tier stay as they
/// are while the block is borrowed that they belong to.
pub struct ArenaView {
    memory: MmapRaw,
}

impl ArenaView {
    pub(super) fn map(memory: &OwnedFd, len_bytes: u64) -> Result<Self, ClientError> {
        let too_large = |_| ClientError::Daemon(format!("its memory has {len_bytes} bytes"));
        let len = usize::try_from(len_bytes).map_err(too_large)?;
        let memory = MmapOptions::new()
            .len(len)
            .map_raw_read_only(memory)
            .map_err(ClientError::io("map the daemon's memory"))?;
        Ok(Self { memory })
    }

    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Copies the bytes from `offset` on into `out`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when they lie outside the arena.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), ClientError> {
        let inside = usize::try_from(offset).ok().filter(|start| {
            start.checked_add(out.len()).is_some_and(|end| end <= self.memory.len())
        });
        let start = inside.ok_or_else(|| {
            ClientError::Invalid(format!(
                "{} bytes at {offset} lie outside the memory's {} bytes",
                out.len(),
                self.memory.len()
            ))
        })?;
        // SAFETY: `start` was checked above to lie inside the mapping.
        let source = unsafe { self.memory.as_ptr().add(start) };
        // SAFETY: the source was checked above to lie inside the mapping, which lives as long as
        // `self`; `out` is exclusive. Another process may change the source meanwhile: the copy is
        // then of mixed bytes, which the type's contract says.
        unsafe { ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
        Ok(())
    }
}
