//! Brings each completion to the operation it ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::env;

use super::convert::CompletionSource;
use super::{Completion, OpId, OpKind};

/// Completions kept that came before the answer naming their operation; the oldest go first, those
/// of calls that were given up. As many ends of lifts are kept beside them: most lifts are never
/// waited for, and must not push out the ends of stores and loads.
const EARLY_MAX: usize = 1024;

/// A store, load or lift under way; [`super::Client::wait`] says how it ended. Dropping it forgets it.
#[derive(Debug)]
pub struct Op {
    id: OpId,
    pub(super) ended: oneshot::Receiver<Completion>,
}

impl Op {
    #[must_use]
    pub fn id(&self) -> OpId {
        self.id
    }
}

/// Who waits for what, and what came before anybody could.
#[derive(Default)]
pub(super) struct Completions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<OpId, oneshot::Sender<Completion>>,
    early: VecDeque<Completion>,
    early_lifts: VecDeque<Completion>,
    /// Nothing will come any more.
    over: bool,
}

impl Completions {
    /// The operation `op`, which the daemon has just named.
    pub(super) fn expect(&self, op: OpId) -> Op {
        let (waiting, ended) = oneshot::channel();
        let mut state = self.state();
        let early = state.take_early(op);
        if let Some(completion) = early {
            let delivered = waiting.send(completion);
            debug_assert!(delivered.is_ok(), "the receiver is in this function");
        } else if !state.over {
            state.waiting.insert(op, waiting);
        }
        Op { id: op, ended }
    }

    pub(super) fn arrived(&self, completion: Completion) {
        let mut state = self.state();
        if let Some(waiting) = state.waiting.remove(&completion.op) {
            // Nobody waits any more: the operation was dropped, and so is its end.
            let _ = waiting.send(completion);
            return;
        }
        let early = match completion.kind {
            OpKind::Store | OpKind::Load => &mut state.early,
            OpKind::Prefetch => &mut state.early_lifts,
        };
        if early.len() >= EARLY_MAX {
            early.pop_front();
        }
        early.push_back(completion);
    }

    /// The stream ended: whoever waits hears it.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.over = true;
        state.waiting.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_early(&mut self, op: OpId) -> Option<Completion> {
        [&mut self.early, &mut self.early_lifts].into_iter().find_map(|early| {
            let place = early.iter().position(|completion| completion.op == op)?;
            early.remove(place)
        })
    }
}

/// Reads the stream until it ends, or until this is dropped.
pub(super) struct Listener(JoinHandle<()>);

impl Listener {
    pub(super) fn start(completions: Arc<Completions>, mut source: CompletionSource) -> Self {
        Self(env::spawn_task(async move {
            while let Some(batch) = source.next().await {
                for completion in batch {
                    completions.arrived(completion);
                }
            }
            completions.close();
        }))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::RequestId;

    fn completion(op: u64) -> Completion {
        let (op, request) = (OpId(op), RequestId(1));
        Completion {
            op,
            request,
            kind: OpKind::Load,
            blocks: 1,
            failed: Vec::new(),
            not_durable: Vec::new(),
        }
    }

    #[tokio::test]
    async fn early_late_forgotten_and_lost_ends() {
        let completions = Completions::default();
        completions.arrived(completion(1));
        assert_eq!(completions.expect(OpId(1)).ended.await.unwrap(), completion(1));

        let late = completions.expect(OpId(2));
        completions.arrived(completion(2));
        assert_eq!(late.ended.await.unwrap(), completion(2));

        drop(completions.expect(OpId(3)));
        completions.arrived(completion(3));
        assert!(completions.state().waiting.is_empty() && completions.state().early.is_empty());

        let lost = completions.expect(OpId(4));
        completions.arrived(completion(5));
        completions.close();
        assert!(lost.ended.await.is_err());
        assert!(completions.expect(OpId(6)).ended.await.is_err());
        assert_eq!(completions.expect(OpId(5)).ended.await.unwrap(), completion(5));
    }

    #[test]
    fn early_ends_are_bounded_and_the_oldest_go() {
        let completions = Completions::default();
        for op in 0..=EARLY_MAX as u64 {
            completions.arrived(completion(op));
        }
        let state = completions.state();
        assert_eq!(state.early.len(), EARLY_MAX);
        assert_eq!(state.early.front().map(|completion| completion.op), Some(OpId(1)));
    }

    #[tokio::test]
    async fn ends_of_lifts_push_out_only_one_another() {
        let completions = Completions::default();
        completions.arrived(completion(1));
        let lift = |op| Completion { kind: OpKind::Prefetch, ..completion(op) };
        for op in 10..=10 + EARLY_MAX as u64 {
            completions.arrived(lift(op));
        }
        assert_eq!(completions.expect(OpId(11)).ended.await.unwrap(), lift(11));
        assert_eq!(completions.expect(OpId(1)).ended.await.unwrap(), completion(1));
        assert_eq!(completions.state().early_lifts.len(), EARLY_MAX - 1);
        let _oldest = completions.expect(OpId(10));
        assert!(completions.state().waiting.contains_key(&OpId(10)), "its end went first");
    }
}
