//! Objects that are there and that nobody is given, though the store gives others: they lie in an archive,
//! or the key is disabled that they were encrypted with.
//!
//! To those who judge the store this is an answer; only the object is worth nothing for now.

use std::error::Error;
use std::{fmt, io};

use crate::tiers::store::StoreError;

/// What the store said of the object.
#[derive(Debug)]
struct Refused {
    why: String,
    /// Whether others are known to be given.
    is_alone: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Error for Refused {}

/// An error that says so: the store answers, and this object it refuses. `is_alone`: others it gives.
pub(super) fn refused(what: String, why: String, is_alone: bool) -> StoreError {
    let source = io::Error::new(io::ErrorKind::PermissionDenied, Refused { why, is_alone });
    StoreError::Io { what, source }
}

/// Whether it is one.
pub(super) fn is_refused(error: &StoreError) -> bool {
    found(error).is_some()
}

/// Whether it is one, and the fault is the object's: not all that is there may be refused.
pub(super) fn is_refused_alone(error: &StoreError) -> bool {
    found(error).is_some_and(|refused| refused.is_alone)
}

fn found(error: &StoreError) -> Option<&Refused> {
    let StoreError::Io { source, .. } = error else { return None };
    source.get_ref()?.downcast_ref()
}
