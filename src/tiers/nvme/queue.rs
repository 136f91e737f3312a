//! The way to an engine's threads: a bounded queue, and a bell for a thread that waits in the
//! kernel.
//!
//! Never full: it holds as many tickets as the gate lets in.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use crate::tiers::ticket::Ticket;

/// Wakes a thread that waits on a ring: an eventfd. One that was rung and not yet heard is not rung
/// again: a transfer pushes a hundred operations, and each ring would be a call of the kernel.
///
/// None is lost. Who rings has put something into the queue before, and who hears looks into the queue
/// after. Both swap the flag: if the ringer's comes first and finds the bell rung, the hearer's comes
/// after it and what was put there is seen; if it comes second, it finds the bell silent and rings it.
#[derive(Clone, Debug)]
pub struct Bell {
    file: Arc<File>,
    is_rung: Arc<AtomicBool>,
}

impl Bell {
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us alone.
        let file = Arc::new(unsafe { File::from_raw_fd(raw) });
        Ok(Self { file, is_rung: Arc::default() })
    }

    /// To be called after what it tells of is in the queue.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // Refused only when it has been rung 2^64 - 1 times unheard: then it is heard anyway.
            let _ = rustix::io::write(&*self.file, &1u64.to_ne_bytes());
        }
    }

    /// Silences the bell. To be called before the queue is looked into.
    pub fn hush(&self) {
        // In this order: a ring between the two would be silenced and still count as rung.
        let _ = rustix::io::read(&*self.file, &mut [0; 8]);
        self.is_rung.swap(false, Ordering::AcqRel);
    }

    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// The sending end. The engine ends once every sending end is gone and its queue is empty.
#[derive(Clone)]
pub struct Queue {
    sender: Option<Sender<Ticket>>,
    bell: Option<Bell>,
}

impl Queue {
    #[must_use]
    pub fn new(ops_max: usize, bell: Option<Bell>) -> (Self, Receiver<Ticket>) {
        let (sender, receiver) = crossbeam_channel::bounded(ops_max);
        (Self { sender: Some(sender), bell }, receiver)
    }

    /// Hands the ticket over; when the engine is gone the ticket is dropped, which answers it.
    pub fn push(&self, ticket: Ticket) {
        if let Some(sender) = &self.sender {
            let _ = sender.try_send(ticket);
        }
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // First the end, then the bell: the thread that hears it must find the end.
        self.sender = None;
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// How often the bell was rung since it was last heard.
    fn rings(bell: &Bell) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(bell.file(), &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn a_bell_that_nobody_heard_yet_is_not_rung_again() {
        let bell = Bell::new().unwrap();
        (0..3).for_each(|_| bell.ring());
        assert_eq!(rings(&bell), 1);
        bell.hush();
        bell.ring();
        assert_eq!(rings(&bell), 1);
    }

    #[test]
    fn whatever_was_pushed_is_heard_of() {
        const PUSHED: usize = 20_000;
        let bell = Bell::new().unwrap();
        let (sender, queue) = crossbeam_channel::bounded(64);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..PUSHED {
                        sender.send(()).unwrap();
                        bell.ring();
                    }
                });
            }
            let mut heard = 0;
            while heard < 2 * PUSHED {
                let mut watched = libc::pollfd {
                    fd: std::os::fd::AsRawFd::as_raw_fd(bell.file()),
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one entry, which outlives the call.
                let came = unsafe { libc::poll(&raw mut watched, 1, 10_000) };
                assert_eq!(came, 1, "{heard} of {} heard of, and no bell", 2 * PUSHED);
                bell.hush();
                heard += queue.try_iter().count();
            }
        });
    }
}
