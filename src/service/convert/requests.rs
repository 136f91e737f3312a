//! Requests, from protobuf to the manager's commands: complete checks, with the remedy in each
//! refusal.

use std::time::Duration;

use bytes::Bytes;

use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::{KvShape, Namespace};
use crate::hints::Hashes;
use crate::manager::api::{Command, Labels, PoolId, RequestId};
use crate::service::calls::Hello;
use crate::service::error::CallError;
use crate::service::limits::Limits;
use crate::service::session::Session;
use crate::tiers::hbm::{ClaimedPool, CudaClaim, CudaLayer, IpcHandle, PagedLayout};
use crate::wire::pb;

use super::{movement, retention};

pub(super) fn hello(message: pb::HelloRequest) -> Result<Hello, CallError> {
    let namespace = match message.namespace {
        Some(namespace) => self::namespace(namespace),
        // A newer client may say its namespace otherwise: let it hear about the version first.
        None if message.protocol_version == crate::wire::PROTOCOL_VERSION => {
            return Err(CallError::invalid("namespace is missing: say which blocks may be shared"));
        }
        None => return Err(CallError::VersionMismatch { client: message.protocol_version }),
    };
    Ok(Hello {
        protocol_version: message.protocol_version,
        client_id: message.client_id,
        client_name: message.client_name,
        namespace,
        engine: message.engine,
        prefill_tokens_per_s: message.prefill_tokens_per_s,
    })
}

fn namespace(message: pb::Namespace) -> Namespace {
    Namespace {
        model: message.model,
        revision: message.revision,
        dtype: message.dtype,
        layout: message.layout,
        shape: KvShape {
            layers: message.layers,
            planes: message.planes,
            page_bytes: message.page_bytes,
        },
        block_tokens: message.block_tokens,
        shard_count: message.shard_count,
        hash_scheme: message.hash_scheme,
        hash_bytes: message.hash_bytes,
        tenant_salt: message.tenant_salt.into(),
    }
}

/// The claim as it stands; that the memory bears it out is checked when the pool is admitted.
pub(super) fn claimed_pool(
    session: &Session,
    message: &pb::RegisterPoolRequest,
) -> Result<ClaimedPool, CallError> {
    let layout = message.layout.as_ref().ok_or_else(|| {
        CallError::invalid("layout is missing: say where the pool's pages lie, see PoolLayout")
    })?;
    let shards = session.namespace.shard_count;
    if message.shard >= shards {
        return Err(CallError::invalid(format!(
            "shard is {}: this namespace has shard_count {shards}, so it must be 0 to {}",
            message.shard,
            shards - 1
        )));
    }
    if layout.slots == 0 {
        return Err(CallError::invalid("layout.slots is 0: a pool has at least one slot"));
    }
    Ok(ClaimedPool {
        shard: message.shard,
        layout: PagedLayout {
            shape: session.namespace.shape,
            slots: layout.slots,
            base: layout.base_bytes,
            layer_stride: layout.layer_stride_bytes,
            plane_stride: layout.plane_stride_bytes,
            slot_stride: layout.slot_stride_bytes,
        },
    })
}

/// Memory on a GPU as the engine lends it, if that is what it lends.
pub(super) fn cuda_claim(
    session: &Session,
    message: &pb::RegisterPoolRequest,
) -> Result<Option<CudaClaim>, CallError> {
    let Some(cuda) = &message.cuda else { return Ok(None) };
    let handle = |name: &str, bytes: &[u8]| -> Result<IpcHandle, CallError> {
        bytes.try_into().map_err(|_| {
            let (is, wanted) = (bytes.len(), size_of::<IpcHandle>());
            CallError::invalid(format!("{name} has {is} bytes: an IPC handle has {wanted}, raw"))
        })
    };
    let device_uuid = cuda.device_uuid.as_ref().try_into().map_err(|_| {
        CallError::invalid(format!(
            "cuda.device_uuid has {} bytes: send the 16 that cuDeviceGetUuid gives",
            cuda.device_uuid.len()
        ))
    })?;
    let memories = cuda.memories.iter().map(|bytes| handle("cuda.memories", bytes));
    let events = cuda.ready_events.iter().map(|bytes| handle("cuda.ready_events", bytes));
    let layer = |layer: &pb::CudaLayer| CudaLayer { memory: layer.memory, base: layer.base_bytes };
    Ok(Some(CudaClaim {
        device_uuid,
        memories: memories.collect::<Result<_, _>>()?,
        layers: cuda.layers.iter().map(layer).collect(),
        ready_events: events.collect::<Result<_, _>>()?,
        lender: session.lender(),
    }))
}

