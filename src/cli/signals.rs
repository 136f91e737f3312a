//! The signals that ask a command to end, so that it puts away what it made, and one that would end it
//! without a word.

use std::fs;
use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::env::Stopwatch;

/// Who asks again after less means the first time: a terminal that goes, and who ends a group of processes,
/// send twice.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// What asks for the end: SIGTERM, SIGINT, and SIGHUP, which comes when the terminal goes.
pub struct Signals {
    term: Signal,
    interrupt: Signal,
    /// None where whoever started this had it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on they end nothing by themselves. Must be called on a runtime.
    ///
    /// # Errors
    /// The machine's.
    pub fn catch() -> io::Result<Self> {
        let is_ignored =
            fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status));
        let hangup = (!is_ignored).then(|| signal(SignalKind::hangup())).transpose()?;
        let term = signal(SignalKind::terminate())?;
        Ok(Self { term, interrupt: signal(SignalKind::interrupt())?, hangup })
    }

    /// Waits for the next one; its name.
    pub async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }

    /// Waits, after the first one, for somebody who does not want to wait any more; its name.
    pub async fn again(&mut self) -> &'static str {
        let first = Stopwatch::start();
        loop {
            let name = self.next().await;
            if name != "SIGHUP" && first.elapsed() >= ASKED_AGAIN {
                return name;
            }
        }
    }
}

/// A write past the longest file that is allowed (`ulimit -f`) fails from now on like any other; by default
/// it ends the process.
pub fn fail_long_writes() {
    // SAFETY: a signal that is ignored runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// By what the kernel says of a process: signals that it ignores are a mask, the first signal its lowest bit.
///
/// Source: proc(5), `/proc/PID/status`, `SigIgn`; signal(7), SIGHUP is 1.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_is_ignored_is_seen() {
        let status = |mask: &str| {
            format!("Name:\tterrace\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0\n")
        };
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup("Name:\tterrace\n"));
    }
}
