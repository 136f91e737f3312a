//! Reads frames out of packs: those that lie together by one request.
//!
//! Whatever comes is verified, gets the record that counts now, and is not served if it was erased
//! meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;

use super::index::Found;
use super::{Packs, key_of, not_missing, same_for_all};
use crate::env;
use crate::tiers::frame;
use crate::tiers::object::blobs::Piece;
use crate::tiers::store::{FrameSpan, StoreError, StoreOp};
use crate::tiers::ticket::Ticket;

/// How long the first of several waits for its neighbours.
const GATHER: Duration = Duration::from_millis(1);

/// What one request fetches at most, and what it may fetch in vain between two frames.
const RUN_BYTES: u64 = 4 << 20;
const GAP_BYTES: u64 = 64 << 10;

/// How often a frame is looked for anew that was moved while it was read.
const TRIES: u8 = 3;

/// A frame to read, and where it lies.
struct Wanted {
    ticket: Ticket,
    into: FrameSpan,
    found: Found,
    tries_left: u8,
}

impl Wanted {
    fn piece(&self) -> Piece {
        let into = FrameSpan { bytes: self.found.bytes, ..self.into };
        Piece { at: self.found.at, into }
    }
}

pub(super) async fn serve(packs: Arc<Packs>, mut queue: Receiver<Ticket>) {
    while let Some(first) = queue.recv().await {
        sleep(GATHER).await;
        let mut tickets = vec![first];
        while let Ok(next) = queue.try_recv() {
            tickets.push(next);
        }
        packs.read_all(tickets.into_iter().map(|ticket| (ticket, TRIES)));
    }
}

impl Packs {
    /// Reads a block that no pack is known to have: another node may have packed it just now.
    pub(super) fn read_single(packs: &Arc<Self>, ticket: Ticket) {
        let this = Arc::clone(packs);
        packs.inner.submit(
            ticket.op,
            Box::new(move |result| match result {
                Err(StoreError::Missing(why)) => {
                    let runtime = this.runtime.clone();
                    env::spawn_task_on(&runtime, async move { this.read_late(ticket, why).await });
                }
                result => ticket.finish(result),
            }),
        );
    }

    async fn read_late(self: Arc<Self>, ticket: Ticket, why: String) {
        let looked = self.catch_up().await;
        if self.find(key_of(&ticket.op)).is_none() {
            return ticket.finish(Err(not_missing(StoreError::Missing(why), looked)));
        }
        self.read_all([(ticket, TRIES)]);
    }

    /// Starts the requests for these; what no pack has any more the store inside is asked for.
    fn read_all(self: &Arc<Self>, tickets: impl IntoIterator<Item = (Ticket, u8)>) {
        let mut wanted = Vec::new();
        for (ticket, tries_left) in tickets {
            let StoreOp::Read { key, frame, .. } = ticket.op else { continue };
            match self.find(key) {
                None => self.hand_on(ticket),
                // It moves faster than it can be read, and is there.
                Some(_) if tries_left == 0 => ticket.finish(Err(StoreError::Busy)),
                Some(found) => match self.check(frame, &found) {
                    Err(error) => ticket.finish(Err(error)),
                    Ok(()) => wanted.push(Wanted { ticket, into: frame, found, tries_left }),
                },
            }
        }
        for run in runs(wanted) {
            let this = Arc::clone(self);
            env::spawn_task_on(&self.runtime, async move { this.read_run(run).await });
        }
    }

    fn check(&self, frame: FrameSpan, found: &Found) -> Result<(), StoreError> {
        if !self.arena.contains(frame) {
            let what = format!("{frame:?} is no frame of the arena");
            return Err(StoreError::Io { what, source: std::io::ErrorKind::InvalidInput.into() });
        }
        if found.bytes > frame.bytes {
            let what =
                format!("{}'s frame has {} bytes, not {}", found.pack, found.bytes, frame.bytes);
            return Err(StoreError::Corrupt(what));
        }
        Ok(())
    }

