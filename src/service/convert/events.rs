//! Changes of residency and overlaps, from the daemon's words to protobuf.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::domain::block::Key;
use crate::domain::directory::Change;
use crate::domain::namespace::NamespaceDigest;
use crate::domain::tier::Tier;
use crate::env;
use crate::hints::Hashes;
use crate::manager::NamespaceEntry;
use crate::manager::api::Overlap;
use crate::service::backend::Backend;
use crate::service::calls::Calls;
use crate::service::error::CallError;
use crate::service::events::{Follower, Start, Told};
use crate::wire::pb;
use crate::wire::pb::events_response::{Changes, Complete, Lost, Reset, Said};

use super::answers::tier;
use super::refusals;

pub(super) type EventStream = ReceiverStream<Result<pb::EventsResponse, Status>>;

/// Messages made ahead of what the reader took.
const AHEAD_MAX: usize = 4;

/// How wide hashes are where nobody says it.
const HASH_BYTES_USUAL: u32 = 32;

/// Opens one reader's stream. It ends when the reader goes, the daemon stops, or the manager has no
/// time for a page of a snapshot.
pub(super) fn open<B: Backend>(
    calls: &Calls<B>,
    message: &pb::EventsRequest,
) -> Result<EventStream, CallError> {
    let named = Some(&message.namespace).filter(|named| !named.is_empty());
    let only = named.map(|named| digest(named)).transpose()?;
    let from = message.from.map(|from| (from, message.life));
    let start = Start { from, snapshot: message.snapshot };
    let follower = Follower::new(calls.backend.clone(), start)?;
    let place = calls.event_stream()?;
    let stopping = calls.stopping();
    let (send, receive) = mpsc::channel(AHEAD_MAX);
    env::spawn_task(async move {
        let _place = place;
        tokio::select! {
            () = tell(follower, only, &send) => (),
            () = stopping => (),
            () = send.closed() => (),
        }
    });
    Ok(ReceiverStream::new(receive))
}

/// Tells until it can't, or nobody listens.
async fn tell<B: Backend>(
    mut follower: Follower<B>,
    only: Option<NamespaceDigest>,
    send: &mpsc::Sender<Result<pb::EventsResponse, Status>>,
) {
    let life = follower.journal.life();
    loop {
        let message = match follower.next().await {
            Ok(told) => said(life, told, only).map(Ok),
            Err(error) => Some(Err(refusals::status(&error))),
        };
        let Some(message) = message else { continue };
        let ends = message.is_err();
        if send.send(message).await.is_err() || ends {
            return;
        }
    }
}

fn said(life: u64, told: Told, only: Option<NamespaceDigest>) -> Option<pb::EventsResponse> {
    let wanted = |namespace: &NamespaceEntry| only.is_none_or(|only| only == namespace.digest);
    let said = match told {
        Told::Reset => Said::Reset(Reset { life }),
        Told::Lost { from, next } => Said::Lost(Lost { life, from, next }),
        Told::Complete { next } => Said::Complete(Complete { life, next }),
        Told::Batch(batch) => {
            wanted(&batch.namespace).then_some(())?;
            let changes = changes(&batch.namespace, &batch.changes);
            let (sequence, at_unix_us) = (batch.sequence, batch.at.micros);
            Said::Changes(Changes { life, sequence, at_unix_us, ..changes })
        }
        Told::Part { next, namespace, changes: here } => {
            wanted(&namespace).then_some(())?;
            let changes = changes(&namespace, &here);
            Said::Changes(Changes { life, sequence: next, snapshot: true, ..changes })
        }
    };
    Some(pb::EventsResponse { said: Some(said) })
}

fn changes(namespace: &Arc<NamespaceEntry>, changes: &[Change]) -> Changes {
    let known = namespace.namespace.as_ref();
    Changes {
        namespace: namespace.digest.0.to_vec().into(),
        model: known.map(|known| known.model.clone()).unwrap_or_default(),
        block_tokens: known.map_or(0, |known| known.block_tokens),
        blocks: changes.iter().map(residency).collect(),
        ..Changes::default()
    }
}

fn residency(change: &Change) -> pb::Residency {
    pb::Residency {
        key: change.key.0.to_vec().into(),
        hash: change.tail.0,
        parent_hash: change.parent_tail.0,
        position: change.position,
        tiers: change.after.iter().map(|at| tier(at).into()).collect(),
    }
}

/// The keys of a chain: of a client's namespace, or of the one that is named.
pub(super) fn overlap_keys<B: Backend>(
    calls: &Calls<B>,
    message: &pb::OverlapRequest,
) -> Result<Vec<Key>, CallError> {
    let (digest, width) = match (message.token.is_empty(), message.namespace.is_empty()) {
        (false, true) => {
            let session = calls.attached(&message.token)?;
            (session.digest, session.namespace.hash_bytes)
        }
        (true, false) => (digest(&message.namespace)?, hash_bytes(message.hash_bytes)?),
        _ => {
            return Err(CallError::invalid(
                "say whose hashes these are: a client's, by its token, or a namespace's, by its \
                 digest; not both",
            ));
        }
    };
    let mut hashes = Hashes::new(digest, width, calls.config.limits.lookup_blocks_max);
    hashes.run(&message.hashes).map_err(CallError::invalid)
}

fn hash_bytes(asked: u32) -> Result<u32, CallError> {
    match asked {
        0 => Ok(HASH_BYTES_USUAL),
        1..=64 => Ok(asked),
        _ => Err(CallError::invalid(format!("hash_bytes is {asked}: a hash has 1 to 64 bytes"))),
    }
}

fn digest(bytes: &[u8]) -> Result<NamespaceDigest, CallError> {
    bytes.try_into().map(NamespaceDigest).map_err(|_| {
        CallError::invalid(format!(
            "namespace is {} bytes long: send the 32 bytes of its digest, as Sessions and Events \
             show it",
            bytes.len()
        ))
    })
}

pub(super) fn overlap(overlap: &Overlap) -> pb::OverlapResponse {
    let block_tokens = overlap.block_tokens.unwrap_or(0);
    let count = |at: Tier, blocks: u64| pb::TierBlocks {
        tier: tier(at).into(),
        blocks: u32::try_from(blocks).expect("a chain that was asked for is bounded"),
        tokens: blocks * u64::from(block_tokens),
    };
    let matched: u32 = overlap.runs.iter().map(|run| run.blocks).sum();
    let fastest = |at: Tier| {
        let runs = overlap.runs.iter().filter(|run| run.tier == at);
        count(at, runs.map(|run| u64::from(run.blocks)).sum())
    };
    pb::OverlapResponse {
        fastest: Tier::ALL.into_iter().map(fastest).collect(),
        held: Tier::ALL.into_iter().map(|at| count(at, overlap.held_blocks[at.index()])).collect(),
        matched_blocks: matched,
        matched_tokens: u64::from(matched) * u64::from(block_tokens),
        block_tokens,
    }
}
