//! The object tier's own store, as the daemon drives it.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use terrace::domain::block::{HashTail, Key};
use terrace::domain::namespace::NamespaceDigest;
use terrace::domain::retention::RetentionRecord;
use terrace::domain::units::Time;
use terrace::env::Stopwatch;
use terrace::tiers::dram::{Arena, ArenaConfig};
use terrace::tiers::frame::{self, HEADER_SPAN_BYTES, HeaderDraft};
use terrace::tiers::object::{self, ObjectOptions};
use terrace::tiers::store::{FrameMeta, FrameSpan, Place, StoreError, StoreOp, TierStore};
use tokio::runtime::Runtime;

use super::s3;
use super::{FRAME_BYTES, OBJECTS};

const NOWHERE: Place = Place { offset: 0, slot_bytes: 0 };
const NAMESPACE: NamespaceDigest = NamespaceDigest([9; 32]);

pub struct Store {
    // Dropped before the runtime.
    store: Arc<dyn TierStore>,
    arena: Arc<Arena>,
    _runtime: Runtime,
    at_once: usize,
}

impl Store {
    /// On the server at this port.
    pub fn open(port: u16, at_once: usize) -> Self {
        let staging_bytes = OBJECTS as u64 * u64::from(FRAME_BYTES);
        let config = ArenaConfig { tier_bytes: 0, staging_bytes, pretouch_threads: 1 };
        let arena = Arc::new(Arena::new(config).unwrap());
        let runtime = s3::runtime();
        let target = s3::url_at(port, &format!("ours-{at_once}")).parse().unwrap();
        let options = ObjectOptions { concurrency: at_once, ..ObjectOptions::default() };
        let store = object::open(&target, options, &arena, runtime.handle()).unwrap();
        Self { store, arena, _runtime: runtime, at_once }
    }

    fn key(&self, round: usize, object: usize) -> Key {
        NAMESPACE.key(format!("{}/{round}/{object}", self.at_once).as_bytes())
    }

    fn span(object: usize) -> FrameSpan {
        FrameSpan { offset: object as u64 * u64::from(FRAME_BYTES), bytes: FRAME_BYTES }
    }

    pub fn put(&self, round: usize) -> Duration {
        for object in 0..OBJECTS {
            // SAFETY: nothing is under way.
            let frame = unsafe { self.arena.bytes_mut(Self::span(object)) };
            let record = RetentionRecord::default();
            let key = self.key(round, object);
            let (tail, created_at) = (HashTail::UNKNOWN, Time::ZERO);
            let meta = FrameMeta { key, tail, parent: None, position: 0, created_at, record };
            let payload_bytes = u64::from(FRAME_BYTES - HEADER_SPAN_BYTES);
            let draft = HeaderDraft { namespace: NAMESPACE, meta, payload_bytes, node_id: [1; 16] };
            frame::seal(frame, draft);
        }
        self.all(|key, frame| StoreOp::Write { key, place: NOWHERE, frame }, round)
    }

    /// Gets and verifies all.
    pub fn get(&self, round: usize) -> Duration {
        self.all(|key, frame| StoreOp::Read { key, place: NOWHERE, frame }, round)
    }

    fn all(&self, op: impl Fn(Key, FrameSpan) -> StoreOp, round: usize) -> Duration {
        let (tell, told) = sync_channel::<Result<(), StoreError>>(OBJECTS);
        let watch = Stopwatch::start();
        for object in 0..OBJECTS {
            let tell = tell.clone();
            let done = Box::new(move |end| tell.send(end).unwrap());
            self.store.submit(op(self.key(round, object), Self::span(object)), done);
        }
        for _ in 0..OBJECTS {
            told.recv().unwrap().unwrap();
        }
        watch.elapsed()
    }
}
