//! Whole files, good and bad: what is read, and what is said.

use std::io::Write;

use super::*;

const HEAD: &str = r#"{"format":"kvtrace-rle-1","block_tokens":64,"unique_blocks":5,"requests":2}"#;
const KV_1: &str = r#"{"t":1,"session":0,"sub":0,"turn":0,"in":200,"out":1,"api":null,"stop":"end_turn","trigger":"user","blocks":[[0,3]]}"#;
const KV_2: &str = r#"{"t":2,"session":0,"sub":1,"turn":0,"in":300,"out":1,"api":2,"stop":"unknown","trigger":"tool","blocks":[[0,2],[3,2]]}"#;
const MOON_1: &str =
    r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}"#;
const MOON_2: &str =
    r#"{"timestamp": 5, "input_length": 1030, "output_length": 1, "hash_ids": [0, 2, 3]}"#;
const LM_1: &str =
    r#"{"agent":"a","session":"s","t":1.5,"input_length":130,"output_length":9,"hash_ids":[0,1]}"#;
const LM_2: &str =
    r#"{"agent":"a","session":"s","t":2.5,"input_length":50,"output_length":9,"hash_ids":[]}"#;

fn open(bytes: &[u8]) -> Result<Trace, TraceError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let (_, path) = file.keep().unwrap();
    let trace = Trace::open(&path);
    if trace.is_err() {
        std::fs::remove_file(&path).unwrap();
    }
    trace
}

fn joined(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// Reads the file plain and packed: both must give the same.
fn good(lines: &[&str]) -> (TraceInfo, Vec<Request>) {
    let text = joined(lines);
    let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
    let [plain, packed] = [text.as_bytes(), &packed].map(|bytes| {
        let trace = open(bytes).unwrap();
        let requests = trace.requests().unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        std::fs::remove_file(trace.path()).unwrap();
        (*trace.info(), requests)
    });
    assert_eq!(plain, packed);
    plain
}

use crate::workload::Request;

#[test]
fn good_files() {
    let (info, requests) = good(&[HEAD, KV_1, "", KV_2]);
    assert_eq!((info.format, info.block_tokens), (Format::KvTrace, 64));
    assert_eq!((info.unique_blocks, info.requests), (5, 2));
    assert_eq!((info.first, info.last), (Time::from_millis(1000), Time::from_millis(2000)));
    assert!(requests[1].block_ids().eq([0, 1, 3, 4]));

    let (info, requests) = good(&[MOON_1, MOON_2]);
    assert_eq!((info.format, info.block_tokens), (Format::Mooncake, 512));
    assert_eq!((info.unique_blocks, info.requests), (4, 2));
    assert_ne!(requests[0].session, requests[1].session);

    let marked = format!("\u{feff}{MOON_1}");
    assert_eq!(good(&[&marked]).0.requests, 1);

    let (info, requests) = good(&[LM_1, LM_2]);
    assert_eq!((info.format, info.block_tokens), (Format::LmCache, 64));
    assert_eq!((info.unique_blocks, info.requests), (2, 2));
    assert_eq!(requests.iter().map(|request| request.turn).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn bad_files_are_named() {
    let check = |name: &str, text: &str, says: &str| {
        let said = open(text.as_bytes()).err().map(|error| error.to_string());
        let said = said.unwrap_or_else(|| panic!("{name}: was taken"));
        assert!(said.contains(says), "{name}\n  said   {said}\n  lacks  {says}");
    };
    let cut = |lines: &[&str], bytes: usize| {
        let text = joined(lines);
        text[..text.len() - bytes].to_owned()
    };
    check("empty", "", ": the file is empty; give");
    check("blank", "\n\n \n", ": the file is empty; give");
    check("not a trace", "hello\n", ":1: not a trace line (column 1: expected value)");
    check("header only", &joined(&[HEAD]), ": the trace has no requests");
    check("cut line", &cut(&[HEAD, KV_1, KV_2], 9), ":3: the last line is cut short; download");
    let odd = KV_2.replace("[[", "[[-");
    check("last value", &cut(&[HEAD, KV_1, &odd], 1), ":3: not a trace line (column");
    let odd = KV_2.replace("\"sub\":1", "\"sub\":4294967296");
    check("last value", &cut(&[HEAD, KV_1, &odd], 1), ":3: `sub` is 4294967296: it must be");
    check("missing line", &joined(&[HEAD, KV_1]), "promises 2 requests, the file has 1");
    check("unique", &joined(&[HEAD, KV_1, KV_1]), "promises 5 unique blocks, the file has 3");
    check("no header", &joined(&[KV_1]), ":1: a kvtrace-rle-1 request without a header");
    check("two headers", &joined(&[HEAD, KV_1, HEAD]), ":3: a second header; replay");
    check("mixed", &joined(&[HEAD, KV_1, MOON_1]), ":3: a mooncake line in a kvtrace-rle-1 trace");
    check("mixed", &joined(&[MOON_1, LM_1]), ":2: a lmcache line in a mooncake trace; split");
    check("header late", &joined(&[MOON_1, HEAD]), ":2: a second header");
    check("backwards", &joined(&[HEAD, KV_2, KV_1]), ":3: time runs backwards, from 2 s to 1 s");
    let absurd = KV_1.replace("[[0,3]]", "[[0,4]]");
    check("too many", &joined(&[HEAD, &absurd]), ":2: the blocks hold 256 tokens, the input only");
    let absurd = KV_1.replace("[[0,3]]", "[[0,4294967295]]");
    check("absurd", &joined(&[HEAD, &absurd]), ":2: `blocks` is 4294967295: it must be between");
    let broken = MOON_1.replace(']', "");
    check("broken", &joined(&[MOON_1, &broken, MOON_2]), ":2: not a trace line (column");
}

#[test]
fn cut_and_foreign_files_are_named() {
    let packed = zstd::encode_all(joined(&[HEAD, KV_1, KV_2]).as_bytes(), 3).unwrap();
    for len in [5, packed.len() / 2, packed.len() - 1] {
        let said = open(&packed[..len]).unwrap_err().to_string();
        assert!(said.contains("the zstd stream is cut short; download"), "{len} bytes: {said}");
    }
    let mut garbled = packed.clone();
    garbled.extend(b"garbage after the end");
    assert!(open(&garbled).unwrap_err().to_string().contains("the zstd stream is broken"));
    let said = Trace::open(Path::new("/nonexistent/trace")).unwrap_err().to_string();
    assert!(said.starts_with("/nonexistent/trace: ") && said.contains("check the path"), "{said}");
    assert!(Trace::open(Path::new("/")).unwrap_err().to_string().contains("it is a folder"));
}
