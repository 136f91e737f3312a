//! A daemon that may open no more files.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use terrace::client::{Client, ClientConfig, ClientError, HostPool, PoolOrder};
use terrace::env::Stopwatch;

use super::rig::{PATIENCE, SLOTS, daemon, namespace};

#[tokio::test]
async fn a_pool_whose_descriptor_does_not_get_through_ends_no_session() {
    let daemon = daemon([0, 64, 0, 0]).await;
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    let may_have = |current| prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let config = ClientConfig::new("a", namespace());
    let client = Client::connect(daemon.socket(), config).await.unwrap();
    let pool = HostPool::create(PoolOrder::LayerMajor.layout(namespace().shape, SLOTS)).unwrap();

    let before = may_have(Some(3));
    assert_eq!(before.current, maximum, "it takes all that it may have");
    let refused = client.register_pool(&pool, 0).await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Busy { what, .. } if what.contains("ulimit -Hn")),
        "{refused}"
    );
    let waiting = Stopwatch::start();
    while !daemon.log_tail().contains("a pool was refused") {
        assert!(waiting.elapsed() < PATIENCE, "never said: {}", daemon.log_tail());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    may_have(before.current);
    client.register_pool(&pool, 0).await.expect("the session goes on");
}
