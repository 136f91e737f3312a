//! Every request that makes no sense: the right code, the remedy, and a daemon that goes on.

use std::time::Duration;

use terrace::client::{
    ClientConfig, ClientError, HostPool, PoolHandle, PoolId, PoolOrder, RequestId,
};
use terrace::domain::namespace::Namespace;
use terrace::wire::{PROTOCOL_VERSION, pb};
use tonic::Code;

use super::{HASH_BYTES, SHAPE, World, hashes, namespace};

const R: RequestId = RequestId(1);
const LONG: Duration = Duration::from_mins(1);

/// Hashes, pool and slots; the error's kind and what its text holds.
type BadTransfer<'a> = (Vec<u8>, PoolHandle, &'a [u32], &'a str, &'a [&'a str]);

/// What spoils a namespace, and what is said of it.
type Spoiled = (fn(&mut Namespace), &'static str);

/// The error is of this kind and its text holds all of `texts`.
#[track_caller]
fn check<T>(result: Result<T, ClientError>, kind: &str, texts: &[&str]) {
    let error = result.err().expect("it was accepted");
    let (debug, shown) = (format!("{error:?}"), error.to_string());
    assert!(debug.starts_with(kind), "expected {kind}, got {debug}");
    for text in texts {
        assert!(shown.contains(text), "`{shown}` lacks `{text}`");
    }
}

#[tokio::test]
async fn key_lists_and_slots() {
    let world = World::with(|config| {
        config.limits.lookup_blocks_max = 100;
        config.limits.transfer_blocks_max = 10;
    });
    let (client, _pool, handle) = world.client_with_pool("a", 4).await;

    check(client.lookup(R, vec![]).await, "Invalid", &["hashes is empty", "8 bytes"]);
    let odd = hashes(0, 3)[..HASH_BYTES * 3 - 1].to_vec();
    check(client.lookup(R, odd.clone()).await, "Invalid", &["23 bytes", "multiple of 8"]);
    check(client.lookup(R, hashes(0, 101)).await, "Invalid", &["101 blocks", "at most 100"]);
    client.lookup(R, hashes(0, 100)).await.unwrap();

    let unknown = PoolHandle { id: PoolId(999), slots: 4 };
    let too_many: Vec<u32> = (0..11).collect();
    let cases: [BadTransfer; 8] = [
        (vec![], handle, &[], "Invalid", &["hashes is empty"]),
        (odd, handle, &[0, 1, 2], "Invalid", &["23 bytes", "multiple of 8"]),
        (hashes(0, 11), handle, &too_many, "Invalid", &["11 blocks", "at most 10"]),
        (hashes(0, 3), handle, &[0, 1], "Invalid", &["3 hashes but 2 slots"]),
        (hashes(0, 1), handle, &[0, 1], "Invalid", &["1 hashes but 2 slots"]),
        (hashes(0, 2), handle, &[0, 4], "Invalid", &["slots[1] is 4", "0 to 3"]),
        (hashes(0, 3), handle, &[3, 1, 3], "Invalid", &["slot 3 is named twice"]),
        (hashes(0, 1), unknown, &[0], "NotFound", &["pool 999", "RegisterPool first"]),
    ];
    // Store and Load refuse alike.
    for (hashes, pool, slots, kind, texts) in cases {
        check(client.store(R, None, hashes.clone(), pool, slots).await, kind, texts);
        check(client.load(R, hashes, pool, slots, LONG).await, kind, texts);
    }
    let parent = client.store(R, Some(b"short"), hashes(0, 1), handle, &[0]).await;
    check(parent, "Invalid", &["parent_hash is 5 bytes", "hash_bytes 8"]);
    client.store(R, Some(&hashes(7, 8)), hashes(0, 1), handle, &[0]).await.unwrap();
}

#[tokio::test]
async fn another_clients_pool_is_unknown() {
    let world = World::start();
    let (_owner, _pool, handle) = world.client_with_pool("a", 4).await;
    let thief = world.client("b").await;
    let load = thief.load(R, hashes(0, 1), handle, &[0], LONG).await;
    check(load, "NotFound", &["not registered by this client"]);
    check(thief.unregister_pool(handle).await, "NotFound", &["not registered by this client"]);
}

#[tokio::test]
async fn pools() {
    let world = World::with(|config| config.limits.pools_max = 2);
    let client = world.client("a").await;
    let pool = HostPool::create(PoolOrder::BlockMajor.layout(SHAPE, 2)).unwrap();
    let shard = client.register_pool(&pool, 2).await;
    check(shard, "Invalid", &["shard is 2", "shard_count 2", "0 to 1"]);
    let larger = PoolOrder::BlockMajor.layout(SHAPE, 200);
    let claim = client.register_memory(pool.memory(), &larger, 0).await;
    check(claim, "Invalid", &["smaller than the pool claims"]);
    let none = PoolOrder::BlockMajor.layout(SHAPE, 0);
    check(client.register_memory(pool.memory(), &none, 0).await, "Invalid", &["at least one slot"]);

    let first = client.register_pool(&pool, 0).await.unwrap();
    client.register_pool(&pool, 1).await.unwrap();
    check(client.register_pool(&pool, 1).await, "Invalid", &["2 pools", "unregister one"]);
    client.unregister_pool(first).await.unwrap();
    check(client.unregister_pool(first).await, "NotFound", &["RegisterPool first"]);
    client.register_pool(&pool, 1).await.unwrap();
}

#[tokio::test]
async fn namespaces_and_names() {
    let world = World::start();
    let cases: [Spoiled; 5] = [
        (|namespace| namespace.hash_bytes = 0, "namespace.hash_bytes is 0"),
        (|namespace| namespace.block_tokens = 0, "namespace.block_tokens is 0"),
        (|namespace| namespace.model.clear(), "namespace.model is empty"),
        (|namespace| namespace.shape.page_bytes = 64 << 20, "lower block_tokens"),
        (|namespace| namespace.tenant_salt = vec![0; 513], "longer than 512"),
    ];
    for (spoil, text) in cases {
        let mut namespace = namespace();
        spoil(&mut namespace);
        let error = world.refused(ClientConfig::new("a", namespace)).await;
        check(Err::<(), _>(error), "Invalid", &[text]);
    }
    for (name, text) in [(String::new(), "client_id is 0 bytes"), ("x".repeat(257), "257 bytes")] {
        let error = world.refused(ClientConfig::new(name, namespace())).await;
        check(Err::<(), _>(error), "Invalid", &[text]);
    }
    // None of them took the name.
    world.client("a").await;
}

#[tokio::test]
async fn two_clients_with_one_id() {
    let world = World::start();
    let first = world.client("engine-0").await;
    let error = world.refused(ClientConfig::new("engine-0", namespace())).await;
    check(Err::<(), _>(error), "NameTaken", &["engine-0", "another client_id"]);
    first.lookup(R, hashes(0, 1)).await.unwrap();
    drop(first);
    assert!(world.fake.becomes(|state| state.gone.len() == 1).await);
    world.client("engine-0").await;
}

#[tokio::test]
async fn raw_calls_in_the_wrong_order() {
    let world = World::start();
    let mut raw = world.raw().await;
    let hello = super::descriptors::hello_message("raw");

    let version = pb::HelloRequest { protocol_version: PROTOCOL_VERSION + 1, ..hello.clone() };
    let error = raw.hello(version).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let both = format!("version {}, this daemon version {PROTOCOL_VERSION}:", PROTOCOL_VERSION + 1);
    assert!(error.message().contains(&both), "{}", error.message());
    let unsaid = pb::HelloRequest {
        protocol_version: PROTOCOL_VERSION + 1,
        namespace: None,
        ..hello.clone()
    };
    assert_eq!(raw.hello(unsaid).await.unwrap_err().code(), Code::FailedPrecondition);
    let nameless = pb::HelloRequest { namespace: None, ..hello.clone() };
    assert_eq!(raw.hello(nameless).await.unwrap_err().code(), Code::InvalidArgument);

    let token = raw.hello(hello).await.unwrap().into_inner().token;
    let lookup = |token| pb::LookupRequest {
        token,
        request_id: 1,
        hashes: hashes(0, 1).into(),
        ..pb::LookupRequest::default()
    };
    let error = raw.lookup(lookup(token.clone())).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.metadata().get("terrace-reason").unwrap(), "not_attached");
    assert!(error.message().contains("send ATTACH"), "{}", error.message());

    for bad in [bytes::Bytes::new(), bytes::Bytes::from_static(&[0; 16]), token.slice(1..)] {
        let error = raw.lookup(lookup(bad)).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        assert!(error.message().contains("Hello again"), "{}", error.message());
    }

    let missing = pb::RegisterPoolRequest { token, tag: 1, ..Default::default() };
    let error = raw.register_pool(missing).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "not attached comes before the rest");
}