pub(super) fn lookup(
    session: &Session,
    message: &pb::LookupRequest,
    limits: &Limits,
) -> Result<Command, CallError> {
    let named = retention::session(&message.session)?;
    let keys = keys(session, &message.hashes, limits.lookup_blocks_max)?;
    Ok(Command::Lookup {
        request: RequestId(message.request_id),
        session: named,
        keys,
        ask_shared: Duration::from_millis(message.ask_shared_ms.into()),
        queued: message.queued,
    })
}

pub(super) fn store(
    session: &Session,
    message: pb::StoreRequest,
    limits: &Limits,
) -> Result<Command, CallError> {
    let named = retention::session(&message.session)?;
    let directives = retention::directives(message.directives)?;
    let pool = PoolId(message.pool_id);
    let keys = keys(session, &message.hashes, limits.transfer_blocks_max)?;
    check_slots(session, pool, &message.slots, keys.len())?;
    let parent = message.parent_hash.map(|hash| parent_key(session, &hash)).transpose()?;
    let request = RequestId(message.request_id);
    let labels = labels(session, &message.hashes, &message.token_ids)?;
    Ok(Command::Store {
        request,
        session: named,
        directives,
        parent,
        keys,
        labels,
        pool,
        slots: message.slots,
        durable: message.durable,
    })
}

/// What routers know blocks with these hashes by; the list of hashes was checked.
fn labels(session: &Session, hashes: &[u8], token_ids: &[u8]) -> Result<Labels, CallError> {
    let namespace = &session.namespace;
    let hashes = hashes.chunks_exact(namespace.hash_bytes as usize);
    let block_bytes = namespace.block_tokens as usize * 4;
    if !token_ids.is_empty() && token_ids.len() != hashes.len() * block_bytes {
        return Err(CallError::invalid(format!(
            "token_ids is {} bytes long: {} blocks of {} tokens take {}, four a token; leave it \
             out if nobody routes by tokens",
            token_ids.len(),
            hashes.len(),
            namespace.block_tokens,
            hashes.len() * block_bytes
        )));
    }
    // Each block's own: a slice would keep the whole request.
    let tokens = token_ids.chunks_exact(block_bytes).map(Bytes::copy_from_slice).collect();
    Ok(Labels { tails: hashes.map(HashTail::of).collect(), tokens })
}

/// How many directives of a store asked for more time than is granted.
pub(super) fn clipped_directives(command: &Command) -> u32 {
    match command {
        Command::Store { directives, .. } => directives.clipped,
        _ => 0,
    }
}

pub(super) fn load(
    session: &Session,
    message: pb::LoadRequest,
    timeout: Duration,
    limits: &Limits,
) -> Result<Command, CallError> {
    let pool = PoolId(message.pool_id);
    let keys = keys(session, &message.hashes, limits.transfer_blocks_max)?;
    check_slots(session, pool, &message.slots, keys.len())?;
    let request = RequestId(message.request_id);
    Ok(Command::Load { request, keys, pool, slots: message.slots, timeout })
}

pub(super) fn end_request(message: &pb::EndRequestRequest) -> Result<Command, CallError> {
    Ok(Command::EndRequest {
        request: RequestId(message.request_id),
        stop: retention::stop(message.stop)?,
        output_tokens: message.output_tokens,
        prefill: movement::prefill(message.prefill_tokens, message.prefill_us)?,
    })
}

/// The keys of a list of engine hashes.
pub(super) fn keys(
    session: &Session,
    hashes: &[u8],
    blocks_max: u32,
) -> Result<Vec<Key>, CallError> {
    let mut reader = Hashes::new(session.digest, session.namespace.hash_bytes, blocks_max);
    reader.run(hashes).map_err(CallError::invalid)
}

fn parent_key(session: &Session, hash: &[u8]) -> Result<Key, CallError> {
    let width = session.namespace.hash_bytes as usize;
    if hash.len() != width {
        return Err(CallError::invalid(format!(
            "parent_hash is {} bytes long: this namespace declared hash_bytes {width}; leave it \
             out if the first block is its chain's root",
            hash.len()
        )));
    }
    Ok(session.digest.key(hash))
}

/// One slot a block, inside the pool, none twice.
fn check_slots(
    session: &Session,
    pool: PoolId,
    slots: &[u32],
    blocks: usize,
) -> Result<(), CallError> {
    let pool_slots = session.pool_slots(pool)?;
    if slots.len() != blocks {
        return Err(CallError::invalid(format!(
            "{blocks} hashes but {} slots: send one slot a hash",
            slots.len()
        )));
    }
    if let Some(index) = slots.iter().position(|slot| *slot >= pool_slots) {
        return Err(CallError::invalid(format!(
            "slots[{index}] is {}: pool {} has {pool_slots} slots, so it must be 0 to {}",
            slots[index],
            pool.0,
            pool_slots - 1
        )));
    }
    let mut sorted = slots.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(CallError::invalid(format!(
            "slot {} is named twice: each block needs a slot of its own",
            pair[0]
        ))),
        None => Ok(()),
    }
}
