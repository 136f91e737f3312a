//! The bucket against the contract and a real S3 server, and against servers that misbehave.

mod answers;
mod canned;
mod outage;
mod pipe;
#[path = "../../../../../tests/s3/server.rs"]
#[allow(dead_code, reason = "tests of whole nodes use the rest")]
pub(in crate::tiers::object) mod s3;
pub(in crate::tiers::object) mod server;
mod tls;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::env::Stopwatch;
use crate::tiers::contract::{self, Fixture};
use crate::tiers::health::Refuses;
use crate::tiers::sample::{self, LANES, Sample};
use crate::tiers::store::Place;
use pipe::Pipe;
use s3::runtime;
use server::{Server, bucket_of, store_at};

const BLOCK: Sample = Sample { number: 1, payload_bytes: 20_000 };
const ANYWHERE: Place = Place { offset: 0, slot_bytes: 0 };

#[test]
fn keeps_the_contract() {
    let server = Arc::new(Server::start());
    let stores = AtomicUsize::new(0);
    // One for all: most of the time went into touching fresh memory.
    let arena = contract::arena(0);
    contract::check_store(|| {
        let arena = Arc::clone(&arena);
        let prefix = format!("store-{}", stores.fetch_add(1, Ordering::Relaxed));
        if let Some(endpoint) = s3::elsewhere() {
            let (bucket, options) = (bucket_of(endpoint, &prefix), ObjectOptions::default());
            let store = store_at(&bucket, "secret", options, &arena, server.runtime());
            return Fixture::new(arena, Arc::new(store));
        }
        let store = Arc::new(server.store(&prefix, &arena));
        let files = Arc::clone(&server);
        let flip = move |key, _, byte: usize| {
            let path = files.file(&prefix, key);
            let mut bytes = fs::read(&path).unwrap();
            bytes[byte] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        Fixture::new(arena, store).corrupted_by(flip)
    });
}

#[test]
fn objects_are_shared_between_stores_and_outlive_them() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = server.store("a/b", &arena);
    assert!(!server.runtime().block_on(store.contains(BLOCK.key())).unwrap());
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    drop(store);
    let store = server.store("a/b", &arena);
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert!(server.runtime().block_on(store.contains(BLOCK.key())).unwrap());
    assert_eq!(fs::read(server.file("a/b", BLOCK.key())).unwrap(), BLOCK.bytes());
    let elsewhere = server.store("", &arena);
    let missing = sample::read(&elsewhere, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(missing, StoreError::Missing(_)), "{missing}");
}

#[test]
fn an_object_that_is_there_is_not_written_again() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = server.store("p", &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let written = || {
        let found = fs::metadata(server.file("p", BLOCK.key())).unwrap();
        (found.ino(), found.mtime_nsec())
    };
    let before = written();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert_eq!(written(), before);
}

/// A server refuses them unread, and cuts connections that others are about to use.
#[test]
fn writes_of_what_is_there_fail_nobody_elses() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = server.store("p", &arena);
    for round in 0..20 {
        let told = (0..LANES).map(|lane| {
            // Every second one is there since the first round.
            let number = if lane % 2 == 0 { lane } else { round * LANES + lane };
            let block = Sample { number, ..BLOCK };
            let (done, told) = sample::heard();
            let (key, frame) = (block.key(), block.fill(&arena, lane));
            store.submit(StoreOp::Write { key, place: ANYWHERE, frame }, done);
            told
        });
        for told in told.collect::<Vec<_>>() {
            told.recv().unwrap().unwrap();
        }
    }
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn what_is_not_the_blocks_object_is_corrupt() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = server.store("p", &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let (path, good) = (server.file("p", BLOCK.key()), BLOCK.bytes());
    let mut torn = good.clone();
    torn[12_000..].fill(0);
    let other = Sample { number: 2, ..BLOCK }.bytes();
    let (zeros, longer) = (vec![0; good.len()], vec![7; 100_000]);
    for bad in [&[][..], b"a note", &zeros, &longer, &good[..8192], &torn, &other] {
        fs::write(&path, bad).unwrap();
        let error = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{} bytes: {error}", bad.len());
    }
}

