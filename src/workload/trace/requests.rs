//! A trace's requests as a stream, with what only shows between lines checked.

use std::path::{Path, PathBuf};

use crate::domain::units::Time;
use crate::workload::request::Request;

use super::Format;
use super::error::{Fault, LineFault, TraceError};
use super::line::{Header, Line, parse_line};
use super::source::Lines;

/// Reads one request after another; after an error it ends.
pub struct Requests {
    path: PathBuf,
    lines: Lines,
    /// The request on the first line, for formats without a header.
    first: Option<Request>,
    header: Option<Header>,
    format: Format,
    block_tokens: u32,
    line_number: u64,
    read_count: u64,
    last: Option<(u64, u32, Time)>,
    failed: bool,
}

impl Requests {
    pub(super) fn open(path: &Path) -> Result<Self, TraceError> {
        let mut requests = Self {
            path: path.to_owned(),
            lines: Lines::open(path)?,
            first: None,
            header: None,
            format: Format::KvTrace,
            block_tokens: 0,
            line_number: 0,
            read_count: 0,
            last: None,
            failed: false,
        };
        requests.read_first_line().map_err(|fault| requests.fault(fault))?;
        Ok(requests)
    }

    fn read_first_line(&mut self) -> Result<(), Fault> {
        match self.read_line()? {
            None => Err(Fault::Empty),
            Some(Line::Header(header)) => {
                self.block_tokens = header.block_tokens;
                self.header = Some(header);
                Ok(())
            }
            Some(Line::Request(format, request)) => {
                self.block_tokens = format.block_tokens().ok_or(Fault::NoHeader)?;
                self.format = format;
                self.first = Some(request);
                Ok(())
            }
        }
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }

    pub(super) const fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Requests read so far.
    pub(super) const fn requests_read(&self) -> u64 {
        self.read_count
    }

    /// Holds the header's claims against what the whole file had.
    pub(super) fn check_header(&self, unique_blocks: u64) -> Result<(), TraceError> {
        let Some(header) = self.header else { return Ok(()) };
        let claims = [
            ("requests", header.requests, self.read_count),
            ("unique blocks", header.unique_blocks, unique_blocks),
        ];
        match claims.into_iter().find(|(_, promised, found)| promised != found) {
            None => Ok(()),
            Some((what, promised, found)) => {
                Err(TraceError::new(&self.path, None, Fault::Promise { what, promised, found }))
            }
        }
    }

    /// The fault, at the line being read.
    pub(super) fn fault(&self, fault: Fault) -> TraceError {
        let line = (!matches!(fault, Fault::Empty | Fault::NoRequests)).then_some(self.line_number);
        TraceError::new(&self.path, line, fault)
    }

    fn read(&mut self) -> Result<Option<Request>, Fault> {
        let request = match self.first.take() {
            Some(request) => request,
            None => match self.read_line()? {
                None => return Ok(None),
                Some(Line::Header(_)) => return Err(Fault::SecondHeader),
                Some(Line::Request(format, request)) if format == self.format => request,
                Some(Line::Request(found, _)) => {
                    return Err(Fault::Mixed { expected: self.format, found });
                }
            },
        };
        let request = self.numbered(request);
        self.check(&request)?;
        self.read_count += 1;
        self.last = Some((request.session, request.turn, request.t));
        Ok(Some(request))
    }

    /// The next line that says something, parsed.
    fn read_line(&mut self) -> Result<Option<Line>, Fault> {
        loop {
            self.line_number += 1;
            let Some((line, ended)) = self.lines.read()? else { return Ok(None) };
            let line = if self.line_number == 1 { without_mark(line) } else { line };
            if line.trim_ascii().is_empty() {
                continue;
            }
            return match parse_line(line) {
                Ok(line) => Ok(Some(line)),
                Err(LineFault::Json { is_cut: true, .. }) if !ended && self.line_number > 1 => {
                    Err(Fault::CutLine)
                }
                Err(fault) => Err(Fault::Line(fault)),
            };
        }
    }

    /// Gives a request the numbers that its format leaves out: every Mooncake request is a session
    /// of its own, and an `LMCache` session's requests follow one another.
    fn numbered(&self, mut request: Request) -> Request {
        match (self.format, self.last) {
            (Format::Mooncake, _) => request.session = self.read_count,
            (Format::LmCache, Some((session, turn, _))) if session == request.session => {
                request.turn = turn + 1;
            }
            _ => {}
        }
        request
    }

    fn check(&self, request: &Request) -> Result<(), Fault> {
        if let Some((.., before)) = self.last
            && request.t < before
        {
            let (before_s, after_s) = (seconds(before), seconds(request.t));
            return Err(Fault::Backwards { before_s, after_s });
        }
        // Mooncake lists a partial last block too; the other formats list full blocks only.
        let slack = if self.format == Format::Mooncake { self.block_tokens - 1 } else { 0 };
        let block_tokens = request.block_count() * u64::from(self.block_tokens);
        if block_tokens > u64::from(request.input_tokens) + u64::from(slack) {
            let input_tokens = request.input_tokens;
            return Err(Fault::TooManyBlocks { block_tokens, input_tokens });
        }
        Ok(())
    }
}

/// The mark that some editors put before a text says nothing here.
fn without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

fn seconds(time: Time) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown only")]
    let micros = time.micros as f64;
    micros / 1e6
}

impl Iterator for Requests {
    type Item = Result<Request, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let read = self.read().map_err(|fault| self.fault(fault));
        self.failed = read.is_err();
        read.transpose()
    }
}
