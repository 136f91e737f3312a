//! The stream of a client's completions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_stream::Stream;
use tonic::Status;

use crate::service::error::CallError;
use crate::service::session::Session;
use crate::wire::pb;

use super::answers;

/// Completions of one message.
const BATCH_MAX: usize = 256;

/// Blocks named in the completions of one message, after which no other is added. The last one may
/// go over it by all of its blocks; at the most bytes that a number takes that is still less than half of
/// the 4 MiB that gRPC clients take when they are not told otherwise.
const BATCH_BLOCKS_MAX: usize = 256 << 10;

/// Sends completions as they happen, as many a message as are ready. Holds none back: what is not
/// sent stays in the backend's bounded queue. Ends with the session, and the session with it when
/// the manager gives the client up.
pub struct CompletionStream {
    session: Arc<Session>,
    session_ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl CompletionStream {
    /// Opens the session's only stream.
    pub(super) fn open(session: Arc<Session>) -> Result<Self, CallError> {
        session.begin_reading()?;
        Ok(Self { session_ended: Box::pin(session.wait_ended()), session })
    }
}

impl Drop for CompletionStream {
    fn drop(&mut self) {
        self.session.end_reading();
    }
}

impl Stream for CompletionStream {
    type Item = Result<pb::CompletionsResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { session, session_ended } = self.get_mut();
        let mut batch = Vec::new();
        let mut named_blocks = 0;
        while batch.len() < BATCH_MAX && named_blocks < BATCH_BLOCKS_MAX {
            match session.poll_completion(context) {
                Poll::Ready(Some(completion)) => {
                    named_blocks += completion.failed.len() + completion.not_durable.len();
                    batch.push(answers::completion(completion));
                }
                Poll::Ready(None) if batch.is_empty() => {
                    session.end();
                    return Poll::Ready(None);
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if !batch.is_empty() {
            return Poll::Ready(Some(Ok(pb::CompletionsResponse { completions: batch })));
        }
        session_ended.as_mut().poll(context).map(|()| None)
    }
}