#[tokio::test]
async fn a_tag_that_nothing_waits_under_and_a_layout_left_out() {
    let world = World::start();
    let (mut raw, token) = super::descriptors::attached_raw(&world, "raw").await;
    let token = bytes::Bytes::from(token.0.to_vec());
    let layout = pb::PoolLayout { slots: 1, slot_stride_bytes: 4096, ..pb::PoolLayout::default() };
    let message =
        pb::RegisterPoolRequest { token, tag: 5, layout: Some(layout), ..Default::default() };
    let error = raw.register_pool(message.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("tag 5: send it as POOL"), "{}", error.message());
    let without = pb::RegisterPoolRequest { layout: None, ..message };
    let error = raw.register_pool(without).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn gpu_memory_that_is_not_described_right() {
    let world = World::start();
    let (mut raw, token) = super::descriptors::attached_raw(&world, "raw").await;
    let token = bytes::Bytes::from(token.0.to_vec());
    let layout = pb::PoolLayout { slots: 1, slot_stride_bytes: 4096, ..pb::PoolLayout::default() };
    let bytes = |count: usize| bytes::Bytes::from(vec![7; count]);
    let good = pb::CudaMemory {
        device_uuid: bytes(16),
        memories: vec![bytes(64)],
        ..pb::CudaMemory::default()
    };
    let cases = [
        (
            pb::CudaMemory { device_uuid: bytes(15), ..good.clone() },
            "cuda.device_uuid has 15 bytes: send the 16",
        ),
        (
            pb::CudaMemory { memories: vec![bytes(64), bytes(100)], ..good.clone() },
            "cuda.memories has 100 bytes: an IPC handle has 64, raw",
        ),
        (
            pb::CudaMemory { ready_events: vec![bytes(1)], ..good.clone() },
            "cuda.ready_events has 1 bytes",
        ),
        // Described right; this daemon has no GPU, and no descriptor is asked for.
        (good, "this backend has no GPU"),
    ];
    for (cuda, want) in cases {
        let message = pb::RegisterPoolRequest {
            token: token.clone(),
            layout: Some(layout),
            cuda: Some(cuda),
            ..Default::default()
        };
        let error = raw.register_pool(message).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{want}");
        assert!(error.message().contains(want), "{want}: {}", error.message());
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit() {
    let world = World::with(|config| config.limits.message_bytes_max = 10_000);
    let client = world.client("a").await;
    check(client.lookup(R, hashes(0, 2000)).await, "Invalid", &["16", "10000"]);
    client.lookup(R, hashes(0, 1000)).await.unwrap();
}
