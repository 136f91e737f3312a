//! Batches whose engines' streams have not come as far as their calls.
//!
//! They wait here and not on the GPU. A stream of this process that waits for an event of another never
//! goes on when that process ends first (seen on an H100, driver 580.159), nor does anything behind it on
//! the stream, nor any call that waits for the GPU.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::super::batch::Batch;
use super::super::device::CopyEnd;
use super::super::pool::EnginePool;
use super::driver::DriverError;
use super::pool::OpenPool;
use crate::env::Stopwatch;
use crate::tiers::store::StoreError;

/// More than transfers that links work on at once are cut into.
const BATCHES_MAX: usize = 1024;
/// How long events are left alone: a part of the time that was waited for them already, so that an engine
/// which stands still costs nothing.
const PAUSE_PART: u32 = 16;
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// Those of one stream.
#[derive(Default)]
pub(super) struct WaitingRoom {
    waiting: VecDeque<Waiting>,
    over: VecDeque<Ready>,
    /// Since their events were looked at.
    looked: Option<Stopwatch>,
}

/// A batch that need not wait.
pub(super) struct Ready {
    pub(super) batch: Batch,
    /// Pools that are not waited for any more, and what the driver said of their events, if that is why.
    pub(super) given_up: Vec<(Arc<EnginePool>, Option<DriverError>)>,
}

struct Waiting {
    batch: Batch,
    since: Stopwatch,
    behind: Vec<Behind>,
}

/// An engine that a batch waits for.
struct Behind {
    pool: Arc<EnginePool>,
    wait: Wait,
}

enum Wait {
    /// For these of the pool's events.
    For(u64),
    Over,
    GivenUp(Option<DriverError>),
}

impl WaitingRoom {
    /// Takes the batch in, or gives it back where it waits for nothing.
    pub(super) fn enter(&mut self, batch: Batch) -> Option<Ready> {
        let mut waiting = Waiting { behind: behind(&batch), batch, since: Stopwatch::start() };
        if waiting.look(&mut Vec::new()) {
            return Some(waiting.over());
        }
        if self.waiting.len() == BATCHES_MAX {
            waiting.batch.fail_all(|| StoreError::Busy);
        } else {
            self.waiting.push_back(waiting);
        }
        None
    }

    /// The next one that has waited long enough.
    pub(super) fn next(&mut self) -> Option<Ready> {
        let due = |pause| self.looked.is_none_or(|looked| looked.elapsed() >= pause);
        if self.over.is_empty() && self.pause().is_some_and(due) {
            self.look();
        }
        self.over.pop_front()
    }

    /// How long to do something else before events are looked at; nothing where none waits.
    pub(super) fn pause(&self) -> Option<Duration> {
        let first = self.waiting.front()?;
        Some((first.since.elapsed() / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX))
    }

    fn look(&mut self) {
        self.looked = Some(Stopwatch::start());
        let mut late = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.look(&mut late) {
                self.over.push_back(waiting.over());
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }
}

impl Waiting {
    /// Whether the wait is over. `late` are engines that a batch before this one was found to wait for: this
    /// one came later, so it waits as well.
    fn look(&mut self, late: &mut Vec<Arc<EnginePool>>) -> bool {
        for behind in &mut self.behind {
            if late.iter().any(|pool| Arc::ptr_eq(pool, &behind.pool)) {
                return false;
            }
            if !behind.look() {
                late.push(Arc::clone(&behind.pool));
                return false;
            }
        }
        true
    }

    fn over(self) -> Ready {
        let given_up = self.behind.into_iter().filter_map(|behind| match behind.wait {
            Wait::GivenUp(why) => Some((behind.pool, why)),
            Wait::For(_) | Wait::Over => None,
        });
        Ready { given_up: given_up.collect(), batch: self.batch }
    }
}

impl Behind {
    /// Whether it is not waited for any more.
    fn look(&mut self) -> bool {
        let Wait::For(events) = self.wait else { return true };
        let open = self.pool.opened_as::<OpenPool>();
        self.wait = if self.pool.has_left() {
            Wait::GivenUp(None)
        } else {
            match open.map_or(Ok(0), |open| open.not_done(events)) {
                Ok(0) => Wait::Over,
                Ok(events) => Wait::For(events),
                Err(why) => Wait::GivenUp(Some(why)),
            }
        };
        !matches!(self.wait, Wait::For(_))
    }
}

/// The engines that a batch may have to wait for, each once.
fn behind(batch: &Batch) -> Vec<Behind> {
    let mut found: Vec<Behind> = Vec::new();
    let ends = batch.copies().iter().flat_map(|copy| [&copy.from, &copy.to]);
    for end in ends {
        let CopyEnd::Pool { pool, .. } = end else { continue };
        let events = pool.opened_as::<OpenPool>().map_or(0, OpenPool::events);
        if events != 0 && !found.iter().any(|known| Arc::ptr_eq(&known.pool, pool)) {
            found.push(Behind { pool: Arc::clone(pool), wait: Wait::For(events) });
        }
    }
    found
}
