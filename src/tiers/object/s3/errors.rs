//! Names the SDK's errors by what the caller does next.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStreamError;

use super::super::refused::refused;
use super::{Coded, Failure};
use crate::tiers::store::StoreError;

/// Answers that will not get better by themselves, and what the operator does about them.
/// Source: Amazon S3 API reference, "List of error codes".
const LOST: [(&str, &str); 11] = [
    ("NoSuchBucket", "make the bucket, or mend object.url"),
    ("InvalidBucketName", "mend object.url"),
    ("PermanentRedirect", ELSEWHERE),
    ("InvalidAccessKeyId", RENEW),
    ("SignatureDoesNotMatch", "check the secret key"),
    ("ExpiredToken", RENEW),
    ("ExpiredTokenException", RENEW),
    ("InvalidToken", RENEW),
    ("TokenRefreshRequired", RENEW),
    ("RequestTimeTooSkewed", "set this machine's clock"),
    ("AllAccessDisabled", "ask the bucket's owner"),
];
const ELSEWHERE: &str = "the bucket is in another region: mend object.region";
const RENEW: &str = "renew the credentials: they are looked up again by themselves";

/// Answers that are about one object only, and what the operator does about them.
/// Source: Amazon S3 API reference, "List of error codes"; AWS KMS API reference, "Decrypt".
const REFUSED: [(&str, &str); 4] = [
    (
        "InvalidObjectState",
        "it lies in an archive class: restore it, and have no rule move objects of this prefix there",
    ),
    ("KMS.DisabledException", ENABLE),
    ("KMS.KMSInvalidStateException", ENABLE),
    ("KMS.NotFoundException", "the key is gone that it was encrypted with: delete the object"),
];
const ENABLE: &str = "enable the key that it was encrypted with";

const NOBODY_LISTENS: &str = "; start the server, or mend object.endpoint (where that is not set, AWS_ENDPOINT_URL_S3, \
     AWS_ENDPOINT_URL or the profile may name it)";

const GRANT: &str = "; grant s3:GetObject, s3:PutObject and s3:DeleteObject on the objects and s3:ListBucket \
     on the bucket";

/// Words of errors of connections that can't come to be before somebody mends something, and what.
const UNTRUSTED: [(&str, &str); 7] = [
    ("UnknownIssuer", CERTIFICATE_AUTHORITY),
    ("BadSignature", CERTIFICATE_AUTHORITY),
    ("not valid for name", "the server's certificate is for another name: mend object.endpoint"),
    ("certificate expired", CERTIFICATE_TIME),
    ("certificate not valid yet", CERTIFICATE_TIME),
    ("InvalidContentType", "the server speaks no TLS: write http:// in object.endpoint"),
    ("invalid HTTP version", "the server may speak TLS: write https:// in object.endpoint"),
];
const CERTIFICATE_AUTHORITY: &str = "nobody here knows the authority that signed the server's certificate: \
     have SSL_CERT_FILE name a PEM file with the authority's";
const CERTIFICATE_TIME: &str =
    "the server's certificate is not of this day: renew it, or set this machine's clock";

/// Answers that ask for patience.
const BUSY: [&str; 6] = [
    "SlowDown",
    "ServiceUnavailable",
    "TooManyRequests",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "Throttling",
];

pub fn failed<E: Coded>(verb: &str, name: &str, error: &Failure<E>) -> StoreError {
    let status = status(error);
    let what = || format!("can't {verb} the object {name}");
    match (error.code().unwrap_or_default(), status) {
        (code, _) if lost(code).is_some() => {
            let remedy = lost(code).unwrap_or_default();
            StoreError::TierLost(format!("{}: {code} ({remedy})", what()))
        }
        // A write says nothing of one object: its key is the bucket's.
        (code, _) if refused_for(code).is_some() && matches!(verb, "look at" | "read") => {
            let remedy = refused_for(code).unwrap_or_default();
            refused(what(), format!("{code} ({remedy})"), true)
        }
        (code, _) if BUSY.contains(&code) => StoreError::Busy,
        (_, Some(429 | 503)) => StoreError::Busy,
        _ if untrusted(error).is_some() => {
            let why = untrusted(error).unwrap_or_default();
            StoreError::TierLost(format!("{}: {why}", what()))
        }
        // Its header page lies outside of it.
        (_, Some(416)) => StoreError::Corrupt(format!("{name} is too short for a frame")),
        (_, Some(301)) => StoreError::TierLost(format!("{}: HTTP 301 ({ELSEWHERE})", what())),
        // There is nothing that a new object could lack.
        (_, Some(404)) if verb == "write" => {
            StoreError::TierLost(format!("{}: HTTP 404 ({})", what(), super::super::NO_STORE))
        }
        (_, Some(404)) => StoreError::Missing(format!("{name} is not in the bucket")),
        _ => {
            let kind = match error {
                Failure::TimeoutError(_) => io::ErrorKind::TimedOut,
                // Nobody takes the connection up, nor refuses it.
                Failure::DispatchFailure(failure) if failure.is_timeout() => {
                    io::ErrorKind::TimedOut
                }
                Failure::DispatchFailure(_) if was_cut(error) => io::ErrorKind::ConnectionReset,
                _ if status == Some(403) => io::ErrorKind::PermissionDenied,
                _ => io::ErrorKind::Other,
            };
            let source = io::Error::new(kind, told(error));
            StoreError::Io { what: what(), source }
        }
    }
}

