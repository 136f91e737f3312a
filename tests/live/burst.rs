//! More stores at once than memory holds: what is not kept is said, what is kept is served.

use std::time::Duration;

use terrace::cli::daemon::Daemon;
use terrace::client::{RequestId, Stored};
use terrace::env::Stopwatch;

use super::chain;
use super::rig::{self, Engine, NONE, until};

const DRAM_BLOCKS: u64 = 128;

/// As many as a pool has slots: three of them are three times the memory.
const CHAIN_BLOCKS: u64 = 128;
const ROUNDS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_three_times_the_memory_loses_nothing_but_what_it_says() {
    let mut spec = rig::spec([0, DRAM_BLOCKS, 0, 0]);
    spec.tiers[2] = terrace::cli::daemon::TierSize::bytes(4 * (64 << 20));
    let daemon = Daemon::start(spec).await.unwrap();
    let reader = Engine::join(&daemon, "reader").await;
    let old = chain(0, CHAIN_BLOCKS);
    reader.store(&old).await;
    reader.store(&chain(900_000, CHAIN_BLOCKS)).await;
    reader.settled().await;
    let mut writers = Vec::new();
    for name in ["a", "b", "c"] {
        writers.push(Engine::join(&daemon, name).await);
    }

    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        let chains: Vec<Vec<u64>> =
            (0..3).map(|n| chain((1 + n + round * 3) * 1000, CHAIN_BLOCKS)).collect();
        let mut stores: Vec<Stored> = Vec::new();
        for (writer, ids) in writers.iter().zip(&chains) {
            stores.push(writer.store_as(RequestId(1).into(), ids).await);
        }
        // Old blocks are read from the disk while it is written to.
        let watch = Stopwatch::start();
        let burst = async {
            let mut landed = Vec::new();
            for (writer, stored) in writers.iter().zip(stores) {
                let Stored { op, taken, dropped, .. } = stored;
                let end = writer.client.wait(op).await.unwrap();
                landed.push((taken, dropped, end.failed));
            }
            (landed, watch.elapsed())
        };
        let (end, (landed, took)) = tokio::join!(reader.load(&old), burst);
        assert_eq!(end.failed, NONE, "old blocks are there, and right");
        assert!(took < Duration::from_secs(15), "the burst took {took:?}");
        for (ids, (taken, dropped, failed)) in chains.into_iter().zip(landed) {
            // From the tail: what is kept is a chain from its root on.
            let whole = failed.first().map_or(taken, |first| *first);
            let tail: Vec<u32> = (whole..whole + u32::try_from(failed.len()).unwrap()).collect();
            assert_eq!(failed, tail, "{taken} taken, {dropped} dropped");
            kept.push((ids, whole, u64::from(dropped) + failed.len() as u64));
        }
    }
    let status = reader.settled().await;
    let dropped: u64 = kept.iter().map(|(.., dropped)| dropped).sum();
    assert_eq!(status.stores_dropped_blocks, dropped, "each drop was said");
    assert_eq!(status.corrupt_copies, 0);
    let landed: u64 = kept.iter().map(|(_, whole, _)| u64::from(*whole)).sum();
    let offered = 3 * ROUNDS * CHAIN_BLOCKS;
    assert_eq!(landed + dropped, offered);
    assert!(landed > offered / 2, "{dropped} of {offered} were dropped");
    for (ids, whole, _) in &kept {
        let landed = &ids[..*whole as usize];
        assert_eq!(reader.load(landed).await.failed, NONE, "whatever landed is served");
    }
    until(&reader.client, "all that moved has ended", |status| status.ops_in_flight == 0).await;
}
