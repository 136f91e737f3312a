//! Turns between a thread whose work nobody waits for and whoever else wants its processor.
//!
//! A thread that wakes may wait for milliseconds until Linux stops the one that runs there, however nice
//! that one is. So who works for nobody in particular asks between two steps whether somebody waits. It
//! doesn't starve of that: what it has waited gives it a turn.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::Stopwatch;

/// A turn is this part of the wait for it; `docs/movement.md` has what a third came to.
const WAIT_PARTS: u32 = 4;

thread_local! {
    /// What the thread has worked when its turn is over.
    static TURN_ENDS: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Lets others have the processor, unless it is the calling thread's turn still.
pub fn await_turn() {
    await_turn_after(|| {});
}

/// The same, and calls `wait` before: what it takes counts as waiting.
pub fn await_turn_after(wait: impl FnOnce()) {
    if worked() < TURN_ENDS.get() {
        return;
    }
    let waiting = Stopwatch::start();
    wait();
    std::thread::yield_now();
    TURN_ENDS.set(worked() + waiting.elapsed() / WAIT_PARTS);
}

/// The time that processors gave to the calling thread. While it sleeps, or others run in its place, its
/// turn doesn't pass: a thread that gets little of a processor would give up most of that.
fn worked() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(60);

    #[test]
    fn a_turn_follows_from_the_wait_for_it_and_passes_by_work_alone() {
        await_turn_after(|| std::thread::sleep(PAUSE));
        let ends = TURN_ENDS.get();
        assert!(ends >= PAUSE / WAIT_PARTS);
        std::thread::sleep(PAUSE);
        assert!(worked() < ends, "sleeping is no work");
        while worked() < ends {
            await_turn_after(|| assert!(worked() >= ends, "waited within its turn"));
        }
        let mut waited = false;
        TURN_ENDS.set(Duration::ZERO);
        await_turn_after(|| waited = true);
        assert!(waited);
    }
}
