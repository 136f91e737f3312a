//! Loads while the links are full of other things, and the times that lookups promise, on a daemon
//! of this test's own.
//!
//! The same measurements as `cargo bench --bench movement`, smaller, and held only to bounds that a
//! busy machine keeps.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../benches/movement/plan.rs"]
mod plan;
#[path = "../benches/movement/rig.rs"]
mod rig;
#[path = "../benches/movement/saturate.rs"]
mod saturate;

use std::time::Duration;

use terrace::env::Stopwatch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_go_on_while_stores_and_lifts_fill_the_links() {
    let watch = Stopwatch::start();
    let load = saturate::Load {
        page_bytes: 4 << 10,
        chain_blocks: 32,
        hot_chains: 3,
        dram_chunks: 4,
        rounds: 5,
        loads_a_round: 24,
    };
    let figures = saturate::measure(load).await;
    println!("{figures}");
    assert!(figures.p50_ratio < 6.0, "loads starve:\n{figures}");
    assert!(figures.beside[1] < 1e6, "a load took a second:\n{figures}");
    let chain_bytes = 32 * (256 << 10);
    let others = [figures.stored_bytes, figures.drained_bytes, figures.lifted_bytes];
    assert!(others.iter().all(|bytes| *bytes >= chain_bytes), "something starves:\n{figures}");
    assert!(watch.elapsed() < Duration::from_mins(1), "it took {:?}", watch.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_say_how_long_loads_take() {
    let load = plan::Load { page_bytes: 4 << 10, chunks: [1, 1, 4], loads: 240 };
    let figures = plan::measure(load).await;
    println!("{figures}");
    assert!(figures.median_error() < 0.95, "lookups promise anything:\n{figures}");
}
