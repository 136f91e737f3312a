//! Has a store keep what it was given: what caches it on the way to the disk is flushed, once for all who
//! wait.
//!
//! For slots, which are written past the page cache, that is the device's own cache: a crash of the daemon
//! or of the machine's kernel undoes nothing, a loss of power may. For a folder it is the page cache too.
//! Never flushes unasked: a cache that has to be flushed for each frame is a slow one.

use std::io;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::tiers::store::{Done, StoreError};
use crate::tiers::ticket;
use crate::tiers::workers::Workers;

/// The thread that flushes, and who waits for it. Dropped in this order: the thread ends when nobody
/// can ask any more, and has answered all by then.
pub struct Syncer {
    asking: Sender<Done>,
    _thread: Workers,
}

impl Syncer {
    /// A thread of that name, which calls `flush` for all who have asked by then.
    ///
    /// # Errors
    /// The machine refused the thread.
    pub fn start(
        name: &str,
        flush: impl Fn() -> io::Result<()> + Send + 'static,
        asking_max: usize,
    ) -> io::Result<Self> {
        let (asking, asked) = crossbeam_channel::bounded(asking_max);
        let mut thread = Workers::default();
        thread.start_one(name, move || serve(flush, &asked))?;
        Ok(Self { asking, _thread: thread })
    }

    pub fn ask(&self, done: Done) {
        match self.asking.try_send(done) {
            Ok(()) => {}
            Err(TrySendError::Full(done)) => ticket::answer(done, Err(StoreError::Busy)),
            Err(TrySendError::Disconnected(done)) => {
                let said = "the thread that flushes it is gone".into();
                ticket::answer(done, Err(StoreError::TierLost(said)));
            }
        }
    }
}

fn serve(flush: impl Fn() -> io::Result<()>, asked: &Receiver<Done>) {
    while let Ok(first) = asked.recv() {
        // Whoever asked before the flush begins is served by it.
        let waiting: Vec<Done> = std::iter::once(first).chain(asked.try_iter()).collect();
        let flushed = flush();
        for done in waiting {
            let end = match &flushed {
                Ok(()) => Ok(()),
                Err(error) => Err(failed(error)),
            };
            ticket::answer(done, end);
        }
    }
}

fn failed(error: &io::Error) -> StoreError {
    let source =
        error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
    StoreError::Io { what: "can't flush what was written".into(), source }
}
