//! The host device against a naive copy, and its store against the contract; what the tests of other
//! devices share.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use proptest::prelude::*;

use super::*;
use crate::domain::namespace::{KvShape, Namespace, example};
use crate::domain::tier::Tier;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::contract::{self, Fixture};
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::frame::checksum;
use crate::tiers::shm::SharedMemory;
use crate::tiers::store::{FrameSpan, Place, StoreError};

const CONFIG: HostDeviceConfig = HostDeviceConfig { tier_bytes: CHUNK_BYTES, pretouch_threads: 0 };

pub(super) fn arena() -> Arc<Arena> {
    let config = ArenaConfig { tier_bytes: 0, staging_bytes: 1 << 20, pretouch_threads: 0 };
    Arc::new(Arena::new(config).unwrap())
}

mod left;

/// An engine: its own mapping of the pool's memory, beside the daemon's.
pub(super) struct Engine {
    memory: SharedMemory,
    pool: Arc<EnginePool>,
}

fn engine(shard: u32, layout: PagedLayout) -> Engine {
    engine_of(EnginePool::admit, shard, layout)
}

/// An engine whose pool no device has admitted.
pub(super) fn stranger(layout: PagedLayout) -> Engine {
    engine(0, layout)
}

/// An engine whose pool `device` has admitted.
pub(super) fn engine_on(device: &dyn Device, shard: u32, layout: PagedLayout) -> Engine {
    engine_of(|fd, claim| device.admit(LentMemory::Shared(fd), claim), shard, layout)
}

fn engine_of(
    admit: impl FnOnce(OwnedFd, ClaimedPool) -> Result<EnginePool, String>,
    shard: u32,
    layout: PagedLayout,
) -> Engine {
    let memory = SharedMemory::create("engine", layout.end_bytes().unwrap()).unwrap();
    let fd = memory.fd().try_clone_to_owned().unwrap();
    let pool = admit(fd, ClaimedPool { shard, layout }).unwrap();
    Engine { memory, pool: Arc::new(pool) }
}

impl Engine {
    /// The memory of an engine whose pool is `pool`.
    pub(super) fn new(memory: SharedMemory, pool: EnginePool) -> Self {
        Self { memory, pool: Arc::new(pool) }
    }

    pub(super) fn pool(&self) -> &Arc<EnginePool> {
        &self.pool
    }

    /// Lets go of the pool.
    pub(super) fn into_memory(self) -> SharedMemory {
        self.memory
    }

    pub(super) fn slot(&self, slot: u32) -> CopyEnd {
        CopyEnd::Pool { pool: Arc::clone(&self.pool), slot }
    }

    /// The slot's bytes in the order of a frame, page by page as the layout's definition says.
    pub(super) fn read(&self, slot: u32) -> Vec<u8> {
        let PagedLayout { shape, base, layer_stride, plane_stride, slot_stride, .. } =
            self.pool.claim().layout;
        let mut bytes = Vec::new();
        for layer in 0..u64::from(shape.layers) {
            for plane in 0..u64::from(shape.planes) {
                let page = base
                    + layer * layer_stride
                    + plane * plane_stride
                    + u64::from(slot) * slot_stride;
                for byte in page..page + u64::from(shape.page_bytes) {
                    let at = self.memory.base().wrapping_add(usize::try_from(byte).unwrap());
                    // SAFETY: the layout was admitted for this memory; no copy is under way.
                    bytes.push(unsafe { at.read() });
                }
            }
        }
        bytes
    }

    pub(super) fn fill(&self, seed: u8) {
        let len = usize::try_from(self.memory.len_bytes()).unwrap();
        // 251 is prime, so that no two pages of a power of two get the same bytes.
        for (index, byte) in (0..len).zip((0..=250_u8).cycle()) {
            let at = self.memory.base().wrapping_add(index);
            // SAFETY: inside the mapping; no copy is under way.
            unsafe { at.write(byte.wrapping_mul(7) ^ seed) };
        }
    }
}

