//! The HBM tier's memory over the protocol: how it is opened, and blocks read where they lie.

use terrace::client::{Borrowed, Client, ClientError, HbmMemory, HostPool, LentBlock, RequestId};
use terrace::domain::units::CHUNK_BYTES;
use terrace::wire::fd_message::{FdKind, FdStatus};

use super::descriptors::attached_raw;
use super::fake::FakeHbm;
use super::node::Node;
use super::{SHAPE, World, hashes};

const R: RequestId = RequestId(1);

#[tokio::test]
async fn memory_on_a_gpu_is_a_handle() {
    let world = World::start();
    let client = world.client("a").await;
    world.fake.state().hbm = Some(FakeHbm::OnGpu);
    let Ok(HbmMemory::Cuda { device_uuid, handle, bytes }) = client.hbm().await else {
        panic!("it is on a GPU");
    };
    assert_eq!((device_uuid, handle, bytes), ([7; 16], [8; 64], 1 << 26));
    // Its descriptor is none, and asking for it ends nothing.
    let (_raw, line) = attached_raw(&world, "b").await;
    for _ in 0..2 {
        assert_eq!(line.exchange(FdKind::Hbm, line.0, 0, &[]).await, FdStatus::NoHbm);
    }
    assert_eq!(line.exchange(FdKind::Arena, line.0, 0, &[]).await, FdStatus::Ok);
}

#[tokio::test]
async fn memory_that_is_not_there_is_said_to_be_missing() {
    let world = World::start();
    let client = world.client("a").await;
    for (hbm, wanted) in [(None, "no HBM tier"), (Some(FakeHbm::Broken), "can't be shared")] {
        world.fake.state().hbm = hbm;
        let error = client.hbm().await.err().unwrap();
        assert!(
            matches!(&error, ClientError::Precondition(said) if said.contains(wanted)),
            "{error}"
        );
    }
    let error = client.borrow(R, vec![0; 7]).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error}");
    let error = client.borrow(R, vec![]).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_tier_nothing_is_lent() {
    let node = Node::start();
    let client = node.client("a").await;
    let error = client.borrow(R, hashes(0, 1)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Precondition(said) if said.contains("no HBM tier")));
    assert!(matches!(client.hbm().await, Err(ClientError::Precondition(_))));
    assert_eq!(client.give_back(R).await.unwrap(), 0);
    node.stop().await;
}

fn payload(seed: u64) -> Vec<u8> {
    let bytes = usize::try_from(SHAPE.shard_bytes()).unwrap();
    (0..bytes).map(|at| (seed * 31 + at as u64 * 7 + (at as u64 >> 9)).to_le_bytes()[0]).collect()
}

/// Stores blocks `from..to` as a chain of its own, and waits for them.
async fn store(client: &Client, pool: &HostPool, handle: terrace::client::PoolHandle, from: u64) {
    for slot in 0..4 {
        pool.write_block(slot, &payload(from + u64::from(slot))).unwrap();
    }
    let stored =
        client.store(R, None, hashes(from, from + 4), handle, &[0, 1, 2, 3]).await.unwrap();
    assert!(client.wait(stored.op).await.unwrap().failed.is_empty());
}

/// A lent block as it lies, page by page in the order of a pool's slot.
fn read(memory: &HbmMemory, lent: &Borrowed, block: LentBlock) -> Vec<u8> {
    let HbmMemory::Host(memory) = memory else { panic!("it is this machine's") };
    let page_bytes = SHAPE.page_bytes as usize;
    let mut bytes = vec![0; usize::try_from(SHAPE.shard_bytes()).unwrap()];
    let pages = (0..SHAPE.layers).flat_map(|layer| (0..SHAPE.planes).map(move |p| (layer, p)));
    for ((layer, plane), page) in pages.zip(bytes.chunks_mut(page_bytes)) {
        memory.read(lent.page(block, (0, layer, plane)), page).unwrap();
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lent_stays_until_it_is_given_back() {
    let node = Node::with_hbm(8);
    let (client, pool, handle) = node.client_with_pool("a", 4).await;
    store(&client, &pool, handle, 0).await;
    let memory = client.hbm().await.unwrap();
    assert!(matches!(&memory, HbmMemory::Host(view) if view.len_bytes() == CHUNK_BYTES));

    // Of eight blocks two are lent, a quarter; the others are there and are not.
    let lent = client.borrow(R, hashes(0, 5)).await.unwrap();
    assert_eq!(lent.blocks.iter().map(|block| block.index).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(lent.clipped, 2);
    let again = client.borrow(R, hashes(0, 2)).await.unwrap();
    assert_eq!(again.blocks, lent.blocks, "what is lent already counts once");

    // Enough to push everything else out of HBM, twice.
    for chain in 1..6 {
        store(&client, &pool, handle, chain * 100).await;
    }
    for block in &lent.blocks {
        assert!(read(&memory, &lent, *block) == payload(block.index.into()), "{block:?}");
    }
    assert!(client.borrow(RequestId(2), hashes(2, 4)).await.unwrap().blocks.is_empty());

    let thief = node.client("b").await;
    assert_eq!(thief.give_back(R).await.unwrap(), 0, "another client's");
    assert_eq!(client.give_back(R).await.unwrap(), 2);
    assert_eq!(client.give_back(R).await.unwrap(), 0);
    for chain in 6..9 {
        store(&client, &pool, handle, chain * 100).await;
    }
    let gone = client.borrow(R, hashes(0, 2)).await.unwrap();
    assert_eq!((gone.blocks.len(), gone.clipped), (0, 0), "pushed out like any other");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_holds_nothing_any_more() {
    let node = Node::with_hbm(8);
    let (client, pool, handle) = node.client_with_pool("a", 4).await;
    store(&client, &pool, handle, 0).await;
    let other = node.client("b").await;
    assert_eq!(client.borrow(R, hashes(0, 2)).await.unwrap().blocks.len(), 2);
    // Whoever reads the same blocks takes nothing more of the share.
    assert_eq!(other.borrow(R, hashes(0, 4)).await.unwrap().blocks.len(), 2);
    other.end_request(R).await.unwrap();
    drop(client);
    for _ in 0..200 {
        let lent = other.borrow(RequestId(7), hashes(2, 4)).await.unwrap();
        if lent.blocks.len() == 2 {
            node.stop().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the share was never free again");
}
