//! How close the object tier comes to a bare HTTP client, and how long the longest stored prefix
//! takes to find.
//!
//!     scripts/bench-object
//!
//! Both clients talk to the same S3 server (s3s-fs) on loopback, in turn, at the same concurrency,
//! and the medians of their rounds are compared; then to a server that keeps objects in memory and
//! checks nothing, beside which the client's own work shows. Small objects show what a request costs.
//! Goals of the project: with s3s-fs, GET and PUT of 4 MiB at 80 % or more of the bare client; the
//! prefix of 8,000 blocks in four round trips or fewer. Absolute figures are the server's and the
//! machine's.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a bench is a test")]

#[path = "object/bare.rs"]
mod bare;
#[path = "object/memory.rs"]
mod memory;
#[path = "../tests/travel/node.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod node;
#[path = "object/prefix.rs"]
mod prefix;
#[path = "../tests/s3/server.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod s3;
#[path = "object/server.rs"]
mod server;
#[path = "object/store.rs"]
mod store;

use std::time::Duration;

use terrace::env;

/// What a round moves: so many frames, each the header's page and what is left.
#[derive(Clone, Copy)]
pub struct Load {
    pub frame_bytes: u32,
    pub objects: usize,
    /// Whether Terrace packs them.
    pub packed: bool,
}

const LARGE: Load = Load { frame_bytes: 4 << 20, objects: 32, packed: false };
/// Blocks of models with little KV: what a request costs counts more than its bytes.
const SMALL: Load = Load { frame_bytes: 64 << 10, objects: 512, packed: false };
const PACKED: Load = Load { packed: true, ..SMALL };
/// What a bare client does with the same bytes in objects as long as packs.
const PACKS: Load = Load { frame_bytes: 8 << 20, objects: 4, packed: false };
const ROUNDS: usize = 7;

/// What S3 takes to the first byte. Source: AWS, "Best practices design patterns: optimizing Amazon
/// S3 performance": 100 to 200 ms.
const FAR: Duration = Duration::from_millis(100);

pub const NEAR: Duration = Duration::ZERO;

fn main() {
    // The test harness's own flags mean nothing here.
    let root = tempfile::tempdir().unwrap();
    println!("Loopback, medians of {ROUNDS} rounds\n");
    println!(
        "| server | | KiB | bare's KiB | at once | Terrace MB/s | bare HTTP MB/s | ratio | Terrace's rounds | bare's |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (load, bare_load, at_once) in [
        (LARGE, LARGE, 1),
        (LARGE, LARGE, 4),
        (LARGE, LARGE, 16),
        (SMALL, SMALL, 16),
        (PACKED, SMALL, 16),
        (PACKED, PACKS, 16),
    ] {
        let (ours, bare) = (server::signed(root.path(), NEAR), server::open(root.path()));
        compare("s3s-fs", (ours.port, bare.port), (load, bare_load), at_once);
        let memory = memory::Memory::start();
        compare("memory", (memory.port, memory.port), (load, bare_load), at_once);
    }
    for packs in [false, true] {
        prefix::measure(root.path(), FAR, packs);
    }
}

/// Both clients in turn, each on its port, and what came of it.
fn compare(server: &str, (ours, bare): (u16, u16), loads: (Load, Load), at_once: usize) {
    let store = store::Store::open(ours, loads.0, at_once);
    let client = bare::Client::new(bare, loads.1, at_once);
    let (mut puts, mut gets) = (Pair::default(), Pair::default());
    for round in 0..ROUNDS {
        puts.ours.push(store.put(round));
        puts.bare.push(client.put(round));
        gets.ours.push(store.get(round));
        gets.bare.push(client.get(round));
    }
    puts.print((server, "PUT"), loads, at_once);
    gets.print((server, "GET"), loads, at_once);
}

#[derive(Default)]
struct Pair {
    ours: Vec<Duration>,
    bare: Vec<Duration>,
}

impl Pair {
    fn print(&self, (server, what): (&str, &str), loads: (Load, Load), at_once: usize) {
        let Load { frame_bytes, objects, packed } = loads.0;
        let packed = if packed { ", in packs" } else { "" };
        let rate =
            |took: Duration| objects as f64 * f64::from(frame_bytes) / 1e6 / took.as_secs_f64();
        let (ours, bare) = (rate(median(&self.ours)), rate(median(&self.bare)));
        let span = |times: &[Duration]| {
            let (least, most) = (times.iter().max().unwrap(), times.iter().min().unwrap());
            format!("{:.0}..{:.0}", rate(*least), rate(*most))
        };
        println!(
            "| {server} | {what} | {}{packed} | {} | {at_once} | {ours:.0} | {bare:.0} | {:.2} | {} | {} |",
            frame_bytes >> 10,
            loads.1.frame_bytes >> 10,
            ours / bare,
            span(&self.ours),
            span(&self.bare)
        );
    }
}

#[must_use]
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}