pub(super) fn submit(
    device: &dyn Device,
    stream: Stream,
    copies: Vec<BlockCopy>,
) -> Vec<FailedCopy> {
    let (tell, told) = sync_channel(1);
    device.submit(stream, copies, Box::new(move |end| tell.send(end.failed).unwrap()));
    told.recv_timeout(std::time::Duration::from_mins(1)).expect("`done` is called")
}

pub(super) fn copy(geometry: BlockGeometry, from: CopyEnd, to: CopyEnd) -> BlockCopy {
    BlockCopy { geometry, from, to }
}

pub(super) fn geometry(shape: KvShape, shard_count: u32) -> BlockGeometry {
    BlockGeometry::of(&Namespace { shape, shard_count, ..example() }).unwrap()
}

pub(super) fn place(geometry: BlockGeometry, slot: u64) -> Place {
    let slot_bytes = geometry.payload_bytes().next_multiple_of(4096);
    Place { offset: slot * slot_bytes, slot_bytes: u32::try_from(slot_bytes).unwrap() }
}

prop_compose! {
    fn any_pool(shape: KvShape)(slots in 2..5_u32, base in 0..100_u64, kind in 0..3_u8) -> PagedLayout {
        let layout = match kind {
            0 => PagedLayout::page_major(shape, slots),
            1 => PagedLayout::slot_major(shape, slots),
            // Gaps everywhere, and planes outside layers.
            _ => {
                let slot_stride = u64::from(shape.page_bytes) + 5;
                let layer_stride = slot_stride * u64::from(slots) + 3;
                let plane_stride = layer_stride * u64::from(shape.layers) + 11;
                PagedLayout { shape, slots, base, layer_stride, plane_stride, slot_stride }
            }
        };
        PagedLayout { base, ..layout }
    }
}

fn any_shape() -> impl Strategy<Value = KvShape> {
    (1..4_u32, 1..3_u32, 1..3000_u32).prop_map(|(layers, planes, page_bytes)| KvShape {
        layers,
        planes,
        page_bytes,
    })
}

