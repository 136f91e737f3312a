//! One line of a trace, taken apart.
//!
//! Pure: any bytes give a line or a fault, never a panic, and memory stays within a small multiple
//! of the line. What only shows between lines (order, mixed formats) is the reader's to check.

use std::borrow::Cow;

use serde::Deserialize;

use crate::domain::units::Time;
use crate::workload::content::mix;
use crate::workload::request::{
    BLOCK_ID_MAX, IdRun, REQUEST_BLOCKS_MAX, Request, Stop, Trigger, push_id,
};

use super::Format;
use super::error::LineFault;

/// The largest token count taken, and the largest block in tokens.
const TOKENS_MAX: u64 = 1 << 30;
const BLOCK_TOKENS_MAX: u64 = 1 << 16;

/// The latest time taken, in seconds: the year 2286. Larger numbers are in another unit.
const TIME_S_MAX: u64 = 10_000_000_000;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Header(Header),
    Request(Format, Request),
}

/// The first line of a `kvtrace-rle-1` file: claims, to be held against the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub block_tokens: u32,
    pub unique_blocks: u64,
    pub requests: u64,
}

/// Takes one line apart. Sessions that a format doesn't number are numbered by a hash of their
/// name; what needs the lines before (a Mooncake request's session, an `LMCache` request's turn)
/// is left zero.
///
/// # Errors
/// What is wrong with the line and what to do.
pub fn parse_line(bytes: &[u8]) -> Result<Line, LineFault> {
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        // Serde would take a list as the fields in their order here, which no format means.
        let what = "column 1: a list, not an object".into();
        return Err(LineFault::Json { what, is_cut: false });
    }
    let raw: RawLine = serde_json::from_slice(bytes).map_err(|error| json_fault(&error))?;
    if raw.format.is_some() {
        return raw.header().map(Line::Header);
    }
    let (format, request) = if raw.blocks.is_some() {
        (Format::KvTrace, raw.kvtrace()?)
    } else if raw.timestamp.is_some() {
        (Format::Mooncake, raw.mooncake()?)
    } else if raw.hash_ids.is_some() {
        (Format::LmCache, raw.lmcache()?)
    } else {
        return Err(LineFault::Unknown("`blocks` and `hash_ids` are missing".into()));
    };
    Ok(Line::Request(format, request))
}

/// `serde_json` counts lines within what it was given, which is always line 1: only the column
/// means something here.
fn json_fault(error: &serde_json::Error) -> LineFault {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    LineFault::Json { what: format!("column {}: {what}", error.column()), is_cut: error.is_eof() }
}

/// The fields of all formats together; which are there tells the format.
#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(borrow)]
    format: Option<Cow<'a, str>>,
    block_tokens: Option<u64>,
    unique_blocks: Option<u64>,
    requests: Option<u64>,

    t: Option<f64>,
    #[serde(borrow)]
    session: Option<RawSession<'a>>,
    sub: Option<u64>,
    turn: Option<u64>,
    r#in: Option<u64>,
    out: Option<u64>,
    api: Option<f64>,
    #[serde(borrow)]
    stop: Option<Cow<'a, str>>,
    #[serde(borrow)]
    trigger: Option<Cow<'a, str>>,
    blocks: Option<Vec<(u64, u64)>>,

    timestamp: Option<f64>,
    input_length: Option<u64>,
    output_length: Option<u64>,
    hash_ids: Option<Vec<u64>>,
    #[serde(borrow)]
    agent: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a session's number (whole, from 0) or name expected")]
enum RawSession<'a> {
    Number(u64),
    #[serde(borrow)]
    Name(Cow<'a, str>),
}

impl RawSession<'_> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Name(name) => name_number(name),
        }
    }
}

/// A stable number for a name; 64 bits, so two sessions of one trace don't meet.
fn name_number(name: &str) -> u64 {
    name.bytes().fold(name.len() as u64, |sum, byte| mix(sum ^ u64::from(byte)))
}

