//! The calls as they are meant.

use std::time::Duration;

use terrace::client::{OpKind, RequestId, Run, daemon_status};
use terrace::domain::tier::Tier;
use terrace::domain::units::Time;
use terrace::manager::api as manager;
use terrace::wire::pb::CompletionsRequest;
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::fake::{ARENA_BYTES, LOADED};
use super::{SHAPE, World, channel, hashes, namespace};

const R: RequestId = RequestId(9);
const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_chain_is_stored_found_loaded_and_let_go() {
    let world = World::start();
    let (client, pool, handle) = world.client_with_pool("a", 8).await;
    assert_eq!(client.welcome().frame_bytes, namespace().frame_bytes());
    assert_eq!(client.welcome().node_id, "node-7");

    let nothing = client.lookup(R, hashes(0, 3)).await.unwrap();
    assert_eq!((nothing.matched_blocks, nothing.runs.len(), nothing.lease), (0, 0, None));

    let bytes = usize::try_from(SHAPE.shard_bytes()).unwrap();
    for slot in 0..3 {
        pool.write_block(slot, &vec![10 + u8::try_from(slot).unwrap(); bytes]).unwrap();
    }
    let stored = client.store(R, None, hashes(0, 3), handle, &[2, 0, 1]).await.unwrap();
    assert_eq!((stored.taken, stored.present, stored.dropped), (3, 0, 0));
    let ended = client.wait(stored.op).await.unwrap();
    assert_eq!((ended.kind, ended.blocks, ended.request), (OpKind::Store, 3, R));
    assert_eq!(world.fake.state().stored_bytes, [12, 10, 11], "read through the descriptor");

    let found = client.lookup(R, hashes(0, 5)).await.unwrap();
    assert_eq!(found.runs, [Run { tier: Tier::Dram, blocks: 3 }]);
    assert_eq!((found.matched_blocks, found.lease_expires), (3, Time::from_millis(77)));

    let load = client.load(R, hashes(1, 4), handle, &[5, 6, 7], LONG).await.unwrap();
    let ended = client.wait(load).await.unwrap();
    assert_eq!((ended.kind, ended.blocks, &*ended.failed), (OpKind::Load, 3, &[2][..]));
    let mut block = vec![0; bytes];
    pool.read_block(7, &mut block).unwrap();
    assert_eq!(block[0], LOADED, "written through the descriptor");

    let lease = found.lease.unwrap();
    client.release(lease).await.unwrap();
    client.end_request(R).await.unwrap();
    client.unregister_pool(handle).await.unwrap();
    assert_eq!(world.fake.state().released, [manager::LeaseId(lease.0)]);
    assert_eq!(world.fake.state().ended_requests, [manager::RequestId(R.0)]);
}

#[tokio::test]
async fn a_namespace_of_its_own_finds_nothing_of_anothers() {
    let world = World::start();
    let (client, _pool, handle) = world.client_with_pool("a", 8).await;
    client.store(R, None, hashes(0, 2), handle, &[0, 1]).await.unwrap();
    let mut other = namespace();
    other.tenant_salt = b"other".to_vec();
    let config = terrace::client::ClientConfig::new("b", other);
    let stranger = terrace::client::Client::connect(&world.socket, config).await.unwrap();
    assert_eq!(stranger.lookup(R, hashes(0, 2)).await.unwrap().matched_blocks, 0);
    assert_eq!(client.lookup(R, hashes(0, 2)).await.unwrap().matched_blocks, 2);
}

#[tokio::test]
async fn status_needs_no_session() {
    let world = World::start();
    let status = daemon_status(&world.socket, LONG).await.unwrap();
    assert_eq!(status.node_id, "node-7");
    assert_eq!(status.pid, std::process::id());
    assert_eq!(status.policy, "lru");
    assert_eq!(status.facts["nvme"], "blocking");
    assert!(status.tiers[Tier::Dram.index()].present && !status.tiers[0].present);
    assert_eq!(status.tiers[Tier::Dram.index()].hit_blocks, 5);
}

#[tokio::test]
async fn the_arena_is_mapped_read_only() {
    let world = World::start();
    let arena = world.client("a").await.arena().await.unwrap();
    assert_eq!(arena.len_bytes(), ARENA_BYTES);
    let mut bytes = [0; 5];
    arena.read(4096, &mut bytes).unwrap();
    assert_eq!(&bytes, b"frame");
    for outside in [ARENA_BYTES - 4, ARENA_BYTES, u64::MAX] {
        assert!(arena.read(outside, &mut bytes).is_err(), "{outside}");
    }
}

#[tokio::test]
async fn many_operations_at_once_each_get_their_own_end() {
    let world = World::start();
    let (client, _pool, handle) = world.client_with_pool("a", 4).await;
    let mut waiting = Vec::new();
    for request in 0..200 {
        let client = client.clone();
        waiting.push(tokio::spawn(async move {
            let request = RequestId(request);
            let op = client.load(request, hashes(0, 1), handle, &[0], LONG).await.unwrap();
            let id = op.id();
            let ended = client.wait(op).await.unwrap();
            assert_eq!((ended.op, ended.request), (id, request));
        }));
    }
    for one in waiting {
        one.await.unwrap();
    }
}

#[tokio::test]
async fn completions_from_before_the_stream_are_kept_and_there_is_one_stream() {
    let world = World::start();
    let (client, _pool, handle) = world.client_with_pool("a", 4).await;
    let op = client.load(R, hashes(0, 1), handle, &[0], LONG).await.unwrap();
    // The end is there long before anybody waits.
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.wait(op).await.unwrap();

    let (mut raw, token) = super::descriptors::attached_raw(&world, "raw").await;
    let token = bytes::Bytes::from(token.0.to_vec());
    let open = || CompletionsRequest { token: token.clone() };
    let first = raw.completions(open()).await.unwrap().into_inner();
    let second = raw.completions(open()).await.unwrap_err();
    assert_eq!(second.code(), tonic::Code::FailedPrecondition);
    assert!(second.message().contains("read that one"), "{}", second.message());
    drop(first);
    let mut again = Err(second);
    for _ in 0..100 {
        again = raw.completions(open()).await;
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    again.expect("the stream can be opened again once the first is closed");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let mut world = World::start();
    let mut health = HealthClient::new(channel(&world.socket).await);
    for service in ["", "terrace.v1.Terrace"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "`{service}`");
    }

    let mut reflection = ServerReflectionClient::new(channel(&world.socket).await);
    let ask = |message| {
        let host = String::new();
        tokio_stream::once(ServerReflectionRequest { host, message_request: Some(message) })
    };
    let list = ask(MessageRequest::ListServices(String::new()));
    let mut answers = reflection.server_reflection_info(list).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.iter().map(|service| &*service.name).collect();
    assert!(names.contains(&"terrace.v1.Terrace"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");

    let symbol = ask(MessageRequest::FileContainingSymbol("terrace.v1.Namespace".into()));
    let mut answers = reflection.server_reflection_info(symbol).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
    drop((health, reflection, answers));
    world.stop().await;
}
