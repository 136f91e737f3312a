//! Lines on their way to stderr, written by a thread of their own: who logs never waits for who reads, since a
//! pipe that nobody reads would hold up the daemon.
//!
//! Bounded: what finds no room is dropped and counted, and how much that was is logged in its place.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env;

/// What may wait while nobody reads; as much again is in the writer's hands.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Before the next try to write where stderr takes nothing for now and does not wait.
const WRITE_PAUSE: Duration = Duration::from_millis(10);

/// Lines that wait to be written. What is handed over at once is written at once.
#[derive(Debug)]
pub(super) struct Lines {
    state: Mutex<State>,
    changed: Condvar,
    waiting_bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Vec<u8>>,
    waiting_bytes: usize,
    /// After all that waits.
    dropped: u64,
    /// Lines that found room, ever, and how many of them are written.
    taken: u64,
    written: u64,
}

impl Lines {
    fn new(waiting_bytes_max: usize) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { state, changed, waiting_bytes_max })
    }

    /// Lines that a thread writes to `out` from now on.
    ///
    /// # Errors
    /// The machine refused the thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let lines = Self::new(WAITING_BYTES_MAX);
        let written = Arc::clone(&lines);
        env::spawn_thread("terrace-log", move || written.write_all_to(out))?;
        Ok(lines)
    }

    /// Takes the line, or drops it where there is no room: after one that was dropped there is none until the
    /// writer has come, so that all that is missing is missing in one place.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        let bytes = state.waiting_bytes + line.len();
        if state.dropped > 0 || bytes > self.waiting_bytes_max {
            state.dropped += 1;
            return;
        }
        state.waiting.push(line.to_owned());
        state.waiting_bytes = bytes;
        state.taken += 1;
        self.changed.notify_all();
    }

    /// Waits until all that was taken before is written, or the patience is over; whether it is written.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let state = self.lock();
        let taken = state.taken;
        let waited = self.changed.wait_timeout_while(state, patience, |now| now.written < taken);
        waited.unwrap_or_else(PoisonError::into_inner).0.written >= taken
    }

    /// Without end.
    fn write_all_to(&self, mut out: impl Write) {
        loop {
            let (lines, dropped) = self.wait();
            if dropped > 0 {
                // Of the highest level: what is missing may have been of it.
                tracing::error!(
                    lines = dropped,
                    "the log was not read for a while: lines are missing here"
                );
            }
            for line in &lines {
                write_line(&mut out, line);
            }
            self.lock().written += lines.len() as u64;
            self.changed.notify_all();
        }
    }

    /// All that waits, once something does, and how many lines after it were dropped.
    fn wait(&self) -> (Vec<Vec<u8>>, u64) {
        let waited = self.changed.wait_while(self.lock(), |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting_bytes = 0;
        (std::mem::take(&mut state.waiting), std::mem::take(&mut state.dropped))
    }

    /// Nothing is half done in there when a thread panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// By one call where that goes, so that others who write there do not come in between. What can't be written,
/// on a full disk say, is lost: there is nobody to tell.
fn write_line(out: &mut impl Write, mut line: &[u8]) {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return,
            Ok(bytes) => line = &line[bytes..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(WRITE_PAUSE);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use tracing_subscriber::fmt;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A reader that takes a line when the test does, and not before.
    pub(in crate::observe) struct Pipe(SyncSender<Vec<u8>>);

    pub(in crate::observe) fn pipe() -> (Pipe, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(0);
        (Pipe(sender), receiver)
    }

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_owned()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(in crate::observe) fn next(read: &Receiver<Vec<u8>>) -> String {
        String::from_utf8(read.recv_timeout(LONG).unwrap()).unwrap()
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_in_its_place() {
        let lines = Lines::new(12);
        for line in ["first\n", "second and long\n", "third\n"] {
            lines.push(line.as_bytes());
        }
        let (out, read) = pipe();
        let (writer, log) = (Arc::clone(&lines), Arc::clone(&lines));
        // Its own words have room: they are longer than all that a test may leave there.
        let log = move || Wide(Arc::clone(&log));
        let subscriber = fmt().with_writer(log).with_ansi(false).finish();
        let work = move || {
            tracing::subscriber::with_default(subscriber, || writer.write_all_to(out));
        };
        env::spawn_thread("test-log", work).unwrap();
        assert_eq!(next(&read), "first\n");
        let told = next(&read);
        assert!(told.contains("ERROR") && told.contains("lines=2"), "{told}");
        assert!(lines.flush(LONG));
        lines.push(b"fourth\n");
        assert_eq!(next(&read), "fourth\n");
    }

    /// Lines that hold whatever they are given.
    struct Wide(Arc<Lines>);

    impl Write for Wide {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let mut state = self.0.lock();
            state.waiting.push(line.to_owned());
            state.taken += 1;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_does_not_read() {
        let (out, read) = pipe();
        let lines = Lines::start(out).unwrap();
        let line = [b'x'; 1 << 10];
        for _ in 0..4 * WAITING_BYTES_MAX / line.len() {
            lines.push(&line);
        }
        assert!(!lines.flush(Duration::from_millis(20)), "nobody has read");
        let held = lines.lock().waiting_bytes;
        assert!(held <= WAITING_BYTES_MAX, "{held} bytes");
        drop(read);
        assert!(lines.flush(LONG), "a pipe whose reader is gone takes nothing");
    }
}
