//! Engines whose streams have not come as far as their calls: a thread looks at their events.
//!
//! Nothing waits for them on the GPU. A stream of this process that waits for an event of another never
//! goes on when that process ends first (seen on an H100, driver 580.159), nor does anything behind it on
//! the stream, nor any call that waits for the GPU.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::super::device::EngineCame;
use super::super::pool::EnginePool;
use super::core::Core;
use super::pool::{EventSet, OpenPool};
use crate::env::{Stopwatch, spawn_thread};

/// Calls that nobody has looked at: more come than a thread has turns for only where it hangs.
const CALLS_MAX: usize = 65_536;
/// How long an engine's events are left alone: a sixteenth of the time that its latest call has waited, so
/// that one which stands still costs nothing.
const WAITED_TO_PAUSE: u32 = 16;
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// The thread and the queue to it.
pub(super) struct Watch {
    calls: Option<Sender<Call>>,
    thread: Option<JoinHandle<()>>,
}

/// A call whose engine's stream may not have come so far.
pub(super) struct Call {
    pub(super) pool: Arc<EnginePool>,
    /// Of the GPU that the pool lies on.
    pub(super) core: Arc<Core>,
    pub(super) came: EngineCame,
}

impl Watch {
    pub(super) fn start() -> io::Result<Self> {
        let (calls, queue) = bounded(CALLS_MAX);
        let thread = spawn_thread("cuda-events", move || run(&queue))?;
        Ok(Self { calls: Some(calls), thread: Some(thread) })
    }

    pub(super) fn call(&self, call: Call) {
        let calls = self.calls.as_ref().expect("the queue lives until the drop");
        if let Err(TrySendError::Full(call) | TrySendError::Disconnected(call)) =
            calls.try_send(call)
        {
            (call.came)(false);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            // It panicked in someone's `came`; that was reported where it happened.
            let _ = thread.join();
        }
    }
}

fn run(calls: &Receiver<Call>) {
    let mut engines: Vec<Behind> = Vec::new();
    loop {
        match next(calls, &engines) {
            Ok(call) => enter(&mut engines, call),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Those that came meanwhile are looked at together.
        calls.try_iter().for_each(|call| enter(&mut engines, call));
        engines.retain_mut(|engine| !engine.until_due().is_zero() || engine.look());
    }
}

/// The next call, unless it is time to look before one comes.
fn next(calls: &Receiver<Call>, engines: &[Behind]) -> Result<Call, RecvTimeoutError> {
    match engines.iter().map(Behind::until_due).min() {
        Some(pause) => calls.recv_timeout(pause),
        None => calls.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

fn enter(engines: &mut Vec<Behind>, call: Call) {
    let pool = Arc::downgrade(&call.pool);
    let known = engines.iter().position(|engine| engine.pool.ptr_eq(&pool));
    let at = known.unwrap_or_else(|| {
        engines.push(Behind { pool, core: call.core, calls: VecDeque::new(), looked: None });
        engines.len() - 1
    });
    let events = call.pool.opened_as::<OpenPool>().map_or(EventSet::NONE, OpenPool::events);
    engines[at].calls.push_back(Waiting { events, since: Stopwatch::start(), came: call.came });
    engines[at].looked = None;
}

/// An engine that calls wait for.
struct Behind {
    /// Not kept open by calls that wait: nobody may be waiting for them any more.
    pool: Weak<EnginePool>,
    core: Arc<Core>,
    calls: VecDeque<Waiting>,
    /// Since its events were looked at; none where a call has come since.
    looked: Option<Stopwatch>,
}

struct Waiting {
    /// Not seen done since it came.
    events: EventSet,
    since: Stopwatch,
    came: EngineCame,
}

impl Behind {
    fn until_due(&self) -> Duration {
        let (Some(looked), Some(latest)) = (self.looked, self.calls.back()) else {
            return Duration::ZERO;
        };
        let pause = (latest.since.elapsed() / WAITED_TO_PAUSE).clamp(PAUSE_MIN, PAUSE_MAX);
        pause.saturating_sub(looked.elapsed())
    }

    /// Tells those whose engine has come so far. False: nobody waits any more.
    ///
    /// A look counts for all calls: an event that was not done by the next one may have been meanwhile.
    fn look(&mut self) -> bool {
        self.looked = Some(Stopwatch::start());
        let not_done = match self.not_done() {
            Ok(not_done) => not_done,
            Err(came) => {
                self.tell_all(came);
                return false;
            }
        };
        for call in std::mem::take(&mut self.calls) {
            match call.events.and(not_done) {
                EventSet::NONE => (call.came)(true),
                events => self.calls.push_back(Waiting { events, ..call }),
            }
        }
        !self.calls.is_empty()
    }

    /// Its events that are not done; or, where that can't be told, whether to copy none the less.
    fn not_done(&self) -> Result<EventSet, bool> {
        let pool = self.pool.upgrade().filter(|pool| !pool.has_left()).ok_or(false)?;
        let Some(open) = pool.opened_as::<OpenPool>() else { return Ok(EventSet::NONE) };
        let asked = self.calls.iter().map(|call| call.events).fold(EventSet::NONE, EventSet::or);
        open.not_done(asked).map_err(|error| {
            // A lost GPU answers nothing, and the copies say so, and what to do.
            let is_lost = error.is_fatal() && self.core.finds_itself_lost();
            if !is_lost {
                tracing::warn!("an engine's events can't be asked, so nothing is copied: {error}");
            }
            is_lost
        })
    }

    fn tell_all(&mut self, came: bool) {
        for call in self.calls.drain(..) {
            (call.came)(came);
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.tell_all(false);
    }
}
