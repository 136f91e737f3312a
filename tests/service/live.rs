//! The service and the client over the real manager: real copies between two pools and DRAM.

use std::time::Duration;

use terrace::client::{ClientError, HostPool, PoolOrder, RequestId};
use terrace::domain::units::CHUNK_BYTES;

use super::node::Node;
use super::{SHAPE, hashes};

const R: RequestId = RequestId(1);
const LONG: Duration = Duration::from_mins(1);

fn payload(block: u8) -> Vec<u8> {
    let bytes = usize::try_from(SHAPE.shard_bytes()).unwrap();
    (0..bytes).map(|at| block ^ at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_stored_by_one_client_are_loaded_by_another() {
    let node = Node::start();
    let (writer, pool, handle) = node.client_with_pool("writer", 8).await;
    for slot in 0..8 {
        pool.write_block(slot.into(), &payload(slot)).unwrap();
    }
    let slots: Vec<u32> = (0..8).rev().collect();
    let stored = writer.store(R, None, hashes(0, 8), handle, &slots).await.unwrap();
    assert_eq!((stored.taken, stored.present, stored.dropped), (8, 0, 0));
    assert!(writer.wait(stored.op).await.unwrap().failed.is_empty());
    drop(writer);

    // The writer and its pool are gone; the blocks are not.
    let reader = node.client("reader").await;
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
    assert_eq!((status.blocks, status.policy.as_str()), (8, "value"));
    assert!(reader.arena().await.unwrap().len_bytes() > CHUNK_BYTES);

    let small = pool.memory();
    let claim = PoolOrder::BlockMajor.layout(SHAPE, 17);
    let error = reader.register_memory(small, &claim, 0).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error:?}");

    node.stop().await;
}
