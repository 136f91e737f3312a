//! Changes of residency and overlaps: protobuf to the client's types and back.

use bytes::Bytes;
use tonic::{Request as Call, Status, Streaming};

use super::hints::strange;
use super::messages::tier;
use super::{Remote, errors};
use crate::client::{
    ClientError, EventsWanted, Overlap, Residency, ResidencyChanges, ResidencyEvent,
};
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::NamespaceDigest;
use crate::domain::tier::{Tier, TierSet};
use crate::domain::units::Time;
use crate::wire::pb;
use crate::wire::pb::events_response::{Changes, Said};

/// A stream that the daemon tells on.
pub(in crate::client) struct EventSource {
    stream: Streaming<pb::EventsResponse>,
    remote: Remote,
}

impl EventSource {
    pub(in crate::client) async fn next(&mut self) -> Option<Result<ResidencyEvent, ClientError>> {
        let message = self.stream.message().await.map_err(|status| self.error(&status));
        message.transpose().map(|message| event(message?))
    }

    fn error(&self, status: &Status) -> ClientError {
        errors::error(status, &self.remote.socket)
    }
}

impl Remote {
    /// Opens a stream, for as long as the caller reads it.
    pub(in crate::client) async fn events(
        &self,
        wanted: EventsWanted,
    ) -> Result<EventSource, ClientError> {
        let request = Call::new(pb::EventsRequest {
            from: wanted.from.map(|(_, from)| from),
            life: wanted.from.map_or(0, |(life, _)| life),
            snapshot: wanted.snapshot,
            namespace: wanted.namespace.map_or(Bytes::new(), |digest| digest.0.to_vec().into()),
        });
        let answer = self.stub.clone().events(request).await;
        Ok(EventSource { stream: self.answered(answer)?, remote: self.clone() })
    }

    /// Of this client's own namespace, or of the one that is named.
    pub(in crate::client) async fn overlap(
        &self,
        whose: Option<(NamespaceDigest, u32)>,
        hashes: Bytes,
    ) -> Result<Overlap, ClientError> {
        let message = match whose {
            None => {
                let token = self.token.clone();
                pb::OverlapRequest { token, hashes, ..pb::OverlapRequest::default() }
            }
            Some((digest, hash_bytes)) => pb::OverlapRequest {
                namespace: digest.0.to_vec().into(),
                hash_bytes,
                hashes,
                token: Bytes::new(),
            },
        };
        let answer = self.stub.clone().overlap(self.bounded(message)).await;
        overlap(&self.answered(answer)?)
    }
}

fn event(message: pb::EventsResponse) -> Result<ResidencyEvent, ClientError> {
    Ok(match message.said.ok_or_else(|| strange("an event of no known kind"))? {
        Said::Reset(reset) => ResidencyEvent::Reset { life: reset.life },
        Said::Lost(lost) => ResidencyEvent::Lost { from: lost.from, next: lost.next },
        Said::Complete(complete) => ResidencyEvent::Complete { next: complete.next },
        Said::Changes(message) => ResidencyEvent::Changes(changes(message)?),
    })
}

fn changes(message: Changes) -> Result<ResidencyChanges, ClientError> {
    let digest = message.namespace.as_ref().try_into();
    Ok(ResidencyChanges {
        life: message.life,
        sequence: message.sequence,
        snapshot: message.snapshot,
        at: Time { micros: message.at_unix_us },
        namespace: NamespaceDigest(digest.map_err(|_| strange("a namespace of another length"))?),
        model: message.model,
        block_tokens: message.block_tokens,
        blocks: message.blocks.iter().map(residency).collect::<Result<_, _>>()?,
    })
}

fn residency(message: &pb::Residency) -> Result<Residency, ClientError> {
    let key = message.key.as_ref().try_into();
    Ok(Residency {
        key: Key(key.map_err(|_| strange("a key of another length"))?),
        tail: HashTail(message.hash),
        parent_tail: HashTail(message.parent_hash),
        position: message.position,
        tiers: message.tiers().map(tier).collect::<Result<TierSet, _>>()?,
    })
}

fn overlap(message: &pb::OverlapResponse) -> Result<Overlap, ClientError> {
    let counts = |counts: &[pb::TierBlocks]| {
        let mut blocks = [0; Tier::COUNT];
        for count in counts {
            blocks[tier(count.tier())?.index()] = count.blocks;
        }
        Ok::<_, ClientError>(blocks)
    };
    Ok(Overlap {
        matched_blocks: message.matched_blocks,
        fastest_blocks: counts(&message.fastest)?,
        held_blocks: counts(&message.held)?,
        block_tokens: message.block_tokens,
    })
}
