//! Traces: files of real requests, read as a stream.
//!
//! Three formats are known, each one JSON object a line, plain or zstd (told by the file's first
//! bytes, never by its name): `kvtrace-rle-1`, Mooncake and `LMCache`. [`Trace::open`] reads the
//! whole file once, so that a bad line is reported before anything has been done, not in the middle
//! of a replay; memory stays bounded by one line and by the number of gaps between block ids.
//!
//! Never believes a header: what it claims is counted.

mod distinct;
pub mod error;
mod ids;
pub mod line;
mod requests;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::domain::units::Time;

pub use error::TraceError;
pub use requests::Requests;

use error::Fault;
use ids::TraceIds;

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A header line, then requests with run-length coded blocks.
    KvTrace,
    /// `timestamp` in milliseconds, no sessions; the last block may be partial.
    Mooncake,
    /// `t` in seconds; sessions ran one after another.
    LmCache,
}

impl Format {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KvTrace => "kvtrace-rle-1",
            Self::Mooncake => "mooncake",
            Self::LmCache => "lmcache",
        }
    }

    /// Tokens a block, for the formats whose files don't say.
    const fn block_tokens(self) -> Option<u32> {
        match self {
            Self::KvTrace => None,
            Self::Mooncake => Some(512),
            Self::LmCache => Some(64),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a trace holds, counted over the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceInfo {
    pub format: Format,
    pub block_tokens: u32,
    /// Different block ids: what `P%` of a capacity refers to.
    pub unique_blocks: u64,
    /// Those that stand after different blocks, which an id that stands for a whole prefix can't:
    /// at any time they are found after one of them only.
    pub contradicted_blocks: u64,
    pub requests: u64,
    /// When the first and the last request arrive, by the trace's own clock.
    pub first: Time,
    pub last: Time,
}

/// A trace file that was read through once and found good.
#[derive(Clone, Debug)]
pub struct Trace {
    path: PathBuf,
    info: TraceInfo,
}

impl Trace {
    /// Reads the whole file and checks every line of it.
    ///
    /// # Errors
    /// The file, the line and the remedy, for anything that is not a whole trace of one format.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let mut requests = Requests::open(path)?;
        let mut ids = TraceIds::default();
        let mut span: Option<(Time, Time)> = None;
        for request in requests.by_ref() {
            let request = request?;
            ids.take_in(&request);
            let first = span.map_or(request.t, |(first, _)| first);
            span = Some((first, request.t));
        }
        let Some((first, last)) = span else {
            return Err(requests.fault(Fault::NoRequests));
        };
        let info = TraceInfo {
            format: requests.format(),
            block_tokens: requests.block_tokens(),
            unique_blocks: ids.unique_count(),
            contradicted_blocks: ids.contradicted_count(),
            requests: requests.requests_read(),
            first,
            last,
        };
        requests.check_header(info.unique_blocks)?;
        Ok(Self { path: path.to_owned(), info })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub const fn info(&self) -> &TraceInfo {
        &self.info
    }

    /// The requests in time order, from the first.
    ///
    /// # Errors
    /// The file is no longer what it was when it was opened.
    pub fn requests(&self) -> Result<Requests, TraceError> {
        Requests::open(&self.path)
    }
}

#[cfg(test)]
mod tests;
