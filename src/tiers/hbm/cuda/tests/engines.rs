//! Engines whose streams have not come as far as their calls, and that end before they do.

use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::super::super::CopiesEnd;
use super::super::super::lender::Lender;
use super::*;

const FRAME: FrameSpan = FrameSpan { offset: 0, bytes: 20_480 };

/// A device, and an engine whose stream has not come so far.
struct Late {
    arena: Arc<Arena>,
    driver: Arc<FakeDriver>,
    device: CudaDevice,
    engine: Engine,
}

fn late(strategy: Strategy, lender: Option<Lender>) -> Late {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(strategy));
    let layout = PagedLayout::page_major(SHAPE, 2);
    let memory = SharedMemory::create("engine", layout.end_bytes().unwrap()).unwrap();
    let ready_event = Some(driver.lend_event());
    let cuda = CudaClaim { ready_event, lender, ..claim(&driver, &memory, &layout) };
    let pool = device.admit(LentMemory::Cuda(cuda), ClaimedPool { shard: 0, layout }).unwrap();
    Late { arena, driver, device, engine: Engine::new(memory, pool) }
}

/// What is told of a batch, and how many of its memories the driver had open then.
type Told = Receiver<(Vec<FailedCopy>, usize)>;

impl Late {
    /// Has a slot copied into a frame; gives who tells of its end once the GPU has it, and waits.
    fn store(&self) -> Told {
        let (tell, told) = sync_channel(1);
        let driver = Arc::clone(&self.driver);
        let done = Box::new(move |end: CopiesEnd| {
            tell.send((end.failed, driver.memories(Kind::Opened))).unwrap();
        });
        let copies = vec![copy(geometry(SHAPE, 1), self.engine.slot(0), CopyEnd::Frame(FRAME))];
        let before = self.driver.calls("record");
        self.device.submit(Stream::Down, copies, done);
        while self.driver.calls("record") == before {
            std::thread::yield_now();
        }
        told
    }

    /// The driver lets the copy go on, and it counts for nothing.
    fn check_not_stored(&self, told: &Told) {
        self.driver.end_engine_events();
        let (failed, _) = told.recv().unwrap();
        assert!(
            matches!(failed[..], [FailedCopy { copy: 0, error: StoreError::Busy }]),
            "{failed:?}"
        );
    }
}

#[test]
fn copies_wait_on_the_gpu_for_the_engines_stream() {
    let late = late(Strategy::Batch, None);
    let told = late.store();
    // The batch is on the GPU, its copies are not done: this machine waits for nothing.
    assert_eq!(late.driver.calls("hold"), 1);
    assert!(matches!(told.try_recv(), Err(TryRecvError::Empty)));
    late.engine.fill(8);
    late.driver.end_engine_events();
    assert!(told.recv().unwrap().0.is_empty());
    // SAFETY: the copy is over.
    let payload = unsafe { late.arena.bytes(FRAME) };
    assert!(payload[4096..] == late.engine.read(0), "it was copied before the engine was done");
}

#[test]
fn a_pool_stays_open_until_its_copies_are_over() {
    let late = late(Strategy::Kernel, None);
    let told = late.store();
    let Late { driver, device, engine, .. } = late;
    let _memory = engine.into_memory();
    assert_eq!(driver.memories(Kind::Opened), 2, "closed under a copy");
    driver.end_engine_events();
    let (failed, still_open) = told.recv().unwrap();
    assert_eq!((failed.len(), still_open), (0, 0));
    drop(device);
}

#[test]
fn what_an_engine_that_left_had_still_to_compute_is_not_stored() {
    let late = late(Strategy::Batch, None);
    let told = late.store();
    late.engine.pool().leave();
    late.check_not_stored(&told);
}

#[test]
fn what_a_process_that_ended_had_still_to_compute_is_not_stored() {
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let late = late(Strategy::Batch, Some(Lender(process.id())));
    let told = late.store();
    process.kill().unwrap();
    process.wait().unwrap();
    late.check_not_stored(&told);
}

#[test]
fn a_process_that_lives_or_can_not_be_seen_stores() {
    // No process has that number.
    for lender in [std::process::id(), u32::MAX].map(Lender) {
        let late = late(Strategy::Batch, Some(lender));
        let told = late.store();
        late.driver.end_engine_events();
        assert!(told.recv().unwrap().0.is_empty());
    }
}
