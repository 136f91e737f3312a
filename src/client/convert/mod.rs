//! The daemon's calls in the client's own words: the only place in the client that knows protobuf.
//!
//! Sends what it is given and says what came back. Checks nothing that the daemon checks, retries
//! nothing.

mod errors;
mod events;
mod hbm;
mod hints;
mod messages;
mod movement;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request as Call, Response, Status, Streaming};

use crate::domain::block::Key;
use crate::domain::session::SessionName;
use crate::tiers::hbm::PagedLayout;
use crate::wire::pb::terrace_client::TerraceClient;
use crate::wire::{POOL_TIMEOUT, pb};

use super::{
    Action, ClientConfig, ClientError, Completion, DaemonBlock, DaemonSessions, DaemonStatus,
    EndedRequest, LeaseId, Lookup, LookupOptions, OpId, Operation, Outcome, PoolId, Request,
    RequestId, Usage, Welcome,
};

pub(super) use events::EventSource;

/// The longest deadline sent; the transport panics on those its header cannot hold.
const DEADLINE_MAX: Duration = Duration::from_hours(24);

/// So long the daemon asks the shared store at most (docs/protocol.md).
const ASK_SHARED_MAX: Duration = Duration::from_secs(8);

/// A daemon at the other end of a channel.
#[derive(Clone)]
pub(super) struct Remote {
    stub: TerraceClient<Channel>,
    socket: PathBuf,
    /// Sent with every call once Hello gave it.
    token: Bytes,
    call_timeout: Duration,
}

/// What a Store answers: the operation, blocks taken, present and dropped, and what was clipped.
pub(super) struct StoreAnswer {
    pub op: OpId,
    pub taken: u32,
    pub present: u32,
    pub dropped: u32,
    pub clipped_blocks: u32,
    pub clipped_directives: u32,
}

/// Blocks and the slots they are to be copied from or to.
pub(super) struct Blocks<'a> {
    pub hashes: Bytes,
    pub pool: PoolId,
    pub slots: &'a [u32],
}

impl Remote {
    pub(super) fn new(channel: Channel, socket: &Path, call_timeout: Duration) -> Self {
        let stub = TerraceClient::new(channel);
        Self { stub, socket: socket.to_owned(), token: Bytes::new(), call_timeout }
    }

    /// Says Hello; the calls that follow are the session's.
    pub(super) async fn hello(&mut self, config: &ClientConfig) -> Result<Welcome, ClientError> {
        let request = self.bounded(messages::hello(config));
        let answer = self.stub.hello(request).await;
        let answer = self.answered(answer)?;
        self.token = answer.token.clone();
        messages::welcome(answer)
    }

    pub(super) fn token(&self) -> &[u8] {
        &self.token
    }

    /// Opens the stream of completions.
    pub(super) async fn completions(&self) -> Result<CompletionSource, ClientError> {
        // Without a deadline: it lasts as long as the session.
        let request = pb::CompletionsRequest { token: self.token.clone() };
        let answer = self.stub.clone().completions(request).await;
        Ok(CompletionSource(self.answered(answer)?))
    }

    pub(super) async fn register_pool(
        &self,
        tag: u64,
        shard: u32,
        layout: &PagedLayout,
    ) -> Result<PoolId, ClientError> {
        let message = pb::RegisterPoolRequest {
            token: self.token.clone(),
            tag,
            shard,
            layout: Some(messages::layout(layout)),
            cuda: None,
        };
        // It takes as long as the pool is large.
        let call = bounded(message, self.call_timeout.max(POOL_TIMEOUT));
        let answer = self.stub.clone().register_pool(call).await;
        Ok(PoolId(self.answered(answer)?.pool_id))
    }

    pub(super) async fn unregister_pool(&self, pool: PoolId) -> Result<(), ClientError> {
        let message = pb::UnregisterPoolRequest { token: self.token.clone(), pool_id: pool.0 };
        // Copies under way are waited for, and the driver lets go of all of it.
        let call = bounded(message, self.call_timeout.max(POOL_TIMEOUT));
        let answer = self.stub.clone().unregister_pool(call).await;
        self.answered(answer).map(drop)
    }

    pub(super) async fn lookup(
        &self,
        request: Request,
        hashes: Bytes,
        options: LookupOptions,
    ) -> Result<Lookup, ClientError> {
        let message = pb::LookupRequest {
            token: self.token.clone(),
            request_id: request.id.0,
            hashes,
            session: name(request.session),
            ask_shared_ms: u32::try_from(options.ask_shared.as_millis()).unwrap_or(u32::MAX),
            queued: options.queued,
        };
        // The daemon asks so long before it answers.
        let asks = options.ask_shared.min(ASK_SHARED_MAX);
        let call = bounded(message, self.call_timeout.saturating_add(asks));
        let answer = self.stub.clone().lookup(call).await;
        messages::lookup(&self.answered(answer)?)
    }

