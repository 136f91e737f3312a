//! The clients of a simulated node: engines that look up, load and store chains of blocks, and
//! that die, err and come back.

mod requests;

use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::hint::Outcome;
use crate::domain::retention::Directives;
use crate::manager::api::{
    ClientId, Command, Completion, Event, Labels, LeaseId, NamespaceId, OpId, PoolId, Refusal,
    Reply, RequestId,
};

use super::asks;
use super::machine::{Checked, NamespaceFacts};
use super::world::{Core, Subject};
use requests::{Job, end_reading};

/// One client, or the place of one that is yet to come.
#[derive(Default)]
pub(super) struct Actor {
    joined: Option<Joined>,
    requests: u64,
}

struct Joined {
    id: ClientId,
    namespace: usize,
    /// One pool a rank.
    pools: Vec<PoolId>,
    /// A chain that it has the shared store asked for, before it looks it up.
    asking: Option<(RequestId, Vec<Key>)>,
    job: Option<Job>,
}

impl Actor {
    pub(super) fn is(&self, client: ClientId) -> bool {
        self.joined.as_ref().is_some_and(|joined| joined.id == client)
    }

    /// The client dies, or leaves.
    pub(super) fn go<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
        let Some(joined) = self.joined.take() else { return Ok(()) };
        core.checker.client_gone(joined.id);
        end_reading(core, joined.job.as_ref())?;
        core.told.retain(|(client, _)| *client != joined.id);
        core.tell(Event::ClientGone { client: joined.id })
    }

    pub(super) fn completed(&mut self, completion: &Completion) {
        let job = self.joined.as_mut().and_then(|joined| joined.job.as_mut());
        if let Some(job) = job {
            job.pending.remove(&completion.op);
        }
    }

    /// The shared store has the chain that it asked for up to there.
    pub(super) fn answered<S: Subject>(&mut self, core: &mut Core<S>, end: usize) -> Checked {
        let Some(joined) = &mut self.joined else { return Ok(()) };
        match joined.asking.take() {
            Some((request, keys)) => joined.look_up(core, request, &keys, end),
            None => Ok(()),
        }
    }

    /// Does the next thing.
    pub(super) fn wake<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
        if self.joined.is_some() && core.faults.client_dies() {
            return self.go(core);
        }
        let Some(joined) = &mut self.joined else { return self.join(core) };
        if core.faults.client_errs() {
            return joined.err(core);
        }
        match &joined.job {
            Some(job) if job.planned.is_some() => {
                if core.draw.percent(50) {
                    joined.hint(core)
                } else {
                    joined.act(core)
                }
            }
            Some(job) if !job.pending.is_empty() => joined.hint(core),
            Some(_) => joined.finish(core),
            None if joined.asking.is_some() => joined.hint(core),
            None => {
                self.requests += 1;
                joined.begin(core, RequestId(self.requests))
            }
        }
    }

    fn join<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
        core.clients += 1;
        let id = ClientId(core.clients);
        let index = core.draw.index(core.scenario.namespaces.len());
        let namespace = core.scenario.namespaces[index].clone();
        let facts = NamespaceFacts::of(&namespace);
        let number = match core.ask(id, Command::hello(namespace))? {
            Reply::Hello { namespace, frame_bytes }
                if frame_bytes > facts.payload_bytes && namespace < NamespaceId(1000) =>
            {
                namespace
            }
            other => return Err(format!("Hello was answered by {other:?}")),
        };
        core.machine.know_namespace(number, facts);
        let (pools, asking, job) = (Vec::new(), None, None);
        let mut joined = Joined { id, namespace: index, pools, asking, job };
        for shard in 0..facts.shard_count {
            joined.add_pool(core, shard)?;
        }
        self.joined = Some(joined);
        Ok(())
    }
}

impl Joined {
    fn add_pool<S: Subject>(&mut self, core: &mut Core<S>, shard: u32) -> Checked {
        let slots = core.scenario.chain_max;
        let has_events = core.faults.has_events();
        match core.ask(self.id, Command::RegisterPool { shard, slots, has_events })? {
            Reply::Pool { pool } => {
                core.machine.add_pool(pool, (self.id, has_events), shard, slots);
                self.pools.push(pool);
                Ok(())
            }
            other => Err(format!("RegisterPool was answered by {other:?}")),
        }
    }

    /// Says something beside its requests.
    fn hint<S: Subject>(&self, core: &mut Core<S>) -> Checked {
        let keys = core.scenario.chain(self.namespace, &mut core.draw);
        let may_forget = may_forget(core);
        let actions: Vec<_> = (0..core.draw.below(4))
            .map(|_| asks::action(&mut core.draw, &keys, may_forget))
            .collect();
        let asked = actions.len();
        match core.ask(self.id, Command::Hint { actions })? {
            Reply::Hint { outcomes } if outcomes.len() == asked => {
                let lifts = outcomes.iter().filter_map(|outcome| match outcome {
                    Outcome::Lifting { operation, blocks, clipped, .. } => {
                        Some((OpId(*operation), blocks + clipped))
                    }
                    _ => None,
                });
                lifts
                    .into_iter()
                    .try_for_each(|(op, blocks)| core.checker.lift_begun(op, self.id, blocks))
            }
            other => Err(format!("{asked} hints were answered by {other:?}")),
        }
    }

    /// Asks for something that makes no sense, or that nobody should ask for now.
    fn err<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
        let (request, timeout) = (RequestId(u64::MAX), Duration::ZERO);
        let key = Key([7; Key::BYTES]);
        let pool = self.pools[0];
        let out_of_range = core.scenario.chain_max;
        let namespace = core.scenario.namespaces[self.namespace].clone();
        let (keys, slots) = (vec![key], vec![out_of_range]);
        let nonsense = match core.faults.any() % 8 {
            0 => Command::hello(namespace),
            1 => Command::RegisterPool { shard: 99, slots: 1, has_events: false },
            2 => Command::UnregisterPool { pool: PoolId(u64::MAX) },
            3 => Command::Store {
                request,
                session: None,
                directives: Directives::default(),
                parent: None,
                keys,
                labels: Labels::default(),
                pool,
                slots,
                durable: true,
            },
            4 => Command::Load { request, keys, pool, slots, timeout },
            5 => Command::Load { request, keys, pool, slots: Vec::new(), timeout },
            6 => Command::ReleaseLease { lease: LeaseId(u64::MAX) },
            _ => return self.swap_pools(core),
        };
        let said = format!("{nonsense:?}");
        match core.ask(self.id, nonsense)? {
            Reply::Refused(Refusal::Busy { .. }) => Err(format!("{said} is told to try again")),
            Reply::Refused(_) => Ok(()),
            other => Err(format!("{said} was answered by {other:?}")),
        }
    }

    /// Gives its pools back in the middle of work and registers new ones.
    fn swap_pools<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
        for pool in std::mem::take(&mut self.pools) {
            let reply = core.ask(self.id, Command::UnregisterPool { pool })?;
            if reply != Reply::Ok {
                return Err(format!("UnregisterPool was answered by {reply:?}"));
            }
        }
        let shard_count = core.scenario.namespaces[self.namespace].shard_count;
        (0..shard_count).try_for_each(|shard| self.add_pool(core, shard))
    }
}

/// Whether clients may ask for what lets blocks go that a faultless run must find.
fn may_forget<S: Subject>(core: &Core<S>) -> bool {
    !core.scenario.is_faultless
}
