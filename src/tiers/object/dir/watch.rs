//! Whether the folder is there: looked at now and then, so that one that was taken away is known to be
//! before anybody needs it, and until it is back.
//!
//! Only looks, and writes a word to one that was out. Never makes the folder anew: an empty mount point
//! is not the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fs, io};

use tokio::runtime::Handle;

use super::super::guard::Way;
use super::Folder;
use crate::env;
use crate::tiers::health::Refuses;
use crate::tiers::store::StoreError;

/// How often a folder that is well is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A look that takes longer says that the folder is out: the server of a share is silent.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Watches the folder for as long as anybody has it.
pub(super) fn keep_watch(folder: &Arc<Folder>, runtime: &Handle) {
    let (here, on) = (Arc::downgrade(folder), runtime.clone());
    folder.guard.keep_probing(runtime, move || {
        let (folder, on) = (here.upgrade()?, on.clone());
        Some(async move { away(&on, move || folder.try_out()).await })
    });
    let (here, on) = (Arc::downgrade(folder), runtime.clone());
    env::spawn_task_on(runtime, async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(folder) = here.upgrade() else { return };
            let guard = Arc::clone(&folder.guard);
            let health = guard.health();
            if health.refuses().reads {
                // It is asked already.
                continue;
            }
            let writes_are_out = health.is_out();
            let look = move || if writes_are_out { folder.try_out() } else { folder.look() };
            let lost = unless_silent(LOOK_MAX, away(&on, look)).await;
            if let Err(StoreError::TierLost(_)) = lost {
                for way in [Way::Read, Way::Write] {
                    guard.heard(way, &lost);
                }
            }
        }
    });
}

/// What comes of a look, or that nothing came. The look itself goes on: nobody can end it.
async fn unless_silent(
    patience: Duration,
    look: impl Future<Output = Result<(), StoreError>>,
) -> Result<(), StoreError> {
    let looked = tokio::time::timeout(patience, look).await;
    looked.unwrap_or_else(|_| {
        let silence = patience.as_secs();
        let why = format!("its file system has been silent for {silence} s: see to its server");
        Err(StoreError::TierLost(why))
    })
}

/// Away from the threads that serve the sockets: a share whose server is silent takes its time.
async fn away(
    on: &Handle,
    ask: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
) -> Result<(), StoreError> {
    env::spawn_blocking_on(on, ask).await.unwrap_or(Err(StoreError::Busy))
}

impl Folder {
    /// Whether the folder is the store's.
    fn look(&self) -> Result<(), StoreError> {
        let found = fs::metadata(self.unfinished());
        found.map(drop).map_err(self.failed("look into", &self.root))
    }

    /// Whether one that was out is back. One that was gone, or could only be read, takes writes as before
    /// when it takes a word; where writes failed otherwise, that says nothing: a full disk has room for a
    /// word, and not for frames.
    fn try_out(&self) -> Result<(), StoreError> {
        self.look()?;
        let was_gone = self.guard.health().refuses() == Refuses::ALL;
        let was_read_only = self.was_read_only.load(Ordering::Relaxed);
        if (was_gone || was_read_only) && self.try_write().is_ok() {
            self.was_read_only.store(false, Ordering::Relaxed);
            self.guard.heard::<()>(Way::Write, &Ok(()));
        }
        Ok(())
    }
}

/// What an error says of the whole folder, and what to do; nothing if it may be about one object.
pub(super) fn lost(kind: io::ErrorKind, is_there: impl Fn() -> bool) -> Option<&'static str> {
    match kind {
        // An empty mount point has no objects either, but that is not their end.
        io::ErrorKind::NotFound if !is_there() => {
            Some("the store's folder is gone: mount it, or put it back where it was")
        }
        io::ErrorKind::PermissionDenied if !is_there() => {
            Some("the store's folder can't be entered: give it back to the daemon's user")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("its file system can only be read: mount it for writing")
        }
        io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::NotConnected => {
            Some("its file system is gone: mount it again")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_that_does_not_end_says_that_the_folder_is_out() {
        let silent = unless_silent(Duration::from_millis(1), std::future::pending());
        assert!(matches!(silent.await, Err(StoreError::TierLost(why)) if why.contains("server")));
        let there = unless_silent(LOOK_MAX, std::future::ready(Ok(())));
        assert!(there.await.is_ok());
    }

    #[test]
    fn what_takes_the_whole_folder_is_told_from_what_befalls_one_object() {
        use io::ErrorKind as Kind;
        let check = |kind, is_there, words: Option<&str>| {
            let why = lost(kind, || is_there);
            assert_eq!(why.is_some(), words.is_some(), "{kind:?}");
            assert!(why.unwrap_or_default().contains(words.unwrap_or_default()), "{why:?}");
        };
        check(Kind::NotFound, true, None);
        check(Kind::NotFound, false, Some("mount it"));
        check(Kind::PermissionDenied, true, None);
        check(Kind::PermissionDenied, false, Some("give it back"));
        check(Kind::ReadOnlyFilesystem, true, Some("mount it for writing"));
        check(Kind::StaleNetworkFileHandle, true, Some("mount it again"));
        check(Kind::StorageFull, true, None);
    }
}
