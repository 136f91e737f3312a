//! How long a daemon takes after a kill until it serves so many slots again.

use std::path::Path;
use std::time::Duration;

use terrace::cli::daemon::{Daemon, DaemonSpec, TierSize};
use terrace::client::{
    Client, ClientConfig, HostPool, Op, PoolOrder, Request, RequestId, daemon_status,
};
use terrace::domain::namespace::KvShape;
use terrace::env::Stopwatch;
use terrace::workload::content::{self, Content};

use super::MIB;

/// The shortest frames there are: what is measured is slots, not bytes.
const SHAPE: KvShape = KvShape { layers: 1, planes: 1, page_bytes: 4096 };
const SLOT_BYTES: u64 = 8192;
const CHAIN_BLOCKS: u64 = 500;
const CALLS: usize = 16;
const CONTENT: Content = Content::new(4);

const BAR_S: f64 = 20.0;

pub async fn measure(dir: &Path, slots: u64) {
    let absent = TierSize::default();
    let disk = (slots * SLOT_BYTES).next_multiple_of(64 * MIB) + 64 * MIB;
    let tiers = [absent, TierSize::bytes(256 * MIB), TierSize::bytes(disk), absent];
    let mut spec = DaemonSpec::new(env!("CARGO_BIN_EXE_terrace"), tiers);
    dir.clone_into(&mut spec.parent);
    let mut daemon = Daemon::start(spec).await.unwrap();
    let chains = slots / CHAIN_BLOCKS;
    let filling = Stopwatch::start();
    fill(&daemon, chains).await;
    let blocks = chains * CHAIN_BLOCKS;
    println!("{blocks} blocks are durable after {:.1} s", filling.elapsed().as_secs_f64());
    daemon.kill().unwrap();
    let watch = Stopwatch::start();
    daemon.restart().await.unwrap();
    let ready = watch.elapsed();
    loop {
        let status = daemon_status(daemon.socket(), Duration::from_secs(5)).await.unwrap();
        if status.blocks >= blocks {
            break;
        }
        assert!(watch.elapsed() < Duration::from_mins(5), "only {} of {blocks}", status.blocks);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = watch.elapsed().as_secs_f64();
    println!(
        "recovered {blocks} slots in {took:.1} s after a kill, serving after {:.1} s (bar {BAR_S} s) {}",
        ready.as_secs_f64(),
        if took < BAR_S { "reached" } else { "MISSED" }
    );
}

async fn fill(daemon: &Daemon, chains: u64) {
    let config = ClientConfig::new("fill", content::namespace("recover", SHAPE));
    let client = Client::connect(daemon.socket(), config).await;
    let client = client.unwrap();
    let blocks = u32::try_from(CHAIN_BLOCKS).unwrap();
    let pool = HostPool::create(PoolOrder::LayerMajor.layout(SHAPE, blocks)).unwrap();
    let handle = client.register_pool(&pool, 0).await.unwrap();
    let slots: Vec<u32> = (0..blocks).collect();
    let mut calls: Vec<Op> = Vec::new();
    for chain in 0..chains {
        if calls.len() == CALLS {
            end(&client, calls.remove(0)).await;
        }
        let ids = chain * CHAIN_BLOCKS..(chain + 1) * CHAIN_BLOCKS;
        let hashes: Vec<u8> = ids.flat_map(|id| CONTENT.engine_hash(id)).collect();
        let request = Request::from(RequestId(1)).durable();
        calls.push(client.store(request, None, hashes, handle, &slots).await.unwrap().op);
    }
    for call in calls {
        end(&client, call).await;
    }
}

async fn end(client: &Client, call: Op) {
    let end = client.wait(call).await.unwrap();
    assert!(end.failed.is_empty() && end.not_durable.is_empty(), "{end:?}");
}
