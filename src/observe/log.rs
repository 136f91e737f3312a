//! Log lines on stderr, by level and module.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use super::lines::Lines;
use crate::env;

/// How long the end of a daemon, or a panic, waits for who reads the log.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// A daemon's lines, and what its panics say.
static DAEMON: OnceLock<Arc<Lines>> = OnceLock::new();

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// How much of a module is logged; the empty module is everything of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel {
    pub module: String,
    /// Nothing where there is none.
    pub level: Option<Level>,
}

/// Logs from now on, once a process: a second call changes nothing. Who logs waits until the line is written.
///
/// What other libraries log is shown from warnings up.
pub fn start_log(levels: &[LogLevel], format: LogFormat) {
    init(levels, format, io::stderr);
}

/// The same for a daemon: nobody waits for who reads its log, neither who logs nor who panics. What was
/// not read when the process ends is lost, unless [`flush_log`] is called before.
///
/// # Errors
/// The machine refused the thread that writes.
pub fn start_daemon_log(levels: &[LogLevel], format: LogFormat) -> io::Result<()> {
    if DAEMON.get().is_some() {
        return Ok(());
    }
    let lines = Lines::start(io::stderr())?;
    if DAEMON.set(Arc::clone(&lines)).is_ok() {
        init(levels, format, Arc::clone(&lines));
        tell_panics(lines);
        env::set_last_words(flush_log);
    }
    Ok(())
}

/// Waits until all that a daemon logged is written; not for long where nobody reads it.
pub fn flush_log() {
    if let Some(lines) = DAEMON.get() {
        lines.flush(FLUSH_PATIENCE);
    }
}

fn init<W>(levels: &[LogLevel], format: LogFormat, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(levels);
    let lines = fmt::layer().with_writer(writer).with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // A second call is a test or an embedding that has a log of its own.
    let _ = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
}

/// What a panic says goes the way of the lines from now on, and is out, if anybody reads, before anything
/// follows from it: the process may end.
fn tell_panics(lines: Arc<Lines>) {
    panic::set_hook(Box::new(move |panic| {
        lines.push(panic_text(panic, &Backtrace::capture()).as_bytes());
        lines.flush(FLUSH_PATIENCE);
    }));
}

/// As the standard library says it.
fn panic_text(panic: &impl Display, backtrace: &Backtrace) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let trace = match backtrace.status() {
        BacktraceStatus::Captured => format!("stack backtrace:\n{backtrace}"),
        _ => "note: run with `RUST_BACKTRACE=1` in the environment for a backtrace".into(),
    };
    format!("\nthread '{name}' {panic}\n{}\n", trace.trim_end())
}

fn filter(levels: &[LogLevel]) -> EnvFilter {
    let base = EnvFilter::default().add_directive(LevelFilter::WARN.into());
    levels.iter().fold(base, |filter, LogLevel { module, level }| {
        let separator = if module.is_empty() { "" } else { "::" };
        let level = level.map_or("off".to_owned(), |level| level.to_string());
        let directive = format!("terrace{separator}{module}={level}");
        match directive.parse() {
            Ok(directive) => filter.add_directive(directive),
            // The config checked the module; what it let through that is no module logs nothing.
            Err(_) => filter,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::super::lines::tests::{next, pipe};
    use super::*;
    use crate::env;

    #[test]
    fn a_panic_is_told_whole_and_goes_the_way_of_the_lines() {
        let (out, read) = pipe();
        let lines = Lines::start(out).unwrap();
        lines.push(b"before\n");
        let usual = panic::take_hook();
        tell_panics(lines);
        let thread = env::spawn_thread("test-broken", || panic!("what holds does not hold"));
        assert_eq!(next(&read), "before\n");
        // Other tests may panic on purpose meanwhile.
        let told = iter::repeat_with(|| next(&read)).find(|told| told.contains("test-broken"));
        panic::set_hook(usual);
        assert!(thread.unwrap().join().is_err());
        let told = told.unwrap();
        for part in ["\nthread 'test-broken' panicked at src/observe/log.rs:", "does not hold\n"] {
            assert!(told.contains(part), "no `{part}` in {told}");
        }
        assert!(told.contains("backtrace"), "{told}");
    }

    #[test]
    fn levels_become_directives() {
        let level = |module: &str, level| LogLevel { module: module.into(), level };
        let levels = [
            level("", Some(Level::INFO)),
            level("tiers::nvme", Some(Level::DEBUG)),
            level("cli", None),
        ];
        let text = filter(&levels).to_string();
        for part in ["warn", "terrace=info", "terrace::tiers::nvme=debug", "terrace::cli=off"] {
            assert!(text.split(',').any(|found| found == part), "no `{part}` in {text}");
        }
    }
}
