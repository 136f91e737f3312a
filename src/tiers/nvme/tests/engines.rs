//! Both engines: the contract, how one is chosen, and how they end.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::{CHUNKS, config, keeps_the_contract, opened};
use crate::domain::units::CHUNK_BYTES;
use crate::env::spawn_thread;
use crate::tiers::nvme::slots::{Access, Straight};
use crate::tiers::nvme::{Engine, EngineChoice, NvmeConfig, open};
use crate::tiers::sample::{self, LANES, Sample};
use crate::tiers::store::{StoreError, StoreOp};

const BLOCK: Sample = Sample { number: 1, payload_bytes: 64 << 10 };

fn straight_it_keeps_the_contract(change: impl Fn(&mut NvmeConfig)) {
    keeps_the_contract(&(Arc::new(Straight) as Arc<dyn Access>), change);
}

#[test]
fn the_ring_keeps_the_contract() {
    straight_it_keeps_the_contract(|config| config.engine = EngineChoice::Uring);
}

#[test]
fn a_ring_of_one_small_io_keeps_the_contract() {
    straight_it_keeps_the_contract(|config| {
        config.engine = EngineChoice::Uring;
        (config.queue_depth, config.io_bytes) = (1, 8192);
    });
}

#[test]
fn the_blocking_engine_keeps_the_contract() {
    straight_it_keeps_the_contract(|config| config.engine = EngineChoice::Blocking);
}

#[test]
fn the_ring_is_chosen_by_itself_and_says_so() {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let (_store, facts) = opened(&config(dir.path(), EngineChoice::Auto), &arena);
    assert_eq!((facts.engine, facts.fixed_buffers), (Engine::Uring, true), "{facts}");
    assert_eq!(facts.capacity_bytes, CHUNKS * CHUNK_BYTES);
    assert!(facts.to_string().contains("engine uring (io_uring works here)"), "{facts}");
}

/// Runs `body` on a thread to which the kernel refuses `io_uring`, as containers do.
fn without_io_uring(body: impl FnOnce() + Send + 'static) {
    let thread = spawn_thread("test", move || {
        let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
            code: u16::try_from(code).unwrap(),
            jt,
            jf,
            k,
        };
        let errno = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
        let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
        let filter = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, errno),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
        rustix::thread::set_no_new_privs(true).unwrap();
        // SAFETY: the kernel copies the program; it and the filter outlive the call.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        body();
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn blocking_threads_take_over_where_io_uring_is_refused() {
    without_io_uring(|| {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let (store, facts) = opened(&config(dir.path(), EngineChoice::Auto), &arena);
        assert_eq!(facts.engine, Engine::Blocking);
        assert!(facts.why.contains("forbidden") && facts.why.contains("seccomp"), "{facts}");
        sample::write(&*store, &arena, BLOCK, BLOCK.place(0, 3)).unwrap();
        sample::read(&*store, &arena, BLOCK, BLOCK.place(0, 3)).unwrap();
    });
}

#[test]
fn a_ring_that_is_insisted_on_and_refused_is_an_error_with_a_remedy() {
    without_io_uring(|| {
        let dir = tempfile::tempdir().unwrap();
        let refused = open(&config(dir.path(), EngineChoice::Uring), &sample::arena());
        let said = refused.err().expect("io_uring is refused").to_string();
        assert!(said.contains("forbidden") && said.contains("use `auto`"), "{said}");
    });
}

#[test]
fn without_the_right_to_lock_memory_the_ring_goes_on_with_plain_buffers() {
    let locked = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let arena = sample::arena();
    let thread = spawn_thread("test", move || {
        let mut rights = rustix::thread::capabilities(None).unwrap();
        rights.effective.remove(rustix::thread::CapabilitySet::IPC_LOCK);
        rustix::thread::set_capabilities(None, rights).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (store, facts) = opened(&config(dir.path(), EngineChoice::Uring), &arena);
        let limited = locked.current.is_some_and(|limit| limit < arena.len_bytes());
        assert_eq!(facts.fixed_buffers, !limited, "{facts}");
        assert_eq!(facts.why.contains("ulimit -l"), limited, "{facts}");
        sample::write(&*store, &arena, BLOCK, BLOCK.place(0, 0)).unwrap();
        sample::read(&*store, &arena, BLOCK, BLOCK.place(0, 0)).unwrap();
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn a_store_dropped_by_its_own_operation_ends() {
    for engine in [EngineChoice::Uring, EngineChoice::Blocking] {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let (store, _) = opened(&config(dir.path(), engine), &arena);
        sample::write(&*store, &arena, BLOCK, BLOCK.place(0, 0)).unwrap();
        let (go, gone) = sync_channel::<()>(1);
        let (tell, told) = sync_channel(1);
        let owner = Arc::clone(&store);
        let op = StoreOp::Read { key: BLOCK.key(), place: BLOCK.place(0, 0), frame: BLOCK.span(1) };
        let done = move |result| {
            // By now the test has let go: this is the last owner.
            gone.recv().unwrap_or_default();
            drop(owner);
            tell.send(result).unwrap_or_default();
        };
        store.submit(op, Box::new(done));
        drop(store);
        drop(go);
        let result = told.recv_timeout(Duration::from_mins(1)).expect("the drop ended");
        result.unwrap();
    }
}

#[test]
fn beyond_its_bound_the_store_is_busy_and_answers_everything() {
    for engine in [EngineChoice::Uring, EngineChoice::Blocking] {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let config = NvmeConfig { ops_max: 2, ..config(dir.path(), engine) };
        let (store, _) = opened(&config, &arena);
        let block = |lane| Sample { number: lane, payload_bytes: 1 << 20 };
        // Made before the first is submitted: a fast disk would write one while the next is made.
        let frames: Vec<_> = (0..LANES).map(|lane| block(lane).fill(&arena, lane)).collect();
        let mut waiting = Vec::new();
        for (lane, frame) in (0..LANES).zip(frames) {
            let (done, told) = sample::heard();
            let (key, place) = (block(lane).key(), block(lane).place(0, lane));
            store.submit(StoreOp::Write { key, place, frame }, done);
            waiting.push(told);
        }
        drop(store);
        let ended: Vec<_> = waiting.iter().map(|told| told.recv().unwrap()).collect();
        let busy = ended.iter().filter(|end| matches!(end, Err(StoreError::Busy))).count();
        let written = ended.iter().filter(|end| end.is_ok()).count();
        assert_eq!(busy + written, LANES as usize, "{ended:?}");
        assert!(busy > 0 && written >= 2, "{ended:?}");
    }
}
