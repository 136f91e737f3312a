//! The tier's store alone: frames between an arena and the slot file, through one of its engines.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use terrace::domain::block::{HashTail, Key};
use terrace::domain::namespace::NamespaceDigest;
use terrace::domain::retention::RetentionRecord;
use terrace::domain::units::{CHUNK_BYTES, Time};
use terrace::env::Stopwatch;
use terrace::tiers::dram::{Arena, ArenaConfig};
use terrace::tiers::frame::{self, HEADER_BYTES, HeaderDraft};
use terrace::tiers::nvme::{EngineChoice, NvmeConfig, open};
use terrace::tiers::store::{FrameMeta, FrameSpan, Place, StoreError, StoreOp, TierStore};

use super::{DEPTH, FILE_BYTES, FRAME_BYTES, Way, rate};

/// How an operation on one lane ended.
type Ended = (u32, Result<(), StoreError>);

/// A store, and as many frames as may be under way. Slot n holds the block of lane n modulo those.
pub struct Tier {
    store: Arc<dyn TierStore>,
    arena: Arc<Arena>,
    tell: SyncSender<Ended>,
    ended: Receiver<Ended>,
    _folder: tempfile::TempDir,
}

impl Tier {
    pub fn prepare(dir: &Path, engine: EngineChoice) -> Self {
        let folder = tempfile::tempdir_in(dir).unwrap();
        let staging_bytes = u64::from(DEPTH) * FRAME_BYTES;
        let arena = ArenaConfig { tier_bytes: 0, staging_bytes, pretouch_threads: 1 };
        let arena = Arc::new(Arena::new(arena).unwrap());
        let config = NvmeConfig { engine, ..NvmeConfig::new(folder.path(), FILE_BYTES) };
        assert!(FILE_BYTES.is_multiple_of(CHUNK_BYTES));
        let (store, facts) = open(&config, &arena).unwrap();
        assert!(facts.direct, "{} takes no IO past the page cache", dir.display());
        let (tell, ended) = sync_channel(DEPTH as usize);
        let tier = Self { store, arena, tell, ended, _folder: folder };
        (0..DEPTH).for_each(|lane| tier.seal(lane));
        tier.pump(Way::Write, |slot| slot < FILE_BYTES / FRAME_BYTES);
        tier
    }

    pub fn run(&self, way: Way, time: Duration) -> f64 {
        let watch = Stopwatch::start();
        let frames = self.pump(way, |_| watch.elapsed() < time);
        rate(frames * FRAME_BYTES, watch.elapsed())
    }

    /// Keeps every lane busy while `more` says so; gives the frames moved.
    fn pump(&self, way: Way, more: impl Fn(u64) -> bool) -> u64 {
        let (mut next, mut under_way) = (0, 0);
        // A lane only serves slots of its own number, so lanes go round one after the other.
        let mut turn: Vec<u64> = (0..u64::from(DEPTH)).collect();
        for lane in 0..DEPTH {
            self.start(way, lane, turn[lane as usize]);
            under_way += 1;
        }
        while under_way > 0 {
            let (lane, end) = self.ended.recv().unwrap();
            end.expect("the device is well");
            next += 1;
            under_way -= 1;
            let slot = turn[lane as usize] + u64::from(DEPTH);
            if more(slot) {
                turn[lane as usize] = slot;
                self.start(way, lane, slot);
                under_way += 1;
            }
        }
        next
    }

    fn start(&self, way: Way, lane: u32, slot: u64) {
        let offset = slot % (way.span_bytes() / FRAME_BYTES) * FRAME_BYTES;
        let bytes = u32::try_from(FRAME_BYTES).unwrap();
        let place = Place { offset, slot_bytes: bytes };
        let (key, frame) = (key(lane), span(lane));
        let op = match way {
            Way::Write => StoreOp::Write { key, place, frame },
            Way::Read => StoreOp::Read { key, place, frame },
        };
        let tell = self.tell.clone();
        self.store.submit(op, Box::new(move |end| tell.send((lane, end)).unwrap_or_default()));
    }

    fn seal(&self, lane: u32) {
        // SAFETY: nothing is under way yet.
        let bytes = unsafe { self.arena.bytes_mut(span(lane)) };
        super::raw::fill(&mut bytes[HEADER_BYTES..], lane.into());
        let meta = FrameMeta {
            key: key(lane),
            tail: HashTail(lane.into()),
            parent: None,
            position: 0,
            created_at: Time::ZERO,
            record: RetentionRecord::default(),
        };
        let payload_bytes = FRAME_BYTES - HEADER_BYTES as u64;
        let namespace = NamespaceDigest([7; 32]);
        frame::seal(bytes, HeaderDraft { namespace, meta, payload_bytes, node_id: [0; 16] });
    }
}

fn key(lane: u32) -> Key {
    let mut bytes = [9; Key::BYTES];
    bytes[..4].copy_from_slice(&lane.to_le_bytes());
    Key(bytes)
}

fn span(lane: u32) -> FrameSpan {
    let bytes = u32::try_from(FRAME_BYTES).unwrap();
    FrameSpan { offset: u64::from(lane) * FRAME_BYTES, bytes }
}
