//! The CUDA device over a driver without a GPU: the store's contract and round trips by every way of
//! copying, engines' pools by IPC, and what goes wrong.

mod engines;
mod ranks;
mod wrong;

use std::sync::Arc;

use proptest::prelude::*;

use super::super::cuda_claim::{CudaClaim, CudaLayer};
use super::super::tests::{
    Engine, any_pools, arena, byte_in_tier, check_round_trip, copy, engine_on, engines, geometry,
    place, submit,
};
use super::super::{
    ClaimedPool, CopyEnd, Device, EnginePool, Exported, FailedCopy, HbmStore, LentMemory,
    PagedLayout, Stream,
};
use super::calibration::{Calibration, Measured, Strategy};
use super::device::{CudaConfig, CudaDevice, Tuning};
use super::driver::Driver;
use super::fake::{FakeDriver, Kind};
use super::gpus::Finder;
use super::tune::Trial;
use crate::domain::namespace::KvShape;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::contract::{self, Fixture};
use crate::tiers::dram::Arena;
use crate::tiers::shm::SharedMemory;
use crate::tiers::store::{FrameSpan, StoreError};

pub(super) const CONFIG: CudaConfig =
    CudaConfig { tier_bytes: CHUNK_BYTES, multiprocessors_max: 3 };
const SHAPE: KvShape = KvShape { layers: 2, planes: 2, page_bytes: 4096 };

/// A table by which one way is the best for everything, where it can be.
pub(super) fn always(strategy: Strategy) -> Tuning {
    let row = |stream| Measured { stream, fragment_bytes: 1, speeds: vec![(strategy, 1e9)] };
    Tuning::Given(Calibration::new(Stream::ALL.map(row).to_vec()))
}

fn device_on(driver: &Arc<FakeDriver>, arena: &Arc<Arena>, tuning: &Tuning) -> CudaDevice {
    let driver = Arc::clone(driver) as Arc<dyn Driver>;
    CudaDevice::with_driver(&driver, Arc::clone(arena), CONFIG, tuning, none()).unwrap()
}

/// A device over the tests' driver, which copies in batches, for tests elsewhere.
#[must_use]
pub fn device(arena: &Arc<Arena>, config: CudaConfig) -> CudaDevice {
    let driver = fake() as Arc<dyn Driver>;
    let (arena, tuning) = (Arc::clone(arena), always(Strategy::Batch));
    CudaDevice::with_driver(&driver, arena, config, &tuning, none()).unwrap()
}

/// No other GPUs.
pub(super) fn none() -> Box<Finder> {
    Box::new(|_| Err("the daemon does not see it".into()))
}

fn fake() -> Arc<FakeDriver> {
    Arc::new(FakeDriver::new(true))
}

/// An engine whose pool lies in another process's allocations, one a layer.
fn ipc_engine(driver: &FakeDriver, device: &CudaDevice, shard: u32, layout: PagedLayout) -> Engine {
    let memory = SharedMemory::create("engine", layout.end_bytes().unwrap()).unwrap();
    let pool = device
        .admit(LentMemory::Cuda(claim(driver, &memory, &layout)), ClaimedPool { shard, layout });
    Engine::new(memory, pool.unwrap())
}

fn claim(driver: &FakeDriver, memory: &SharedMemory, layout: &PagedLayout) -> CudaClaim {
    let base = memory.base().expose_provenance() as u64;
    let layer_bytes = layout.layer_stride;
    let layers = 0..layout.shape.layers;
    CudaClaim {
        device_uuid: driver.facts().uuid,
        memories: layers
            .clone()
            .map(|layer| driver.lend(base + u64::from(layer) * layer_bytes, layer_bytes))
            .collect(),
        layers: layers.map(|memory| CudaLayer { memory, base: 0 }).collect(),
        ready_events: Vec::new(),
        lender: None,
    }
}

/// The store's contract by one way of copying, over whatever driver.
pub(super) fn check_contract(driver: impl Fn() -> Arc<dyn Driver>, strategy: Strategy) {
    contract::check_store(|| {
        let (arena, driver) = (contract::arena(0), driver());
        let config = CudaConfig { tier_bytes: contract::CAPACITY_BYTES, ..CONFIG };
        let tuning = always(strategy);
        let device = CudaDevice::with_driver(&driver, Arc::clone(&arena), config, &tuning, none());
        let device = Arc::new(device.unwrap());
        let store = HbmStore::new(Arc::clone(&device) as Arc<dyn Device>, Arc::clone(&arena));
        for payload_bytes in contract::PAYLOADS_BYTES {
            store.add_namespace(&contract::namespace(payload_bytes)).unwrap();
        }
        let store = Arc::new(store);
        let header = Arc::clone(&store);
        Fixture::new(arena, store).corrupted_by(move |_, place, byte| {
            match byte.checked_sub(4096) {
                None => header.corrupt_header(place),
                Some(byte) => device.flip_bit(byte_in_tier(place, byte)),
            }
        })
    });
}

#[test]
fn the_store_keeps_the_contract_by_single_copies() {
    check_contract(|| fake(), Strategy::Copies);
}

