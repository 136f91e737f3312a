//! Threads of a store's own, or of who else has much work that blocks, and their end.
//!
//! Never detaches a thread: a store that is dropped has no thread left that touches its memory.

use std::io;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use super::ticket::Ticket;
use crate::env;

/// Threads that end by themselves once their queue is closed.
#[derive(Debug, Default)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads that run `body`.
    ///
    /// # Errors
    /// The machine refused a thread; those already started end with their queue.
    pub fn start<B>(&mut self, name: &str, count: usize, body: B) -> io::Result<()>
    where
        B: Fn() + Clone + Send + 'static,
    {
        for index in 0..count {
            let body = body.clone();
            self.threads.push(env::spawn_thread(&format!("{name}-{index}"), body)?);
        }
        Ok(())
    }

    /// Starts one thread that runs `body`.
    ///
    /// # Errors
    /// The machine refused a thread.
    pub fn start_one(
        &mut self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        self.threads.push(env::spawn_thread(name, body)?);
        Ok(())
    }

    /// Waits for the threads. Their queue must be closed before. An owner that was held last by some of
    /// its own work is dropped on one of its own threads, which can't wait for itself.
    pub fn join(&mut self) {
        let own = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != own) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(thread = name, "a thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.join();
    }
}

/// A bounded queue of work and the threads that serve it: for work that blocks. What is queued answers
/// itself when it is dropped.
pub struct Pool<T = Ticket> {
    // Dropped in this order: the threads end once the sending end is gone.
    sender: Sender<T>,
    workers: Workers,
}

impl<T: Send + 'static> Pool<T> {
    /// Starts `threads` threads that do the work with `serve`. The queue holds `queued_max`: of
    /// operations as many as the gate before it lets in.
    ///
    /// # Errors
    /// The machine refused a thread.
    pub fn start<S>(name: &str, threads: usize, queued_max: usize, serve: S) -> io::Result<Self>
    where
        S: Fn(T) + Clone + Send + 'static,
    {
        let (sender, queue) = crossbeam_channel::bounded::<T>(queued_max);
        let mut pool = Self { sender, workers: Workers::default() };
        pool.workers.start(name, threads.max(1), move || queue.iter().for_each(&serve))?;
        Ok(pool)
    }

    /// Hands the work over; what can't be is dropped, which answers it.
    pub fn push(&self, work: T) {
        drop(self.sender.try_send(work));
    }
}
