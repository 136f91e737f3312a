//! The stream of a client's completions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_stream::Stream;
use tonic::Status;

use crate::manager::api::Completion;
use crate::service::error::CallError;
use crate::service::session::Session;
use crate::wire::pb;

use super::answers;

/// Completions of one message.
const BATCH_MAX: usize = 256;

/// Sends completions as they happen, as many a message as are ready. Holds none back: what is not
/// sent stays in the backend's bounded queue. Ends with the session, and the session with it when
/// the manager gives the client up.
pub struct CompletionStream {
    session: Arc<Session>,
    completions: OwnedMutexGuard<mpsc::Receiver<Completion>>,
    session_ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    batch: Vec<Completion>,
}

impl CompletionStream {
    /// Opens the session's only stream.
    pub(super) fn open(session: Arc<Session>) -> Result<Self, CallError> {
        Ok(Self {
            completions: session.take_completions()?,
            session_ended: Box::pin(session.wait_ended()),
            batch: Vec::new(),
            session,
        })
    }
}

impl Stream for CompletionStream {
    type Item = Result<pb::CompletionsResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { session, completions, session_ended, batch } = self.get_mut();
        if let Poll::Ready(count) = completions.poll_recv_many(context, batch, BATCH_MAX) {
            if count == 0 {
                session.end();
                return Poll::Ready(None);
            }
            let completions = batch.drain(..).map(answers::completion).collect();
            return Poll::Ready(Some(Ok(pb::CompletionsResponse { completions })));
        }
        session_ended.as_mut().poll(context).map(|()| None)
    }
}
