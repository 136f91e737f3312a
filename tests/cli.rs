//! The command line as a user types it: what it offers, and what it says of bad input.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "s3/server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod s3;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use s3::{BUCKET, CREDENTIALS, S3Server};
use terrace::env;

/// Runs `terrace` with this command line; `@` stands for the folder, which is also where it may
/// make others.
fn terrace(folder: &Path, line: &str) -> Output {
    let at = folder.to_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_terrace"));
    command.args(line.split_whitespace().map(|word| word.replace('@', at)));
    command.env("TMPDIR", folder).env("HOME", folder).env_remove("XDG_CONFIG_HOME");
    command.envs(CREDENTIALS);
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
      bench     Measure the daemon's parts beside this machine's limits
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
        @"--simulate --live --hbm --dram --nvme --object --policy --hints --hint-sigma --limit --seed --instant --block-bytes --answer-ms --link --prefill-tokens-per-s --prefetch --nvme-write --nvme-admission --nvme-admit-percent --nvme-write-per-s --nvme-write-per-day --json"
    );
}

#[test]
fn cli_help_of_bench() {
    insta::assert_snapshot!(help("bench --help"), @r"
    Measure the daemon's parts beside this machine's limits

    Usage: terrace bench <COMMAND>

    Commands:
      tiers  Measure every link of the daemon beside what the machine itself can do
      index  Measure how many blocks a second the daemon's index takes, on one core
      rpc    Measure how long calls to a daemon take, there and back over its socket
      help   Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help
    ");
}

#[test]
fn cli_flags_of_benches() {
    insta::assert_snapshot!(
        flags("bench tiers -h").join(" "),
        @"--path --block --fragment --seconds --depth --set --dir --object --device --against --svg --json"
    );
    insta::assert_snapshot!(
        flags("bench index -h").join(" "),
        @"--capacity --chain --policy --seconds --json"
    );
    insta::assert_snapshot!(flags("bench rpc -h").join(" "), @"--keys --seconds --json");
}

/// The shortest run there is, with a set that fits any machine: every path, the JSON's fields, the
/// picture, and a folder that is empty again.
#[test]
fn cli_bench_tiers_measures_every_path_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let line = "bench tiers --set 64MiB --block 8MiB --depth 2 --seconds 1 --dir @ --svg @/a.svg";
    let output = terrace(folder.path(), &format!("{line} --json"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.len(), 4 * 2 + 2 + 2, "four device paths in two layouts, and four others");
    for row in &rows {
        for figure in ["gbps", "limit_gbps", "ratio", "p50_us", "p99_us"] {
            assert!(row[figure].as_f64().unwrap() > 0.0, "{figure} of {row}");
        }
        assert!(row["p50_us"].as_f64() <= row["p99_us"].as_f64(), "{row}");
    }
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["a.svg"]);
    assert!(fs::read_to_string(folder.path().join("a.svg")).unwrap().starts_with("<svg"));
}

