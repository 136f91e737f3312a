//! The daemon as its users meet it: the real binary, its sockets, shared memory and disk.
//!
//! Every test starts a daemon of its own in a folder of its own, and both go with the test.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "live/burst.rs"]
mod burst;
#[path = "live/crash.rs"]
mod crash;
#[path = "live/crash_load.rs"]
mod crash_load;
#[path = "live/descriptors.rs"]
mod descriptors;
#[path = "live/lifts.rs"]
mod lifts;
#[path = "live/lifts_refused.rs"]
mod lifts_refused;
#[path = "live/rig.rs"]
mod rig;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use terrace::cli::daemon::{Daemon, DaemonError};
use terrace::client::{ClientError, daemon_status};
use terrace::domain::retention::{Directive, Shield, TokenRange, Wish};
use terrace::domain::session::SessionName;
use terrace::domain::tier::Tier;
use terrace::env::Stopwatch;
use terrace::workload::generator::{Agentic, AgenticParams, Quantiles};

use rig::{Engine, by_tier, daemon, until};

fn chain(first: u64, blocks: u64) -> Vec<u64> {
    (first..first + blocks).collect()
}

#[tokio::test]
async fn blocks_sink_through_all_tiers_and_come_back() {
    let daemon = daemon([8, 16, 32, 64]).await;
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 100);
    engine.store(&ids).await;
    let status = engine.settled().await;
    assert_eq!(status.blocks, 100);

    let found = engine.lookup(&ids).await;
    assert_eq!(found.matched_blocks, 100, "{found:?}");
    let tiers = by_tier(&found);
    assert_eq!(tiers.len(), Tier::COUNT, "each tier holds a part: {tiers:?}");
    assert!(tiers["object"] >= 100 - 8 - 16 - 32, "{tiers:?}");

    let end = engine.load(&ids).await;
    assert_eq!(end.failed, rig::NONE, "all of them are there");
    engine.client.end_request(rig::REQUEST).await.unwrap();
    let status = engine.settled().await;
    assert_eq!((status.leases, status.corrupt_copies), (0, 0));
    for tier in Tier::ALL {
        let figures = &status.tiers[tier.index()];
        assert!(figures.blocks <= [8, 16, 32, 64][tier.index()], "{tier}: {figures:?}");
        assert!(figures.bytes_in > 0 && figures.bytes_out > 0, "{tier}: {figures:?}");
    }
}

