//! Refusals, from the service's errors to gRPC status codes and metadata.

use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::manager::api::Refusal;
use crate::service::error::CallError;
use crate::wire::{REASON, RETRY_AFTER, Reason};

/// The status that tells the client what to do next.
pub(super) fn status(error: &CallError) -> Status {
    let (code, reason) = match error {
        CallError::Refused(Refusal::Busy { .. }) => (Code::ResourceExhausted, None),
        CallError::Refused(Refusal::Invalid(_)) => (Code::InvalidArgument, None),
        CallError::Refused(Refusal::NotFound(_)) => (Code::NotFound, None),
        CallError::Refused(Refusal::Precondition(_)) => (Code::FailedPrecondition, None),
        CallError::NameTaken(_) => (Code::AlreadyExists, Some(Reason::NameTaken)),
        CallError::VersionMismatch { .. } => {
            (Code::FailedPrecondition, Some(Reason::VersionMismatch))
        }
        CallError::NotAttached => (Code::FailedPrecondition, Some(Reason::NotAttached)),
        CallError::UnknownToken => (Code::Unauthenticated, Some(Reason::UnknownToken)),
        CallError::TimedOut(_) => (Code::DeadlineExceeded, None),
        CallError::Internal(what) => {
            tracing::error!("{what}");
            (Code::Internal, None)
        }
    };
    let mut metadata = MetadataMap::new();
    if let Some(reason) = reason {
        metadata.insert(REASON, MetadataValue::from_static(reason.word()));
    }
    if let CallError::Refused(Refusal::Busy { retry_after, .. }) = error {
        metadata.insert(RETRY_AFTER, retry_after_ms(*retry_after));
    }
    Status::with_metadata(code, error.to_string(), metadata)
}

fn retry_after_ms(retry_after: Duration) -> MetadataValue<tonic::metadata::Ascii> {
    MetadataValue::from(u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_code_reason_and_text() {
        let busy = Refusal::Busy { what: "full", retry_after: Duration::from_millis(70) };
        let cases: [(CallError, Code, Option<&str>, &str); 9] = [
            (busy.into(), Code::ResourceExhausted, None, "try again in 70 ms"),
            (Refusal::Invalid("a".into()).into(), Code::InvalidArgument, None, "a"),
            (Refusal::NotFound("b".into()).into(), Code::NotFound, None, "b"),
            (Refusal::Precondition("c".into()).into(), Code::FailedPrecondition, None, "c"),
            (
                CallError::NameTaken("n".into()),
                Code::AlreadyExists,
                Some("name_taken"),
                "choose another client_id",
            ),
            (
                CallError::VersionMismatch { client: 7 },
                Code::FailedPrecondition,
                Some("version_mismatch"),
                "version 7, this daemon version 2",
            ),
            (CallError::NotAttached, Code::FailedPrecondition, Some("not_attached"), "ATTACH"),
            (CallError::UnknownToken, Code::Unauthenticated, Some("unknown_token"), "Hello again"),
            (
                CallError::TimedOut(Duration::from_millis(5)),
                Code::DeadlineExceeded,
                None,
                "within 5 ms",
            ),
        ];
        for (error, code, reason, text) in cases {
            let status = status(&error);
            let said = status.metadata().get(REASON).map(|word| word.to_str().unwrap());
            assert_eq!((status.code(), said), (code, reason));
            assert!(status.message().contains(text), "{}", status.message());
            let retry = status.metadata().get(RETRY_AFTER).map(|ms| ms.to_str().unwrap());
            assert_eq!(retry, (code == Code::ResourceExhausted).then_some("70"));
        }
    }
}
