//! What loads cost while other things move, and whether they take as long as lookups say.
//!
//!     cargo bench --bench movement
//!
//! Two goals of the project: the p99 of loads from DRAM while stores drain to NVMe and chains are
//! lifted from there is at most 1.5 times the p99 without, and half of the loads end within 25 % of
//! the time that the lookup's plan had said. Absolute times are the machine's.
#![allow(clippy::unwrap_used, reason = "a bench is a test")]

#[path = "movement/plan.rs"]
mod plan;
#[path = "movement/rig.rs"]
mod rig;
#[path = "movement/saturate.rs"]
mod saturate;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let loads = saturate::Load {
            page_bytes: 4 << 10,
            chain_blocks: 64,
            hot_chains: 4,
            dram_chunks: 8,
            rounds: 8,
            loads_a_round: 200,
        };
        println!("{}", saturate::measure(loads).await);
        let plans = plan::Load { page_bytes: 4 << 10, chunks: [1, 2, 8], loads: 600 };
        println!("{}", plan::measure(plans).await);
    });
}
