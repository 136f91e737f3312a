//! Ranks whose pools lie on several GPUs.

use super::*;

/// A block of two shards, each rank's pool on a GPU of its own.
#[test]
fn ranks_on_several_gpus_make_one_block() {
    for strategy in Strategy::ALL {
        let (arena, driver) = (arena(), fake());
        let second = Arc::new(driver.beside([2; 16]));
        let (opened, found) = (Arc::clone(&driver) as Arc<dyn Driver>, Arc::clone(&second));
        let find: Box<Finder> = Box::new(move |uuid| match uuid {
            [2, ..] => Ok(Arc::clone(&found) as Arc<dyn Driver>),
            _ => Err("the daemon does not see it".into()),
        });
        let tuning = always(strategy);
        let device =
            CudaDevice::with_driver(&opened, Arc::clone(&arena), CONFIG, &tuning, find).unwrap();
        let layout = PagedLayout::page_major(SHAPE, 3);
        let ranks = || {
            [(0, &driver), (1, &second)].map(|(shard, gpu)| ipc_engine(gpu, &device, shard, layout))
        };
        let (from, to) = (ranks(), ranks());
        check_round_trip(&device, &arena, geometry(SHAPE, 2), [&from, &to], 7);
        drop((from, to, device));
        for kind in [Kind::Opened, Kind::Registered, Kind::Device, Kind::Host] {
            assert_eq!(driver.memories(kind), 0, "{strategy:?}: {kind:?}");
        }
    }
}

#[test]
fn copies_of_several_gpus_fail_by_their_own_index() {
    let (arena, driver) = (arena(), fake());
    let second = Arc::new(driver.beside([2; 16]));
    let (opened, found) = (Arc::clone(&driver) as Arc<dyn Driver>, Arc::clone(&second));
    let find: Box<Finder> = Box::new(move |_| Ok(Arc::clone(&found) as Arc<dyn Driver>));
    let tuning = always(Strategy::Batch);
    let device = CudaDevice::with_driver(&opened, arena, CONFIG, &tuning, find).unwrap();
    let layout = PagedLayout::page_major(SHAPE, 2);
    let ranks =
        [(0, &driver), (1, &second)].map(|(shard, gpu)| ipc_engine(gpu, &device, shard, layout));
    let frame = |index: u64| CopyEnd::Frame(FrameSpan { offset: index * 40_960, bytes: 40_960 });
    let two = geometry(SHAPE, 2);
    // Slot 9 is none: copies 1 and 2 fail, one on each GPU.
    let copies = vec![
        copy(two, ranks[0].slot(0), frame(0)),
        copy(two, ranks[1].slot(9), frame(0)),
        copy(two, ranks[0].slot(9), frame(1)),
        copy(two, ranks[1].slot(1), frame(1)),
    ];
    let failed = submit(&device, Stream::Down, copies);
    assert_eq!(failed.iter().map(|failed| failed.copy).collect::<Vec<_>>(), [1, 2]);
}

/// Each GPU's own kernels are asked, whatever the first one's say.
#[test]
fn kernels_that_are_wrong_on_another_gpu_are_not_used_there() {
    for strategy in [Strategy::Kernel, Strategy::Staged] {
        let (arena, driver) = (arena(), fake());
        let mut second = driver.beside([2; 16]);
        second.spoils = true;
        let second = Arc::new(second);
        let (opened, found) = (Arc::clone(&driver) as Arc<dyn Driver>, Arc::clone(&second));
        let find: Box<Finder> = Box::new(move |_| Ok(Arc::clone(&found) as Arc<dyn Driver>));
        let (kept, tuning) = (Arc::clone(&arena), always(strategy));
        let device = CudaDevice::with_driver(&opened, kept, CONFIG, &tuning, find).unwrap();
        let layout = PagedLayout::page_major(SHAPE, 3);
        let [from, to] = [(); 2].map(|()| [ipc_engine(&second, &device, 0, layout)]);
        check_round_trip(&device, &arena, geometry(SHAPE, 1), [&from, &to], 7);
    }
}
