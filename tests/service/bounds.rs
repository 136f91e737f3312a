//! Bounds: a refusal says when to try again, and every call ends in time.

use std::time::Duration;

use terrace::client::{Client, ClientConfig, ClientError, RequestId, daemon_status};
use terrace::manager::api::{self as manager, Completion, OpId, OpKind, Refusal};
use terrace::wire::pb::CompletionsRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::descriptors::attached_raw;
use super::{World, hashes, namespace};

const R: RequestId = RequestId(1);
const LONG: Duration = Duration::from_mins(10);
/// What a call may take where it is to be given up; connecting has it too, on a busy machine as well.
const SHORT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn the_managers_refusals_keep_their_meaning() {
    let world = World::start();
    let (client, _pool, handle) = world.client_with_pool("a", 4).await;
    let refuse = |refusal| world.fake.state().refuse = Some(refusal);

    refuse(Refusal::Busy { what: "the queue is full", retry_after: Duration::from_millis(70) });
    let error = client.lookup(R, hashes(0, 1)).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_millis(70)));
    assert_eq!(error.to_string(), "the queue is full; try again in 70 ms");

    refuse(Refusal::NotFound("no such lease".into()));
    let error = client.release(terrace::client::LeaseId(5)).await.unwrap_err();
    assert!(matches!(&error, ClientError::NotFound(what) if what == "no such lease"));

    refuse(Refusal::Invalid("not a chain".into()));
    let error = client.store(R, None, hashes(0, 1), handle, &[0]).await.unwrap_err();
    assert!(matches!(&error, ClientError::Invalid(what) if what == "not a chain"));
}

/// As a daemon finds them that stood still for longer than its client's calls may take.
#[tokio::test]
async fn calls_given_up_before_they_were_seen_end_no_connection() {
    let world = World::start();
    let mut stream = UnixStream::connect(&world.socket).await.unwrap();
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
    };
    // RFC 9113: SETTINGS is 4, HEADERS 1, RST_STREAM 3, PING 6, GOAWAY 7; by RFC 7541: POST, http, `/`
    // and `:authority` x.
    let headers = [0x83, 0x86, 0x84, 0x41, 1, b'x'];
    let mut sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    for call in (1..).step_by(2).take(500) {
        sent.extend(frame(1, 4, call, &headers));
        sent.extend(frame(3, 0, call, &[0, 0, 0, 8]));
    }
    sent.extend(frame(6, 0, 0, b"are you?"));
    stream.write_all(&sent).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("it stays open");
        let [_, high, low, kind, flags, ..] = head;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(kind, 7, "{}", String::from_utf8_lossy(&payload));
        if (kind, flags) == (6, 1) {
            break;
        }
    }
}

#[tokio::test]
async fn clients_are_bounded_and_room_returns() {
    let world = World::with(|config| config.limits.clients_max = 2);
    let first = world.client("a").await;
    let _second = world.client("b").await;
    let error = world.refused(ClientConfig::new("c", namespace())).await;
    assert!(error.retry_after().is_some(), "{error:?}");
    drop(first);
    assert!(world.fake.becomes(|state| state.gone.len() == 1).await);
    world.client("c").await;
}

#[tokio::test]
async fn calls_in_flight_are_bounded_and_end_at_their_deadline() {
    let world = World::with(|config| config.limits.calls_in_flight_max = 1);
    let mut config = ClientConfig::new("a", namespace());
    config.call_timeout = Duration::from_millis(800);
    let client = Client::connect(&world.socket, config).await.unwrap();
    world.fake.state().hang = true;

    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.lookup(R, hashes(0, 1)).await }
    });
    assert!(world.fake.becomes(|state| state.hung == 1).await);
    let error = client.lookup(R, hashes(0, 1)).await.unwrap_err();
    assert!(error.retry_after().is_some(), "{error:?}");
    let error = hanging.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");

    world.fake.state().hang = false;
    let mut again = client.lookup(R, hashes(0, 1)).await;
    // The client may give up a moment before the daemon does.
    for _ in 0..100 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        again = client.lookup(R, hashes(0, 1)).await;
    }
    again.expect("room returns when a call is over");
}

