//! Residency over the wire: what is told as blocks come, move and go, what a slow or late reader
//! hears, and overlaps.

use std::collections::BTreeMap;
use std::time::Duration;

use terrace::client::{
    Client, ClientError, Events, EventsWanted, HostPool, PoolHandle, RequestId, ResidencyChanges,
    ResidencyEvent, daemon_events, daemon_overlap,
};
use terrace::domain::block::{HashTail, Key};
use terrace::domain::namespace::{Namespace, NamespaceDigest};
use terrace::domain::tier::{Tier, TierSet};
use terrace::tiers::decorators::Limits;
use terrace::wire::pb;
use tokio::time::timeout;
use tonic::Code;

use super::node::Node;
use super::{World, hashes, namespace};

const R: RequestId = RequestId(1);
const PATIENCE: Duration = Duration::from_secs(5);
const UNLIMITED: Limits =
    Limits { read_bytes_per_s: None, write_bytes_per_s: None, latency: Duration::ZERO };

fn space() -> Namespace {
    Namespace { shard_count: 1, ..namespace() }
}

/// The key of block `n`.
fn key(n: u64) -> Key {
    space().digest().key(&n.to_le_bytes())
}

/// What routers call block `n`.
fn tail(n: u64) -> HashTail {
    HashTail::of(&n.to_le_bytes())
}

/// A node with room for four blocks in DRAM, and a client.
async fn four_blocks(changes_max: usize) -> (Node, Client, HostPool, PoolHandle) {
    let node = Node::with_journal(4, UNLIMITED, changes_max);
    let (client, pool, handle) = node.client_with_pool("engine", 16).await;
    (node, client, pool, handle)
}

async fn store(client: &Client, handle: PoolHandle, from: u64, to: u64) {
    let slots: Vec<u32> = (0..u32::try_from(to - from).unwrap()).collect();
    let stored = client.store(R, None, hashes(from, to), handle, &slots).await.unwrap();
    assert!(client.wait(stored.op).await.unwrap().failed.is_empty());
}

async fn follow(node: &Node, wanted: EventsWanted) -> Events {
    daemon_events(&node.socket, PATIENCE, wanted).await.unwrap()
}

async fn next(events: &mut Events) -> ResidencyEvent {
    let event = timeout(PATIENCE, events.next()).await.expect("something is told");
    event.expect("the stream goes on").unwrap()
}

async fn changes(events: &mut Events) -> ResidencyChanges {
    match next(events).await {
        ResidencyEvent::Changes(changes) => changes,
        other => panic!("{other:?}"),
    }
}

/// A reader's own picture of where blocks are.
#[derive(Default)]
struct Picture(BTreeMap<Key, TierSet>);