pub(super) fn any_pools() -> impl Strategy<Value = (u32, Vec<PagedLayout>, Vec<PagedLayout>)> {
    (1..4_u32, any_shape()).prop_flat_map(|(shards, shape)| {
        let pools = || prop::collection::vec(any_pool(shape), shards as usize);
        (Just(shards), pools(), pools())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every shard of a block from its engine's pool down to a frame, up to a place, locally to
    /// other engines' pools, and back down to another frame: the same bytes everywhere.
    #[test]
    fn bytes_go_all_the_way_round((shards, from, to) in any_pools(), seed in any::<u8>()) {
        let geometry = geometry(from[0].shape, shards);
        let arena = arena();
        let device = HostDevice::new(Arc::clone(&arena), CONFIG).unwrap();
        let [from, to] = [&from, &to].map(|layouts| engines(&device, layouts));
        check_round_trip(&device, &arena, geometry, [&from, &to], seed);
    }
}

pub(super) fn engines(device: &dyn Device, layouts: &[PagedLayout]) -> Vec<Engine> {
    (0..).zip(layouts).map(|(shard, layout)| engine_on(device, shard, *layout)).collect()
}

/// Slot 1 of the engines `from` goes to a frame, to the tier, to slot 0 of the engines `to`, and
/// from the tier to another frame: the same bytes everywhere, and nothing else is touched.
pub(super) fn check_round_trip(
    device: &dyn Device,
    arena: &Arena,
    geometry: BlockGeometry,
    [from, to]: [&[Engine]; 2],
    seed: u8,
) {
    for engine in from {
        engine.fill(seed);
    }
    let bytes = u32::try_from(4096 + geometry.payload_bytes().next_multiple_of(4096)).unwrap();
    let frames = [0, 512 << 10].map(|offset| FrameSpan { offset, bytes });
    let place = CopyEnd::Tier(place(geometry, 3));
    let [first, second] = frames.map(CopyEnd::Frame);
    let stored = from.iter().map(|engine| copy(geometry, engine.slot(1), first.clone()));
    let loaded = to.iter().map(|engine| copy(geometry, place.clone(), engine.slot(0)));
    let legs = [
        (Stream::Down, stored.collect()),
        (Stream::Up, vec![copy(geometry, first, place.clone())]),
        (Stream::Local, loaded.collect()),
        (Stream::Down, vec![copy(geometry, place, second)]),
    ];
    for (stream, copies) in legs {
        let failed = submit(device, stream, copies);
        assert!(failed.is_empty(), "{failed:?}");
    }
    let wanted: Vec<u8> = from.iter().flat_map(|engine| engine.read(1)).collect();
    let landed: Vec<u8> = to.iter().flat_map(|engine| engine.read(0)).collect();
    assert!(landed == wanted, "the pools differ");
    for frame in frames {
        // SAFETY: no copy is under way.
        let payload = unsafe { arena.bytes(frame) };
        assert!(payload[4096..4096 + wanted.len()] == wanted, "a frame differs");
        assert!(payload[..4096].iter().all(|byte| *byte == 0), "a header was written");
    }
    assert!(to.iter().all(|engine| engine.read(1).iter().all(|byte| *byte == 0)), "slot 1");
}

const SHAPE: KvShape = KvShape { layers: 2, planes: 2, page_bytes: 4096 };

#[test]
fn ends_that_do_not_fit_fail_alone() {
    let device = HostDevice::new(arena(), CONFIG).unwrap();
    let one = geometry(SHAPE, 1);
    let pool = engine(0, PagedLayout::page_major(SHAPE, 2));
    let second_rank = engine(1, PagedLayout::page_major(SHAPE, 2));
    let other = engine(0, PagedLayout::page_major(KvShape { layers: 4, ..SHAPE }, 2));
    let frame = |offset, bytes| CopyEnd::Frame(FrameSpan { offset, bytes });
    let good = || copy(one, pool.slot(0), frame(0, 20_480));
    let bad = [
        copy(one, pool.slot(2), frame(0, 20_480)),
        copy(one, pool.slot(0), frame(0, 16_384)),
        copy(one, pool.slot(0), frame(1 << 20, 20_480)),
        copy(one, pool.slot(0), frame(u64::MAX, 20_480)),
        copy(one, other.slot(0), frame(0, 40_960)),
        copy(one, second_rank.slot(0), frame(0, 20_480)),
        copy(geometry(SHAPE, 2), pool.slot(0), second_rank.slot(0)),
        copy(one, pool.slot(0), CopyEnd::Tier(Place { offset: CHUNK_BYTES, slot_bytes: 16_384 })),
    ];
    for bad in bad {
        let text = format!("{bad:?}");
        let failed = submit(&device, Stream::Down, vec![good(), bad, good()]);
        let [FailedCopy { copy: 1, error: StoreError::Io { .. } }] = failed.as_slice() else {
            panic!("{text}: {failed:?}");
        };
    }
}

#[test]
fn a_pool_on_a_gpu_is_refused_with_the_remedy() {
    let device = HostDevice::new(arena(), CONFIG).unwrap();
    let cuda = CudaClaim {
        device_uuid: [1; 16],
        memories: vec![[2; 64]],
        layers: Vec::new(),
        ready_events: Vec::new(),
        lender: None,
    };
    let claim = ClaimedPool { shard: 0, layout: PagedLayout::page_major(SHAPE, 2) };
    let said = device.admit(LentMemory::Cuda(cuda), claim).unwrap_err();
    assert!(said.contains("start it with hbm.device = \"cuda:0\""), "{said}");
}

#[test]
fn a_place_never_written_is_missing() {
    let device = HostDevice::new(arena(), CONFIG).unwrap();
    let geometry = geometry(SHAPE, 1);
    let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
    let failed = submit(
        &device,
        Stream::Down,
        vec![copy(geometry, CopyEnd::Tier(place(geometry, 1)), frame)],
    );
    assert!(matches!(failed[0].error, StoreError::Missing(_)), "{failed:?}");
}

#[test]
fn whole_blocks_are_summed_on_their_way_into_frames() {
    let arena = arena();
    let device = HostDevice::new(Arc::clone(&arena), CONFIG).unwrap();
    let span = |slot: u32| FrameSpan { offset: u64::from(slot) * 40_960, bytes: 40_960 };
    for (shard_count, payload_bytes) in [(1, 16_384), (2, 32_768)] {
        let geometry = geometry(SHAPE, shard_count);
        let engine = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 2));
        engine.fill(9);
        let stored =
            (0..2).map(|slot| copy(geometry, engine.slot(slot), CopyEnd::Frame(span(slot))));
        let (tell, told) = sync_channel(1);
        device.submit(Stream::Down, stored.collect(), Box::new(move |end| tell.send(end).unwrap()));
        let sums = told.recv().unwrap().sums;
        // SAFETY: the copies are over.
        let payload = |slot| unsafe { &arena.bytes(span(slot))[4096..][..payload_bytes] };
        let wanted = (0..2).map(|slot| (slot as usize, checksum(payload(slot))));
        let wanted: Vec<_> = wanted.filter(|_| shard_count == 1).collect();
        assert_eq!(sums, wanted, "{shard_count} shards, of which an engine has one");
    }
}

