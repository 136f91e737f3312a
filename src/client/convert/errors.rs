//! Status codes to errors.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tonic::{Code, Status, TimeoutExpired};

use crate::client::ClientError;
use crate::wire::{REASON, RETRY_AFTER, Reason};

/// When the daemon says busy but not until when.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_millis(100);

/// The error that says what to do about a status.
pub(super) fn error(status: &Status, socket: &Path) -> ClientError {
    let what = status.message().to_owned();
    let disconnected =
        || ClientError::NotConnected { socket: socket.to_owned(), what: what.clone() };
    if expired(status) {
        return ClientError::TimedOut(format!(
            "the daemon at {} did not answer within the call's time: unless that was short, it is \
             stopped, overloaded or stuck",
            socket.display()
        ));
    }
    match (status.code(), reason(status)) {
        (_, Some(Reason::VersionMismatch)) => ClientError::VersionMismatch(what),
        (_, Some(Reason::NameTaken)) => ClientError::NameTaken(what),
        (_, Some(Reason::NotAttached | Reason::UnknownToken)) => ClientError::SessionLost(what),
        (Code::ResourceExhausted, None) => {
            ClientError::Busy { what, retry_after: retry_after(status) }
        }
        (Code::InvalidArgument | Code::OutOfRange, None) => ClientError::Invalid(what),
        (Code::NotFound, None) => ClientError::NotFound(what),
        (Code::FailedPrecondition, None) => ClientError::Precondition(what),
        (Code::DeadlineExceeded, None) => ClientError::TimedOut(what),
        (Code::Cancelled, None) if !broke(status) => ClientError::TimedOut(what),
        (Code::Unavailable, None) => disconnected(),
        _ if broke(status) => disconnected(),
        _ => ClientError::Daemon(what),
    }
}

/// Whether the transport broke, rather than the daemon answering.
fn broke(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether the time ran out on this side.
fn expired(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(one) = cause {
        if one.is::<TimeoutExpired>() {
            return true;
        }
        cause = one.source();
    }
    false
}

fn reason(status: &Status) -> Option<Reason> {
    Reason::from_word(status.metadata().get(REASON)?.to_str().ok()?)
}

fn retry_after(status: &Status) -> Duration {
    let millis = status.metadata().get(RETRY_AFTER).and_then(|text| text.to_str().ok());
    let millis = millis.and_then(|text| text.parse().ok());
    millis.map_or(RETRY_AFTER_DEFAULT, Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The transport's own error around another, as a channel reports it.
    #[derive(Debug, thiserror::Error)]
    #[error("transport")]
    struct Transport<E: Error + 'static>(#[source] E);

    fn kind(status: &Status) -> String {
        let shown = format!("{:?}", error(status, Path::new("/run/t.sock")));
        shown.chars().take_while(char::is_ascii_alphabetic).collect()
    }

    fn from_transport(cause: impl Error + Send + Sync + 'static) -> Status {
        Status::from_error(Box::new(Transport(cause)))
    }

    #[test]
    fn each_status_says_what_to_do_next() {
        let cases = [
            (Status::resource_exhausted("x"), "Busy"),
            (Status::invalid_argument("x"), "Invalid"),
            (Status::out_of_range("x"), "Invalid"),
            (Status::not_found("x"), "NotFound"),
            (Status::failed_precondition("x"), "Precondition"),
            (Status::deadline_exceeded("x"), "TimedOut"),
            (Status::cancelled("x"), "TimedOut"),
            (Status::unavailable("x"), "NotConnected"),
            (Status::internal("x"), "Daemon"),
            (from_transport(TimeoutExpired(())), "TimedOut"),
            (from_transport(std::io::Error::from(std::io::ErrorKind::BrokenPipe)), "NotConnected"),
        ];
        for (status, expected) in cases {
            assert_eq!(kind(&status), expected, "{status:?}");
        }
    }

    #[test]
    fn reasons_go_before_codes() {
        for (reason, expected) in [
            (Reason::VersionMismatch, "VersionMismatch"),
            (Reason::NameTaken, "NameTaken"),
            (Reason::NotAttached, "SessionLost"),
            (Reason::UnknownToken, "SessionLost"),
        ] {
            let mut status = Status::failed_precondition("x");
            status.metadata_mut().insert(REASON, reason.word().parse().unwrap());
            assert_eq!(kind(&status), expected);
        }
    }

    #[test]
    fn the_time_to_try_again_is_the_daemons() {
        let mut status = Status::resource_exhausted("x");
        let wait = |status: &Status| error(status, Path::new("")).retry_after();
        assert_eq!(wait(&status), Some(RETRY_AFTER_DEFAULT));
        status.metadata_mut().insert(RETRY_AFTER, "7".parse().unwrap());
        assert_eq!(wait(&status), Some(Duration::from_millis(7)));
    }
}
