//! Protobuf to domain and back: the only place in the service that knows both.
//!
//! Checks every request completely before the manager hears of it, and makes the blocks' keys here,
//! in the call's own task. Decides nothing else.

mod answers;
mod completions;
mod deadline;
mod events;
mod hbm;
mod hints;
mod movement;
mod refusals;
mod requests;
mod retention;
mod router;
mod shown;

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::manager::api::{Command, LeaseId, OpId, PoolId, Refusal, RequestId};
use crate::wire::pb;
use crate::wire::pb::terrace_server::Terrace;

use super::backend::Backend;
use super::calls::Calls;
use super::error::CallError;

pub(super) use router::router;

use completions::CompletionStream;
use events::EventStream;

/// The generated service, over [`Calls`].
struct Edge<B: Backend>(Arc<Calls<B>>);

impl<B: Backend> Edge<B> {
    /// The calls, the message, and how long the answer may take.
    fn open<T>(&self, request: Request<T>) -> (&Calls<B>, T, Duration) {
        self.open_for(self.0.config.times.call_timeout, request)
    }

    /// The same of a call that the service allows this long.
    fn open_for<T>(&self, timeout: Duration, request: Request<T>) -> (&Calls<B>, T, Duration) {
        let bound = deadline::call_bound(request.metadata(), timeout);
        (&self.0, request.into_inner(), bound)
    }
}

/// Ends a call, well or not.
fn close<T>(answer: Result<T, CallError>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(|error| refusals::status(&error))
}

#[tonic::async_trait]
impl<B: Backend> Terrace for Edge<B> {
    type CompletionsStream = CompletionStream;
    type EventsStream = EventStream;

