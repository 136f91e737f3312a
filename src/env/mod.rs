//! The only door to time, randomness and spawning.
//!
//! Everything above takes a [`Clock`] or a seed; nothing else asks the machine. `clippy.toml` bans
//! the usual ways around this door.

mod descriptors;
mod seldom;
mod turn;

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::domain::units::Time;

pub use descriptors::{descriptors_max, raise_descriptors};
pub use seldom::Seldom;
pub use turn::{await_turn, await_turn_after};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Time;
}

/// The machine's clock: wall time at the start, advanced by the monotonic clock, so that it never
/// runs backwards when someone sets the wall clock.
#[derive(Debug)]
pub struct SystemClock {
    started_wall: Time,
    started: Instant,
}

impl SystemClock {
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started_wall: Time::ZERO + wall, started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        self.started_wall + self.started.elapsed()
    }
}

/// A clock that stands still until it is moved: for tests and the simulator.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Sets the time; earlier than now is ignored, since clocks never run backwards.
    pub fn advance_to(&self, now: Time) {
        self.0.fetch_max(now.micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time { micros: self.0.load(Ordering::Relaxed) }
    }
}

/// A monotonic stopwatch, for how long this machine takes. What becomes of blocks goes by the [`Clock`].
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    #[must_use]
    pub fn elapsed(self) -> std::time::Duration {
        self.0.elapsed()
    }
}

/// Starts a named thread.
///
/// # Errors
/// The machine refused another thread.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn spawn_thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|cause| no_thread(name, &cause))
}

/// What the machine says of a limit that is reached, "try again", names none.
fn no_thread(name: &str, cause: &io::Error) -> io::Error {
    let remedy = if cause.kind() == io::ErrorKind::WouldBlock {
        "; there may be no more threads of this user, or in this container: raise `ulimit -u`, the \
         container's pids limit, or LimitNPROC and TasksMax in the service's unit"
    } else {
        ""
    };
    io::Error::new(cause.kind(), format!("no thread for {name}: {cause}{remedy}"))
}

/// What is still to be done for the log before the process ends.
static LAST_WORDS: OnceLock<fn()> = OnceLock::new();

/// Has this called before [`abort`] ends the process; the first one counts.
pub fn set_last_words(say: fn()) {
    let _ = LAST_WORDS.set(say);
}

/// Ends the process as a crash does, once what it logged is written.
pub fn abort() -> ! {
    if let Some(say) = LAST_WORDS.get() {
        say();
    }
    std::process::abort()
}

/// How much nicer a thread is that gives way: with 10 the kernel gives it a tenth of a contended
/// processor (`sched_prio_to_weight` in kernel/sched/core.c).
const NICE: i32 = 10;

/// Has the calling thread give way where processors are short: no request waits for what it does.
pub fn give_way() {
    // Linux keeps this by thread. It adds to how nice the daemon is already: a level of its own could
    // put this thread before the others. Everyone may be nicer, and a thread that can't be works all
    // the same.
    let _ = rustix::process::nice(NICE);
}

/// Starts a task on the runtime that the caller runs on.
///
/// # Panics
/// There is no runtime.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn spawn_task<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(task)
}

/// Starts a task on `runtime`, from a thread that is not part of it.
pub fn spawn_task_on(
    runtime: &tokio::runtime::Handle,
    task: impl Future<Output = ()> + Send + 'static,
) {
    runtime.spawn(task);
}

/// Runs `work` on the runtime's threads for blocking work and waits for what it gives. None: it panicked, or
/// the runtime stopped. Whoever does not wait any more does not end it.
#[must_use]
pub async fn spawn_blocking_on<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let ended = runtime.spawn_blocking(work).await;
    ended.inspect_err(|error| tracing::error!(%error, "blocking work did not end")).ok()
}

/// A generator that gives the same numbers for the same seed on every machine.
pub type SeededRng = rand_chacha::ChaCha12Rng;

/// The seeded generator: simulations, workloads and tests.
#[must_use]
pub fn seeded_rng(seed: u64) -> SeededRng {
    rand::SeedableRng::seed_from_u64(seed)
}

/// Bytes nobody can guess: client tokens and node ids.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_refused_names_the_limit() {
        let refused = no_thread("object-dir-0", &io::Error::from_raw_os_error(libc::EAGAIN));
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let said = refused.to_string();
        assert!(said.contains("object-dir-0") && said.contains("`ulimit -u`"), "{said}");
        let other = no_thread("a", &io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(!other.contains("ulimit"), "{other}");
    }
}