#[test]
fn the_store_keeps_the_contract_by_batches() {
    check_contract(|| fake(), Strategy::Batch);
}

#[test]
fn the_store_keeps_the_contract_by_the_kernel() {
    check_contract(|| fake(), Strategy::Kernel);
}

#[test]
fn the_store_keeps_the_contract_in_two_steps() {
    check_contract(|| fake(), Strategy::Staged);
}

/// The call that a way of copying makes, so that a test knows it went that way.
fn made_by(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Copies => "copy",
        Strategy::Batch => "copy_batch",
        Strategy::Kernel | Strategy::Staged => "launch",
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Engines in shared memory, any layout, by every way of copying.
    #[test]
    fn bytes_go_all_the_way_round(
        (shards, from, to) in any_pools(), seed in any::<u8>(),
        strategy in prop::sample::select(Strategy::ALL.to_vec()),
    ) {
        let geometry = geometry(from[0].shape, shards);
        let (arena, driver) = (arena(), fake());
        let device = device_on(&driver, &arena, &always(strategy));
        let [from, to] = [&from, &to].map(|layouts| engines(&device, layouts));
        check_round_trip(&device, &arena, geometry, [&from, &to], seed);
        prop_assert!(driver.calls(made_by(strategy)) > 0, "it went another way");
    }

    /// Engines on the GPU by IPC, an allocation a layer, by every way of copying.
    #[test]
    fn bytes_of_ipc_pools_go_all_the_way_round(
        shards in 1..3_u32, layers in 1..4_u32, planes in 1..3_u32, page_bytes in 1..200_u32,
        slots in 2..5_u32, seed in any::<u8>(),
        strategy in prop::sample::select(Strategy::ALL.to_vec()),
    ) {
        let shape = KvShape { layers, planes, page_bytes: page_bytes * 16 };
        let (arena, driver) = (arena(), fake());
        let device = device_on(&driver, &arena, &always(strategy));
        let layout = PagedLayout::page_major(shape, slots);
        let engines = || -> Vec<Engine> {
            (0..shards).map(|shard| ipc_engine(&driver, &device, shard, layout)).collect()
        };
        let (from, to) = (engines(), engines());
        check_round_trip(&device, &arena, geometry(shape, shards), [&from, &to], seed);
        prop_assert!(driver.calls(made_by(strategy)) > 0, "it went another way");
    }
}

#[test]
fn everything_is_given_back() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Staged));
    let engine = ipc_engine(&driver, &device, 0, PagedLayout::page_major(SHAPE, 2));
    let shared = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 2));
    assert_eq!(driver.memories(Kind::Opened), 2);
    // The arena and the shared pool.
    assert_eq!(driver.memories(Kind::Registered), 2);
    drop((engine, shared, device));
    for kind in [Kind::Opened, Kind::Registered, Kind::Device, Kind::Host] {
        assert_eq!(driver.memories(kind), 0, "{kind:?}");
    }
    let given_back = |made, ended| assert_eq!(driver.calls(made), driver.calls(ended), "{made}");
    given_back("create_stream", "destroy_stream");
    given_back("create_event", "destroy_event");
}

#[test]
fn neighbours_at_both_ends_become_one_run() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Batch));
    let layout = PagedLayout::page_major(SHAPE, 8);
    let engine = ipc_engine(&driver, &device, 0, layout);
    let target = ipc_engine(&driver, &device, 0, layout);
    engine.fill(3);
    let geometry = geometry(SHAPE, 1);
    let copies = (0..8).map(|slot| copy(geometry, engine.slot(slot), target.slot(slot)));
    assert!(submit(&device, Stream::Local, copies.collect()).is_empty());
    assert!((0..8).all(|slot| engine.read(slot) == target.read(slot)));
    // 8 slots x 4 pages in a layer's allocation are one run.
    assert_eq!(driver.batched_runs(), 2);
}

#[test]
fn rows_of_copies_in_two_steps_go_in_one_call_where_the_driver_has_it() {
    for (batches, single_calls) in [(true, 0), (false, 4)] {
        let (arena, driver) = (arena(), Arc::new(FakeDriver::new(batches)));
        let device = device_on(&driver, &arena, &always(Strategy::Staged));
        let engine = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 4));
        engine.fill(7);
        let frame = |slot: u32| FrameSpan { offset: u64::from(slot) * 20_480, bytes: 20_480 };
        let geometry = geometry(SHAPE, 1);
        let stored =
            (0..4).map(|slot| copy(geometry, engine.slot(slot), CopyEnd::Frame(frame(slot))));
        assert!(submit(&device, Stream::Down, stored.collect()).is_empty());
        // SAFETY: the copies are over.
        let payload = |slot| unsafe { &arena.bytes(frame(slot))[4096..] };
        assert!((0..4).all(|slot| *payload(slot) == engine.read(slot)));
        let calls = ["copy_batch", "copy"].map(|call| driver.calls(call));
        assert_eq!(calls, [u64::from(batches), single_calls]);
    }
}

