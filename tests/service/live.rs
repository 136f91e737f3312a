//! The service and the client over the real manager: real copies between two pools and DRAM.

use std::sync::Arc;
use std::time::Duration;

use terrace::client::{Client, ClientConfig, ClientError, HostPool, PoolOrder, RequestId};
use terrace::domain::tier::Tier;
use terrace::domain::units::CHUNK_BYTES;
use terrace::env::SystemClock;
use terrace::manager::shell::{Shell, ShellParts};
use terrace::manager::{ManagerConfig, TierConfig};
use terrace::service::{Server, ServiceConfig};
use terrace::tiers::dram::{Arena, ArenaConfig};
use terrace::tiers::hbm::{HostDevice, HostDeviceConfig};

use super::{SHAPE, hashes, namespace};

const R: RequestId = RequestId(1);
const LONG: Duration = Duration::from_mins(1);

/// A node with a DRAM tier and nothing else.
fn shell() -> Shell {
    let arena = Arc::new(
        Arena::new(ArenaConfig {
            tier_bytes: CHUNK_BYTES,
            staging_bytes: 1 << 20,
            pretouch_threads: 1,
        })
        .unwrap(),
    );
    let device = HostDeviceConfig { tier_bytes: 0, pretouch_threads: 1 };
    let mut tiers = [None; Tier::COUNT];
    tiers[Tier::Dram.index()] =
        Some(TierConfig { capacity_bytes: CHUNK_BYTES, slots_max: u64::MAX, recovers: false });
    Shell::start(ShellParts {
        config: ManagerConfig::with_tiers(tiers),
        clock: Arc::new(SystemClock::start()),
        runtime: tokio::runtime::Handle::current(),
        staging: CHUNK_BYTES..arena.len_bytes(),
        device: Arc::new(HostDevice::new(Arc::clone(&arena), device).unwrap()),
        arena,
        nvme: None,
        object: None,
        node_id: [7; 16],
    })
    .unwrap()
}

fn payload(block: u8) -> Vec<u8> {
    let bytes = usize::try_from(SHAPE.shard_bytes()).unwrap();
    (0..bytes).map(|at| block ^ at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_stored_by_one_client_are_loaded_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("t.sock");
    let shell = shell();
    let server = Server::bind(ServiceConfig::new(&socket), shell.handle()).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let mut namespace = namespace();
    namespace.shard_count = 1;
    let config = |name: &str| ClientConfig::new(name, namespace.clone());

    let writer = Client::connect(&socket, config("writer")).await.unwrap();
    let pool = HostPool::create(PoolOrder::LayerMajor.layout(SHAPE, 8)).unwrap();
    let handle = writer.register_pool(&pool, 0).await.unwrap();
    for slot in 0..8 {
        pool.write_block(slot.into(), &payload(slot)).unwrap();
    }
    let slots: Vec<u32> = (0..8).rev().collect();
    let stored = writer.store(R, None, hashes(0, 8), handle, &slots).await.unwrap();
    assert_eq!((stored.taken, stored.present, stored.dropped), (8, 0, 0));
    assert!(writer.wait(stored.op).await.unwrap().failed.is_empty());
    drop(writer);

    // The writer and its pool are gone; the blocks are not.
    let reader = Client::connect(&socket, config("reader")).await.unwrap();
    let pool = HostPool::create(PoolOrder::BlockMajor.layout(SHAPE, 16)).unwrap();
    let handle = reader.register_pool(&pool, 0).await.unwrap();
    let found = reader.lookup(R, hashes(0, 10)).await.unwrap();
    assert_eq!(found.matched_blocks, 8);
    assert!(found.lease.is_some());
    let slots: Vec<u32> = (4..13).collect();
    let load = reader.load(R, hashes(0, 9), handle, &slots, LONG).await.unwrap();
    assert_eq!(reader.wait(load).await.unwrap().failed, [8], "only what nobody stored");
    let mut read = payload(0);
    for block in 0..8 {
        pool.read_block(u32::from(block) + 4, &mut read).unwrap();
        assert_eq!(read, payload(7 - block), "block {block}");
    }
    reader.release(found.lease.unwrap()).await.unwrap();
    let again = reader.release(found.lease.unwrap()).await.unwrap_err();
    assert!(matches!(again, ClientError::NotFound(_)), "{again:?}");
    let status = reader.status().await.unwrap();
    assert_eq!((status.blocks, status.policy.as_str()), (8, "lru"));
    assert!(reader.arena().await.unwrap().len_bytes() > CHUNK_BYTES);

    let small = pool.memory();
    let claim = PoolOrder::BlockMajor.layout(SHAPE, 17);
    let error = reader.register_memory(small, &claim, 0).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error:?}");

    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    tokio::task::spawn_blocking(|| shell.stop(Duration::from_secs(2))).await.unwrap();
}
