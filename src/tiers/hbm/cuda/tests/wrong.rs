//! What goes wrong: ends that do not fit, errors of the driver, a GPU that is lost or full.

use super::*;

#[test]
fn ends_that_do_not_fit_fail_alone() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Kernel));
    let one = geometry(SHAPE, 1);
    let pool = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 2));
    let frame = |offset| CopyEnd::Frame(FrameSpan { offset, bytes: 20_480 });
    let stranger = crate::tiers::hbm::tests::stranger(PagedLayout::page_major(SHAPE, 2));
    for bad in [
        copy(one, pool.slot(2), frame(0)),
        copy(one, pool.slot(0), frame(1 << 20)),
        copy(one, stranger.slot(0), frame(0)),
    ] {
        let text = format!("{bad:?}");
        let good = |offset| copy(one, pool.slot(0), frame(offset));
        let failed = submit(&device, Stream::Down, vec![good(32_768), bad, good(65_536)]);
        let [FailedCopy { copy: 1, error: StoreError::Io { .. } }] = failed.as_slice() else {
            panic!("{text}: {failed:?}");
        };
    }
    let never_written = copy(one, CopyEnd::Tier(place(one, 1)), frame(0));
    let failed = submit(&device, Stream::Down, vec![never_written]);
    assert!(matches!(failed[0].error, StoreError::Missing(_)), "{failed:?}");
}

#[test]
fn an_error_that_passes_fails_its_batch_and_no_other() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Copies));
    let pool = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 2));
    let store = || {
        let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
        submit(&device, Stream::Down, vec![copy(geometry(SHAPE, 1), pool.slot(0), frame)])
    };
    driver.refuse("copy", 2, 1);
    let failed = store();
    assert!(matches!(failed[0].error, StoreError::Io { .. }), "{failed:?}");
    assert!(store().is_empty());
}

#[test]
fn nothing_is_let_go_while_the_gpu_may_be_at_it() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Copies));
    let pool = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 2));
    pool.fill(4);
    let span = FrameSpan { offset: 0, bytes: 20_480 };
    // An error that passes: the copy before it is queued, and lands.
    driver.refuse("record", 2, 1);
    let stored = vec![copy(geometry(SHAPE, 1), pool.slot(0), CopyEnd::Frame(span))];
    assert_eq!(submit(&device, Stream::Down, stored).len(), 1);
    // SAFETY: the copy is over.
    let payload = unsafe { arena.bytes(span) };
    assert!(payload[4096..] == pool.read(0), "it was told as over before the GPU had let go");
}

#[test]
fn a_lost_gpu_is_told_to_everybody() {
    for call in ["launch", "record", "wait"] {
        let (arena, driver) = (arena(), fake());
        let device = device_on(&driver, &arena, &always(Strategy::Kernel));
        let pool = engine_on(&device, 0, PagedLayout::page_major(SHAPE, 2));
        driver.refuse(call, 700, 1);
        for _ in 0..2 {
            let frame = CopyEnd::Frame(FrameSpan { offset: 0, bytes: 20_480 });
            let stored = vec![copy(geometry(SHAPE, 1), pool.slot(0), frame)];
            let failed = submit(&device, Stream::Down, stored);
            let [FailedCopy { copy: 0, error: StoreError::TierLost(why) }] = &*failed else {
                panic!("{call}: {failed:?}");
            };
            assert!(why.contains("restart the daemon"), "{why}");
        }
    }
}

#[test]
fn pools_that_can_not_be_are_refused_with_the_cause() {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(Strategy::Kernel));
    let layout = PagedLayout::page_major(SHAPE, 2);
    let memory = SharedMemory::create("engine", layout.end_bytes().unwrap()).unwrap();
    let good = claim(&driver, &memory, &layout);
    let admit = |cuda: CudaClaim, layout| -> Result<EnginePool, String> {
        device.admit(LentMemory::Cuda(cuda), ClaimedPool { shard: 0, layout })
    };
    let elsewhere = CudaClaim { device_uuid: [1; 16], ..good.clone() };
    let gone = CudaClaim { memories: vec![[0; 64], good.memories[0]], ..good.clone() };
    let event_gone = CudaClaim { ready_events: vec![[0; 64]], ..good.clone() };
    let more = PagedLayout { plane_stride: 16_384, ..layout };
    let cases = [
        ("another GPU", admit(elsewhere, layout), "GPU-01010101-0101-0101-0101-010101010101"),
        ("a process that ended", admit(gone, layout), "its process has ended"),
        ("an event that is none", admit(event_gone, layout), "CU_EVENT_INTERPROCESS"),
        ("more than the memory", admit(good.clone(), more), "beyond its allocation"),
    ];
    for (name, admitted, want) in cases {
        let said = admitted.expect_err(name);
        assert!(said.contains(want), "{name}: {said}");
    }
    for (call, code, want) in [("open_memory", 801, "--ipc=host"), ("alloc", 2, "free some of it")]
    {
        driver.refuse(call, code, 1);
        let said = admit(good.clone(), layout).expect_err(call);
        assert!(said.contains(want), "{call}: {said}");
    }
    assert_eq!(driver.memories(Kind::Opened), 0, "a refused pool stayed open");
    admit(good, layout).unwrap();
}

#[test]
fn a_gpu_that_is_full_says_what_to_lower() {
    for (call, want) in [("alloc", "free about 200 MB"), ("register", "lower dram.capacity")] {
        let driver = fake();
        driver.refuse(call, 2, 1);
        let opened = Arc::clone(&driver) as Arc<dyn Driver>;
        let made =
            CudaDevice::with_driver(&opened, arena(), CONFIG, &always(Strategy::Kernel), none());
        let said = made.err().unwrap();
        assert!(said.contains(want), "{call}: {said}");
        assert_eq!(driver.memories(Kind::Device), 0, "{call}");
    }
}
