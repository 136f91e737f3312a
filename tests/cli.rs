//! The command line as a user types it: what it offers, and what it says of bad input.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `terrace` with this command line; `@` stands for the folder, which is also where it may
/// make others.
fn terrace(folder: &Path, line: &str) -> Output {
    let at = folder.to_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_terrace"));
    command.args(line.split_whitespace().map(|word| word.replace('@', at)));
    command.env("TMPDIR", folder).env("HOME", folder).env_remove("XDG_CONFIG_HOME");
    command.output().unwrap()
}

fn help(line: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = terrace(folder.path(), line);
    assert!(output.status.success(), "{line}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn cli_help() {
    insta::assert_snapshot!(help("--help"), @r"
    Keeps an LLM engine's KV cache blocks across HBM, DRAM, NVMe and object storage

    Usage: terrace <COMMAND>

    Commands:
      serve     Run the daemon; with no setting at all it takes modest sizes from the machine
      demo      Run the whole system on this machine: a daemon, agents, and every byte checked
      replay    Replay a trace of real requests and show where their blocks were found
      status    Show what a running daemon holds and does
      sessions  Show the sessions that a running daemon knows
      inspect   Show what a running daemon knows of one block
      doctor    Show what this machine offers and what to mend
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version
    ");
}

#[test]
fn cli_help_of_demo() {
    insta::assert_snapshot!(help("demo --help"), @r"
    Run the whole system on this machine: a daemon, agents, and every byte checked

    Usage: terrace demo [OPTIONS]

    Options:
          --seed <SEED>          Fixes what the agents do [default: 1]
          --block-bytes <BYTES>  Bytes of a block: fewer are quicker, more are nearer to a large model
                                 [default: 262144]
          --json                 Print one JSON object instead of tables: that of replay, and `pauses`
      -h, --help                 Print help

    It takes about half a GiB of memory, and one of disk in a folder of its own in $TMPDIR that goes
    with it.
    ");
}

/// The flags of a command, in order; what they mean stands at the code that parses them.
fn flags(line: &str) -> Vec<String> {
    let text = help(line);
    // Deeper in stands what they mean, which may name other flags.
    let lines = text.lines().filter_map(|line| line.strip_prefix("      "));
    let lines = lines.filter(|line| line.starts_with("--"));
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn cli_flags_of_replay() {
    insta::assert_snapshot!(
        flags("replay --help").join(" "),
        @"--simulate --live --hbm --dram --nvme --object --policy --hints --hint-sigma --limit --seed --instant --block-bytes --link --prefill-tokens-per-s --prefetch --json"
    );
}

/// A command line that must fail with this exit code, saying this, before anything was started.
fn refused(folder: &Path, line: &str, code: i32, expected: &str) {
    let output = terrace(folder, line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}\n{said}");
    assert!(said.contains(expected), "{line}\n  said   {said}\n  lacks  {expected}");
    assert!(!said.contains("panicked"), "{line}\n{said}");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if line.contains("--json") && code == 1 {
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(object["error"].as_str().unwrap().contains(expected), "{object}");
    } else {
        assert_eq!(out, "", "{line}");
    }
}

#[test]
fn cli_refuses_bad_lines() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |line, expected| refused(folder.path(), line, 2, expected);
    refused("", "Usage: terrace <COMMAND>");
    refused("repaly x", "a similar subcommand exists: 'replay'");
    refused("replay --live", "<TRACE>");
    refused("replay x", "<--simulate|--live>");
    refused("replay x --live --hbm lots", "`lots` is no capacity");
    refused("replay x --live --block-bytes 65000", "give a multiple of 4096");
    refused("replay x --simulate --link device_up=fast", "`fast` can't be read: give a number");
    refused("replay x --simulate --prefill-tokens-per-s 0", "`0` is no prefill rate: give 1 to");
    refused("replay x --simulate --prefetch yes", "`yes` is neither on nor off");
    refused("replay x --live --policy best", "policy `best` is not known: use one of lru, ");
    refused("demo --block-bytes 0", "give a multiple of 4096");
    refused("inspect", "<HASH>");
    refused("inspect 12ab", "a block's key is 32 hex digits");
    refused("sessions --max 0", "0 is not in 1..=1000");
    refused("demo --seed one", "invalid value 'one' for '--seed <SEED>'");
    refused("serve --dram-capcity 1GiB", "'--dram-capacity'");
    refused("serve --dram-capacity 1", "dram.capacity: the unit is missing");
    refused("serve --config @/gone.toml", "name a readable TOML file with --config");
}

const HEADER: &str =
    r#"{"format":"kvtrace-rle-1","block_tokens":64,"unique_blocks":2,"requests":1}"#;
const REQUEST: &str = r#"{"t":1,"session":0,"sub":0,"turn":0,"in":128,"out":1,"blocks":[[0,2]]}"#;
const MOONCAKE: &str = r#"{"timestamp":1,"input_length":512,"output_length":1,"hash_ids":[1]}"#;

#[test]
fn cli_refuses_bad_traces() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let whole = format!("{HEADER}\n{REQUEST}\n");
    let packed = zstd::encode_all(whole.as_bytes(), 3).unwrap();
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("words", b"not a trace\n".to_vec()),
        ("cut", whole.as_bytes()[..whole.len() - 9].to_vec()),
        ("cut.zst", packed[..packed.len() - 5].to_vec()),
        ("short", format!("{HEADER}\n").into()),
        ("mixed", format!("{whole}{MOONCAKE}\n").into()),
        ("headless", format!("{REQUEST}\n").into()),
        ("fewer", format!("{whole}{REQUEST}\n").into()),
    ] {
        fs::write(at.join(name), bytes).unwrap();
    }
    for mode in ["--live", "--live --json", "--simulate"] {
        let refused = |name: &str, expected| {
            refused(at, &format!("replay @/{name} {mode}"), 1, expected);
        };
        refused("gone", "check the path");
        refused("", "it is a folder");
        refused("empty", "the file is empty");
        refused("words", "words:1: not a trace line");
        refused("cut", "cut:2: ");
        refused("cut.zst", "the zstd stream is cut short");
        refused("short", "the trace has no requests");
        refused("mixed", "mixed:3: a mooncake line in a kvtrace-rle-1 trace");
        refused("headless", "without a header line");
        refused("fewer", "the header promises 1 requests, the file has 2");
    }
    fs::write(at.join("whole"), &whole).unwrap();
    refused(at, "replay @/whole --live --hbm 0", 1, "every tier has capacity 0");
}

#[test]
fn cli_says_why_its_own_daemon_did_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("whole"), format!("{HEADER}\n{REQUEST}\n")).unwrap();
    // More than any machine has: the daemon's own words, not a guess.
    refused(at, "replay @/whole --live --dram 2000000000", 1, "dram.capacity");
    let left: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["whole"], "the daemon's folder is gone");
}
