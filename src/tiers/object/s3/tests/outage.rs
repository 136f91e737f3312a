//! The bucket while its server is slow, silent, overloaded, refusing, or cut off: nobody waits for
//! long, and it comes back by itself.

use super::server::{Mood, bucket_at};
use super::*;
use s3s::S3ErrorCode;

const LONG: Sample = Sample { number: 5, payload_bytes: 1 << 20 };

/// Far more than recovery takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn hasty() -> ObjectOptions {
    let (attempt_timeout, op_timeout) = (Duration::from_millis(500), Duration::from_secs(2));
    ObjectOptions { attempt_timeout, op_timeout, ..ObjectOptions::default() }
}

fn hasty_store(server: &Server, port: u16, arena: &Arc<Arena>) -> S3Store {
    store_at(&bucket_at(port, "p"), "secret", hasty(), arena, server.runtime())
}

/// Reads so many blocks at once; how each ended.
fn reads_at_once(store: &S3Store, count: u32) -> Vec<Result<(), StoreError>> {
    let start = |lane| {
        let (done, told) = sample::heard();
        let (key, frame) = (BLOCK.key(), BLOCK.span(lane));
        store.submit(StoreOp::Read { key, place: ANYWHERE, frame }, done);
        told
    };
    let told: Vec<_> = (0..count).map(start).collect();
    told.iter().map(|told| told.recv().unwrap()).collect()
}