/// A terminal that goes sends its signal twice: its shell does, and the kernel.
#[test]
fn cli_bench_tiers_whose_terminal_goes_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Whatever those who run the tests have ignored.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_terrace")]);
    let line = "bench tiers --path nvme --block 1MiB --set 64MiB --seconds 60 --dir";
    command.args(line.split(' ')).arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut bench = command.spawn().unwrap();
    let entries = || fs::read_dir(folder.path()).unwrap().count();
    let waiting = env::Stopwatch::start();
    while entries() == 0 {
        assert!(waiting.elapsed() < Duration::from_mins(1), "it makes nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..2 {
        kill_process(Pid::from_child(&bench), Signal::HUP).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(bench.wait().unwrap().code(), Some(1), "it says that it did not finish");
    assert_eq!(entries(), 0, "its folder is left");
}

/// A bucket beside a bare HTTP client, and nothing left in it.
#[test]
fn cli_bench_tiers_measures_a_bucket_and_leaves_nothing() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = S3Server::start(root.path(), s3::ask_for_credentials);
    let line = "bench tiers --path object --set 64MiB --block 8MiB --depth 2 --seconds 1 --dir @";
    let line = format!("{line} --object {}", server.url("bench"));
    let output = terrace(folder.path(), &format!("{line} --json"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let paths: Vec<_> = rows.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["dram->object", "object->dram"]);
    for figure in ["gbps", "limit_gbps", "ratio", "p50_us", "p99_us"] {
        assert!(rows.iter().all(|row| row[figure].as_f64().unwrap() > 0.0), "{rows:?}");
    }
    assert_eq!(objects_in(&root.path().join(BUCKET)), 0, "something was left in the bucket");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What was made in a bucket that answers no more can't be taken away: who asks twice does not wait for it.
#[test]
fn cli_bench_tiers_that_is_interrupted_again_waits_for_no_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_terrace"));
    command.args("bench tiers --path object --set 64MiB --block 8MiB --dir".split(' '));
    let bucket = format!("s3://bucket?endpoint=http://{}", silent.local_addr().unwrap());
    command.arg(folder.path()).args(["--object", &bucket]);
    command.envs(CREDENTIALS).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut bench = command.spawn().unwrap();
    let waiting = env::Stopwatch::start();
    silent.set_nonblocking(true).unwrap();
    let _asked = loop {
        assert!(waiting.elapsed() < Duration::from_mins(1), "it does not ask the bucket");
        match silent.accept() {
            Ok(connection) => break connection,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let asked = env::Stopwatch::start();
    while bench.try_wait().unwrap().is_none() {
        assert!(asked.elapsed() < Duration::from_secs(5), "it waits for the bucket");
        kill_process(Pid::from_child(&bench), Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let output = bench.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted again"), "{said}");
}

/// Objects anywhere below the folder: those that hold blocks have a header page at least.
fn objects_in(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let count = entries.map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            objects_in(&entry.path())
        } else {
            usize::from(entry.metadata().unwrap().len() >= 4096)
        }
    });
    count.sum()
}

#[test]
fn cli_bench_rpc_and_index_measure() {
    let folder = tempfile::tempdir().unwrap();
    for (line, rows_wanted) in
        [("bench rpc --keys 8,700 --seconds 1", 2), ("bench index --seconds 1 --capacity 1024", 3)]
    {
        let output = terrace(folder.path(), &format!("{line} --json"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rows.len(), rows_wanted, "{line}");
        assert!(rows.iter().all(|row| row["p50_us"].as_f64().unwrap() > 0.0), "{rows:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the daemon's folder is gone");
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
    refused("bench", "Usage: terrace bench <COMMAND>");
    refused("bench tiers --path ssd", "path `ssd` is not known: use all; hbm, nvme or object");
    refused("bench tiers --block 65000B", "give a multiple of 4KiB");
    refused("bench tiers --dir @/gone", "there is no such folder");
    refused("bench tiers --path nvme --set 64GiB --dir /proc", "free some room");
    refused("bench tiers --path nvme --dir /dev/null", "there is no such folder");
    refused("bench tiers --svg @/gone/a.svg", "name a file that can be written");
    refused("bench tiers --device gpu", "device `gpu` is not known");
    refused("bench tiers --device cuda:97", "--device cuda:97 is not here: ");
    refused("bench tiers --path object --object s3://kv-blocks", "speaks no TLS: name a server");
    refused("bench tiers --against disk", "use memory or calls");
    refused("bench index --policy best", "policy `best` is not known: use one of lru, ");
    refused("bench rpc --keys 0", "0 is not in 1..=16384");
    refused("serve --dram-capcity 1GiB", "'--dram-capacity'");
    refused("serve --dram-capacity 1", "dram.capacity: the unit is missing");
    refused("serve --config @/gone.toml", "name a readable TOML file with --config");
    refused("serve --hbm-device cuda:99", "hbm.device: cuda:99 can't be used");
    refused("serve --dram-numa-node 99", "name one of these, or auto");
    assert!(!folder.path().join(".local").exists(), "nothing was made");
    let settings = folder.path().join(".config/terrace");
    fs::create_dir_all(&settings).unwrap();
    std::os::unix::fs::symlink("gone", settings.join("config.toml")).unwrap();
    refused("serve", "the config file can't be read");
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
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    refused(at, "replay @/pipe --simulate", 1, "it is no plain file");
    refused(at, "replay @/whole --live --hbm 0", 2, "every tier has capacity 0");
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