#[tokio::test]
async fn after_a_crash_the_disk_serves_and_clients_come_back() {
    let mut daemon = daemon([0, 16, 256, 0]).await;
    let engine = Engine::join(&daemon, "engine").await;
    let (kept, pusher, half) = (chain(0, 40), chain(1000, 40), chain(2000, 60));
    engine.store(&kept).await;
    // What comes after pushes all of the first chain down to the disk.
    engine.store(&pusher).await;
    engine.settled().await;
    assert_eq!(by_tier(&engine.lookup(&kept).await)["nvme"], 40);
    engine.client.end_request(rig::REQUEST).await.unwrap();

    let op = engine.start_store(&half).await;
    daemon.kill().unwrap();
    match engine.client.wait(op).await {
        // It may just have landed; anything else must say that the session is over.
        Ok(_) | Err(ClientError::SessionLost(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
    let said = engine.client.status().await.unwrap_err();
    assert!(matches!(said, ClientError::NotConnected { .. }), "{said:?}");

    daemon.restart().await.unwrap();
    let again = Engine::join(&daemon, "engine").await;
    until(&again.client, "the disk was read", |status| status.blocks >= 40).await;
    let found = again.lookup(&kept).await;
    assert_eq!(by_tier(&found), [("nvme", 40)].into());
    assert_eq!(again.load(&kept).await.failed, rig::NONE, "every block of it, and the right bytes");
    // Whatever of the torn store is found is whole.
    let rest = again.lookup(&half).await.matched_blocks as usize;
    if rest > 0 {
        assert_eq!(again.load(&half[..rest]).await.failed, rig::NONE);
    }
    again.store(&half).await;
    assert_eq!(again.settled().await.corrupt_copies, 0);
}

#[tokio::test]
async fn a_second_daemon_finds_a_chain_in_the_store_they_share() {
    let shared = tempfile::tempdir().unwrap();
    let start = async || {
        let mut spec = rig::spec([0, 8, 0, 200]);
        spec.flags.push(("object-url".into(), format!("file://{}", shared.path().display())));
        Daemon::start(spec).await.unwrap()
    };
    let [one, two] = [start().await, start().await];
    let (first, second) = (Engine::join(&one, "a").await, Engine::join(&two, "b").await);
    let ids = chain(0, 100);
    first.store(&ids).await;
    first.store(&chain(1000, 8)).await;
    first.settled().await;
    assert_eq!(second.lookup(&ids).await.matched_blocks, 0, "it was not told to ask");
    let found = second.lookup_shared(&ids).await;
    assert_eq!(by_tier(&found), [("object", 100)].into());
    assert_eq!(second.load(&ids).await.failed, rig::NONE, "and the right bytes");
}

#[tokio::test]
async fn a_client_that_goes_leaves_nothing_behind() {
    let daemon = daemon([0, 64, 256, 0]).await;
    let watcher = Engine::join(&daemon, "watcher").await;
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 120);
    engine.store(&ids).await;
    engine.settled().await;
    engine.lookup(&ids).await;
    let busy = watcher.client.status().await.unwrap();
    assert_eq!((busy.clients, busy.pools, busy.leases), (2, 2, 1));

    let (_load, _store) = (engine.start_load(&ids).await, engine.start_store(&ids).await);
    let gone = Stopwatch::start();
    drop(engine);
    let left = until(&watcher.client, "its leases and pools are freed", |status| {
        (status.clients, status.pools, status.leases) == (1, 1, 0)
    });
    left.await;
    assert!(gone.elapsed() < Duration::from_secs(1), "it took {:?}", gone.elapsed());
    // The daemon goes on, and what was stored stays.
    assert_eq!(watcher.lookup(&ids).await.matched_blocks, 120);
    assert_eq!(watcher.load(&ids).await.failed, rig::NONE);
}

#[tokio::test]
async fn two_clients_with_one_name() {
    let daemon = daemon([0, 16, 0, 0]).await;
    let first = Engine::join(&daemon, "engine").await;
    match Engine::try_join(&daemon, "engine").await.map(drop) {
        Err(ClientError::NameTaken(said)) => assert!(said.contains("engine"), "{said}"),
        other => panic!("{other:?}"),
    }
    first.store(&chain(0, 4)).await;
    drop(first);
    let waiting = Stopwatch::start();
    while Engine::try_join(&daemon, "engine").await.is_err() {
        assert!(waiting.elapsed() < Duration::from_secs(1), "the name is not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn work_whose_daemon_is_killed_fails_for_that() {
    let mut daemon = daemon([0, 8, 0, 0]).await;
    let lost = || Err::<(), _>(DaemonError::Silent { waited: Duration::ZERO, log: "lost".into() });
    let said = daemon.or_its_end(lost()).await.unwrap_err().to_string();
    assert!(said.contains("lost"), "it runs: {said}");
    daemon.kill().unwrap();
    let said = daemon.or_its_end(lost()).await.unwrap_err().to_string();
    assert!(said.contains("SIGKILL") && said.contains("ready"), "{said}");
    assert!(daemon.or_its_end(Ok::<_, DaemonError>(1)).await.is_ok(), "all was done before");
}

#[tokio::test]
async fn an_orderly_stop_keeps_the_disk_and_takes_the_sockets() {
    let mut daemon = daemon([0, 8, 64, 0]).await;
    let engine = Engine::join(&daemon, "engine").await;
    engine.store(&chain(0, 20)).await;
    engine.store(&chain(100, 20)).await;
    engine.settled().await;
    let status = daemon.stop().await.unwrap();
    assert!(status.success(), "{status}: {}", daemon.log_tail());
    assert!(!daemon.socket().exists());
    daemon.restart().await.unwrap();
    let again = Engine::join(&daemon, "engine").await;
    until(&again.client, "the disk was read", |status| status.blocks >= 20).await;
    assert_eq!(again.load(&chain(0, 20)).await.failed, rig::NONE);
}

/// A demo that ends with the test, if not before.
struct Demo(Child);

impl Demo {
    /// Starts it in this folder, and gives its daemon's process once that answers.
    async fn start(folder: &Path) -> (Self, u32) {
        let mut command = Command::new(rig::binary());
        command.args(["demo", "--json"]).env("TMPDIR", folder);
        let demo = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let waiting = Stopwatch::start();
        loop {
            assert!(waiting.elapsed() < Duration::from_secs(20), "its daemon does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Some(made) = fs::read_dir(folder).unwrap().next() else { continue };
            let socket = made.unwrap().path().join("d.sock");
            if let Ok(status) = daemon_status(&socket, Duration::from_secs(1)).await {
                return (demo, status.pid);
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Whether it runs still is all the same here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the process runs: one that has ended may still wait for its parent to ask how.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.contains(" Z "))
}

#[tokio::test]
async fn a_command_that_is_killed_leaves_no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (demo, pid) = Demo::start(folder.path()).await;
    assert!(runs(pid));
    drop(demo);
    let gone = Stopwatch::start();
    while runs(pid) {
        assert!(gone.elapsed() < Duration::from_secs(2), "the daemon outlives its command");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_that_is_interrupted_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut demo, pid) = Demo::start(folder.path()).await;
    rustix::process::kill_process(Pid::from_child(&demo.0), Signal::INT).unwrap();
    let status = demo.0.wait().unwrap();
    assert_eq!(status.code(), Some(1), "it says that it did not finish");
    assert!(!runs(pid));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "its folder is gone");
}

/// Runs `terrace serve` with these flags until it ends; it must not come up.
fn serve(flags: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(rig::binary());
    command.args(["serve", "--dram-capacity", "64MiB", "--dram-staging", "64MiB"]);
    command.args(["--nvme-capacity", "64MiB", "--object-url", "off"]);
    for (flag, path) in flags {
        command.arg(flag).arg(path);
    }
    command.output().unwrap()
}

#[tokio::test]
async fn a_daemon_that_cannot_have_its_places_says_why() {
    let daemon = daemon([0, 16, 64, 0]).await;
    let folder = tempfile::tempdir().unwrap();
    let (socket, state) = (folder.path().join("s"), folder.path().join("state"));
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let below_file = file.join("state");
    for (what, flags, expected) in [
        (
            "a socket in use",
            [("--socket", daemon.socket().as_path()), ("--state-dir", &state)],
            "socket",
        ),
        (
            "a state folder in use",
            [("--socket", &socket), ("--state-dir", daemon.state_dir().as_path())],
            "state",
        ),
        (
            "a state folder that cannot be made",
            [("--socket", &socket), ("--state-dir", &below_file)],
            "state",
        ),
        (
            // Nobody may write there, root neither.
            "a read-only state folder",
            [("--socket", &socket), ("--state-dir", Path::new("/proc/terrace"))],
            "/proc/terrace",
        ),
    ] {
        let output = serve(&flags);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{what}: it ran");
        assert!(said.contains(expected) && !said.contains("panicked"), "{what}: {said}");
    }
    // The daemon that was there first noticed nothing.
    daemon_status(daemon.socket(), Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn operators_see_the_sessions_and_blocks_of_engines() {
    let daemon = daemon([0, 16, 64, 0]).await;
    let engine = Engine::join(&daemon, "engine").await;
    let agent = SessionName::new("agent/1").unwrap();
    let minutes =
        |minutes| Some(Shield { ttl: Duration::from_mins(minutes), refresh_on_hit: true });
    let kept = |end, ttl| Directive {
        tokens: TokenRange { start: end - 128, end: Some(end) },
        wish: Wish { shield: minutes(ttl), ..Wish::default() },
    };
    let mut request = rig::REQUEST.of(&agent);
    request.directives = vec![kept(128, 60), kept(256, 5)];
    let ids = chain(0, 6);
    let stored = engine.store_as(request, &ids).await;
    assert_eq!((stored.clipped_blocks, stored.clipped_directives), (0, 0));
    engine.client.wait(stored.op).await.unwrap();
    let usage = engine.client.end_request(rig::REQUEST).await.unwrap();
    assert_eq!((usage.created_1h_tokens, usage.created_5m_tokens), (128, 128));
    assert_eq!(usage.uncached_tokens, 128);

    let show = |what: &[&str]| {
        let mut command = Command::new(rig::binary());
        json_of(command.args(what).arg("--json").arg("--socket").arg(daemon.socket()))
    };
    let sessions = show(&["sessions"]);
    assert_eq!(sessions["sessions_total"], 1, "{sessions}");
    let session = &sessions["sessions"][0];
    assert_eq!((&session["session"], &session["blocks"]), (&"agent/1".into(), &6.into()));
    let first = engine.client.inspect(&engine.hashes(&ids[..1])).await.unwrap();
    let block = show(&["inspect", &first.key.to_string()]);
    assert_eq!((&block["position"], &block["sessions"]), (&0.into(), &1.into()), "{block}");
    assert_eq!(block["copies"][0]["tier"], "dram", "{block}");
    assert_eq!(block["refresh_on_hit_s"], 3600.0);
    assert!(block["shielded_for_s"].as_f64().unwrap() > 3500.0, "{block}");
    let status = show(&["status"]);
    assert_eq!(status["sessions"], 1);
    let frame_bytes = engine.client.welcome().frame_bytes;
    assert_eq!(status["tiers"][0]["shielded_bytes"], 4 * frame_bytes);
}

/// A short workload as a trace file.
fn trace(folder: &Path, requests: usize) -> std::path::PathBuf {
    let params = AgenticParams {
        leads: 4,
        starts_within_s: 60,
        products: 2,
        prefix_tokens: Quantiles([600, 700, 800, 900, 1_000, 1_200]),
        user_tokens: Quantiles([20, 50, 100, 200, 400, 800]),
        tool_tokens: Quantiles([20, 50, 100, 200, 400, 800]),
        output_tokens: Quantiles([20, 50, 100, 200, 400, 800]),
        context_tokens_max: 6_000,
        ..AgenticParams::default()
    };
    let requests: Vec<_> = Agentic::new(params).take(requests).collect();
    let blocks: std::collections::BTreeSet<u64> =
        requests.iter().flat_map(terrace::workload::Request::block_ids).collect();
    let mut text = format!(
        "{{\"format\":\"kvtrace-rle-1\",\"block_tokens\":64,\"unique_blocks\":{},\
         \"requests\":{}}}\n",
        blocks.len(),
        requests.len()
    );
    for request in &requests {
        let runs: Vec<(u64, u32)> =
            request.blocks.iter().map(|run| (run.first_id, run.count)).collect();
        let line = serde_json::json!({
            "t": request.t.millis() / 1000,
            "session": request.session,
            "sub": request.sub,
            "turn": request.turn,
            "in": request.input_tokens,
            "out": request.output_tokens,
            "blocks": runs,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    let path = folder.join("trace.jsonl");
    fs::write(&path, text).unwrap();
    path
}

/// The JSON object that a command prints; stderr in the failure's text.
fn json_of(command: &mut Command) -> serde_json::Value {
    let output = command.output().unwrap();
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{}: {err}", output.status);
    serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {err}"))
}

fn tiers_with(report: &serde_json::Value, field: &str) -> Vec<String> {
    let tiers = report["tiers"].as_array().unwrap().iter();
    let some = tiers.filter(|tier| tier[field].as_u64().unwrap() > 0);
    some.map(|tier| tier["tier"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_live_replay_finds_what_a_simulated_one_finds() {
    let folder = tempfile::tempdir().unwrap();
    let path = trace(folder.path(), 120);
    let replay = |mode: &[&str]| {
        let mut command = Command::new(rig::binary());
        command.arg("replay").arg(&path).args(mode);
        command.args(["--hbm", "60", "--dram", "120", "--nvme", "200", "--object", "60"]);
        json_of(command.args(["--block-bytes", "16384", "--json"]))
    };
    let live = replay(&["--live"]);
    assert_eq!(live["mode"], "live");
    assert_eq!(live["corrupt_blocks"], 0);
    assert!(live["bytes_verified"].as_u64().unwrap() > 0, "{live}");
    assert!(live["lookup_us"]["p50"].as_f64().unwrap() > 0.0, "{live}");
    assert_eq!(tiers_with(&live, "bytes_in").len(), 4, "{live}");
    assert!(tiers_with(&live, "hit_tokens").len() >= 2, "{live}");

    let simulated = replay(&["--simulate", "--instant"]);
    let ratio = |report: &serde_json::Value| report["hit_ratio"].as_f64().unwrap();
    // Real copies take their time, so a block may sink a little sooner or later.
    assert!((ratio(&live) - ratio(&simulated)).abs() < 0.05, "{live}\n{simulated}");
    for field in ["requests", "input_tokens", "unique_blocks", "block_tokens"] {
        assert_eq!(live[field], simulated[field], "{field}");
    }
}

#[test]
fn the_demo_uses_every_tier_and_corrupts_nothing() {
    let mut command = Command::new(rig::binary());
    let report = json_of(command.args(["demo", "--json", "--block-bytes", "4096"]));
    assert_eq!(report["corrupt_blocks"], 0);
    assert_eq!(report["format"], "generated");
    assert_eq!(tiers_with(&report, "bytes_out").len(), 4, "{report}");
    assert_eq!(tiers_with(&report, "evicted_blocks").len(), 4, "{report}");
    let [off, on] = [&report["pauses"][0], &report["pauses"][1]];
    assert_eq!((&off["prefetch"], &off["lifted_bytes"]), (&false.into(), &0.into()), "{off}");
    assert_eq!(on["prefetch"], true);
    for side in [off, on] {
        assert!(side["load_wait_us"]["mean"].as_f64().unwrap() > 0.0, "{side}");
        assert_eq!(side["corrupt_blocks"], 0);
    }
    assert!(on["timely_bytes"].as_u64().unwrap() > 0, "{on}");
}