#[test]
fn a_device_without_a_tier_still_serves_pools() {
    let config = HostDeviceConfig { tier_bytes: 0, ..CONFIG };
    let device = HostDevice::new(arena(), config).unwrap();
    assert_eq!(device.tier_bytes(), 0);
    let geometry = geometry(SHAPE, 1);
    let pool = engine(0, PagedLayout::page_major(SHAPE, 2));
    let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
    assert!(
        submit(&device, Stream::Up, vec![copy(geometry, frame.clone(), pool.slot(1))]).is_empty()
    );
    let place = CopyEnd::Tier(place(geometry, 0));
    let failed = submit(&device, Stream::Up, vec![copy(geometry, frame, place)]);
    assert!(matches!(failed[0].error, StoreError::Io { .. }), "{failed:?}");
}

#[test]
fn a_tier_of_part_of_a_chunk_is_refused() {
    let config = HostDeviceConfig { tier_bytes: CHUNK_BYTES + 4096, ..CONFIG };
    let said = HostDevice::new(arena(), config).err().unwrap().to_string();
    assert!(said.contains("not whole chunks"), "{said}");
}

#[test]
fn a_full_queue_is_busy_and_everybody_is_told() {
    let device = HostDevice::new(arena(), CONFIG).unwrap();
    let (gate, opened) = sync_channel::<()>(0);
    device.submit(Stream::Up, vec![], Box::new(move |_| opened.recv().unwrap_or_default()));
    let (tell, told) = sync_channel(1000);
    let geometry = geometry(SHAPE, 1);
    let pool = engine(0, PagedLayout::page_major(SHAPE, 2));
    for _ in 0..100 {
        let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
        let tell = tell.clone();
        let done = Box::new(move |CopiesEnd { failed, .. }: CopiesEnd| {
            let busy = failed.iter().any(|failed| matches!(failed.error, StoreError::Busy));
            tell.send(busy).unwrap();
        });
        device.submit(Stream::Up, vec![copy(geometry, frame, pool.slot(0))], done);
    }
    drop((gate, tell, device));
    let busy: Vec<bool> = told.iter().collect();
    assert_eq!(busy.len(), 100);
    // The held batch has left the queue or is still in it.
    let refused = busy.iter().filter(|busy| **busy).count();
    assert!((36..=37).contains(&refused), "{refused}");
}

