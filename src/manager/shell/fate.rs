//! Whether the manager has ended by a defect: for those who end the daemon then, and for those who answer
//! whoever asks it.

use std::future::pending;

use tokio::sync::watch;

use crate::manager::api::Refusal;

/// Seen from outside the manager's thread.
#[derive(Clone)]
pub(super) struct Fate(watch::Receiver<bool>);

/// Kept by the manager's thread while it runs: dropped by a panic, it tells that.
pub(super) struct Running(watch::Sender<bool>);

/// Both ends of it.
pub(super) fn fate() -> (Running, Fate) {
    let (running, fate) = watch::channel(false);
    (Running(running), Fate(fate))
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the manager ended by a defect: the panic before this line says which");
            self.0.send_replace(true);
        }
    }
}

impl Fate {
    /// Waits for the defect; for ever where there is none.
    pub async fn failed(mut self) {
        if self.0.wait_for(|failed| *failed).await.is_err() {
            pending::<()>().await;
        }
    }

    /// What is said to whoever asks a manager that is gone.
    pub fn refusal(&self) -> Refusal {
        let why = if *self.0.borrow() {
            "the daemon's manager has ended by a defect: see the daemon's log, and connect again when \
             it has been started anew"
        } else {
            "the daemon is stopping: connect again when it is back"
        };
        Refusal::Precondition(why.into())
    }
}
