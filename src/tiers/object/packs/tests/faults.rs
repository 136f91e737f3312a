//! A store of objects that fails what it is told to.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::tiers::object::blobs::{Answer, Blobs, Listed, Piece};
use crate::tiers::object::refused::refused;
use crate::tiers::store::StoreError;

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Put,
    /// What is put is stored, and nobody hears of it.
    PutAnswer,
    Head,
    /// Is refused by itself, as what lies in an archive.
    HeadAlone,
    List,
    /// Nothing ever comes of it.
    ListEnd,
    Delete,
}

/// Which calls fail: those whose name has this part. Counts all that are made.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    fail: Vec<(Call, String)>,
    made: Vec<(Call, String)>,
    held: Option<(String, Arc<Semaphore>)>,
}

/// Heads that are not read as long as this is there.
pub(super) struct Held(Arc<Semaphore>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Faults {
    pub fn around(&self, blobs: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
        Arc::new(Faulty { blobs, faults: self.clone() })
    }

    pub fn fail(&self, call: Call, part: &str) {
        self.0.lock().unwrap().fail.push((call, part.to_owned()));
    }

    /// Holds up whoever reads heads of objects whose name has this part.
    pub fn hold_heads(&self, part: &str) -> Held {
        let gate = Arc::new(Semaphore::new(0));
        self.0.lock().unwrap().held = Some((part.to_owned(), Arc::clone(&gate)));
        Held(gate)
    }

    async fn wait(&self, name: &str) {
        let held = self.0.lock().unwrap().held.clone();
        if let Some((_, gate)) = held.filter(|(part, _)| name.contains(part)) {
            gate.acquire().await.expect_err("it is only ever closed");
        }
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().fail.clear();
    }

    /// How often that was asked of names with this part.
    pub fn made(&self, call: Call, part: &str) -> usize {
        let known = self.0.lock().unwrap();
        known.made.iter().filter(|(made, name)| *made == call && name.contains(part)).count()
    }

    fn check(&self, call: Call, name: &str) -> Result<(), StoreError> {
        let mut known = self.0.lock().unwrap();
        known.made.push((call, name.to_owned()));
        if known.fail.iter().any(|(fails, part)| *fails == call && name.contains(part)) {
            return Err(match call {
                Call::HeadAlone => refused("read".into(), "on purpose".into(), true),
                _ => StoreError::TierLost("on purpose".into()),
            });
        }
        Ok(())
    }
}

struct Faulty {
    blobs: Arc<dyn Blobs>,
    faults: Faults,
}

impl Blobs for Faulty {
    fn put<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        Box::pin(async move {
            self.faults.check(Call::Put, name)?;
            self.blobs.put(name, body).await?;
            self.faults.check(Call::PutAnswer, name)
        })
    }

    fn head<'a>(&'a self, name: &'a str, bytes: u64) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            self.faults.check(Call::Head, name)?;
            self.faults.check(Call::HeadAlone, name)?;
            self.faults.wait(name).await;
            self.blobs.head(name, bytes).await
        })
    }

    fn fetch<'a>(&'a self, name: &'a str, pieces: &'a [Piece]) -> Answer<'a, ()> {
        self.blobs.fetch(name, pieces)
    }

    fn list<'a>(&'a self, folder: &'a str, after: &'a str) -> Answer<'a, Vec<Listed>> {
        Box::pin(async move {
            self.faults.check(Call::List, folder)?;
            if self.faults.check(Call::ListEnd, folder).is_err() {
                std::future::pending::<()>().await;
            }
            self.blobs.list(folder, after).await
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.faults.check(Call::Delete, name)?;
            self.blobs.delete(name).await
        })
    }
}