#[tokio::test]
async fn a_call_without_a_deadline_ends_at_the_services_own() {
    let world = World::with(|config| config.times.call_timeout = Duration::from_millis(100));
    world.fake.state().hang = true;
    let mut raw = world.raw().await;
    let error = raw.status(terrace::wire::pb::StatusRequest {}).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    assert!(error.message().contains("within 100 ms"), "{}", error.message());

    let patience = Duration::from_millis(50);
    let error = daemon_status(&world.socket, patience).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
}

/// A GPU's driver pins all of a pool: as a call given up, it would begin again with each session.
#[tokio::test]
async fn a_pool_that_takes_longer_to_open_than_a_call_may_is_waited_for() {
    let world = World::with(|config| config.times.call_timeout = SHORT);
    world.fake.state().registering_takes = 3 * SHORT;
    let mut config = ClientConfig::new("a", namespace());
    config.call_timeout = SHORT;
    let (client, _pool, handle) = world.join_with_pool(config, 1).await;
    // So is one whose copies end first, and that the driver unpins.
    world.fake.state().answering_takes = 3 * SHORT;
    client.unregister_pool(handle).await.unwrap();
}

#[tokio::test]
async fn a_lookup_has_the_time_that_the_shared_store_is_asked() {
    let world = World::start();
    let mut config = ClientConfig::new("a", namespace());
    config.call_timeout = SHORT;
    let client = Client::connect(&world.socket, config).await.unwrap();
    world.fake.state().answering_takes = 2 * SHORT;
    let error = client.lookup(R, hashes(0, 1)).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
    client.lookup_shared(R, hashes(0, 1), Duration::from_secs(5)).await.unwrap();
    client.lookup_shared(R, hashes(0, 1), Duration::MAX).await.unwrap();
}

#[tokio::test]
async fn the_answer_to_a_load_is_waited_for_no_longer_than_any_other() {
    let world = World::start();
    let mut config = ClientConfig::new("a", namespace());
    config.call_timeout = SHORT;
    let (client, _pool, handle) = world.join_with_pool(config, 1).await;
    world.fake.state().hang = true;
    let load = client.load(R, hashes(0, 1), handle, &[0], LONG);
    let answer = tokio::time::timeout(Duration::from_secs(10), load).await;
    let error = answer.expect("it gives up by itself").unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
}

#[tokio::test]
async fn a_loads_time_is_the_nearer_of_its_deadline_and_the_services() {
    let world = World::with(|config| config.times.load_timeout_max = Duration::from_secs(30));
    let (client, _pool, handle) = world.client_with_pool("a", 4).await;
    for asked in [Duration::from_secs(2), LONG, Duration::MAX] {
        client.load(R, hashes(0, 1), handle, &[0], asked).await.unwrap();
    }
    let heard = world.fake.state().load_timeouts.clone();
    assert_eq!(heard, [2, 30, 30].map(Duration::from_secs));
}

#[tokio::test]
async fn waiting_for_an_end_that_does_not_come_is_bounded() {
    let world = World::start();
    let mut config = ClientConfig::new("a", namespace());
    config.wait_timeout = Duration::from_millis(50);
    let (client, _pool, handle) = world.join_with_pool(config, 1).await;
    world.fake.state().silent = true;
    let op = client.load(R, hashes(0, 1), handle, &[0], LONG).await.unwrap();
    let error = client.wait(op).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
}

#[tokio::test]
async fn ends_that_name_many_blocks_come_in_messages_that_any_client_takes() {
    const OPS: u64 = 200;
    let world = World::start();
    let (mut raw, line) = attached_raw(&world, "a").await;
    let client = world.fake.state().helloed[0];
    for op in 0..OPS {
        let end = Completion {
            op: OpId(op),
            request: manager::RequestId(1),
            kind: OpKind::Load,
            blocks: 16_384,
            failed: (0..16_384).collect(),
            not_durable: Vec::new(),
        };
        world.fake.state().complete(client, end);
    }
    // Says nothing of how large a message it takes.
    let open = CompletionsRequest { token: line.0.to_vec().into() };
    let mut stream = raw.completions(open).await.unwrap().into_inner();
    let mut ops = Vec::new();
    while ops.len() < 200 {
        let message = stream.message().await.unwrap().expect("the session lives");
        ops.extend(message.completions.iter().map(|end| end.op_id));
    }
    assert!(ops.into_iter().eq(0..OPS));
}
