//! The object tier's own store, as the daemon drives it.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use terrace::domain::block::{HashTail, Key};
use terrace::domain::namespace::NamespaceDigest;
use terrace::domain::retention::RetentionRecord;
use terrace::domain::units::Time;
use terrace::env::{self, Stopwatch};
use terrace::tiers::dram::{Arena, ArenaConfig};
use terrace::tiers::frame::{self, HEADER_SPAN_BYTES, HeaderDraft};
use terrace::tiers::object::{self, ObjectOptions, PackOptions};
use terrace::tiers::store::{FrameMeta, FrameSpan, Place, StoreError, StoreOp, TierStore};
use tokio::runtime::Runtime;

use super::Load;
use super::s3;

const NOWHERE: Place = Place { offset: 0, slot_bytes: 0 };
const NAMESPACE: NamespaceDigest = NamespaceDigest([9; 32]);

pub struct Store {
    // Dropped before the runtime.
    store: Arc<dyn TierStore>,
    arena: Arc<Arena>,
    _runtime: Runtime,
    load: Load,
    /// Tells this store's blocks from those that another one has left.
    run: u64,
}

impl Store {
    /// On the server at this port.
    pub fn open(port: u16, load: Load, at_once: usize) -> Self {
        let staging_bytes = load.objects as u64 * u64::from(load.frame_bytes);
        let config = ArenaConfig { tier_bytes: 0, staging_bytes, pretouch_threads: 1 };
        let arena = Arc::new(Arena::new(config).unwrap());
        let runtime = s3::runtime();
        let prefix = format!("ours-{at_once}{}", if load.packed { "-packed" } else { "" });
        let target = s3::url_at(port, &prefix).parse().unwrap();
        let packs = load.packed.then(|| PackOptions::new(env::random_bytes()));
        let options = ObjectOptions { concurrency: at_once, packs, ..ObjectOptions::default() };
        let store = object::open(&target, options, &arena, runtime.handle()).unwrap();
        let run = u64::from_le_bytes(env::random_bytes());
        Self { store, arena, _runtime: runtime, load, run }
    }

    fn key(&self, round: usize, object: usize) -> Key {
        NAMESPACE.key(format!("{}/{round}/{object}", self.run).as_bytes())
    }

    fn span(&self, object: usize) -> FrameSpan {
        let bytes = self.load.frame_bytes;
        FrameSpan { offset: object as u64 * u64::from(bytes), bytes }
    }

    pub fn put(&self, round: usize) -> Duration {
        for object in 0..self.load.objects {
            // SAFETY: nothing is under way.
            let frame = unsafe { self.arena.bytes_mut(self.span(object)) };
            let record = RetentionRecord::default();
            let key = self.key(round, object);
            let (tail, created_at) = (HashTail::UNKNOWN, Time::ZERO);
            let meta = FrameMeta { key, tail, parent: None, position: 0, created_at, record };
            let payload_bytes = u64::from(self.load.frame_bytes - HEADER_SPAN_BYTES);
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
        let (tell, told) = sync_channel::<Result<(), StoreError>>(self.load.objects);
        let watch = Stopwatch::start();
        for object in 0..self.load.objects {
            let tell = tell.clone();
            let done = Box::new(move |end| tell.send(end).unwrap());
            self.store.submit(op(self.key(round, object), self.span(object)), done);
        }
        for _ in 0..self.load.objects {
            told.recv().unwrap().unwrap();
        }
        watch.elapsed()
    }
}
