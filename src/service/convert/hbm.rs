//! The HBM tier's memory and the blocks lent of it, in protobuf.

use crate::manager::api::{Command, LentBlock, Refusal, Reply, RequestId};
use crate::service::backend::Backend;
use crate::service::calls::{Calls, unexpected};
use crate::service::error::CallError;
use crate::service::limits::Limits;
use crate::service::session::Session;
use crate::tiers::hbm::{BlockGeometry, Exported};
use crate::wire::pb;

use super::requests;

pub(super) fn memory<B: Backend>(calls: &Calls<B>) -> Result<pb::HbmMemoryResponse, CallError> {
    let refused = |why: String| CallError::Refused(Refusal::Precondition(why));
    match calls.backend.hbm().map_err(refused)? {
        None => Err(refused(
            "this daemon has no HBM tier: Load copies blocks to where they are needed".into(),
        )),
        Some(Exported::Shared { bytes, .. }) => Ok(pb::HbmMemoryResponse { bytes, cuda: None }),
        Some(Exported::Cuda { device_uuid, handle, bytes }) => {
            let (device_uuid, handle) = (device_uuid.to_vec().into(), handle.to_vec().into());
            let cuda = Some(pb::CudaExport { device_uuid, handle });
            Ok(pb::HbmMemoryResponse { bytes, cuda })
        }
    }
}

pub(super) fn borrow(
    session: &Session,
    message: &pb::BorrowRequest,
    limits: &Limits,
) -> Result<Command, CallError> {
    let keys = requests::keys(session, &message.hashes, limits.transfer_blocks_max)?;
    Ok(Command::Borrow { request: RequestId(message.request_id), keys })
}

pub(super) fn borrowed(session: &Session, reply: &Reply) -> Result<pb::BorrowResponse, CallError> {
    let Reply::Borrow { blocks, clipped } = reply else {
        return Err(unexpected("Borrow", reply));
    };
    let geometry = BlockGeometry::of(&session.namespace).map_err(CallError::invalid)?;
    let lent = |block: &LentBlock| pb::LentBlock {
        index: block.index,
        start_bytes: geometry.tier_pages(block.place).start,
    };
    let strides = blocks.first().map(|block| geometry.tier_pages(block.place));
    Ok(pb::BorrowResponse {
        blocks: blocks.iter().map(lent).collect(),
        clipped_blocks: *clipped,
        shard_stride_bytes: strides.map_or(0, |pages| pages.shard_stride),
        layer_stride_bytes: strides.map_or(0, |pages| pages.layer_stride),
        plane_stride_bytes: strides.map_or(0, |pages| pages.plane_stride),
    })
}

pub(super) fn given_back(reply: &Reply) -> Result<pb::GiveBackResponse, CallError> {
    match reply {
        Reply::GiveBack { blocks } => Ok(pb::GiveBackResponse { blocks: *blocks }),
        other => Err(unexpected("GiveBack", other)),
    }
}
