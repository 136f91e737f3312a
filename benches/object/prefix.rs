//! How long a lookup takes that finds 8,000 blocks of another node in a far store, in round trips.

use std::path::Path;
use std::time::Duration;

use terrace::env::Stopwatch;

use super::node::{Node, Spec};
use super::s3::S3Server;
use super::{NEAR, median, server};

const BLOCKS: u64 = 8_000;
const ASK: Duration = Duration::from_secs(10);
const RUNS: usize = 5;

pub fn measure(root: &Path, far: Duration, packs: bool) {
    let near = server::signed(root, NEAR);
    let own = tempfile::tempdir().unwrap();
    let spec = |server: &S3Server| Spec {
        object_url: Some(server.url(if packs { "prefix-packed" } else { "prefix" })),
        packs,
        ..Spec::new(own.path(), 64, 0, 4 * BLOCKS)
    };
    let ids: Vec<u64> = (1..=BLOCKS).collect();
    write(&spec(&near), &ids);
    let server = server::signed(root, far);
    let (mut trips, mut lookups, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        firsts.push(lookup(&Node::start(&spec(&server)), &ids));
        let node = Node::start(&spec(&server));
        // What nobody has: one question.
        for number in 0..5 {
            let watch = Stopwatch::start();
            assert_eq!(node.found(&[1_000_000 + 10 * run as u64 + number], ASK), []);
            trips.push(watch.elapsed());
        }
        lookups.push(lookup(&node, &ids));
    }
    let (trip, lookup, first) = (median(&trips), median(&lookups), median(&firsts));
    let in_trips = |took: Duration| {
        format!(
            "{} ms, {:.2} round trips",
            took.as_millis(),
            took.as_secs_f64() / trip.as_secs_f64()
        )
    };
    println!(
        "\nThe longest prefix, {BLOCKS} blocks{} in a store {} ms away: {} of {} ms; by a node that \
         started a moment ago: {} (medians of {RUNS} nodes)",
        if packs { " in packs" } else { "" },
        far.as_millis(),
        in_trips(lookup),
        trip.as_millis(),
        in_trips(first),
    );
}

/// Looks all of the chain up, and finds it.
fn lookup(node: &Node, ids: &[u64]) -> Duration {
    let watch = Stopwatch::start();
    let found: u32 = node.found(ids, ASK).iter().map(|(_, blocks)| blocks).sum();
    let took = watch.elapsed();
    assert_eq!(u64::from(found), BLOCKS);
    took
}

/// A node's chain, all of it in the store.
fn write(spec: &Spec, ids: &[u64]) {
    let mut node = Node::start(spec);
    let mut last = None;
    for part in ids.chunks(100) {
        node.store_behind(last, part, None);
        last = part.last().copied();
    }
    let others: Vec<u64> = (900_001..=900_100).collect();
    node.store(&others, None);
    node.settle();
}