#[test]
fn a_pool_stays_mapped_until_its_copies_are_over() {
    let device = HostDevice::new(arena(), CONFIG).unwrap();
    let (gate, opened) = sync_channel::<()>(0);
    device.submit(Stream::Down, vec![], Box::new(move |_| opened.recv().unwrap_or_default()));
    let Engine { memory, pool } = engine(0, PagedLayout::page_major(SHAPE, 2));
    let unmapped = Arc::downgrade(&pool);
    let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
    let (tell, told) = sync_channel(1);
    let copies = vec![copy(geometry(SHAPE, 1), CopyEnd::Pool { pool, slot: 0 }, frame)];
    let seen = unmapped.clone();
    let done = Box::new(move |CopiesEnd { failed, .. }: CopiesEnd| {
        tell.send((failed.len(), seen.upgrade().is_none())).unwrap();
    });
    device.submit(Stream::Down, copies, done);
    drop(memory);
    assert!(unmapped.upgrade().is_some());
    drop(gate);
    assert_eq!(told.recv().unwrap(), (0, true));
}

#[test]
fn a_device_may_be_dropped_by_its_own_thread() {
    let device = Arc::new(HostDevice::new(arena(), CONFIG).unwrap());
    let (tell, told) = sync_channel(1);
    let (go, gone) = sync_channel::<()>(0);
    let last = Arc::clone(&device);
    let done = Box::new(move |_| {
        gone.recv().unwrap();
        drop(last);
        tell.send(()).unwrap();
    });
    device.submit(Stream::Up, vec![], done);
    drop(device);
    go.send(()).unwrap();
    told.recv_timeout(std::time::Duration::from_mins(1)).expect("the thread waits for itself");
}

/// Where payload byte `byte` of the suite's block at `place` lies in the tier.
pub(super) fn byte_in_tier(place: Place, byte: usize) -> u64 {
    let length = |bytes: &&u32| contract::slot_bytes(Tier::Hbm, **bytes) == place.slot_bytes;
    let payload_bytes = contract::PAYLOADS_BYTES.iter().find(length).expect("a slot of the suite");
    let geometry = BlockGeometry::of(&contract::namespace(*payload_bytes)).unwrap();
    let KvShape { layers, planes, page_bytes } = geometry.shape();
    let byte = u32::try_from(byte).unwrap();
    let page = byte / page_bytes;
    let shard = page / planes / layers;
    let start = geometry.in_tier(place).page(shard, page / planes % layers, page % planes);
    start + u64::from(byte % page_bytes)
}

/// Flips a bit of a byte of the tier.
fn flip_bit(device: &HostDevice, byte: u64) {
    let at = device.tier_memory().unwrap().base().wrapping_add(usize::try_from(byte).unwrap());
    // SAFETY: inside the tier, and the suite corrupts only while no operation is under way.
    let found = unsafe { at.read() };
    // SAFETY: as above.
    unsafe { at.write(found ^ 1) };
}

/// Layouts as engines have them, and one with gaps and odd lengths.
pub(super) fn any_layouts() -> [PagedLayout; 3] {
    let paged = PagedLayout::page_major(KvShape { layers: 4, planes: 2, page_bytes: 16_384 }, 4);
    let odd = KvShape { layers: 3, planes: 2, page_bytes: 1135 };
    let gaps = PagedLayout {
        shape: odd,
        slots: 3,
        base: 12,
        slot_stride: 1140,
        layer_stride: 3425,
        plane_stride: 10_300,
    };
    [paged, PagedLayout::slot_major(SHAPE, 4), gaps]
}

#[test]
fn the_store_keeps_the_contract() {
    contract::check_store(|| {
        let arena = contract::arena(0);
        let config = HostDeviceConfig { tier_bytes: contract::CAPACITY_BYTES, ..CONFIG };
        let device = Arc::new(HostDevice::new(Arc::clone(&arena), config).unwrap());
        let store = HbmStore::new(Arc::clone(&device) as Arc<dyn Device>, Arc::clone(&arena));
        for payload_bytes in contract::PAYLOADS_BYTES {
            store.add_namespace(&contract::namespace(payload_bytes)).unwrap();
        }
        let store = Arc::new(store);
        let header = Arc::clone(&store);
        Fixture::new(arena, store).corrupted_by(move |_, place, byte| {
            match byte.checked_sub(4096) {
                None => header.corrupt_header(place),
                Some(byte) => flip_bit(&device, byte_in_tier(place, byte)),
            }
        })
    });
}
