//! The daemon is killed at random moments under load, round after round in one folder: what it had
//! called durable comes back, with the right bytes and records, and nothing comes back wrong. Once on a
//! folder of the disk, once on two that make one tier.
//!
//! `scripts/crash --rounds 50` runs many rounds, the test suite a few. A failure prints its seed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use terrace::cli::daemon::{Daemon, DaemonSpec, TierSize};
use terrace::domain::tier::Tier;
use terrace::env::Stopwatch;
use terrace::workload::draw::Draw;

use super::crash_load::{self as load, Acknowledged, CHAIN_BLOCKS};
use super::rig::{self, Engine};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Few: `scripts/test` is to stay quick.
const ROUNDS_DEFAULT: u64 = 4;

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a whole number"))
}

/// Memory so small that blocks sink all the time, and a disk that no round fills: what is durable is
/// evicted nowhere. `more` is a further folder of the disk's tier.
fn spec(rounds: u64, more: Option<&Path>) -> DaemonSpec {
    let tier = |bytes, blocks_max| TierSize { bytes, blocks_max };
    let disk = TierSize::bytes((rounds * load::ROUND_BYTES_MAX).next_multiple_of(128 * MIB));
    let tiers = [TierSize::default(), tier(64 * MIB, Some(96)), disk, TierSize::default()];
    let mut spec = DaemonSpec::new(rig::binary(), tiers);
    spec.staging_bytes = 64 * MIB;
    spec.parent = parent();
    let flag = |more: &Path| ("nvme-more-paths".into(), more.to_str().unwrap().into());
    spec.flags.extend(more.map(flag));
    spec
}

fn parent() -> PathBuf {
    std::env::var_os("TERRACE_CRASH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// What all rounds so far came to.
#[derive(Debug, Default)]
struct Tally {
    durable: usize,
    loaded: usize,
    records: usize,
    /// Chains that were never called durable, found all the same: their bytes are right too.
    others: usize,
    /// Kills that hit a store whose end was not told.
    cut_short: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_called_durable_outlives_a_kill_at_any_moment() {
    kill_again_and_again(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_what_lies_on_several_disks() {
    let more = tempfile::tempdir_in(parent()).unwrap();
    kill_again_and_again(Some(more.path())).await;
    let files = std::fs::read_dir(more.path()).unwrap().flatten();
    let frames: usize = files.map(|file| frames_in(&file.path())).sum();
    assert!(frames > 0, "nothing was written to the second folder");
}

/// Pages of a file that begin a frame: `docs/frame.md` has the magic.
fn frames_in(file: &Path) -> usize {
    let mut file = BufReader::with_capacity(1 << 20, File::open(file).unwrap());
    let (mut page, mut frames) = ([0; 4096], 0);
    while file.read_exact(&mut page).is_ok() {
        frames += usize::from(page.starts_with(b"TERRACEF"));
    }
    frames
}

async fn kill_again_and_again(more: Option<&Path>) {
    let rounds = from_env("TERRACE_CRASH_ROUNDS", ROUNDS_DEFAULT);
    let seed = from_env("TERRACE_CRASH_SEED", 1);
    println!("{rounds} rounds, TERRACE_CRASH_SEED={seed}");
    let mut draw = Draw::new(seed);
    let mut daemon = Daemon::start(spec(rounds, more)).await.unwrap();
    let mut all = Acknowledged::default();
    let mut tally = Tally::default();
    for round in 0..rounds {
        let after = Duration::from_micros(5_000 + u64::from(draw.below(250_000)));
        let fresh = load::until_killed(&mut daemon, (round, u64::from(draw.below(1 << 30))), after);
        let fresh = fresh.await;
        daemon.restart().await.unwrap();
        let engine = Engine::join(&daemon, "checker").await;
        tally.cut_short += fresh.cut_short;
        check_durable(&engine, &fresh, &mut tally).await;
        check_others(&engine, &fresh, &mut tally).await;
        all.extend(fresh);
        check_sample(&engine, &all, &mut draw).await;
        let status = engine.client.status().await.unwrap();
        assert_eq!(status.corrupt_copies, 0, "round {round}, seed {seed}: {status:?}");
        println!("round {round}: killed after {after:?}; so far {tally:?}");
    }
    // All rounds once more, after the last of the kills.
    let engine = Engine::join(&daemon, "last").await;
    check_durable(&engine, &all, &mut Tally::default()).await;
    println!(
        "{rounds} kills: {tally:?}: every block called durable came back, none with wrong bytes"
    );
    assert!(tally.durable > 0, "the load was not quick enough to have anything called durable");
}

/// Every durable block is found, holds its bytes, and says what was asked for it.
async fn check_durable(engine: &Engine, acknowledged: &Acknowledged, tally: &mut Tally) {
    for chain in &acknowledged.durable {
        let ids = chain.durable_ids();
        found(engine, &ids).await;
        assert_eq!(engine.load(&ids).await.failed, rig::NONE, "{chain:?}");
        for id in &ids {
            let hash = engine.hashes(&[*id]);
            let block = engine.client.inspect(&hash).await.unwrap();
            chain.check_record(*id, &block.record);
            tally.records += 1;
        }
        tally.durable += ids.len();
        tally.loaded += ids.len();
    }
    engine.client.end_request(rig::REQUEST).await.unwrap();
}

/// The disk is read while the daemon serves: what is there is found as soon as its chain is.
async fn found(engine: &Engine, ids: &[u64]) {
    let waiting = Stopwatch::start();
    loop {
        let matched = engine.lookup(ids).await.matched_blocks as usize;
        if matched == ids.len() {
            return;
        }
        let lost = &ids[matched..];
        assert!(waiting.elapsed() < PATIENCE, "{lost:?} were called durable and are lost");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whatever else is found may be less than was stored, and never wrong.
async fn check_others(engine: &Engine, acknowledged: &Acknowledged, tally: &mut Tally) {
    for first in &acknowledged.offered {
        let ids: Vec<u64> = (*first..first + CHAIN_BLOCKS).collect();
        let matched = engine.lookup(&ids).await.matched_blocks as usize;
        if matched > 0 {
            // The rig compares all that came. A frame torn by the kill fails to load: that is no
            // wrong byte, and nobody was promised it.
            let end = engine.load(&ids[..matched]).await;
            tally.others += matched - end.failed.len();
        }
    }
    engine.client.end_request(rig::REQUEST).await.unwrap();
}

/// A few chains of former rounds: a later kill takes nothing of them.
async fn check_sample(engine: &Engine, all: &Acknowledged, draw: &mut Draw) {
    for _ in 0..all.durable.len().min(4) {
        let ids = all.durable[draw.index(all.durable.len())].durable_ids();
        found(engine, &ids).await;
        assert_eq!(engine.load(&ids).await.failed, rig::NONE);
    }
    let status = engine.client.status().await.unwrap();
    assert!(status.tiers[Tier::Nvme.index()].blocks > 0 || all.durable.is_empty(), "{status:?}");
}
