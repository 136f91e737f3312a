//! The HBM tier read where it lies: its memory, and the blocks that are lent of it.

use super::{ArenaView, Client, ClientError, RequestId};
use bytes::Bytes;

/// The HBM tier's own memory.
pub enum HbmMemory {
    /// This machine's, mapped.
    Host(ArenaView),
    /// On a GPU: what `cuIpcOpenMemHandle` opens on the GPU of that id, to be read and never written.
    Cuda { device_uuid: [u8; 16], handle: [u8; 64], bytes: u64 },
}

/// Blocks that may be read where they lie, until they are given back, their request ends or the
/// client goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Borrowed {
    /// By index into the call's hashes, in rising order.
    pub blocks: Vec<LentBlock>,
    /// In HBM and not lent: the share of the tier that may be is used up.
    pub clipped: u32,
    pub strides: Strides,
}

/// Where a lent block begins in the HBM tier's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentBlock {
    pub index: u32,
    pub start: u64,
}

/// From a block's page to the next one's, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strides {
    pub shard: u64,
    pub layer: u64,
    pub plane: u64,
}

impl Borrowed {
    /// Where the page of a block begins, of the namespace's `page_bytes`.
    #[must_use]
    pub fn page(&self, block: LentBlock, (shard, layer, plane): (u32, u32, u32)) -> u64 {
        block.start
            + u64::from(shard) * self.strides.shard
            + u64::from(layer) * self.strides.layer
            + u64::from(plane) * self.strides.plane
    }
}

impl Client {
    /// The HBM tier's own memory, in which [`Client::borrow`] says where blocks lie.
    ///
    /// # Errors
    /// [`ClientError::Precondition`] when there is none or it can't be shared, [`ClientError::Io`]
    /// when it can't be mapped.
    pub async fn hbm(&self) -> Result<HbmMemory, ClientError> {
        if let Some(on_gpu) = self.session.remote.hbm_memory().await? {
            return Ok(on_gpu);
        }
        let (memory, len_bytes) = self.session.attachment.ask_hbm().await?;
        ArenaView::map(&memory, len_bytes).map(HbmMemory::Host)
    }

    /// Has those of the blocks lent that are in HBM: they stay there until [`Client::give_back`],
    /// [`Client::end_request`] or the session's end, so that they can be read in place.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`] for a list of the wrong length,
    /// [`ClientError::Precondition`] without an HBM tier.
    pub async fn borrow(
        &self,
        request: RequestId,
        hashes: impl Into<Bytes>,
    ) -> Result<Borrowed, ClientError> {
        self.session.remote.borrow(request, hashes.into()).await
    }

    /// Nothing that was borrowed under the request is read any more; gives how many blocks it was.
    ///
    /// # Errors
    /// [`ClientError::Busy`].
    pub async fn give_back(&self, request: RequestId) -> Result<u32, ClientError> {
        self.session.remote.give_back(request).await
    }
}
