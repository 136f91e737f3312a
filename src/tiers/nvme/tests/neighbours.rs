//! Neighbours that the ring moves as one, with and without a bad spot among them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::config;
use crate::tiers::dram::Arena;
use crate::tiers::nvme::flights::Io;
use crate::tiers::nvme::ring::{Kernel, Landed};
use crate::tiers::nvme::slots::Access;
use crate::tiers::nvme::{Engine, EngineChoice, NvmeConfig, open_through};
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Place, StoreError, StoreOp, TierStore};

const BLOCKS: u32 = 6;

type End = Result<(), StoreError>;
type Heard = Receiver<End>;

/// As long as a lane of the samples' arena: so frames in a row of lanes are neighbours.
fn block(number: u32) -> Sample {
    Sample { number, payload_bytes: sample::PAYLOAD_BYTES_MAX }
}

/// Holds the ring back until the test has asked for all it wants, and notes what goes to the kernel.
struct Held {
    ios: Mutex<Vec<Io>>,
    /// Any IO over this byte of the file fails.
    bad_byte: Option<u64>,
    arrived: SyncSender<()>,
    go: Mutex<Receiver<()>>,
}

struct Through(Arc<Held>);

impl Access for Through {
    fn kernel(&self, kernel: Box<dyn Kernel>) -> Box<dyn Kernel> {
        Box::new(Holding { kernel, held: Arc::clone(&self.0), answers: Vec::new(), waits: true })
    }
}

struct Holding {
    kernel: Box<dyn Kernel>,
    held: Arc<Held>,
    answers: Vec<Landed>,
    /// Until the first IO was held back.
    waits: bool,
}

impl Kernel for Holding {
    fn push(&mut self, tag: usize, io: Io) {
        self.held.ios.lock().unwrap_or_else(PoisonError::into_inner).push(io);
        if self.waits {
            self.waits = false;
            self.held.arrived.send(()).unwrap();
            let go = self.held.go.lock().unwrap_or_else(PoisonError::into_inner);
            go.recv().unwrap();
        }
        let end = io.file_offset + u64::from(io.bytes);
        match self.held.bad_byte {
            Some(bad) if (io.file_offset..end).contains(&bad) => {
                self.answers.push(Landed::Piece { tag, answer: -libc::EIO });
            }
            _ => self.kernel.push(tag, io),
        }
    }

    fn watch_bell(&mut self) {
        self.kernel.watch_bell();
    }

    fn enter(&mut self) -> std::io::Result<()> {
        if self.answers.is_empty() { self.kernel.enter() } else { Ok(()) }
    }

    fn landed(&mut self, into: &mut Vec<Landed>) {
        into.append(&mut self.answers);
        self.kernel.landed(into);
    }
}

/// Submits the write of the block in its lane to its slot.
fn write(store: &dyn TierStore, arena: &Arena, number: u32, lane: u32, slot: u32) -> Heard {
    let (done, told) = sample::heard();
    let (key, frame) = (block(number).key(), block(number).fill(arena, lane));
    store.submit(StoreOp::Write { key, place: place(slot), frame }, done);
    told
}

fn place(slot: u32) -> Place {
    block(0).place(0, slot)
}

/// Writes the blocks side by side, all at once: how each ended, and of how many blocks the IOs were.
/// Nothing where the machine has no ring.
fn write_row(bad_block: Option<u32>) -> Option<(Vec<End>, Vec<u32>)> {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let (arrived, has_arrived) = sync_channel(1);
    let (go, waits) = sync_channel(1);
    let bad_byte = bad_block.map(|slot| place(slot).offset + 4096);
    let held = Arc::new(Held { ios: Mutex::default(), bad_byte, arrived, go: Mutex::new(waits) });
    let access: Arc<dyn Access> = Arc::new(Through(Arc::clone(&held)));
    let long = NvmeConfig { io_bytes: 16 << 20, ..config(dir.path(), EngineChoice::Auto) };
    let (store, facts) = open_through(&long, &arena, &access).unwrap();
    if facts.engine != Engine::Uring {
        eprintln!("not tried: {}", facts.why);
        return None;
    }
    // Far off from the others, in their chunk, which it cuts; the ring is held back with it.
    let first = write(&*store, &arena, 100, sample::LANES - 1, 40);
    has_arrived.recv().unwrap();
    let row: Vec<Heard> = (0..BLOCKS).map(|n| write(&*store, &arena, n, n, n)).collect();
    go.send(()).unwrap();
    first.recv().unwrap().unwrap();
    let ends: Vec<_> = row.iter().map(|told| told.recv().unwrap()).collect();
    let ios = std::mem::take(&mut *held.ios.lock().unwrap());
    for slot in (0..BLOCKS).filter(|slot| Some(*slot) != bad_block) {
        sample::read(&*store, &arena, block(slot), place(slot)).unwrap();
    }
    let blocks = ios.iter().skip(1).map(|io| io.bytes / block(0).frame_bytes());
    Some((ends, blocks.collect()))
}

#[test]
fn neighbours_are_written_as_one_and_read_back_each() {
    let Some((ends, ios)) = write_row(None) else { return };
    assert!(ends.iter().all(Result::is_ok), "{ends:?}");
    assert_eq!(ios, [BLOCKS]);
}

#[test]
fn a_bad_spot_costs_its_own_block_alone() {
    let Some((ends, ios)) = write_row(Some(3)) else { return };
    for (slot, end) in (0..).zip(&ends) {
        assert_eq!(end.is_err(), slot == 3, "block {slot}: {end:?}");
    }
    let Err(StoreError::Io { source, .. }) = &ends[3] else { panic!("{:?}", ends[3]) };
    assert_eq!(source.raw_os_error(), Some(libc::EIO));
    assert_eq!(ios, [BLOCKS, 1, 1, 1, 1, 1, 1], "as one, then one by one");
}