    async fn read_run(self: Arc<Self>, run: Vec<Wanted>) {
        let pack = run[0].found.pack;
        let name = pack.to_string();
        let pieces: Vec<Piece> = run.iter().map(Wanted::piece).collect();
        // Whether others erased something meanwhile is asked at once.
        let (fetched, looked) = join(self.blobs.fetch(&name, &pieces), self.catch_up()).await;
        match looked.or_else(|error| self.bear(error)).and(fetched) {
            Ok(()) => self.serve_run(run).await,
            Err(StoreError::Missing(_)) => self.read_again(run).await,
            // One that is cut short does not cost those before it.
            Err(StoreError::Corrupt(_)) if run.len() > 1 => self.read_each(run),
            Err(error) => answer_all(run, &error),
        }
    }

    fn read_each(self: &Arc<Self>, run: Vec<Wanted>) {
        for one in run {
            let this = Arc::clone(self);
            env::spawn_task_on(&self.runtime, async move { this.read_alone(one).await });
        }
    }

    async fn read_alone(self: Arc<Self>, one: Wanted) {
        let fetched = self.blobs.fetch(&one.found.pack.to_string(), &[one.piece()]).await;
        match fetched {
            Ok(()) => self.serve_run(vec![one]).await,
            Err(StoreError::Missing(_)) => self.read_again(vec![one]).await,
            Err(error) => one.ticket.finish(Err(error)),
        }
    }

    /// The pack is gone: what lived in it was moved before.
    async fn read_again(self: Arc<Self>, run: Vec<Wanted>) {
        let pack = run[0].found.pack;
        if let Err(error) = self.note_gone(&pack).await {
            // Where they were moved to is not known; they need not be missing.
            return answer_all(run, &error);
        }
        let (known, lost): (Vec<Wanted>, Vec<Wanted>) =
            run.into_iter().partition(|one| self.find(key_of(&one.ticket.op)).is_some());
        for one in lost {
            self.hand_on_from(pack, one.ticket);
        }
        self.read_all(known.into_iter().map(|one| (one.ticket, one.tries_left - 1)));
    }

    /// Checks what was read, away from the threads that serve the sockets.
    async fn serve_run(self: Arc<Self>, run: Vec<Wanted>) {
        let runtime = self.runtime.clone();
        let check = move || {
            for one in run {
                let result = self.finish(&one);
                one.ticket.finish(result);
            }
        };
        // A check that did not end has dropped its tickets, which answers.
        let _ = env::spawn_blocking_on(&runtime, check).await;
    }

    fn finish(&self, one: &Wanted) -> Result<(), StoreError> {
        let key = key_of(&one.ticket.op);
        let now = self.with(|index| index.all(key)).into_iter().find(|now| now.id == one.found.id);
        let Some(now) = now else {
            return Err(StoreError::Missing(format!("{key} was erased while it was read")));
        };
        // SAFETY: the operation owns the span until it is done, and all of it was read.
        let bytes = unsafe { self.arena.bytes_mut(one.piece().into) };
        let header = frame::verify(bytes, key).map_err(|error| match error {
            // Something is there, so it is not the block that is missing.
            StoreError::Missing(why) | StoreError::Corrupt(why) => {
                StoreError::Corrupt(format!("{}: {why}", one.found.pack))
            }
            error => error,
        })?;
        if header.meta.record != now.header.meta.record {
            frame::restamp(bytes, key, &now.header.meta.record)?;
        }
        Ok(())
    }
}

fn answer_all(run: Vec<Wanted>, error: &StoreError) {
    for one in run {
        one.ticket.finish(Err(same_for_all(error)));
    }
}

/// Frames of one pack that lie close together, in order.
fn runs(mut wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    wanted.sort_by_key(|one| (one.found.pack, one.found.at));
    let mut runs: Vec<Vec<Wanted>> = Vec::new();
    for one in wanted {
        match runs.last_mut().filter(|run| continues(run, &one)) {
            Some(run) => run.push(one),
            None => runs.push(vec![one]),
        }
    }
    runs
}

fn continues(run: &[Wanted], one: &Wanted) -> bool {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return false };
    let end = last.piece().end();
    last.found.pack == one.found.pack
        && (end..=end + GAP_BYTES).contains(&one.found.at)
        && one.piece().end() - first.found.at <= RUN_BYTES
}