#[test]
fn a_wrong_secret_loses_the_tier() {
    let (server, arena) = (Server::start(), sample::arena());
    let (bucket, options) = (server.bucket("p"), ObjectOptions::default());
    let store = store_at(&bucket, "wrong", options, &arena, server.runtime());
    let error = sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(error, StoreError::TierLost(_)), "{error:?}");
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
}

/// What a process with this environment says of the store: environments are a process's own, so
/// the test runs itself again.
fn said_with(url: &str, environment: &[(&str, &str)]) -> String {
    let nowhere = tempfile::tempdir().unwrap();
    let said = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--nocapture", "the_environment_is_asked"])
        .env_clear()
        .env("HOME", nowhere.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("TERRACE_TEST_URL", url)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// The same, from inside that process.
fn say(url: &str) {
    let (runtime, arena) = (runtime(), sample::arena());
    let target = url.parse().expect("the test names a store");
    match crate::tiers::object::open(&target, ObjectOptions::default(), &arena, runtime.handle()) {
        Err(error) => println!("refused: {error}"),
        Ok(store) => {
            match sample::read(&*store, &arena, BLOCK, ANYWHERE) {
                Ok(()) | Err(StoreError::Missing(_)) => {}
                Err(error) => return println!("refused: {error}"),
            }
            sample::write(&*store, &arena, BLOCK, ANYWHERE).unwrap();
            sample::read(&*store, &arena, BLOCK, ANYWHERE).unwrap();
            println!("wrote and read");
        }
    }
}

#[test]
fn the_environment_is_asked() {
    if let Ok(url) = std::env::var("TERRACE_TEST_URL") {
        return say(&url);
    }
    let server = Server::start();
    let url = format!("s3://blocks/p?endpoint={}", server.bucket("").endpoint.unwrap());
    let keys = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let said = said_with(&url, &keys);
    assert!(said.contains("wrote and read"), "{said}");
    let said = said_with(&url, &[]);
    assert!(said.contains("refused: no AWS credentials"), "{said}");
    assert!(said.contains("set AWS_ACCESS_KEY_ID"), "{said}");
    let said = said_with("s3://blocks", &keys);
    assert!(said.contains("refused: no region is known for s3://blocks"), "{said}");
}

#[test]
fn operations_wait_their_turn_and_beyond_the_bound_the_store_is_busy() {
    let (server, arena) = (Server::start(), sample::arena());
    let options = ObjectOptions { concurrency: 2, ops_max: 8, ..ObjectOptions::default() };
    let store = store_at(&server.bucket("p"), "secret", options, &arena, server.runtime());
    let told: Vec<_> = (0..LANES)
        .map(|lane| {
            let block = Sample { number: lane, ..BLOCK };
            let frame = block.fill(&arena, lane);
            let (done, told) = sample::heard();
            let op = StoreOp::Write { key: block.key(), place: ANYWHERE, frame };
            store.submit(op, done);
            told
        })
        .collect();
    drop(store);
    let ended: Vec<_> = told.iter().map(|told| told.recv().unwrap()).collect();
    let busy = ended.iter().filter(|end| matches!(end, Err(StoreError::Busy))).count();
    let written = ended.iter().filter(|end| end.is_ok()).count();
    assert_eq!((busy > 0, busy + written), (true, LANES as usize), "{ended:?}");
}

#[test]
fn a_server_that_is_down_fails_the_operation_and_not_the_tier() {
    let (runtime, arena) = (runtime(), sample::arena());
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let bucket = server::bucket_at(port, "p");
    let store = store_at(&bucket, "secret", ObjectOptions::default(), &arena, &runtime);
    for result in [
        sample::write(&store, &arena, BLOCK, ANYWHERE),
        sample::read(&store, &arena, BLOCK, ANYWHERE),
    ] {
        assert!(matches!(result, Err(StoreError::Io { .. })), "{result:?}");
    }
}

#[test]
fn a_server_that_hangs_costs_no_more_than_the_time_limit() {
    let (runtime, arena) = (runtime(), sample::arena());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bucket = server::bucket_at(silent.local_addr().unwrap().port(), "p");
    let (attempt_timeout, op_timeout) = (Duration::from_millis(100), Duration::from_millis(300));
    let options = ObjectOptions { attempt_timeout, op_timeout, ..ObjectOptions::default() };
    for write in [true, false] {
        let store = store_at(&bucket, "secret", options, &arena, &runtime);
        let watch = Stopwatch::start();
        let run = if write { sample::write } else { sample::read };
        let error = run(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
        assert!(matches!(error, StoreError::TierLost(_)), "{error}");
        assert!(error.to_string().contains("nothing came from it"), "{error}");
        assert!(watch.elapsed() < Duration::from_secs(20), "{:?}", watch.elapsed());
        assert_eq!(store.health().refuses(), Refuses::ALL);
    }
}

#[test]
fn long_frames_come_in_parallel_ranges() {
    let (server, arena) = (Server::start(), sample::arena());
    let long = Sample { number: 9, payload_bytes: 1 << 20 };
    let options = ObjectOptions { range_bytes: 100_000, ..ObjectOptions::default() };
    let store = store_at(&server.bucket("p"), "secret", options, &arena, server.runtime());
    sample::write(&store, &arena, long, ANYWHERE).unwrap();
    let before = server.requests();
    sample::read(&store, &arena, long, ANYWHERE).unwrap();
    assert_eq!(server.requests() - before, 11);
    for bytes in [1_000_000, 1_100_000] {
        fs::write(server.file("p", long.key()), vec![7; bytes]).unwrap();
        let error = sample::read(&store, &arena, long, ANYWHERE).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{bytes} bytes: {error}");
    }
}

#[test]
fn a_runtime_that_stops_answers_what_was_under_way() {
    let (runtime, arena) = (runtime(), sample::arena());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bucket = server::bucket_at(silent.local_addr().unwrap().port(), "p");
    let store = store_at(&bucket, "secret", ObjectOptions::default(), &arena, &runtime);
    let (done, told) = sample::heard();
    let frame = BLOCK.span(1);
    store.submit(StoreOp::Read { key: BLOCK.key(), place: ANYWHERE, frame }, done);
    drop(runtime);
    assert!(matches!(told.recv().unwrap(), Err(StoreError::TierLost(_))));
}

#[test]
fn what_is_no_object_is_corrupt_to_a_look_at_its_header_and_stays_as_it_is() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = server.store("p", &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let path = server.file("p", BLOCK.key());
    let other = Sample { number: 2, ..BLOCK }.bytes();
    for bad in [&[][..], b"a note", &vec![0; 24_576], &vec![7; 100_000], &other] {
        fs::write(&path, bad).unwrap();
        for error in [
            sample::peek(&store, BLOCK).unwrap_err(),
            sample::restamp(&store, BLOCK, ANYWHERE, 80).unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Corrupt(_)), "{} bytes: {error}", bad.len());
        }
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
}

/// Else it would keep the block from ever being written, and a store of it would end well all the same.
#[test]
fn what_is_not_the_blocks_frame_is_written_anew() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = server.store("p", &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let (path, frame) = (server.file("p", BLOCK.key()), BLOCK.bytes());
    let (other, mut torn) = (Sample { number: 2, ..BLOCK }.bytes(), frame.clone());
    torn[40] ^= 1;
    for bad in [&[][..], b"a note", &vec![0; 24_576], &vec![7; 100_000], &other, &torn, &frame[1..]]
    {
        fs::write(&path, bad).unwrap();
        sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
        sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    }
    fs::write(&path, &frame[..frame.len() - 1]).unwrap();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
}

#[test]
fn an_object_of_another_node_gets_the_record_of_who_stores_it_last() {
    let (server, arena) = (Server::start(), sample::arena());
    let (one, two) = (server.store("p", &arena), server.store("p", &arena));
    sample::write(&one, &arena, BLOCK, ANYWHERE).unwrap();
    sample::restamp(&one, BLOCK, ANYWHERE, 80).unwrap();
    assert_eq!(sample::peek(&two, BLOCK).unwrap(), 80);
    sample::write(&two, &arena, BLOCK, ANYWHERE).unwrap();
    assert_eq!(sample::peek(&one, BLOCK).unwrap(), 35);
    let (key, frame) = (BLOCK.key(), BLOCK.span(1));
    sample::run(&one, StoreOp::Read { key, place: ANYWHERE, frame }).unwrap();
}
