//! The calls about the HBM tier's memory.

use bytes::Bytes;

use crate::client::hbm::{Borrowed, HbmMemory, LentBlock, Strides};
use crate::client::{ClientError, RequestId};
use crate::wire::pb;

use super::Remote;

impl Remote {
    /// Nothing: it is this machine's memory.
    pub(in crate::client) async fn hbm_memory(&self) -> Result<Option<HbmMemory>, ClientError> {
        let message = pb::HbmMemoryRequest { token: self.token.clone() };
        let answer = self.stub.clone().hbm_memory(self.bounded(message)).await;
        let pb::HbmMemoryResponse { bytes, cuda } = self.answered(answer)?;
        let Some(cuda) = cuda else { return Ok(None) };
        let wrong = |_| ClientError::Daemon("its handle of the HBM tier has a wrong length".into());
        Ok(Some(HbmMemory::Cuda {
            device_uuid: cuda.device_uuid.as_ref().try_into().map_err(wrong)?,
            handle: cuda.handle.as_ref().try_into().map_err(wrong)?,
            bytes,
        }))
    }

    pub(in crate::client) async fn borrow(
        &self,
        request: RequestId,
        hashes: Bytes,
    ) -> Result<Borrowed, ClientError> {
        let (token, request_id) = (self.token.clone(), request.0);
        let message = pb::BorrowRequest { token, request_id, hashes };
        let answer = self.answered(self.stub.clone().borrow(self.bounded(message)).await)?;
        let lent =
            |block: pb::LentBlock| LentBlock { index: block.index, start: block.start_bytes };
        Ok(Borrowed {
            blocks: answer.blocks.into_iter().map(lent).collect(),
            clipped: answer.clipped_blocks,
            strides: Strides {
                shard: answer.shard_stride_bytes,
                layer: answer.layer_stride_bytes,
                plane: answer.plane_stride_bytes,
            },
        })
    }

    pub(in crate::client) async fn give_back(
        &self,
        request: RequestId,
    ) -> Result<u32, ClientError> {
        let message = pb::GiveBackRequest { token: self.token.clone(), request_id: request.0 };
        let answer = self.stub.clone().give_back(self.bounded(message)).await;
        Ok(self.answered(answer)?.blocks)
    }
}