/// What the service says, or else what kept it from saying anything.
fn told<E: Coded>(error: &Failure<E>) -> String {
    match (error.code(), error.message(), status(error)) {
        (Some(code), message, status) => {
            let message = message.map(|message| format!(": {message}")).unwrap_or_default();
            let remedy = if status == Some(403) { GRANT } else { "" };
            let status =
                status.map(|status| format!(" (HTTP {status}{remedy})")).unwrap_or_default();
            format!("{code}{message}{status}")
        }
        (None, _, Some(status)) if (300..600).contains(&status) => {
            format!("HTTP {status} without a code of S3")
        }
        _ => {
            let causes = causes(error);
            let is_refused = causes.contains("Connection refused");
            let remedy = if is_refused { NOBODY_LISTENS } else { "" };
            format!("{causes}{remedy}")
        }
    }
}

/// The error and what it comes from, one after the other.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let (mut said, mut cause) = (Vec::<String>::new(), Some(error));
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.iter().any(|before| before.contains(&words)) {
            said.push(words);
        }
        cause = error.source();
    }
    said.join(": ")
}

fn lost(code: &str) -> Option<&'static str> {
    LOST.iter().find(|(name, _)| *name == code).map(|(_, remedy)| *remedy)
}

fn refused_for(code: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(name, _)| *name == code).map(|(_, remedy)| *remedy)
}

/// Whether the connection broke under the request: perhaps for what was sent on it before.
fn was_cut(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What is wrong with the connection for good, if that is why there was no answer.
fn untrusted<E: Coded>(error: &Failure<E>) -> Option<&'static str> {
    let Failure::DispatchFailure(_) = error else { return None };
    let said = DisplayErrorContext(error).to_string();
    UNTRUSTED.iter().find(|(words, _)| said.contains(words)).map(|(_, why)| *why)
}

/// The object was there before: the answer to `If-None-Match: *`.
pub fn is_there_already<E: Coded>(error: &Failure<E>) -> bool {
    status(error) == Some(412)
}

/// There is no such object: an answer to `If-Match` too.
pub fn is_missing<E: Coded>(error: &Failure<E>) -> bool {
    status(error) == Some(404) && error.code() != Some("NoSuchBucket")
}

/// Two conditional writes of one object met.
pub fn is_conflict<E: Coded>(error: &Failure<E>) -> bool {
    status(error) == Some(409)
}

/// The request went out, and its answer never came.
pub fn is_unanswered<E: Coded>(error: &Failure<E>) -> bool {
    matches!(error, Failure::DispatchFailure(_) | Failure::ResponseError(_))
}

/// The store is one that does not know conditional writes.
pub fn knows_no_condition<E: Coded>(error: &Failure<E>) -> bool {
    status(error) == Some(501) || error.code() == Some("NotImplemented")
}

pub fn cut_short(name: &str, error: ByteStreamError) -> StoreError {
    let what = format!("the object {name} stopped on its way here");
    StoreError::Io { what, source: io::Error::other(error) }
}

pub fn too_late(verb: &str, limit: Duration) -> StoreError {
    let what = format!("could not {verb} an object in {} ms", limit.as_millis());
    StoreError::Io { what, source: io::ErrorKind::TimedOut.into() }
}

fn status<E: Coded>(error: &Failure<E>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}
