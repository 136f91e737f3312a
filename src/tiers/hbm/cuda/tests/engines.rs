//! Engines whose streams have not come as far as their calls, and that end before they do.

use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use super::super::super::CopiesEnd;
use super::super::super::cuda_claim::IpcHandle;
use super::super::super::lender::Lender;
use super::*;

/// Far more than a look at events takes.
const PATIENCE: Duration = Duration::from_secs(20);
const FRAME: FrameSpan = FrameSpan { offset: 0, bytes: 20_480 };

/// A device, and an engine whose stream has not come so far.
struct Late {
    arena: Arc<Arena>,
    driver: Arc<FakeDriver>,
    device: CudaDevice,
    engine: Engine,
    events: Vec<IpcHandle>,
}

fn late(strategy: Strategy, lender: Option<Lender>) -> Late {
    let (arena, driver) = (arena(), fake());
    let device = device_on(&driver, &arena, &always(strategy));
    let events = vec![driver.lend_event(), driver.lend_event()];
    let engine = engine_with(&driver, &device, &events, lender);
    Late { arena, driver, device, engine, events }
}

fn engine_with(
    driver: &FakeDriver,
    device: &CudaDevice,
    events: &[IpcHandle],
    lender: Option<Lender>,
) -> Engine {
    let layout = PagedLayout::page_major(SHAPE, 2);
    let memory = SharedMemory::create("engine", layout.end_bytes().unwrap()).unwrap();
    let ready_events = events.to_vec();
    let cuda = CudaClaim { ready_events, lender, ..claim(driver, &memory, &layout) };
    let pool = device.admit(LentMemory::Cuda(cuda), ClaimedPool { shard: 0, layout }).unwrap();
    Engine::new(memory, pool)
}

/// What is told of a batch, and how many of its memories the driver had open then.
type Told = Receiver<(Vec<FailedCopy>, usize)>;

impl Late {
    /// Has a slot copied into a frame, and waits until the engine's events were looked at; gives who tells of
    /// the end.
    fn store(&self) -> Told {
        let (tell, told) = sync_channel(1);
        let driver = Arc::clone(&self.driver);
        let done = Box::new(move |end: CopiesEnd| {
            tell.send((end.failed, driver.memories(Kind::Opened))).unwrap();
        });
        let copies = vec![copy(geometry(SHAPE, 1), self.engine.slot(0), CopyEnd::Frame(FRAME))];
        self.device.submit(Stream::Down, copies, done);
        self.looked_at();
        told
    }

    /// Waits until the events were looked at twice more.
    fn looked_at(&self) {
        let before = self.driver.calls("is_done");
        while self.driver.calls("is_done") < before + 2 * self.events.len() as u64 {
            std::thread::yield_now();
        }
    }

    /// The engine's stream has come as far as its calls.
    fn catch_up(&self) {
        for event in &self.events {
            self.driver.set_event(event, true);
        }
    }
}

fn check_not_stored(told: &Told) {
    let (failed, _) = told.recv().unwrap();
    assert!(matches!(failed[..], [FailedCopy { copy: 0, error: StoreError::Busy }]), "{failed:?}");
}

#[test]
fn copies_wait_for_the_engines_stream() {
    let late = late(Strategy::Batch, None);
    let told = late.store();
    assert!(matches!(told.try_recv(), Err(TryRecvError::Empty)));
    late.engine.fill(8);
    late.catch_up();
    assert!(told.recv().unwrap().0.is_empty());
    // SAFETY: the copy is over.
    let payload = unsafe { late.arena.bytes(FRAME) };
    assert!(payload[4096..] == late.engine.read(0), "it was copied before the engine was done");
}

