//! A cancelled lift stops moving bytes, however slow the disk is.

use std::num::NonZeroU64;
use std::time::Duration;

use terrace::client::{
    Action, Client, HostPool, LiftState, Link, OpId, OutcomeStatus, PoolHandle, RequestId, Target,
};
use terrace::domain::hint::LiftWish;
use terrace::domain::tier::Tier;
use terrace::env::Stopwatch;
use terrace::tiers::decorators::Limits;

use super::node::Node;
use super::{SHAPE, hashes};

const R: RequestId = RequestId(1);
const LONG: Duration = Duration::from_mins(1);
const NONE: [u32; 0] = [];

/// So much of memory that a fourth of it, which a lift may have, takes seconds to read.
const DRAM_BLOCKS: u32 = 1200;
const BLOCKS: u64 = 600;
const DISK_BYTES_PER_S: u64 = 12 << 20;

/// How long a lift's bytes may go on moving after its cancellation was answered.
const STOP_MAX: Duration = Duration::from_millis(50);

/// The link that lifts use here, so many bytes of lifts landed.
async fn lifted_bytes(client: &Client) -> u64 {
    client.status().await.unwrap().links[Link::NvmeRead.index()].prefetch_bytes
}

fn mark(block: u64) -> Vec<u8> {
    let bytes = usize::try_from(SHAPE.shard_bytes()).unwrap();
    block.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

async fn store(client: &Client, pool: &HostPool, handle: PoolHandle, from: u64, to: u64) {
    let slots: Vec<u32> = (0..u32::try_from(to - from).unwrap()).collect();
    for (slot, block) in slots.iter().zip(from..) {
        pool.write_block(*slot, &mark(block)).unwrap();
    }
    let stored = client.store(R, None, hashes(from, to), handle, &slots).await.unwrap();
    assert_eq!(client.wait(stored.op).await.unwrap().failed, NONE);
}

async fn load(client: &Client, pool: &HostPool, handle: PoolHandle, from: u64, to: u64) {
    let slots: Vec<u32> = (0..u32::try_from(to - from).unwrap()).collect();
    let op = client.load(R, hashes(from, to), handle, &slots, LONG).await.unwrap();
    assert_eq!(client.wait(op).await.unwrap().failed, NONE);
    let mut read = mark(0);
    for (slot, block) in slots.iter().zip(from..) {
        pool.read_block(*slot, &mut read).unwrap();
        assert_eq!(read, mark(block), "block {block}");
    }
}

/// Begins to lift the chain and waits until some of it moves.
async fn lift(client: &Client) -> OpId {
    let target = Target::Keys(hashes(0, BLOCKS).into());
    let prefetch = Action::Prefetch { target, wish: LiftWish::default() };
    let outcome = client.hint(vec![prefetch]).await.unwrap().pop().unwrap();
    let before = lifted_bytes(client).await;
    let waiting = Stopwatch::start();
    while lifted_bytes(client).await == before {
        assert!(waiting.elapsed() < Duration::from_secs(5), "nothing moves: {outcome:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    outcome.operation.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_lift_stops_within_fifty_milliseconds() {
    let disk = Limits { read_bytes_per_s: NonZeroU64::new(DISK_BYTES_PER_S), ..Limits::default() };
    let node = Node::with_disk(u64::from(DRAM_BLOCKS), disk);
    let (client, pool, handle) = node.client_with_pool("engine", DRAM_BLOCKS).await;
    store(&client, &pool, handle, 0, BLOCKS).await;
    store(&client, &pool, handle, 10_000, 10_000 + u64::from(DRAM_BLOCKS)).await;
    let found = client.lookup(R, hashes(0, BLOCKS)).await.unwrap();
    assert_eq!(found.runs.first().map(|run| run.tier), Some(Tier::Nvme), "{:?}", found.runs);
    client.end_request(R).await.unwrap();

    for _ in 0..3 {
        let op = lift(&client).await;
        let cancel = Action::CancelPrefetch { operation: op.0 };
        let outcome = client.hint(vec![cancel]).await.unwrap().pop().unwrap();
        let answered = Stopwatch::start();
        assert_eq!(outcome.status, OutcomeStatus::Accepted, "{outcome:?}");
        let (mut bytes, mut grew) = (lifted_bytes(&client).await, Duration::ZERO);
        while answered.elapsed() < 8 * STOP_MAX {
            let asked = answered.elapsed();
            let now = lifted_bytes(&client).await;
            if now > bytes {
                (bytes, grew) = (now, asked);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("bytes grew for {grew:?} after the cancellation was answered");
        assert!(grew <= STOP_MAX, "bytes went on for {grew:?}");
        let shown = client.operation(op).await.unwrap();
        assert_eq!(shown.state, LiftState::Cancelled, "{shown:?}");
        assert!(shown.landed > 0 && shown.landed < 300, "it was cancelled midway: {shown:?}");
        assert_eq!(client.status().await.unwrap().transfers_in_flight, 0);
        client.wait(client.lift(op)).await.unwrap();
    }
    load(&client, &pool, handle, 0, 100).await;
    node.stop().await;
}