    async fn hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let welcome = calls.hello(requests::hello(message)?).await?;
                    Ok(answers::hello(&welcome, &calls.config))
                })
                .await,
        )
    }

    async fn register_pool(
        &self,
        request: Request<pb::RegisterPoolRequest>,
    ) -> Result<Response<pb::RegisterPoolResponse>, Status> {
        let (calls, message, bound) = self.open_for(self.0.config.times.pool_timeout, request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let claim = requests::claimed_pool(&session, &message).inspect_err(|_| {
                        if message.cuda.is_none() {
                            session.discard_descriptor(message.tag);
                        }
                    })?;
                    let cuda = requests::cuda_claim(&session, &message)?;
                    let pool = calls.register_pool(session, message.tag, cuda, claim).await?;
                    Ok(pb::RegisterPoolResponse { pool_id: pool.0 })
                })
                .await,
        )
    }

    async fn unregister_pool(
        &self,
        request: Request<pb::UnregisterPoolRequest>,
    ) -> Result<Response<pb::UnregisterPoolResponse>, Status> {
        let (calls, message, bound) = self.open_for(self.0.config.times.pool_timeout, request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let pool = PoolId(message.pool_id);
                    session.pool_slots(pool)?;
                    let reply = calls.ask(session.client, Command::UnregisterPool { pool }).await;
                    // Not found: an earlier call was carried out, and not heard of.
                    if matches!(reply, Ok(_) | Err(CallError::Refused(Refusal::NotFound(_)))) {
                        session.forget_pool(pool);
                    }
                    let reply = reply?;
                    answers::done("UnregisterPool", &reply, pb::UnregisterPoolResponse {})
                })
                .await,
        )
    }

    async fn lookup(
        &self,
        request: Request<pb::LookupRequest>,
    ) -> Result<Response<pb::LookupResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = requests::lookup(&session, &message, &calls.config.limits)?;
                    answers::lookup(&calls.ask(session.client, command).await?)
                })
                .await,
        )
    }

    async fn store(
        &self,
        request: Request<pb::StoreRequest>,
    ) -> Result<Response<pb::StoreResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = requests::store(&session, message, &calls.config.limits)?;
                    let clipped = requests::clipped_directives(&command);
                    answers::store(&calls.ask(session.client, command).await?, clipped)
                })
                .await,
        )
    }

    async fn load(
        &self,
        request: Request<pb::LoadRequest>,
    ) -> Result<Response<pb::LoadResponse>, Status> {
        let timeout = deadline::load_timeout(request.metadata(), &self.0.config.times);
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = requests::load(&session, message, timeout, &calls.config.limits)?;
                    answers::load(&calls.ask(session.client, command).await?)
                })
                .await,
        )
    }

    async fn hbm_memory(
        &self,
        request: Request<pb::HbmMemoryRequest>,
    ) -> Result<Response<pb::HbmMemoryResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    calls.attached(&message.token)?;
                    hbm::memory(calls)
                })
                .await,
        )
    }

    async fn borrow(
        &self,
        request: Request<pb::BorrowRequest>,
    ) -> Result<Response<pb::BorrowResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = hbm::borrow(&session, &message, &calls.config.limits)?;
                    hbm::borrowed(&session, &calls.ask(session.client, command).await?)
                })
                .await,
        )
    }

    async fn give_back(
        &self,
        request: Request<pb::GiveBackRequest>,
    ) -> Result<Response<pb::GiveBackResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = Command::GiveBack { request: RequestId(message.request_id) };
                    hbm::given_back(&calls.ask(session.client, command).await?)
                })
                .await,
        )
    }

    async fn release_lease(
        &self,
        request: Request<pb::ReleaseLeaseRequest>,
    ) -> Result<Response<pb::ReleaseLeaseResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = Command::ReleaseLease { lease: LeaseId(message.lease_id) };
                    let reply = calls.ask(session.client, command).await?;
                    answers::done("ReleaseLease", &reply, pb::ReleaseLeaseResponse {})
                })
                .await,
        )
    }

    async fn end_request(
        &self,
        request: Request<pb::EndRequestRequest>,
    ) -> Result<Response<pb::EndRequestResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = requests::end_request(&message)?;
                    answers::end_request(&calls.ask(session.client, command).await?)
                })
                .await,
        )
    }

    async fn completions(
        &self,
        request: Request<pb::CompletionsRequest>,
    ) -> Result<Response<Self::CompletionsStream>, Status> {
        let (calls, message, _) = self.open(request);
        let session = calls.attached(&message.token).map_err(|error| refusals::status(&error))?;
        close(CompletionStream::open(session))
    }

    async fn hint(
        &self,
        request: Request<pb::HintRequest>,
    ) -> Result<Response<pb::HintResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let limits = &calls.config.limits;
                    let batch = hints::batch(&session, message.actions, limits)?;
                    let answered = calls.hint(&session, batch).await?;
                    Ok(pb::HintResponse { outcomes: hints::outcomes(answered) })
                })
                .await,
        )
    }

    async fn hint_envelope(
        &self,
        request: Request<pb::HintEnvelopeRequest>,
    ) -> Result<Response<pb::HintEnvelopeResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let limits = &calls.config.limits;
                    let (message_id, batch) = hints::envelope(&session, &message.json, limits)?;
                    let outcomes = hints::outcomes(calls.hint(&session, batch).await?);
                    Ok(pb::HintEnvelopeResponse { message_id, outcomes })
                })
                .await,
        )
    }

    async fn operation(
        &self,
        request: Request<pb::OperationRequest>,
    ) -> Result<Response<pb::OperationResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let session = calls.attached(&message.token)?;
                    let command = Command::Lift { op: OpId(message.operation_id) };
                    movement::operation(&calls.ask(session.client, command).await?)
                })
                .await,
        )
    }

    async fn events(
        &self,
        request: Request<pb::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (calls, message, _) = self.open(request);
        close(events::open(calls, &message))
    }

    async fn overlap(
        &self,
        request: Request<pb::OverlapRequest>,
    ) -> Result<Response<pb::OverlapResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let keys = events::overlap_keys(calls, &message)?;
                    Ok(events::overlap(&calls.overlap(keys).await?))
                })
                .await,
        )
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let (calls, pb::StatusRequest {}, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let status = calls.status().await?;
                    Ok(answers::status(&status, &calls.config, calls.uptime()))
                })
                .await,
        )
    }

    async fn sessions(
        &self,
        request: Request<pb::SessionsRequest>,
    ) -> Result<Response<pb::SessionsResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let max = shown::sessions_max(message.sessions_max)?;
                    let (sessions, total) = calls.session_list(max).await?;
                    Ok(pb::SessionsResponse {
                        sessions: sessions.iter().map(shown::session).collect(),
                        sessions_total: total as u64,
                    })
                })
                .await,
        )
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectRequest>,
    ) -> Result<Response<pb::InspectResponse>, Status> {
        let (calls, message, bound) = self.open(request);
        close(
            calls
                .bounded(bound, async {
                    let block = calls.inspect(shown::key(&message.key)?).await?;
                    Ok(shown::block(&block))
                })
                .await,
        )
    }
}
