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
    let (mut trips, mut lookups) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let node = Node::start(&spec(&server));
        // What nobody has: one question.
        for number in 0..5 {
            let watch = Stopwatch::start();
            assert_eq!(node.found(&[1_000_000 + 10 * run as u64 + number], ASK), []);
            trips.push(watch.elapsed());
        }
        let watch = Stopwatch::start();
        let found: u32 = node.found(&ids, ASK).iter().map(|(_, blocks)| blocks).sum();
        lookups.push(watch.elapsed());
        assert_eq!(u64::from(found), BLOCKS);
    }
    let (trip, lookup) = (median(&trips), median(&lookups));
    println!(
        "\nThe longest prefix, {BLOCKS} blocks{} in a store {} ms away: {} ms, {:.2} round trips of {} \
         ms (medians of {RUNS} nodes)",
        if packs { " in packs" } else { "" },
        far.as_millis(),
        lookup.as_millis(),
        lookup.as_secs_f64() / trip.as_secs_f64(),
        trip.as_millis()
    );
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