impl Picture {
    /// Reads until the picture is this one.
    async fn becomes(&mut self, events: &mut Events, wanted: &[(u64, &[Tier])]) {
        let wanted: BTreeMap<Key, TierSet> =
            wanted.iter().map(|(n, tiers)| (key(*n), tiers.iter().copied().collect())).collect();
        while self.0 != wanted {
            for block in changes(events).await.blocks {
                self.0.remove(&block.key);
                if !block.tiers.is_empty() {
                    self.0.insert(block.key, block.tiers);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_moves_and_goes_is_told_in_order() {
    let (node, client, _pool, handle) = four_blocks(1000).await;
    let mut events = follow(&node, EventsWanted::default()).await;
    store(&client, handle, 0, 2).await;
    let first = changes(&mut events).await;
    assert_eq!((first.sequence, first.snapshot, first.model.as_str()), (0, false, "m"));
    assert_eq!((first.namespace, first.block_tokens), (space().digest(), 16));
    let root = first.blocks[0];
    assert_eq!((root.key, root.tail, root.position), (key(0), tail(0), 0));
    let mut picture = Picture(BTreeMap::from([(root.key, root.tiers)]));
    if let Some(child) = first.blocks.get(1) {
        assert_eq!((child.parent_tail, child.position), (tail(0), 1));
        picture.0.insert(child.key, child.tiers);
    }
    let (dram, nvme) = (&[Tier::Dram][..], &[Tier::Nvme][..]);
    picture.becomes(&mut events, &[(0, dram), (1, dram)]).await;
    store(&client, handle, 10, 14).await;
    let sunk = [(0, nvme), (1, nvme), (10, dram), (11, dram), (12, dram), (13, dram)];
    picture.becomes(&mut events, &sunk).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_what_is_here_and_then_what_changes() {
    let (node, client, _pool, handle) = four_blocks(1000).await;
    store(&client, handle, 0, 3).await;
    let wanted = EventsWanted { snapshot: true, ..EventsWanted::default() };
    let mut events = follow(&node, wanted).await;
    let ResidencyEvent::Reset { life } = next(&mut events).await else { panic!("no reset") };
    let part = changes(&mut events).await;
    assert!(part.snapshot && part.blocks.len() == 3, "{part:?}");
    let ResidencyEvent::Complete { next: from } = next(&mut events).await else { panic!("more") };
    drop(events);

    // Whoever comes back goes on where it was, and to whoever comes from another life, all is new.
    let mut again = follow(&node, EventsWanted { from: Some((life, from)), ..wanted }).await;
    store(&client, handle, 20, 21).await;
    let change = changes(&mut again).await;
    assert_eq!((change.sequence, change.blocks[0].key), (from, key(20)));
    let mut stranger = follow(&node, EventsWanted { from: Some((life + 1, 0)), ..wanted }).await;
    assert_eq!(next(&mut stranger).await, ResidencyEvent::Reset { life });
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_too_late_hears_what_it_lost() {
    let (node, client, _pool, handle) = four_blocks(2).await;
    for n in 0..4 {
        store(&client, handle, 10 * n, 10 * n + 1).await;
    }
    let wanted = EventsWanted { snapshot: true, ..EventsWanted::default() };
    let mut events = follow(&node, wanted).await;
    let ResidencyEvent::Reset { life } = next(&mut events).await else { panic!("no reset") };
    let late = EventsWanted { from: Some((life, 0)), ..EventsWanted::default() };
    let mut events = follow(&node, late).await;
    assert_eq!(next(&mut events).await, ResidencyEvent::Lost { from: 0, next: 2 });
    assert_eq!(changes(&mut events).await.sequence, 2);
    // With a snapshot the hole is mended.
    let mut events = follow(&node, EventsWanted { from: Some((life, 0)), ..wanted }).await;
    assert_eq!(next(&mut events).await, ResidencyEvent::Reset { life });
    assert_eq!(changes(&mut events).await.blocks.len(), 4);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_namespace_may_be_followed_alone_and_streams_end_with_the_daemon() {
    let (node, client, _pool, handle) = four_blocks(1000).await;
    let only = |namespace| EventsWanted { namespace: Some(namespace), ..EventsWanted::default() };
    let mut others = follow(&node, only(NamespaceDigest([9; 32]))).await;
    let mut own = follow(&node, only(space().digest())).await;
    store(&client, handle, 0, 1).await;
    assert_eq!(changes(&mut own).await.blocks[0].key, key(0));
    drop(client);
    node.stop().await;
    assert!(others.next().await.is_none_or(|event| event.is_err()), "nothing of theirs was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlap_counts_by_tier_and_needs_no_client() {
    let (node, client, _pool, handle) = four_blocks(0).await;
    store(&client, handle, 0, 3).await;
    let found = client.overlap(hashes(0, 5)).await.unwrap();
    assert_eq!((found.matched_blocks, found.block_tokens), (3, 16));
    assert_eq!((found.fastest_blocks, found.held_blocks), ([0, 3, 0, 0], [0, 3, 0, 0]));
    let whose = (space().digest(), 8);
    let asked = daemon_overlap(&node.socket, PATIENCE, whose, hashes(0, 5)).await.unwrap();
    assert_eq!(asked, found);
    let other = (NamespaceDigest([9; 32]), 8);
    let asked = daemon_overlap(&node.socket, PATIENCE, other, hashes(0, 5)).await.unwrap();
    assert_eq!((asked.matched_blocks, asked.block_tokens), (0, 0));
    let status = client.status().await.unwrap();
    assert_eq!((status.leases, status.lookups), (0, 0), "it left a trace");

    let refused = daemon_events(&node.socket, PATIENCE, EventsWanted::default()).await.err();
    let Some(ClientError::Precondition(said)) = refused else { panic!("{refused:?}") };
    assert!(said.contains("events.history"), "{said}");
    node.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let world = World::start();
    let mut raw = world.raw().await;
    let digest = bytes::Bytes::from(vec![1; 32]);
    let asked = pb::OverlapRequest {
        namespace: digest.clone(),
        hash_bytes: 8,
        hashes: hashes(0, 1).into(),
        token: bytes::Bytes::new(),
    };
    for (what, message, says) in [
        ("nobody's", pb::OverlapRequest { namespace: "".into(), ..asked.clone() }, "whose hashes"),
        ("two's", pb::OverlapRequest { token: digest.clone(), ..asked.clone() }, "not both"),
        ("half", pb::OverlapRequest { namespace: "half".into(), ..asked.clone() }, "32 bytes"),
        ("wide", pb::OverlapRequest { hash_bytes: 65, ..asked.clone() }, "1 to 64"),
        ("cut", pb::OverlapRequest { hash_bytes: 5, ..asked.clone() }, "multiple of 5"),
        ("none", pb::OverlapRequest { hashes: "".into(), ..asked.clone() }, "empty"),
    ] {
        let status = raw.overlap(message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        assert!(status.message().contains(says), "{what}: {}", status.message());
    }
    let half = pb::EventsRequest { namespace: "half".into(), ..pb::EventsRequest::default() };
    let status = raw.events(half).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_may_be_are_told_to_wait() {
    let (node, _client, _pool, _handle) = four_blocks(1000).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(follow(&node, EventsWanted::default()).await);
    }
    let refused = daemon_events(&node.socket, PATIENCE, EventsWanted::default()).await.err();
    assert!(matches!(refused, Some(ClientError::Busy { .. })), "{refused:?}");
    open.pop();
    // The place comes free when the daemon sees that the reader is gone.
    let again = timeout(PATIENCE, async {
        while daemon_events(&node.socket, PATIENCE, EventsWanted::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    again.await.expect("a place comes free");
    node.stop().await;
}
