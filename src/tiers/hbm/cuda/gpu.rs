//! The device on a real GPU: the store's contract, and round trips, by every way of copying.
//!
//! Where there is none, each test says aloud that it was skipped. `scripts/gpu-test` runs them.

use std::sync::Arc;

use super::super::tests::{any_layouts, arena, check_round_trip, engines, geometry};
use super::super::{Device, Stream};
use super::calibration::{Calibration, Strategy};
use super::device::{CudaDevice, Tuning};
use super::driver::Driver;
use super::sys;
use super::tests::{CONFIG, always, check_contract, none};
use super::tune::Trial;

/// The first GPU, or nothing, said aloud.
fn gpu(test: &str) -> Option<Arc<dyn Driver>> {
    sys::driver(0).inspect_err(|why| eprintln!("SKIPPED {test}: {why}")).ok()
}

#[test]
fn the_store_keeps_the_contract_on_a_gpu() {
    let Some(driver) = gpu("the store's contract on cuda:0") else { return };
    for strategy in Strategy::ALL {
        eprintln!("the store's contract on {} by {}", driver.facts(), strategy.name());
        check_contract(|| Arc::clone(&driver), strategy);
    }
}

#[test]
fn bytes_go_all_the_way_round_on_a_gpu() {
    let Some(driver) = gpu("round trips on cuda:0") else { return };
    for strategy in Strategy::ALL {
        for (seed, layout) in (1..).zip(any_layouts()) {
            let arena = arena();
            let device = CudaDevice::with_driver(
                &driver,
                Arc::clone(&arena),
                CONFIG,
                &always(strategy),
                none(),
            );
            let device = device.unwrap();
            let [from, to] = [(); 2].map(|()| engines(&device as &dyn Device, &[layout]));
            check_round_trip(&device, &arena, geometry(layout.shape, 1), [&from, &to], seed);
        }
    }
}

#[test]
fn the_kernels_are_right_and_every_way_is_measured_on_a_gpu() {
    let Some(driver) = gpu("the measured table of cuda:0") else { return };
    let tuning = Tuning::Measure(Trial::AT_START);
    let device = CudaDevice::with_driver(&driver, arena(), CONFIG, &tuning, none()).unwrap();
    let rows = device.calibration().rows();
    assert_eq!(rows.len(), Stream::ALL.len() * Calibration::FRAGMENTS_BYTES.len());
    for row in rows {
        eprintln!("{row}");
        assert!(row.speeds.iter().any(|(way, _)| *way == Strategy::Kernel), "wrong bytes: {row}");
    }
}
