//! Many seeded runs of the manager in virtual time. A failure prints the command that replays it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use terrace::manager::Manager;
use terrace::sim::scenario::{Level, Scenario};
use terrace::sim::world::{RunReport, run};

/// One run; a panic of the manager is a failure with a seed like any other.
fn run_seed(level: Level, seed: u64) -> RunReport {
    let scenario = Scenario::new(level, seed);
    let result = catch_unwind(AssertUnwindSafe(|| run(&scenario, Manager::new)));
    let result = result.unwrap_or_else(|_panic| {
        panic!(
            "{level} seed {seed}: the manager panicked (see above)\n    replay it with: \
             SIM_LEVEL={level} SIM_SEED={seed} cargo test --test sim one_seed -- --nocapture"
        )
    });
    result.unwrap_or_else(|violation| panic!("{violation}"))
}

/// Runs the seeds and adds up what happened, so that a run that does nothing is noticed.
fn run_seeds(level: Level, seeds: u64) -> RunReport {
    let reports: Vec<RunReport> = (0..seeds).map(|seed| run_seed(level, seed)).collect();
    let sum = |field: fn(&RunReport) -> u64| reports.iter().map(field).sum();
    let total = RunReport {
        digest: String::new(),
        steps: sum(|report| report.steps),
        transfers: sum(|report| report.transfers),
        restamps: sum(|report| report.restamps),
        loaded_blocks: sum(|report| report.loaded_blocks),
        failed_blocks: sum(|report| report.failed_blocks),
        crashes: sum(|report| report.crashes),
        outages: sum(|report| report.outages),
        clients: sum(|report| report.clients),
        found_frames: sum(|report| report.found_frames),
        shared_blocks: sum(|report| report.shared_blocks),
    };
    println!("{level}: {seeds} seeds, {total:?}");
    total
}

#[test]
fn with_room_and_no_faults_what_was_stored_is_found() {
    let total = run_seeds(Level::Roomy, 40);
    assert!(total.loaded_blocks > 10_000, "{total:?}");
}

#[test]
fn with_little_room_and_no_faults_what_is_leased_is_loaded() {
    let total = run_seeds(Level::Tight, 100);
    assert!(total.loaded_blocks > 10_000 && total.transfers > 10_000, "{total:?}");
}

#[test]
fn with_faults_nothing_wrong_is_served_and_nothing_is_left_behind() {
    let total = run_seeds(Level::Faulty, 100);
    assert!(total.loaded_blocks > 5_000 && total.failed_blocks > 1_000, "{total:?}");
    assert!(total.clients > 1_000 && total.restamps > 100, "{total:?}");
}

#[test]
fn after_power_is_lost_nothing_wrong_is_served() {
    let total = run_seeds(Level::Crashing, 100);
    assert!(total.crashes > 200 && total.found_frames > 500, "{total:?}");
}

#[test]
fn after_power_is_lost_what_had_landed_is_found_again() {
    let total = run_seeds(Level::Recovering, 60);
    assert!(total.crashes > 60 && total.found_frames > 1_000, "{total:?}");
    assert!(total.loaded_blocks > 5_000, "{total:?}");
}

#[test]
fn what_a_tier_holds_that_is_out_is_not_promised_and_is_found_again() {
    let total = run_seeds(Level::Outages, 30);
    assert!(total.outages > 60 && total.crashes > 20, "{total:?}");
    assert!(total.loaded_blocks > 5_000 && total.found_frames > 1_000, "{total:?}");
}

#[test]
fn what_other_nodes_stored_is_found_and_what_they_promised_is_kept() {
    let total = run_seeds(Level::Fleet, 25);
    assert!(total.shared_blocks > 150 && total.crashes > 15, "{total:?}");
    assert!(total.loaded_blocks > 5_000, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for level in Level::ALL {
        let [first, again, other] = [7, 7, 8].map(|seed| run_seed(level, seed));
        assert_eq!(first, again, "{level}");
        assert_ne!(first.digest, other.digest, "{level}");
    }
}

/// The run that `SIM_LEVEL` and `SIM_SEED` name, or a fixed one.
#[test]
fn one_seed() {
    let said = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let level = said("SIM_LEVEL", "faulty").parse().unwrap();
    let seed = said("SIM_SEED", "0").parse().expect("SIM_SEED is a number");
    println!("{:?}", run_seed(level, seed));
}
