//! Whether a denied read is denied alone: S3 says 403 both to who has no right to anything and of one object,
//! which another account owns or whose key this one may not use.
//!
//! A denied read is no outage while a question for nobody's object is answered. It is the object's own only
//! when others were given to this process: else all may be encrypted with a key that it may not use.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::refused::{is_refused, refused};
use super::Requests;
use super::attempts::Errand;
use crate::tiers::store::StoreError;

/// For how long an answer to that question counts.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// So many denials with nothing given between them are no single object's any more.
const DENIED_MAX: u32 = 100;

/// What is known of what this process is given.
#[derive(Default)]
pub(super) struct Rights {
    /// Whether any object was.
    were_given: AtomicBool,
    /// Denials since then.
    denied: AtomicU32,
    /// When nobody's object was last asked for, and whether that was answered.
    asked: Mutex<Option<(Instant, bool)>>,
}

impl Requests {
    /// What came of one attempt, where a denial is the object's own if it is.
    pub(super) async fn judged<T>(
        &self,
        errand: Errand,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !errand.reads_an_object {
            return result;
        }
        match result {
            Err(StoreError::Io { what, source })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                if self.rights.denied.fetch_add(1, Ordering::Relaxed) >= DENIED_MAX {
                    let source = io::Error::new(ErrorKind::PermissionDenied, source.to_string());
                    return Err(StoreError::Io { what, source });
                }
                let error = StoreError::Io { what, source };
                Err(if is_refused(&error) { error } else { self.judged_denial(error).await })
            }
            result => {
                if result.is_ok() {
                    self.rights.were_given.store(true, Ordering::Relaxed);
                    self.rights.denied.store(0, Ordering::Relaxed);
                }
                result
            }
        }
    }

    async fn judged_denial(&self, error: StoreError) -> StoreError {
        let is_answered = self.is_nobodys_answered().await;
        let were_given = self.rights.were_given.load(Ordering::Relaxed);
        match error {
            StoreError::Io { what, source } if is_answered => {
                refused(what, source.to_string(), were_given)
            }
            error => error,
        }
    }

    async fn is_nobodys_answered(&self) -> bool {
        let mut asked = self.rights.asked.lock().await;
        if let Some((at, is_answered)) = *asked
            && at.elapsed() < ASKED_EVERY
        {
            return is_answered;
        }
        let is_answered = self.look_for_nobodys().await.is_ok();
        *asked = Some((Instant::now(), is_answered));
        is_answered
    }
}
