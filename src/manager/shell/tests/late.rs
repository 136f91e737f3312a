//! Loads from a device that takes its time.

use super::*;
use crate::movement::Link;
use crate::tiers::memory::MemoryStore;

/// A device whose reads come when the test says so.
struct Late {
    inside: MemoryStore,
    reads: Mutex<Vec<(StoreOp, Done)>>,
}

impl TierStore for Late {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn submit(&self, op: StoreOp, done: Done) {
        match op {
            StoreOp::Read { .. } => self.reads.lock().unwrap().push((op, done)),
            _ => self.inside.submit(op, done),
        }
    }
}

impl Late {
    fn read_all(&self) {
        let reads = std::mem::take(&mut *self.reads.lock().unwrap());
        for (op, done) in reads {
            self.inside.submit(op, done);
        }
    }
}

/// A node with NVMe alone, on which one block is stored.
async fn node() -> (Rig, Arc<Late>) {
    node_reading(8).await
}

/// The same with so many loads at a time.
async fn node_reading(at_once_max: usize) -> (Rig, Arc<Late>) {
    let arena = ArenaConfig { tier_bytes: 0, staging_bytes: CHUNK_BYTES, pretouch_threads: 0 };
    let arena = Arc::new(Arena::new(arena).unwrap());
    let inside = MemoryStore::new(Tier::Nvme, Arc::clone(&arena));
    let late = Arc::new(Late { inside, reads: Mutex::default() });
    let nvme = Arc::clone(&late);
    let mut rig = Rig::start_with(|parts| {
        let tier = TierConfig { capacity_bytes: CHUNK_BYTES, slots_max: u64::MAX, recovers: false };
        parts.config = ManagerConfig::with_tiers([None, None, Some(tier), None]);
        parts.config.links[Link::NvmeRead.index()].in_flight_max = at_once_max;
        (parts.arena, parts.staging, parts.nvme) = (arena, 0..CHUNK_BYTES, Some(nvme as _));
    })
    .await;
    rig.start_store(None).await;
    assert!(rig.ended().await.failed.is_empty());
    (rig, late)
}

async fn ask(rig: &Rig, timeout: Duration) {
    let (request, slots, pool) = (RequestId(1), vec![1], rig.pool);
    let keys = vec![example().digest().key(b"one")];
    rig.call(Command::Load { request, keys, pool, slots, timeout }).await.unwrap();
}

async fn load(rig: &Rig, late: &Late, timeout: Duration) {
    ask(rig, timeout).await;
    for _ in 0..LOOKS_MAX {
        if !late.reads.lock().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("nothing is read");
}

/// What failed of an operation that ends by its time.
async fn ended_late(rig: &mut Rig) -> Vec<u32> {
    let ended = tokio::time::timeout(Duration::from_secs(20), rig.completions.recv()).await;
    ended.expect("in time").expect("the daemon runs").failed
}

/// Waits until something is to be copied into slots.
async fn copied(rig: &Rig) {
    for _ in 0..LOOKS_MAX {
        if !rig.engines.given.lock().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("nothing is copied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_ends_in_time_though_its_read_does_not_and_nothing_is_copied_afterwards() {
    let (mut rig, late) = node().await;
    load(&rig, &late, Duration::from_millis(50)).await;
    assert_eq!(ended_late(&mut rig).await, [0]);
    late.read_all();
    // One that is in time comes after it on the same threads.
    load(&rig, &late, Duration::from_secs(30)).await;
    late.read_all();
    copied(&rig).await;
    assert_eq!(rig.engines.given.lock().unwrap().len(), 1);
    assert!(rig.ended().await.failed.is_empty());
    rig.shell.stop(Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_whose_copy_is_under_way_is_waited_for() {
    let (mut rig, late) = node().await;
    load(&rig, &late, Duration::from_millis(300)).await;
    late.read_all();
    copied(&rig).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(rig.completions.try_recv().is_err(), "the slot may be written to");
    assert!(rig.ended().await.failed.is_empty());
    rig.shell.stop(Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_keeps_its_turn_until_its_read_has_ended_and_who_waits_asks_for_nothing()
{
    let (mut rig, late) = node_reading(1).await;
    load(&rig, &late, Duration::from_millis(50)).await;
    assert_eq!(ended_late(&mut rig).await, [0]);
    for _ in 0..3 {
        ask(&rig, Duration::from_millis(50)).await;
        assert_eq!(ended_late(&mut rig).await, [0], "in its time, behind the first");
    }
    assert_eq!(late.reads.lock().unwrap().len(), 1, "nobody would want what the others read");
    ask(&rig, Duration::from_secs(30)).await;
    late.read_all();
    for _ in 0..LOOKS_MAX {
        late.read_all();
        if !rig.engines.given.lock().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(rig.ended().await.failed.is_empty());
    rig.shell.stop(Duration::ZERO);
}
