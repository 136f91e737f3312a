//! A client's requests: a chain is looked up, what was found is loaded and the rest stored, at once or
//! some time later, under the lookup's lease.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::units::Time;
use crate::manager::api::{Command, LeaseId, LentBlock, OpId, OpKind, Refusal, Reply, RequestId};
use crate::sim::asks;
use crate::sim::checker::Asked;
use crate::sim::machine::Checked;
use crate::sim::world::{Core, Due, Subject};
use crate::tiers::store::Place;

use super::{Joined, may_forget};

/// A request under way: over when all its operations have completed.
pub(super) struct Job {
    request: RequestId,
    lease: Option<(LeaseId, Time)>,
    /// The chain, and how much of it was found, as long as nothing was loaded or stored yet.
    pub(super) planned: Option<(Vec<Key>, usize)>,
    pub(super) pending: BTreeSet<OpId>,
    /// `Checker::outage_changes` at the lookup.
    outage_changes: u64,
    /// Blocks of HBM that it reads where they lie.
    lent: Vec<(Key, Place)>,
}

impl Joined {
    /// Turns to a chain; often what the shared store has of it is to be found as well.
    pub(super) fn begin<S: Subject>(&mut self, core: &mut Core<S>, request: RequestId) -> Checked {
        let keys = core.scenario.chain(self.namespace, &mut core.draw);
        let asks = core.draw.percent(50);
        let Some(stretch) = asks.then(|| core.look_further(&keys)).flatten() else {
            return self.look_up(core, request, &keys, 0);
        };
        let (client, after) = (self.id, core.answers_after());
        if after.is_zero() {
            let end = stretch.end();
            core.tell_stretch(client, stretch)?;
            return self.look_up(core, request, &keys, end);
        }
        core.timeline.add(core.now + after, Due::Shared { client, stretch });
        self.asking = Some((request, keys));
        Ok(())
    }

    /// Looks a chain up. What comes of it is done at once, or later.
    pub(super) fn look_up<S: Subject>(
        &mut self,
        core: &mut Core<S>,
        request: RequestId,
        keys: &[Key],
        shared_end: usize,
    ) -> Checked {
        let session = asks::session(&mut core.draw);
        let ask_shared = Duration::ZERO;
        let lookup = Command::Lookup {
            request,
            session,
            keys: keys.to_vec(),
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
                    && (lease.is_none() || lease_expires > core.now)
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
            core.check_lookup(keys, hits, shared_end)?;
        }
        let mut job = Job {
            request,
            lease,
            planned: Some((keys.to_vec(), hits)),
            pending: BTreeSet::new(),
            outage_changes: core.checker.outage_changes,
            lent: Vec::new(),
        };
        if core.draw.percent(20) {
            self.borrow(core, &mut job, &keys[..hits])?;
        }
        self.job = Some(job);
        if core.draw.percent(50) { Ok(()) } else { self.act(core) }
    }

    /// Loads what was found and stores the rest, for every rank.
    pub(super) fn act<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
        let Some(mut job) = self.job.take() else { return Ok(()) };
        if let Some((keys, hits)) = job.planned.take() {
            for shard in 0..self.pools.len() {
                self.load(core, &mut job, shard, &keys[..hits])?;
                self.store(core, &mut job, shard, (&keys, hits))?;
            }
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
        let asked = self.asked(OpKind::Load, job, keys, (shard, slots.clone()));
        let is_leased = job.lease.is_some_and(|(_, expires)| core.now < expires)
            && job.outage_changes == core.checker.outage_changes;
        let must_land =
            core.scenario.is_faultless && is_leased && core.promised_from(keys).is_none();
        core.machine.engine_reads(pool, &slots)?;
        match core.ask(self.id, command)? {
            Reply::Load { op } => accept(core, job, op, Asked { must_land, ..asked }),
            Reply::Refused(Refusal::Busy { .. }) => core.machine.engine_rests(pool, &slots),
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
        core.machine.engine_writes(pool, &slots, keys)?;
        let (may_forget, durable) = (may_forget(core), core.draw.percent(25));
        let directives = asks::directives(&mut core.draw, core.scenario.chain_max, may_forget);
        let command = Command::Store {
            request: job.request,
            session: None,
            directives,
            parent,
            keys: keys.to_vec(),
            labels: asks::labels(&mut core.draw, keys),
            pool,
            slots: slots.clone(),
            durable,
        };
        let mut asked = self.asked(OpKind::Store, job, keys, (shard, slots.clone()));
        match core.ask(self.id, command)? {
            Reply::Store { op, taken, present, dropped, .. } => {
                if (taken + present + dropped) as usize != keys.len() {
                    let what = (taken, present, dropped);
                    return Err(format!("{what:?} blocks of {} were stored", keys.len()));
                }
                asked.all_taken = taken as usize == keys.len();
                let lasts = core.promised_from(chain);
                let keeps = core.scenario.keeps_everything;
                asked.must_land = keeps && asked.all_taken && lasts.is_none();
                asked.durable = (durable && keeps).then(|| {
                    let lasting = &chain[..lasts.unwrap_or(chain.len())];
                    lasting.to_vec()
                });
                accept(core, job, op, asked)
            }
            Reply::Refused(Refusal::Busy { .. }) => core.machine.engine_rests(pool, &slots),
            other => Err(format!("Store was answered by {other:?}")),
        }
    }

    fn asked(
        &self,
        kind: OpKind,
        job: &Job,
        keys: &[Key],
        (shard, slots): (usize, Vec<u32>),
    ) -> Asked {
        let count = |n: usize| u32::try_from(n).expect("ranks are few");
        Asked {
            client: self.id,
            request: job.request,
            kind,
            keys: keys.to_vec(),
            pool: self.pools[shard],
            slots,
            shard: count(shard),
            shard_count: count(self.pools.len()),
            must_land: false,
            all_taken: false,
            durable: None,
            outage_changes: 0,
        }
    }

    /// The request is over: its lease is given back, or left to run out.
    pub(super) fn finish<S: Subject>(&mut self, core: &mut Core<S>) -> Checked {
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
}

/// What a client reads in place it has read by now.
pub(super) fn end_reading<S: Subject>(core: &mut Core<S>, job: Option<&Job>) -> Checked {
    let lent = job.map(|job| job.lent.as_slice()).unwrap_or_default();
    lent.iter().try_for_each(|(key, place)| core.machine.end_lend(*place, *key))
}

fn accept<S: Subject>(core: &mut Core<S>, job: &mut Job, op: OpId, asked: Asked) -> Checked {
    let (pool, slots) = (asked.pool, asked.slots.clone());
    if core.checker.accepted(op, asked, core.now, &core.machine)?.is_none() {
        job.pending.insert(op);
        core.engines.insert(op, (pool, slots));
        return Ok(());
    }
    core.machine.engine_rests(pool, &slots)
}
