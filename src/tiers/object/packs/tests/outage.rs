//! A server that takes what is asked and says nothing: packs have the bounds that single objects have.

use std::sync::Arc;
use std::time::Duration;

use super::faults::Call;
use super::ground::{Ground, Node, options};
use super::{ANYWHERE, block, erase, read_all, restamp, start, write_all};
use crate::env::Stopwatch;
use crate::tiers::health::Refuses;
use crate::tiers::object::ObjectOptions;
use crate::tiers::object::packs::PackOptions;
use crate::tiers::object::s3::tests::server::{Mood, Server};
use crate::tiers::sample::{self, LANES, Sample};
use crate::tiers::store::{StoreError, StoreOp, TierStore};

/// Half a second of silence is enough; all the attempts of a request take three times as long.
fn hasty() -> ObjectOptions {
    ObjectOptions { attempt_timeout: Duration::from_millis(400), ..ObjectOptions::default() }
}

/// Far less than requests take that wait for each other, each for all its attempts.
const BOUND: Duration = Duration::from_millis(2_500);

/// Far more than recovery takes.
const PATIENCE: Duration = Duration::from_secs(30);

type Ended = Vec<Result<(), StoreError>>;

fn write(node: &Node, numbers: std::ops::Range<u32>) -> Ended {
    let write = |block: Sample, lane| {
        let frame = block.fill(&node.arena, lane);
        StoreOp::Write { key: block.key(), place: ANYWHERE, frame }
    };
    start(node, write, numbers).into_iter().map(|told| told.recv().unwrap()).collect()
}

fn read(node: &Node, number: u32) -> Ended {
    let (key, frame) = (block(number).key(), block(number).span(0));
    vec![sample::run(&*node.store, StoreOp::Read { key, place: ANYWHERE, frame })]
}

fn refuses(node: &Node) -> Refuses {
    node.store.health().refuses()
}

/// What a node that knows of four packed blocks hears of a server that has fallen silent, and when.
fn check(what: &str, frames_min: usize, ask: fn(&Node) -> Ended) {
    let server = Arc::new(Server::start());
    let ground = Ground::bucket_of(&server, hasty());
    let few = PackOptions { frames_min, ..options(1) };
    let node = ground.node_with(few, |blobs| blobs);
    write_all(&node, 0..4);
    server.becomes(Mood::Silent);
    let watch = Stopwatch::start();
    let ended = ask(&node);
    assert!(ended.iter().all(Result::is_err), "{what}: {ended:?}");
    assert!(watch.elapsed() < BOUND, "{what}: {:?}", watch.elapsed());
    assert_eq!(refuses(&node), Refuses::ALL, "{what}: {}", node.store.health());
    // Nobody waits for what is out.
    let watch = Stopwatch::start();
    assert!(write(&node, 8..9)[0].is_err() && erase(&node, 1).is_err());
    assert!(watch.elapsed() < Duration::from_millis(400), "{what}: {:?}", watch.elapsed());

    server.becomes(Mood::Well);
    let waiting = Stopwatch::start();
    while refuses(&node) != Refuses::NOTHING {
        assert!(waiting.elapsed() < PATIENCE, "{}", node.store.health());
        std::thread::sleep(Duration::from_millis(10));
    }
    // Of writes one goes first, and what is owed may be it.
    while write(&node, 12..13)[0].is_err() {
        assert!(waiting.elapsed() < PATIENCE, "{}", node.store.health());
    }
    assert_eq!(read_all(&node, 2..4), [2, 3], "{what}");
}

#[test]
fn writes_into_packs_end_when_single_objects_do() {
    check("one", 1, |node| write(node, 4..5));
    check("one that nobody joins", 4, |node| write(node, 4..5));
    check("many", 1, |node| write(node, 4..4 + LANES / 2));
}

#[test]
fn erases_and_records_of_packed_blocks_end_when_single_objects_do() {
    check("erase", 1, |node| vec![erase(node, 0)]);
    check("restamp", 1, |node| vec![restamp(node, 0, 80)]);
}

#[test]
fn reads_and_lookups_of_packed_blocks_end_when_single_objects_do() {
    check("read", 1, |node| read(node, 0));
    check("read of one that is not known", 1, |node| read(node, 9));
    check("lookup", 1, |node| vec![sample::peek(&*node.store, block(9)).map(drop)]);
}

/// As a share whose server is gone, before that is known.
#[test]
fn so_many_lookups_wait_for_a_silent_store_and_no_more() {
    let ground = Ground::folder();
    let (node, faults) = ground.node_with_faults(1);
    faults.fail(Call::ListEnd, "");
    let (tell, told) = std::sync::mpsc::sync_channel(2 * ObjectOptions::default().ops_max);
    for _ in 0..ObjectOptions::default().ops_max + 10 {
        let tell = tell.clone();
        let tell = move |found| tell.send(found).unwrap_or_default();
        node.store.peek(block(9).key(), Box::new(tell));
    }
    let told: Vec<_> = told.try_iter().collect();
    assert_eq!(told.len(), 10);
    assert!(told.iter().all(|found| matches!(found, Err(StoreError::Busy))));
}