impl RawLine<'_> {
    fn header(&self) -> Result<Header, LineFault> {
        let format = self.format.as_deref().unwrap_or_default();
        if format != Format::KvTrace.name() {
            return Err(LineFault::UnknownVersion(format.chars().take(40).collect()));
        }
        let count_max = u64::from(u32::MAX);
        Ok(Header {
            block_tokens: number("block_tokens", self.block_tokens, 1, BLOCK_TOKENS_MAX)?,
            unique_blocks: whole("unique_blocks", self.unique_blocks, 0, BLOCK_ID_MAX)?,
            requests: whole("requests", self.requests, 0, count_max)?,
        })
    }

    fn kvtrace(&self) -> Result<Request, LineFault> {
        let index_max = u64::from(u32::MAX);
        Ok(Request {
            t: time("t", self.t, 1e6)?,
            session: self.session.as_ref().ok_or_else(|| missing("session"))?.number(),
            sub: number("sub", self.sub, 0, index_max)?,
            turn: number("turn", self.turn, 0, index_max)?,
            input_tokens: number("in", self.r#in, 0, TOKENS_MAX)?,
            output_tokens: number("out", self.out, 0, TOKENS_MAX)?,
            api_ms: self.api.map(api_ms).transpose()?,
            stop: match self.stop.as_deref() {
                Some("tool_use") => Stop::ToolUse,
                Some("end_turn") => Stop::EndTurn,
                _ => Stop::Unknown,
            },
            trigger: match self.trigger.as_deref() {
                Some("tool") => Trigger::Tool,
                Some("user") => Trigger::User,
                _ => Trigger::Unknown,
            },
            blocks: runs(self.blocks.as_deref().unwrap_or_default())?,
        })
    }

    fn mooncake(&self) -> Result<Request, LineFault> {
        Ok(Request { t: time("timestamp", self.timestamp, 1e3)?, ..self.listed()? })
    }

    fn lmcache(&self) -> Result<Request, LineFault> {
        let session = self.session.as_ref().ok_or_else(|| missing("session"))?.number();
        let agent = name_number(self.agent.as_deref().unwrap_or_default());
        let session = mix(session ^ agent);
        Ok(Request { t: time("t", self.t, 1e6)?, session, ..self.listed()? })
    }

    /// What Mooncake and `LMCache` write alike.
    fn listed(&self) -> Result<Request, LineFault> {
        let ids = self.hash_ids.as_deref().ok_or_else(|| missing("hash_ids"))?;
        in_range("hash_ids", ids.len() as u64, 0, REQUEST_BLOCKS_MAX)?;
        let mut blocks = Vec::new();
        for id in ids {
            in_range("hash_ids", *id, 0, BLOCK_ID_MAX)?;
            push_id(&mut blocks, *id);
        }
        Ok(Request {
            input_tokens: number("input_length", self.input_length, 0, TOKENS_MAX)?,
            output_tokens: number("output_length", self.output_length, 0, TOKENS_MAX)?,
            blocks,
            ..Request::default()
        })
    }
}

fn runs(raw: &[(u64, u64)]) -> Result<Vec<IdRun>, LineFault> {
    let mut total: u64 = 0;
    let mut runs = Vec::with_capacity(raw.len());
    for (first_id, count) in raw {
        in_range("blocks", *first_id, 0, BLOCK_ID_MAX)?;
        let count = number("blocks", Some(*count), 1, REQUEST_BLOCKS_MAX)?;
        total += u64::from(count);
        runs.push(IdRun { first_id: *first_id, count });
    }
    in_range("blocks", total, 0, REQUEST_BLOCKS_MAX)?;
    Ok(runs)
}

fn missing(field: &'static str) -> LineFault {
    LineFault::Unknown(format!("`{field}` is missing"))
}

fn whole(field: &'static str, value: Option<u64>, min: u64, max: u64) -> Result<u64, LineFault> {
    in_range(field, value.ok_or_else(|| missing(field))?, min, max)
}

fn number(field: &'static str, value: Option<u64>, min: u64, max: u64) -> Result<u32, LineFault> {
    let value = whole(field, value, min, max.min(u64::from(u32::MAX)))?;
    Ok(u32::try_from(value).expect("the range ends at u32::MAX"))
}

fn in_range(field: &'static str, value: u64, min: u64, max: u64) -> Result<u64, LineFault> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(LineFault::OutOfRange { field, value: value.to_string(), min, max })
}

/// A time in units of which `micros_per_unit` is the inverse resolution: seconds or milliseconds.
fn time(field: &'static str, value: Option<f64>, micros_per_unit: f64) -> Result<Time, LineFault> {
    let value = value.ok_or_else(|| missing(field))?;
    #[expect(clippy::cast_precision_loss, reason = "ten billion is exact in an f64")]
    let max = TIME_S_MAX as f64 * (1e6 / micros_per_unit);
    if !(0.0..=max).contains(&value) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole max")]
        let max = max as u64;
        return Err(LineFault::OutOfRange { field, value: value.to_string(), min: 0, max });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let micros = (value * micros_per_unit).round() as u64;
    Ok(Time { micros })
}

