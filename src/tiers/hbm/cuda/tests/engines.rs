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

impl Late {
    /// Asks when the engine has come so far, and waits until its events were looked at.
    fn call(&self) -> Receiver<bool> {
        let (tell, told) = sync_channel(1);
        let came = Box::new(move |came| tell.send(came).unwrap());
        self.device.await_engine(self.engine.pool(), came);
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

    /// Has a slot copied into a frame.
    fn store(&self) -> Vec<FailedCopy> {
        let stored = vec![copy(geometry(SHAPE, 1), self.engine.slot(0), CopyEnd::Frame(FRAME))];
        submit(&self.device, Stream::Down, stored)
    }
}

fn is_waiting(told: &Receiver<bool>) -> bool {
    matches!(told.try_recv(), Err(TryRecvError::Empty))
}

#[test]
fn a_call_waits_for_the_engines_stream() {
    let late = late(Strategy::Batch, None);
    let told = late.call();
    assert!(is_waiting(&told));
    late.engine.fill(8);
    late.catch_up();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    assert!(late.store().is_empty());
    // SAFETY: the copy is over.
    let payload = unsafe { late.arena.bytes(FRAME) };
    assert!(payload[4096..] == late.engine.read(0));
}

/// Each event counts once it was seen done, though it is recorded again: an engine that is always some calls
/// ahead of its stream is waited for no longer than that.
#[test]
fn an_engine_that_goes_on_calling_is_not_waited_for_for_ever() {
    let late = late(Strategy::Batch, None);
    let told = late.call();
    late.driver.set_event(&late.events[0], true);
    late.looked_at();
    late.driver.set_event(&late.events[0], false);
    late.looked_at();
    assert!(is_waiting(&told), "the second is not done");
    late.driver.set_event(&late.events[1], true);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
}

/// A look counts for every call that waits, not for the first alone.
#[test]
fn all_calls_go_on_when_the_stream_has_come_so_far() {
    let late = late(Strategy::Batch, None);
    let told: Vec<_> = (0..4).map(|_| late.call()).collect();
    late.driver.set_event(&late.events[0], true);
    late.looked_at();
    late.driver.set_event(&late.events[0], false);
    late.driver.set_event(&late.events[1], true);
    assert!(told.iter().all(|told| told.recv_timeout(PATIENCE) == Ok(true)));
}

#[test]
fn an_engine_that_stands_still_holds_up_nobody_else() {
    let late = late(Strategy::Kernel, None);
    let told: Vec<_> = (0..8).map(|_| late.call()).collect();
    let done = late.driver.lend_event();
    late.driver.set_event(&done, true);
    for events in [&[][..], &[done]] {
        let other = engine_with(&late.driver, &late.device, events, None);
        let (tell, came) = sync_channel(1);
        late.device.await_engine(other.pool(), Box::new(move |came| tell.send(came).unwrap()));
        assert_eq!(came.recv_timeout(PATIENCE), Ok(true));
    }
    assert!(told.iter().all(is_waiting));
    // Nor the end of the device.
    drop(late.device);
    assert!(told.iter().all(|told| told.recv() == Ok(false)));
}

#[test]
fn nobody_can_tell_where_events_can_not_be_asked() {
    let late = late(Strategy::Batch, None);
    let told = late.call();
    late.driver.refuse("is_done", 400, 1);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(false));
    assert_eq!(late.store().len(), 0, "the GPU is well");
}

#[test]
fn a_gpu_that_is_lost_says_so_in_the_copies() {
    let late = late(Strategy::Batch, None);
    let told = late.call();
    late.driver.refuse("create_event", 700, 1);
    late.driver.refuse("is_done", 700, 1);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    let said = late.store()[0].error.to_string();
    assert!(said.contains("the GPU is lost to this daemon"), "{said}");
}

#[test]
fn calls_that_wait_do_not_keep_a_pool_open() {
    let late = late(Strategy::Batch, None);
    let told = late.call();
    let Late { driver, device, engine, .. } = late;
    let _memory = engine.into_memory();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(false));
    assert_eq!(driver.memories(Kind::Opened), 0);
    drop(device);
}

#[test]
fn an_engine_that_left_is_not_waited_for() {
    let late = late(Strategy::Batch, None);
    let told = late.call();
    late.engine.pool().leave();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(false));
}

#[test]
fn no_copy_begins_to_or_from_the_pool_of_an_engine_that_left() {
    let late = late(Strategy::Copies, None);
    late.engine.fill(3);
    let before = late.engine.read(0);
    late.engine.pool().leave();
    let (frame, slot) = (|| CopyEnd::Frame(FRAME), || late.engine.slot(0));
    let calls = late.driver.calls("copy");
    for (stream, from, to) in [(Stream::Up, frame(), slot()), (Stream::Down, slot(), frame())] {
        let failed = submit(&late.device, stream, vec![copy(geometry(SHAPE, 1), from, to)]);
        assert!(
            matches!(failed[..], [FailedCopy { copy: 0, error: StoreError::Busy }]),
            "{failed:?}"
        );
    }
    assert_eq!((late.engine.read(0), late.driver.calls("copy")), (before, calls));
}

#[test]
fn a_pool_stays_open_until_its_copies_are_over() {
    let late = late(Strategy::Kernel, None);
    let (tell, told) = sync_channel(1);
    let driver = Arc::clone(&late.driver);
    let done = Box::new(move |end: CopiesEnd| {
        tell.send((end.failed.len(), driver.memories(Kind::Opened))).unwrap();
    });
    let stored = vec![copy(geometry(SHAPE, 1), late.engine.slot(0), CopyEnd::Frame(FRAME))];
    // The driver knows what is open at each byte that it copies.
    late.device.submit(Stream::Down, stored, done);
    let Late { device, engine, .. } = late;
    let _memory = engine.into_memory();
    let (failed, _) = told.recv().unwrap();
    assert_eq!(failed, 0);
    drop(device);
}

/// However that comes, its events are done, before its connection is seen to have ended.
#[test]
fn what_a_process_that_ended_had_still_to_compute_is_not_stored() {
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let late = late(Strategy::Batch, Some(Lender(process.id())));
    let told = late.call();
    process.kill().unwrap();
    process.wait().unwrap();
    late.catch_up();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    let failed = late.store();
    assert!(matches!(failed[..], [FailedCopy { copy: 0, error: StoreError::Busy }]), "{failed:?}");
}

#[test]
fn a_process_that_lives_or_can_not_be_seen_stores() {
    // No process has that number.
    for lender in [std::process::id(), u32::MAX].map(Lender) {
        let late = late(Strategy::Batch, Some(lender));
        late.catch_up();
        assert!(late.store().is_empty());
    }
}
