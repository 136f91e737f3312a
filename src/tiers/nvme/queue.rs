//! The way to an engine's threads: a bounded queue, and a bell for a thread that waits in the
//! kernel.
//!
//! Never full: it holds as many tickets as the gate lets in.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::tiers::ticket::Ticket;

/// Wakes a thread that waits on a ring: an eventfd.
#[derive(Clone, Debug)]
pub struct Bell(Arc<File>);

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
        Ok(Self(Arc::new(unsafe { File::from_raw_fd(raw) })))
    }

    pub fn ring(&self) {
        // Refused only when it has been rung 2^64 - 1 times unheard: then it is heard anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Silences the bell.
    pub fn hush(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }

    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
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
