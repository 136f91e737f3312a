//! Batches whose engines' streams have not come as far as their calls.
//!
//! They wait here and not on the GPU. A stream of this process that waits for an event of another never
//! goes on when that process ends first (seen on an H100, driver 580.159), nor does anything behind it on
//! the stream, nor any call that waits for the GPU. Never waits itself, and never touches the GPU.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::super::batch::Batch;
use super::super::device::CopyEnd;
use super::super::pool::EnginePool;
use super::driver::DriverError;
use super::pool::{EventSet, OpenPool};
use crate::env::Stopwatch;
use crate::tiers::store::StoreError;

/// More than transfers that links work on at once are cut into.
const BATCHES_MAX: usize = 1024;
/// How long events are left alone: a sixteenth of the time that the latest batch has waited, so that engines
/// which stand still cost nothing.
const WAITED_TO_PAUSE: u32 = 16;
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
    For(EventSet),
    Over,
    GivenUp(Option<DriverError>),
}

/// What one look found of each pool's events.
#[derive(Default)]
struct Look(Vec<(Arc<EnginePool>, Found)>);

enum Found {
    NotDone(EventSet),
    Left,
    Failed(DriverError),
}

impl WaitingRoom {
    /// Takes the batch in, or gives it back where it waits for nothing.
    pub(super) fn enter(&mut self, batch: Batch) -> Option<Ready> {
        let mut waiting = Waiting { behind: behind(&batch), batch, since: Stopwatch::start() };
        if waiting.is_over(&mut Look::default()) {
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
        let latest = self.waiting.back()?;
        Some((latest.since.elapsed() / WAITED_TO_PAUSE).clamp(PAUSE_MIN, PAUSE_MAX))
    }

    fn look(&mut self) {
        self.looked = Some(Stopwatch::start());
        let mut look = Look::default();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.is_over(&mut look) {
                self.over.push_back(waiting.over());
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }
}

impl Waiting {
    /// Whether the wait is over by what is found now. Each look counts for all that wait, and for all whom
    /// they wait for: an event that was not done by the next one may have been meanwhile.
    fn is_over(&mut self, look: &mut Look) -> bool {
        for behind in &mut self.behind {
            behind.learn(look);
        }
        self.behind.iter().all(|behind| !matches!(behind.wait, Wait::For(_)))
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
    fn learn(&mut self, look: &mut Look) {
        let Wait::For(events) = self.wait else { return };
        self.wait = match look.at(&self.pool) {
            Found::NotDone(not_done) => match events.and(*not_done) {
                EventSet::NONE => Wait::Over,
                left => Wait::For(left),
            },
            Found::Left => Wait::GivenUp(None),
            Found::Failed(why) => Wait::GivenUp(Some(why.clone())),
        };
    }
}

impl Look {
    /// Asks each event once.
    fn at(&mut self, pool: &Arc<EnginePool>) -> &Found {
        let known = self.0.iter().position(|(known, _)| Arc::ptr_eq(known, pool));
        let at = known.unwrap_or_else(|| {
            self.0.push((Arc::clone(pool), found(pool)));
            self.0.len() - 1
        });
        &self.0[at].1
    }
}

fn found(pool: &EnginePool) -> Found {
    if pool.has_left() {
        return Found::Left;
    }
    let not_done = pool.opened_as::<OpenPool>().map_or(Ok(EventSet::NONE), OpenPool::not_done);
    not_done.map_or_else(Found::Failed, Found::NotDone)
}

/// The engines that a batch may have to wait for, each once.
fn behind(batch: &Batch) -> Vec<Behind> {
    let mut found: Vec<Behind> = Vec::new();
    let ends = batch.copies().iter().flat_map(|copy| [&copy.from, &copy.to]);
    for end in ends {
        let CopyEnd::Pool { pool, .. } = end else { continue };
        let events = pool.opened_as::<OpenPool>().map_or(EventSet::NONE, OpenPool::events);
        if events != EventSet::NONE && !found.iter().any(|known| Arc::ptr_eq(&known.pool, pool)) {
            found.push(Behind { pool: Arc::clone(pool), wait: Wait::For(events) });
        }
    }
    found
}