    pub(super) async fn store(
        &self,
        request: Request,
        parent: Option<&[u8]>,
        blocks: Blocks<'_>,
    ) -> Result<StoreAnswer, ClientError> {
        let message = pb::StoreRequest {
            token: self.token.clone(),
            request_id: request.id.0,
            session: name(request.session),
            directives: request.directives.iter().map(hints::directive).collect(),
            durable: request.durable,
            parent_hash: parent.map(Bytes::copy_from_slice),
            hashes: blocks.hashes,
            pool_id: blocks.pool.0,
            slots: blocks.slots.to_vec(),
            token_ids: Bytes::new(),
        };
        let answer = self.stub.clone().store(self.bounded(message)).await;
        let answer = self.answered(answer)?;
        Ok(StoreAnswer {
            op: OpId(answer.op_id),
            taken: answer.taken_blocks,
            present: answer.present_blocks,
            dropped: answer.dropped_blocks,
            clipped_blocks: answer.clipped_blocks,
            clipped_directives: answer.clipped_directives,
        })
    }

    pub(super) async fn load(
        &self,
        id: RequestId,
        blocks: Blocks<'_>,
        load_timeout: Duration,
    ) -> Result<OpId, ClientError> {
        let message = pb::LoadRequest {
            token: self.token.clone(),
            request_id: id.0,
            hashes: blocks.hashes,
            pool_id: blocks.pool.0,
            slots: blocks.slots.to_vec(),
        };
        // The load's own bound travels as the call's deadline; the answer, that it is planned, comes
        // much earlier.
        let mut stub = self.stub.clone();
        let planned = stub.load(bounded(message, load_timeout));
        let patience = self.call_timeout.min(load_timeout);
        let answer = timeout(patience, planned)
            .await
            .map_err(|_| ClientError::timed_out("the answer to a load", patience))?;
        Ok(OpId(self.answered(answer)?.op_id))
    }

    pub(super) async fn release(&self, lease: LeaseId) -> Result<(), ClientError> {
        let message = pb::ReleaseLeaseRequest { token: self.token.clone(), lease_id: lease.0 };
        let answer = self.stub.clone().release_lease(self.bounded(message)).await;
        self.answered(answer).map(drop)
    }

    pub(super) async fn end_request(&self, ended: EndedRequest) -> Result<Usage, ClientError> {
        let (prefill_tokens, prefill_us) = movement::prefill(ended.prefill);
        let message = pb::EndRequestRequest {
            token: self.token.clone(),
            request_id: ended.id.0,
            stop: hints::stop(ended.stop).into(),
            output_tokens: ended.output_tokens,
            prefill_tokens,
            prefill_us,
        };
        let answer = self.stub.clone().end_request(self.bounded(message)).await;
        hints::usage(self.answered(answer)?)
    }

    pub(super) async fn hint(&self, actions: Vec<Action>) -> Result<Vec<Outcome>, ClientError> {
        let token = self.token.clone();
        let message = pb::HintRequest { token, actions: hints::actions(actions) };
        let answer = self.stub.clone().hint(self.bounded(message)).await;
        hints::outcomes(self.answered(answer)?.outcomes)
    }

    pub(super) async fn hint_envelope(&self, json: Bytes) -> Result<Vec<Outcome>, ClientError> {
        let message = pb::HintEnvelopeRequest { token: self.token.clone(), json };
        let answer = self.stub.clone().hint_envelope(self.bounded(message)).await;
        hints::outcomes(self.answered(answer)?.outcomes)
    }

    pub(super) async fn operation(&self, operation: OpId) -> Result<Operation, ClientError> {
        let token = self.token.clone();
        let message = pb::OperationRequest { token, operation_id: operation.0 };
        let answer = self.stub.clone().operation(self.bounded(message)).await;
        movement::operation(&self.answered(answer)?)
    }

    pub(super) async fn sessions(&self, sessions_max: u32) -> Result<DaemonSessions, ClientError> {
        let request = self.bounded(pb::SessionsRequest { sessions_max });
        let answer = self.stub.clone().sessions(request).await;
        hints::sessions(self.answered(answer)?)
    }

    pub(super) async fn inspect(&self, key: Key) -> Result<DaemonBlock, ClientError> {
        let request = self.bounded(pb::InspectRequest { key: key.0.to_vec().into() });
        let answer = self.stub.clone().inspect(request).await;
        hints::block(self.answered(answer)?)
    }

    pub(super) async fn status(&self) -> Result<DaemonStatus, ClientError> {
        let answer = self.stub.clone().status(self.bounded(pb::StatusRequest {})).await;
        messages::status(self.answered(answer)?)
    }

    fn bounded<T>(&self, message: T) -> Call<T> {
        bounded(message, self.call_timeout)
    }

    fn answered<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, ClientError> {
        answer.map(Response::into_inner).map_err(|status| errors::error(&status, &self.socket))
    }
}

fn bounded<T>(message: T, timeout: Duration) -> Call<T> {
    let mut request = Call::new(message);
    request.set_timeout(timeout.min(DEADLINE_MAX));
    request
}

fn name(session: Option<SessionName>) -> String {
    session.map(|session| session.to_string()).unwrap_or_default()
}

/// The stream of a session's completions.
pub(super) struct CompletionSource(Streaming<pb::CompletionsResponse>);

impl CompletionSource {
    /// The next ones; nothing when there will be no more.
    pub(super) async fn next(&mut self) -> Option<Vec<Completion>> {
        let batch = self.0.message().await.ok()??.completions;
        let understood = batch.into_iter().filter_map(|completion| {
            messages::completion(completion)
                .inspect_err(|error| tracing::warn!("a completion was not understood: {error}"))
                .ok()
        });
        Some(understood.collect())
    }
}