#[test]
fn blocks_in_one_piece_make_no_detour() {
    let speeds = vec![(Strategy::Batch, 50e9), (Strategy::Staged, 60e9)];
    let row = Measured { stream: Stream::Down, fragment_bytes: 4096, speeds };
    let tuning = Tuning::Given(Calibration::new(vec![row]));
    let layouts = [PagedLayout::slot_major(SHAPE, 2), PagedLayout::page_major(SHAPE, 2)];
    for (layout, launches) in layouts.into_iter().zip([0, 1]) {
        let (arena, driver) = (arena(), fake());
        let device = device_on(&driver, &arena, &tuning);
        let engine = engine_on(&device, 0, layout);
        let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
        let stored = vec![copy(geometry(SHAPE, 1), engine.slot(1), frame)];
        assert!(submit(&device, Stream::Down, stored).is_empty());
        assert_eq!(driver.calls("launch"), launches, "{layout:?}");
    }
}

#[test]
fn a_batch_holds_as_much_of_blocks_in_shards_as_of_others() {
    let shape = KvShape { layers: 1, planes: 1, page_bytes: 1 << 20 };
    let (arena, driver) = (contract::arena(CHUNK_BYTES), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Batch));
    let engine = engine_on(&device, 1, PagedLayout::slot_major(shape, 4));
    let (blocks, frame_bytes) = (geometry(shape, 5), (5 << 20) + 4096);
    let stored = (0..4).map(|slot| {
        let span =
            FrameSpan { offset: u64::from(slot) * u64::from(frame_bytes), bytes: frame_bytes };
        copy(blocks, engine.slot(slot), CopyEnd::Frame(span))
    });
    let before = driver.calls("copy_batch");
    assert!(submit(&device, Stream::Down, stored.collect()).is_empty());
    assert_eq!(driver.calls("copy_batch") - before, 1, "what is moved fits in one batch");
}

#[test]
fn copies_that_touch_each_other_run_in_order() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Kernel));
    let engine = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 4));
    engine.fill(5);
    let (geometry, first) = (geometry(SHAPE, 1), engine.read(1));
    let place = CopyEnd::Tier(place(geometry, 0));
    let chain = vec![
        copy(geometry, engine.slot(1), place.clone()),
        copy(geometry, place.clone(), engine.slot(2)),
        copy(geometry, engine.slot(2), engine.slot(3)),
    ];
    assert!(submit(&device, Stream::Local, chain).is_empty());
    assert!(engine.read(3) == first);
    assert_eq!((driver.calls("launch"), driver.calls("copy") > 0), (0, true));
}

#[test]
fn what_is_measured_covers_every_stream_and_length() {
    let (arena, driver) = (arena(), fake());
    let trial = Trial { blocks: 1, block_bytes: 1 << 20, batches: 6, rounds: 1 };
    let device = device_on(&driver, &arena, &Tuning::Measure(trial));
    let rows = device.calibration().rows();
    assert_eq!(rows.len(), Stream::ALL.len() * Calibration::FRAGMENTS_BYTES.len());
    for Measured { stream, speeds, .. } in rows {
        let ways: Vec<_> = speeds.iter().map(|(strategy, _)| *strategy).collect();
        // Within the GPU there is nothing to stage.
        let wanted = if *stream == Stream::Local { 3 } else { 4 };
        assert_eq!(ways, Strategy::ALL[..wanted]);
        assert!(speeds.iter().all(|(_, speed)| speed.is_finite() && *speed > 0.0));
    }
    // Without the batch call there is one way less, and all else stands.
    let old = Arc::new(FakeDriver::new(false));
    let device = device_on(&old, &arena, &Tuning::Measure(trial));
    let without = |row: &Measured| row.speeds.iter().all(|(way, _)| *way != Strategy::Batch);
    assert!(device.calibration().rows().iter().all(without));
}

#[test]
fn without_multiprocessors_no_kernel_runs() {
    let driver = fake();
    let opened = Arc::clone(&driver) as Arc<dyn Driver>;
    let config = CudaConfig { multiprocessors_max: 0, ..CONFIG };
    let trial = Trial { blocks: 1, block_bytes: 1 << 20, batches: 6, rounds: 1 };
    for tuning in [Tuning::Measure(trial), always(Strategy::Kernel), always(Strategy::Staged)] {
        let arena = arena();
        let device = CudaDevice::with_driver(&opened, Arc::clone(&arena), config, &tuning, none());
        let device = device.unwrap();
        let pool = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 2));
        let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
        let stored = vec![copy(geometry(SHAPE, 1), pool.slot(0), frame)];
        assert!(submit(&device, Stream::Down, stored).is_empty());
    }
    assert_eq!(driver.calls("launch"), 0);
}

#[test]
fn the_tier_is_exported_by_a_handle() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Copies));
    let Some(Exported::Cuda { device_uuid, handle, bytes }) = device.export().unwrap() else {
        panic!("there is a tier on a GPU");
    };
    assert_eq!((device_uuid, bytes), ([9; 16], CHUNK_BYTES));
    assert_eq!(driver.lent_bytes(&handle), Some(CHUNK_BYTES));
    driver.refuse("export_memory", 801, 1);
    assert!(device.export().unwrap_err().contains("can't be shared"));
}
