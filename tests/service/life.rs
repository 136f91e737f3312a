//! Beginning and end: of the daemon's sockets and of its clients.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use terrace::client::{Client, ClientConfig, ClientError, RequestId, daemon_status};
use terrace::service::{Server, ServiceConfig};
use terrace::wire::fd_socket_path;

use super::fake::Fake;
use super::{World, hashes, namespace};

const R: RequestId = RequestId(1);
const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_client_that_dies_is_gone_within_a_second() {
    let world = World::start();
    let (client, pool, _handle) = world.client_with_pool("a", 4).await;
    let other = world.client("b").await;
    let dead = world.fake.state().helloed[0];
    let clone = client.clone();
    drop(client);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.fake.state().gone.is_empty(), "a clone still lives");
    drop(clone);
    assert!(world.fake.becomes(|state| state.gone == [dead]).await);
    other.lookup(R, hashes(0, 1)).await.unwrap();
    drop(pool);
}

#[tokio::test]
async fn a_process_that_is_killed_is_gone_within_a_second() {
    let world = World::start();
    let (_raw, line) = super::descriptors::attached_raw(&world, "a").await;
    // Only the kernel closes the connection: nothing in the client says goodbye.
    let fd = std::os::fd::AsFd::as_fd(line.stream()).try_clone_to_owned().unwrap();
    drop(line);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.fake.state().gone.is_empty(), "the connection is still open");
    drop(fd);
    assert!(world.fake.becomes(|state| state.gone.len() == 1).await);
}

#[tokio::test]
async fn a_client_that_never_attaches_is_dropped_and_its_name_is_free() {
    let world = World::with(|config| config.times.attach_timeout = Duration::from_millis(200));
    let mut raw = world.raw().await;
    raw.hello(super::descriptors::hello_message("a")).await.unwrap();
    assert!(world.fake.becomes(|state| state.gone.len() == 1).await);
    let kept = world.client("a").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    kept.lookup(R, hashes(0, 1)).await.unwrap();
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let world = World::with(|config| config.times.attach_timeout = Duration::from_millis(100));
    let stream = tokio::net::UnixStream::connect(fd_socket_path(&world.socket)).await.unwrap();
    let readable = tokio::time::timeout(Duration::from_secs(1), stream.readable());
    readable.await.expect("it was not closed").unwrap();
    assert_eq!(stream.try_read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn a_refused_hello_leaves_nothing_behind() {
    let world = World::start();
    let refusal = terrace::manager::api::Refusal::Precondition("another layout".into());
    world.fake.state().refuse = Some(refusal);
    let error = world.refused(ClientConfig::new("a", namespace())).await;
    assert!(matches!(&error, ClientError::Precondition(what) if what == "another layout"));
    assert_eq!(world.fake.state().gone.len(), 1);
    world.client("a").await;
}

#[tokio::test]
async fn no_daemon_is_said_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let error = daemon_status(&socket, LONG).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, ClientError::NotConnected { .. }));
    assert!(said.contains("is `terrace serve` running?") && said.contains("none.sock"), "{said}");

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let config = ClientConfig::new("a", namespace());
    let said = Client::connect(&socket, config).await.err().unwrap().to_string();
    assert!(said.contains("died") && said.contains("none.sock"), "{said}");
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone() {
    let world = World::start();
    let error = Server::bind(ServiceConfig::new(&world.socket), Fake::default()).err().unwrap();
    assert!(error.to_string().contains("is in use"), "{error}");
    world.client("a").await;
}

#[tokio::test]
async fn the_daemon_stops_with_its_sessions_and_its_files() {
    let mut world = World::start();
    let twin = fd_socket_path(&world.socket);
    for path in [&world.socket, &twin] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (client, _pool, handle) = world.client_with_pool("a", 4).await;
    let op = client.load(R, hashes(0, 1), handle, &[0], LONG).await.unwrap();
    client.wait(op).await.unwrap();
    let door = world.end().await;
    assert_eq!(world.fake.state().gone.len(), 2, "the client, and the service's own place");
    // Copies may be under way still: nobody is told that the daemon is gone.
    for path in [&world.socket, &twin] {
        assert!(std::os::unix::net::UnixStream::connect(path).is_ok(), "{path:?}");
    }
    drop(door);
    assert!(!world.socket.exists() && !twin.exists());

    let error = client.lookup(R, hashes(0, 1)).await.unwrap_err();
    assert!(matches!(error, ClientError::NotConnected { .. }), "{error:?}");
    let server = Server::bind(ServiceConfig::new(&world.socket), Fake::default()).unwrap();
    assert_eq!(server.socket_path(), world.folder.path().join("terrace.sock"));
}

#[tokio::test]
async fn a_session_from_before_a_restart_is_lost_not_confused() {
    let mut world = World::start();
    let client = world.client("a").await;
    world.stop().await;
    let config = ServiceConfig::new(&world.socket);
    let server = Server::bind(config, Fake::default()).unwrap();
    tokio::spawn(server.run(std::future::pending()));
    let mut error = client.lookup(R, hashes(0, 1)).await.unwrap_err();
    if matches!(error, ClientError::NotConnected { .. }) {
        // The first call may still find the old connection.
        error = client.lookup(R, hashes(0, 1)).await.unwrap_err();
    }
    assert!(matches!(error, ClientError::SessionLost(_)), "{error:?}");
}

#[tokio::test]
async fn an_operation_under_way_when_the_daemon_stops_is_told() {
    let mut world = World::start();
    let (client, _pool, handle) = world.client_with_pool("a", 4).await;
    world.fake.state().silent = true;
    let op = client.load(R, hashes(0, 1), handle, &[0], LONG).await.unwrap();
    let waiting = tokio::spawn(async move { client.wait(op).await });
    world.stop().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::SessionLost(_)), "{error:?}");
}

#[tokio::test]
async fn a_client_that_the_manager_gave_up_hears_it_at_once() {
    let world = World::start();
    let client = world.client("a").await;
    let given_up = world.fake.state().helloed[0];
    world.fake.state().give_up(given_up);
    assert!(world.fake.becomes(|state| state.gone == [given_up]).await, "with a stream");
    let error = client.lookup(R, hashes(0, 1)).await.unwrap_err();
    assert!(matches!(error, ClientError::SessionLost(_)), "{error:?}");

    let (_raw, _line) = super::descriptors::attached_raw(&world, "b").await;
    let given_up = world.fake.state().helloed[1];
    world.fake.state().give_up(given_up);
    assert!(world.fake.becomes(|state| state.gone.len() == 2).await, "without one");
}