/// `api` in milliseconds; at most a day, which also fits a `u32`.
fn api_ms(api_s: f64) -> Result<u32, LineFault> {
    const API_S_MAX: u32 = 24 * 3600;
    if !(0.0..=f64::from(API_S_MAX)).contains(&api_s) {
        let (value, max) = (api_s.to_string(), u64::from(API_S_MAX));
        return Err(LineFault::OutOfRange { field: "api", value, min: 0, max });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok((api_s * 1e3).round() as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KV: &str = r#"{"t":1.5,"session":3,"sub":0,"turn":2,"in":200,"out":5,"api":0.25,
        "stop":"tool_use","trigger":"user","blocks":[[0,2],[7,1]]}"#;

    fn run(first_id: u64, count: u32) -> IdRun {
        IdRun { first_id, count }
    }

    fn request(line: &str) -> Request {
        match parse_line(line.as_bytes()) {
            Ok(Line::Request(_, request)) => request,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_three_formats() {
        let kv = request(KV);
        assert_eq!(kv.t, Time { micros: 1_500_000 });
        assert_eq!((kv.session, kv.sub, kv.turn), (3, 0, 2));
        assert_eq!((kv.input_tokens, kv.output_tokens, kv.api_ms), (200, 5, Some(250)));
        assert_eq!((kv.stop, kv.trigger), (Stop::ToolUse, Trigger::User));
        assert_eq!(kv.blocks, [run(0, 2), run(7, 1)]);

        let moon =
            r#"{"timestamp": 27, "input_length": 600, "output_length": 9, "hash_ids": [4, 5]}"#;
        let moon = request(moon);
        assert_eq!((moon.t, moon.input_tokens), (Time::from_millis(27), 600));
        assert_eq!(moon.blocks, [run(4, 2)]);

        let lmcache = |session: &str| {
            request(&format!(
                r#"{{"agent":"a","session":"{session}","t":2,"input_length":70,
                "output_length":1,"hash_ids":[9]}}"#
            ))
        };
        assert_eq!(lmcache("s").session, lmcache("s").session);
        assert_ne!(lmcache("s").session, lmcache("t").session);
        assert_eq!(lmcache("s").blocks, [run(9, 1)]);
    }

    #[test]
    fn a_header_is_told_from_a_request() {
        let line =
            br#"{"format":"kvtrace-rle-1","block_tokens":64,"unique_blocks":9,"requests":2}"#;
        let header = Header { block_tokens: 64, unique_blocks: 9, requests: 2 };
        assert_eq!(parse_line(line), Ok(Line::Header(header)));
    }

    /// What the fault's text must say, line by line.
    const BAD: [(&str, &str); 22] = [
        ("", "column 0: EOF"),
        ("{", "column 1: EOF"),
        ("[]", "a list, not an object"),
        ("null", "invalid type: null"),
        ("{}", "`blocks` and `hash_ids` are missing"),
        ("\u{0}", "column 1: expected value"),
        (r#"{"format":"kvtrace-rle-2"}"#, "format `kvtrace-rle-2` is not known; use kvtrace-rle-1"),
        (r#"{"format":"kvtrace-rle-1"}"#, "`block_tokens` is missing"),
        (
            r#"{"format":"kvtrace-rle-1","block_tokens":0,"unique_blocks":1,"requests":1}"#,
            "`block_tokens` is 0: it must be between 1 and 65536",
        ),
        (r#"{"session":1.5}"#, "a session's number (whole, from 0) or name expected"),
        (r#"{"session":{}}"#, "a session's number (whole, from 0) or name expected"),
        (r#"{"timestamp":1}"#, "`hash_ids` is missing"),
        (r#"{"hash_ids":[]}"#, "`session` is missing"),
        (r#"{"timestamp":1,"hash_ids":[-1]}"#, "invalid value: integer `-1`, expected u64"),
        (r#"{"timestamp":1,"hash_ids":[1e3]}"#, "expected u64"),
        (r#"{"timestamp":1,"hash_ids":[18446744073709551615]}"#, "between 0 and 281474976710656"),
        (r#"{"timestamp":-1,"hash_ids":[]}"#, "`timestamp` is -1: it must be between 0"),
        (r#"{"timestamp":1,"hash_ids":[]}"#, "`input_length` is missing"),
        (
            r#"{"timestamp":1e300,"input_length":1,"output_length":1,"hash_ids":[]}"#,
            "`timestamp` is 1000000000",
        ),
        (r#"{"timestamp":1,"timestamp":2}"#, "duplicate field `timestamp`"),
        (r#"{"t":1,"session":1,"sub":4294967296,"blocks":[]}"#, "`sub` is 4294967296"),
        (
            r#"{"t":1,"session":1,"sub":0,"turn":0,"in":1,"out":1,"blocks":[[0,1048576],[0,1]]}"#,
            "`blocks` is 1048577: it must be between 0 and 1048576",
        ),
    ];

    #[test]
    fn bad_lines_are_named() {
        for (line, says) in BAD {
            let fault = parse_line(line.as_bytes()).expect_err(line).to_string();
            assert!(fault.contains(says), "{line}\n  said   {fault}\n  lacks  {says}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_line(&bytes);
        }

        #[test]
        fn an_altered_line_is_answered(at in 0..KV.len(), byte in any::<u8>()) {
            let mut line = KV.as_bytes().to_vec();
            line[at] = byte;
            if let Ok(Line::Request(_, request)) = parse_line(&line) {
                prop_assert!(request.block_count() <= REQUEST_BLOCKS_MAX);
            }
        }
    }
}