fn until_well(store: &S3Store) {
    let waiting = Stopwatch::start();
    while store.health().is_out() {
        assert!(waiting.elapsed() < PATIENCE, "{}", store.health());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Of writes one goes first.
fn until_well_but_for_a_trial(store: &S3Store) {
    let waiting = Stopwatch::start();
    while store.health().refuses() != Refuses::NOTHING {
        assert!(waiting.elapsed() < PATIENCE, "{}", store.health());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_outage_is_answered_at_once_told_and_over_by_itself() {
    let check = |mood: Mood, why: &str| {
        let (server, arena) = (Server::start(), sample::arena());
        let store = hasty_store(&server, server.port(), &arena);
        sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
        assert_eq!(store.health(), Health::Well);
        server.becomes(mood.clone());
        let watch = Stopwatch::start();
        let ended = reads_at_once(&store, 16);
        assert!(ended.iter().all(Result::is_err), "{mood:?}: {ended:?}");
        assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
        let said = store.health().to_string();
        assert!(said.contains("OUT for reads") && said.contains(why), "{mood:?}: {said}");

        // Nobody waits for what is out, and it is asked no more than it takes to see it come back.
        let (watch, before) = (Stopwatch::start(), server.requests());
        for _ in 0..100 {
            let error = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
            assert!(matches!(error, StoreError::TierLost(_)), "{error:?}");
            assert!(sample::peek(&store, BLOCK).is_err());
        }
        assert!(watch.elapsed() < Duration::from_secs(2), "{:?}", watch.elapsed());
        assert!(server.requests() - before < 10);

        server.becomes(Mood::Well);
        until_well(&store);
        sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
        sample::write(&store, &arena, LONG, ANYWHERE).unwrap();
    };
    check(Mood::Silent, "can't read");
    check(Mood::Refuses(S3ErrorCode::SlowDown), "busy");
    check(Mood::Refuses(S3ErrorCode::InternalError), "InternalError");
    check(Mood::Refuses(S3ErrorCode::ExpiredToken), "renew the credentials");
    check(Mood::Refuses(S3ErrorCode::NoSuchBucket), "make the bucket");
}

#[test]
fn a_bucket_that_may_only_be_read_serves_reads() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = hasty_store(&server, server.port(), &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    server.becomes(Mood::RefusesWrites(S3ErrorCode::AccessDenied));
    let refused = (0..100).find(|_| {
        sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
        let error = sample::write(&store, &arena, LONG, ANYWHERE).unwrap_err();
        matches!(error, StoreError::TierLost(_))
    });
    assert!(refused.is_some());
    assert!(store.health().to_string().contains("OUT for writes"), "{}", store.health());
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();

    server.becomes(Mood::Well);
    let waiting = Stopwatch::start();
    while sample::write(&store, &arena, LONG, ANYWHERE).is_err() {
        assert!(waiting.elapsed() < PATIENCE, "{}", store.health());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn a_key_that_is_disabled_for_all_objects_is_an_outage() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = hasty_store(&server, server.port(), &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    server.becomes(Mood::RefusesObjects(
        vec![object_name(BLOCK.key())],
        S3ErrorCode::InvalidObjectState,
    ));
    let is_out = (0..200).any(|_| {
        sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
        store.health() != Health::Well
    });
    assert!(is_out, "{}", store.health());
}

#[test]
fn an_object_that_is_refused_by_itself_is_no_outage_and_a_refusal_of_all_is() {
    for (code, said) in [
        (S3ErrorCode::AccessDenied, "AccessDenied"),
        (S3ErrorCode::InvalidObjectState, "restore it"),
    ] {
        let (server, arena) = (Server::start(), sample::arena());
        let store = hasty_store(&server, server.port(), &arena);
        sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
        server.becomes(Mood::RefusesObjects(vec![object_name(BLOCK.key())], code));
        for _ in 0..30 {
            let error = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            sample::peek(&store, BLOCK).unwrap_err();
        }
        assert_eq!(store.health(), Health::Well);
        server.becomes(Mood::Refuses(S3ErrorCode::AccessDenied));
        // What was answered a moment ago counts for a second.
        let waiting = Stopwatch::start();
        while store.health() == Health::Well {
            sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
            assert!(waiting.elapsed() < PATIENCE);
        }
    }
}

#[test]
fn writes_wait_for_the_one_that_tries_whether_the_store_takes_them() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = hasty_store(&server, server.port(), &arena);
    server.becomes(Mood::RefusesWrites(S3ErrorCode::InvalidAccessKeyId));
    sample::write(&store, &arena, LONG, ANYWHERE).unwrap_err();
    server.becomes(Mood::Well);
    until_well_but_for_a_trial(&store);
    assert!(store.health().is_out(), "nobody has written yet");
    let start = |lane| {
        let block = Sample { number: 10 + lane, ..BLOCK };
        let (done, told) = sample::heard();
        let frame = block.fill(&arena, lane);
        store.submit(StoreOp::Write { key: block.key(), place: ANYWHERE, frame }, done);
        told
    };
    let told: Vec<_> = (0..8).map(start).collect();
    for told in told {
        told.recv().unwrap().unwrap();
    }
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn a_storm_that_lets_some_through_costs_attempts_and_concurrency_and_no_operation() {
    let (server, arena) = (Server::start(), sample::arena());
    let store = server.store("p", &arena);
    server.becomes(Mood::RefusesMost(S3ErrorCode::SlowDown));
    let mut ends = 0;
    for number in 0..12 {
        let block = Sample { number, ..BLOCK };
        ends += u32::from(sample::write(&store, &arena, block, ANYWHERE).is_ok());
    }
    assert_eq!(ends, 12, "of three attempts one comes through");
    assert!(store.requests.limiter.limit() < 64, "{}", store.requests.limiter.limit());
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn a_connection_that_is_dead_at_one_end_gives_its_frame_back_in_time() {
    let (server, arena) = (Server::start(), sample::arena());
    let pipe = Pipe::to(server.port());
    let store = hasty_store(&server, pipe.port, &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    pipe.freeze(true);
    for write in [true, false] {
        let watch = Stopwatch::start();
        let run = if write { sample::write } else { sample::read };
        let block = if write { LONG } else { BLOCK };
        let error = run(&store, &arena, block, ANYWHERE).unwrap_err();
        assert!(error.to_string().contains("nothing came from it"), "{error}");
        assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
        pipe.freeze(false);
        until_well_but_for_a_trial(&store);
        pipe.freeze(write);
    }
    sample::write(&store, &arena, LONG, ANYWHERE).unwrap();
    sample::read(&store, &arena, LONG, ANYWHERE).unwrap();
}

#[test]
fn an_object_that_is_cut_off_on_its_way_is_fetched_from_there_on() {
    let (server, arena) = (Server::start(), sample::arena());
    let pipe = Pipe::to(server.port());
    let store = hasty_store(&server, pipe.port, &arena);
    sample::write(&store, &arena, LONG, ANYWHERE).unwrap();
    let before = server.requests();
    pipe.break_after(600_000);
    sample::read(&store, &arena, LONG, ANYWHERE).unwrap();
    assert_eq!(server.requests() - before, 2);
}

#[test]
fn credentials_that_are_renewed_in_their_file_are_found() {
    if let Ok(url) = std::env::var("TERRACE_TEST_RENEW_URL") {
        return renew(&url);
    }
    let (server, home) = (Server::start(), tempfile::tempdir().unwrap());
    let path = home.path().join("credentials");
    fs::write(&path, credentials("wrong")).unwrap();
    let url = format!("s3://blocks/p?endpoint=http://127.0.0.1:{}", server.port());
    let said = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--nocapture", "credentials_that_are_renewed_in_their_file_are_found"])
        .env_clear()
        .env("HOME", home.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_SHARED_CREDENTIALS_FILE", &path)
        .env("TERRACE_TEST_RENEW_URL", url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("refused, then renewed and written"), "{said}");
}

fn credentials(secret: &str) -> String {
    format!("[default]\naws_access_key_id = key\naws_secret_access_key = {secret}\n")
}

/// In a process whose credentials file is wrong at first.
fn renew(url: &str) {
    let (runtime, arena) = (runtime(), sample::arena());
    let target = url.parse().unwrap();
    let store = crate::tiers::object::open(&target, hasty(), &arena, runtime.handle()).unwrap();
    let error = sample::write(&*store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(error, StoreError::TierLost(_)), "{error:?}");
    let path = std::env::var("AWS_SHARED_CREDENTIALS_FILE").unwrap();
    fs::write(path, credentials("secret")).unwrap();
    let waiting = Stopwatch::start();
    while sample::write(&*store, &arena, BLOCK, ANYWHERE).is_err() {
        assert!(waiting.elapsed() < PATIENCE, "{}", store.health());
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("refused, then renewed and written");
}
