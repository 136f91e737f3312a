//! What can be wrong with a trace, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::Format;
use super::source::LINE_BYTES_MAX;

/// A trace that can't be replayed: where, why, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {fault}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct TraceError {
    pub path: PathBuf,
    /// Counts from 1; none when the fault lies with the file as a whole.
    pub line: Option<u64>,
    #[source]
    pub fault: Fault,
}

/// One kind of fault. Each text ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}; check the path and the permissions")]
    Open(io::Error),
    #[error("it is a folder; give a trace file")]
    Folder,
    #[error("it is no plain file, and a trace is read more than once; write it to a file first")]
    NoFile,
    #[error("{0}; read the file again, or copy it anew")]
    Read(io::Error),
    #[error("the file is empty; give a kvtrace-rle-1, Mooncake or LMCache trace")]
    Empty,
    #[error("the trace has no requests; give one that has")]
    NoRequests,
    #[error("it is a {0} file; unpack it first (plain and zstd are read as they are)")]
    Packed(&'static str),
    #[error("the zstd stream is cut short; download or copy the file again")]
    CutZstd,
    #[error("the zstd stream is broken ({0}); download or copy the file again")]
    BadZstd(io::Error),
    #[error("the last line is cut short; download or copy the file again, or delete that line")]
    CutLine,
    #[error("the line is longer than {} MiB; no request needs that: is this a trace?", LINE_BYTES_MAX >> 20)]
    LongLine,
    #[error("{0}")]
    Line(#[from] LineFault),
    #[error("a {found} line in a {expected} trace; split the file by format")]
    Mixed { expected: Format, found: Format },
    #[error("a second header; replay the traces that were joined here one by one")]
    SecondHeader,
    #[error(
        "a kvtrace-rle-1 request without a header line before it; put the trace's first line back"
    )]
    NoHeader,
    #[error("time runs backwards, from {before_s} s to {after_s} s; sort the requests by time")]
    Backwards { before_s: f64, after_s: f64 },
    #[error(
        "the blocks hold {block_tokens} tokens, the input only {input_tokens}; \
         mend the line or delete it"
    )]
    TooManyBlocks { block_tokens: u64, input_tokens: u32 },
    #[error(
        "the header promises {promised} {what}, the file has {found}; \
         it is cut short or altered: download or copy it again"
    )]
    Promise { what: &'static str, promised: u64, found: u64 },
}

/// What is wrong with one line by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    #[error("not a trace line ({what}); mend the line or delete it")]
    Json {
        what: String,
        /// It is right as far as it goes.
        is_cut: bool,
    },
    #[error(
        "neither a kvtrace-rle-1 nor a Mooncake nor an LMCache line ({0}); \
         give a trace of one of these formats"
    )]
    Unknown(String),
    #[error("format `{0}` is not known; use kvtrace-rle-1")]
    UnknownVersion(String),
    #[error("`{field}` is {value}: it must be between {min} and {max}; mend the line or delete it")]
    OutOfRange { field: &'static str, value: String, min: u64, max: u64 },
}

impl TraceError {
    pub(super) fn new(path: &Path, line: Option<u64>, fault: Fault) -> Self {
        Self { path: path.to_owned(), line, fault }
    }
}