/// Each event counts once it was seen done, though it is recorded again: an engine that is always some calls
/// ahead of its stream is waited for no longer than that.
#[test]
fn an_engine_that_goes_on_calling_is_not_waited_for_for_ever() {
    let late = late(Strategy::Batch, None);
    let told = late.store();
    late.driver.set_event(&late.events[0], true);
    late.looked_at();
    late.driver.set_event(&late.events[0], false);
    late.looked_at();
    assert!(matches!(told.try_recv(), Err(TryRecvError::Empty)), "the second is not done");
    late.driver.set_event(&late.events[1], true);
    assert!(told.recv().unwrap().0.is_empty());
}

/// A look counts for every batch that waits, not for the first alone: those of one call go together.
#[test]
fn all_batches_of_a_call_go_when_its_stream_has_come_so_far() {
    let late = late(Strategy::Batch, None);
    let told: Vec<_> = (0..4).map(|_| late.store()).collect();
    late.driver.set_event(&late.events[0], true);
    late.looked_at();
    late.driver.set_event(&late.events[0], false);
    late.driver.set_event(&late.events[1], true);
    for told in told {
        assert!(told.recv_timeout(PATIENCE).unwrap().0.is_empty());
    }
}

#[test]
fn an_engine_that_stands_still_holds_up_nobody_else() {
    let late = late(Strategy::Kernel, None);
    let told: Vec<_> = (0..8).map(|_| late.store()).collect();
    let done = late.driver.lend_event();
    late.driver.set_event(&done, true);
    for events in [&[][..], &[done]] {
        let other = engine_with(&late.driver, &late.device, events, None);
        let frame = CopyEnd::Frame(FrameSpan { offset: 20_480, ..FRAME });
        let stored = vec![copy(geometry(SHAPE, 1), other.slot(0), frame)];
        assert!(submit(&late.device, Stream::Down, stored).is_empty());
    }
    assert!(told.iter().all(|told| matches!(told.try_recv(), Err(TryRecvError::Empty))));
    // Nor the end of the device.
    drop(late.device);
    for told in told {
        let (failed, _) = told.recv().unwrap();
        assert!(matches!(failed[..], [FailedCopy { error: StoreError::TierLost(_), .. }]));
    }
}

#[test]
fn events_that_can_not_be_asked_fail_what_waits_for_them() {
    let late = late(Strategy::Batch, None);
    let told = late.store();
    late.driver.refuse("is_done", 400, 1);
    let (failed, _) = told.recv().unwrap();
    let said = failed[0].error.to_string();
    assert!(failed.len() == 1 && said.contains("CUDA_ERROR_400"), "{said}");
}

#[test]
fn a_pool_stays_open_until_its_copies_are_over() {
    let late = late(Strategy::Kernel, None);
    let told = late.store();
    let Late { driver, device, engine, events, .. } = late;
    let _memory = engine.into_memory();
    assert_eq!(driver.memories(Kind::Opened), 2, "closed under a copy");
    for event in &events {
        driver.set_event(event, true);
    }
    let (failed, still_open) = told.recv().unwrap();
    assert_eq!((failed.len(), still_open), (0, 0));
    drop(device);
}

/// Its events are never done: what it had still to compute ended with it.
#[test]
fn an_engine_that_left_is_not_waited_for() {
    let late = late(Strategy::Batch, None);
    let told = late.store();
    late.engine.pool().leave();
    check_not_stored(&told);
}

/// However that comes, its events are done, before its connection is seen to have ended.
#[test]
fn what_a_process_that_ended_had_still_to_compute_is_not_stored() {
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let late = late(Strategy::Batch, Some(Lender(process.id())));
    let told = late.store();
    process.kill().unwrap();
    process.wait().unwrap();
    late.catch_up();
    check_not_stored(&told);
}

#[test]
fn a_process_that_lives_or_can_not_be_seen_stores() {
    // No process has that number.
    for lender in [std::process::id(), u32::MAX].map(Lender) {
        let late = late(Strategy::Batch, Some(lender));
        let told = late.store();
        late.catch_up();
        assert!(told.recv().unwrap().0.is_empty());
    }
}
