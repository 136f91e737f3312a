//! The clients of a simulated node: engines that look up, load and store chains of blocks, and
//! that die, err and come back.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::block::{HashTail, Key};
use crate::domain::hint::Outcome;
use crate::domain::retention::Directives;
use crate::domain::units::Time;
use crate::manager::api::{
    ClientId, Command, Completion, Event, Labels, LeaseId, LentBlock, NamespaceId, OpId, OpKind,
    PoolId, Refusal, Reply, RequestId,
};
use crate::tiers::store::Place;

use super::asks;
use super::checker::Asked;
use super::machine::{Checked, NamespaceFacts};
use super::world::{Core, Subject};

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
    job: Option<Job>,
}

/// A request under way: over when all its operations have completed.
struct Job {
    request: RequestId,
    lease: Option<(LeaseId, Time)>,
    pending: BTreeSet<OpId>,
    /// Blocks of HBM that it reads where they lie.
    lent: Vec<(Key, Place)>,
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
            Some(job) if !job.pending.is_empty() => joined.hint(core),
            Some(_) => joined.finish(core),
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
        let facts = NamespaceFacts {
            digest: namespace.digest(),
            payload_bytes: namespace.payload_bytes(),
            shard_count: namespace.shard_count,
        };
        let number = match core.ask(id, Command::hello(namespace))? {
            Reply::Hello { namespace, frame_bytes }
                if frame_bytes > facts.payload_bytes && namespace < NamespaceId(1000) =>
            {
                namespace
            }
            other => return Err(format!("Hello was answered by {other:?}")),
        };
        core.machine.know_namespace(number, facts);
        let mut joined = Joined { id, namespace: index, pools: Vec::new(), job: None };
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
                core.machine.add_pool(pool, shard, slots);
                self.pools.push(pool);
                Ok(())
            }
            other => Err(format!("RegisterPool was answered by {other:?}")),
        }
    }

    /// Looks a chain up, loads what is found and stores the rest, for every rank.
    fn begin<S: Subject>(&mut self, core: &mut Core<S>, request: RequestId) -> Checked {
        let keys = core.scenario.chain(self.namespace, &mut core.draw);
        let session = asks::session(&mut core.draw);
        let ask_shared = Duration::ZERO;
        let lookup = Command::Lookup {
            request,
            session,
            keys: keys.clone(),
            ask_shared,
            queued: core.draw.percent(20),
        };
        let (hits, lease) = match core.ask(self.id, lookup)? {
            Reply::Lookup { runs, lease, lease_expires, plan: _ } => {
                let hits: usize = runs.iter().map(|run| run.blocks as usize).sum();
                let sound = hits <= keys.len()
                    && runs.iter().all(|run| run.blocks > 0)
                    && runs.windows(2).all(|pair| pair[0].tier != pair[1].tier)
                    && lease.is_some() == (hits > 0)
                    && runs.iter().all(|run| core.is_read(run.tier));
                if !sound {
                    return Err(format!("{runs:?} with {lease:?} answers {} keys", keys.len()));
                }
                (hits, lease.map(|lease| (lease, lease_expires)))
            }
            Reply::Refused(Refusal::Busy { .. }) => return Ok(()),
            other => return Err(format!("Lookup was answered by {other:?}")),
        };
        if core.scenario.keeps_everything {
            core.checker.check_lookup(&keys, (hits, core.now), core.is_out())?;
        }
        let mut job = Job { request, lease, pending: BTreeSet::new(), lent: Vec::new() };
        if core.draw.percent(20) {
            self.borrow(core, &mut job, &keys[..hits])?;
        }
        for shard in 0..self.pools.len() {
            self.load(core, &mut job, shard, &keys[..hits])?;
            self.store(core, &mut job, shard, (&keys, hits))?;
        }
        self.job = Some(job);
        Ok(())
    }

    /// Reads what is in HBM where it lies, until the request is over.
    fn borrow<S: Subject>(&self, core: &mut Core<S>, job: &mut Job, keys: &[Key]) -> Checked {
        let command = Command::Borrow { request: job.request, keys: keys.to_vec() };
        match core.ask(self.id, command)? {
            Reply::Borrow { blocks, .. } => {
                for LentBlock { index, place } in blocks {
                    let key = keys[index as usize];
                    core.machine.lend(place, key)?;
                    job.lent.push((key, place));
                }
                Ok(())
            }
            Reply::Refused(Refusal::Precondition(_) | Refusal::Busy { .. }) => Ok(()),
            other => Err(format!("Borrow was answered by {other:?}")),
        }
    }

    fn load<S: Subject>(
        &self,
        core: &mut Core<S>,
        job: &mut Job,
        shard: usize,
        keys: &[Key],
    ) -> Checked {
        if keys.is_empty() {
            return Ok(());
        }
        let (pool, slots): (_, Vec<u32>) =
            (self.pools[shard], (0_u32..).take(keys.len()).collect());
        let hurried = !core.scenario.is_faultless && core.draw.percent(20);
        let timeout = Duration::from_millis(if hurried { 150 } else { 60_000 });
        let command = Command::Load {
            request: job.request,
            keys: keys.to_vec(),
            pool,
            slots: slots.clone(),
            timeout,
        };
        let must_land = core.scenario.is_faultless;
        let asked = self.asked(OpKind::Load, keys, shard, slots, must_land);
        match core.ask(self.id, command)? {
            Reply::Load { op } => accept(core, job, op, asked),
            Reply::Refused(Refusal::Busy { .. }) => Ok(()),
            other => Err(format!("Load was answered by {other:?}")),
        }
    }

    /// Stores what was not found of the chain, from freshly computed slots.
    fn store<S: Subject>(
        &self,
        core: &mut Core<S>,
        job: &mut Job,
        shard: usize,
        (chain, hits): (&[Key], usize),
    ) -> Checked {
        let (parent, keys) = (hits.checked_sub(1).map(|last| chain[last]), &chain[hits..]);
        if keys.is_empty() {
            return Ok(());
        }
        let pool = self.pools[shard];
        let slots: Vec<u32> = (0_u32..).skip(hits).take(keys.len()).collect();
        for (key, slot) in keys.iter().zip(&slots) {
            core.machine.write_slot(pool, *slot, *key)?;
        }
        let may_forget = may_forget(core);
        let directives = asks::directives(&mut core.draw, core.scenario.chain_max, may_forget);
        let command = Command::Store {
            request: job.request,
            session: None,
            directives,
            parent,
            keys: keys.to_vec(),
            labels: Labels {
                tails: keys.iter().map(|key| HashTail(key.low_bits())).collect(),
                tokens: Vec::new(),
            },
            pool,
            slots: slots.clone(),
            durable: core.draw.percent(25),
        };
        let mut asked = self.asked(OpKind::Store, keys, shard, slots, false);
        match core.ask(self.id, command)? {
            Reply::Store { op, taken, present, dropped, .. } => {
                if (taken + present + dropped) as usize != keys.len() {
                    let what = (taken, present, dropped);
                    return Err(format!("{what:?} blocks of {} were stored", keys.len()));
                }
                asked.all_taken = taken as usize == keys.len();
                asked.must_land = core.scenario.keeps_everything && asked.all_taken;
                accept(core, job, op, asked)
            }
            Reply::Refused(Refusal::Busy { .. }) => Ok(()),
            other => Err(format!("Store was answered by {other:?}")),
        }
    }

    fn asked(
        &self,
        kind: OpKind,
        keys: &[Key],
        shard: usize,
        slots: Vec<u32>,
        must_land: bool,
    ) -> Asked {
        let count = |n: usize| u32::try_from(n).expect("ranks are few");
        Asked {
            client: self.id,
            kind,
            keys: keys.to_vec(),
            pool: self.pools[shard],
            slots,
            shard: count(shard),
            shard_count: count(self.pools.len()),
            must_land,
            all_taken: false,
            outage_changes: 0,
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

    /// The request is over: its lease is given back, or left to run out.
    fn finish<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
        let Some(job) = self.job.take() else { return Ok(()) };
        end_reading(core, Some(&job))?;
        let (request, held) = (job.request, job.lent.len());
        // The request's end gives back as well.
        if held > 0 && core.draw.percent(50) {
            match core.ask(self.id, Command::GiveBack { request })? {
                Reply::GiveBack { blocks } if blocks as usize == held => {}
                other => return Err(format!("GiveBack of {held} was answered by {other:?}")),
            }
        }
        let reply = match (core.draw.below(50), job.lease) {
            (0, _) => return Ok(()),
            (1..=10, Some((lease, expires))) => {
                let reply = core.ask(self.id, Command::ReleaseLease { lease })?;
                let ran_out = expires <= core.now;
                if ran_out && matches!(reply, Reply::Refused(Refusal::NotFound(_))) {
                    return Ok(());
                }
                reply
            }
            _ => {
                let (request, stop) = (job.request, asks::stop(&mut core.draw));
                core.ask(
                    self.id,
                    Command::EndRequest { request, stop, output_tokens: 0, prefill: None },
                )?
            }
        };
        if matches!(reply, Reply::Ok | Reply::EndRequest { .. }) {
            return Ok(());
        }
        Err(format!("the end of {:?} was answered by {reply:?}", job.request))
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

/// What a client reads in place it has read by now.
fn end_reading<S: Subject>(core: &mut Core<S>, job: Option<&Job>) -> Checked {
    let lent = job.map(|job| job.lent.as_slice()).unwrap_or_default();
    lent.iter().try_for_each(|(key, place)| core.machine.end_lend(*place, *key))
}

/// Whether clients may ask for what lets blocks go that a faultless run must find.
fn may_forget<S: Subject>(core: &Core<S>) -> bool {
    !core.scenario.is_faultless
}

fn accept<S: Subject>(core: &mut Core<S>, job: &mut Job, op: OpId, asked: Asked) -> Checked {
    if core.checker.accepted(op, asked, core.now, &core.machine)?.is_none() {
        job.pending.insert(op);
    }
    Ok(())
}
