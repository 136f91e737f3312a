//! Stores and loads as their clients see them: begun, counted down block by block, ended once.

use std::time::Duration;

use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::Manager;
use super::api::{
    ClientId, Completion, Effect, OpId, OpKind, PoolId, Refusal, RequestId, Transfer, TransferId,
};
use super::clients::RETRY_AFTER;
use super::state::{FlightItem, Job, Op, Part};

impl Manager {
    /// Checks that the lists match each other and the pool, as a client must send them.
    pub(super) fn check_slots(
        &self,
        client: ClientId,
        keys: usize,
        (pool, slots): (PoolId, &[u32]),
    ) -> Result<(), Refusal> {
        let entry = self.own_pool(client, pool)?;
        if keys != slots.len() {
            return Err(Refusal::Invalid(format!(
                "{keys} blocks but {} slots: send one slot for each block",
                slots.len()
            )));
        }
        match slots.iter().position(|slot| *slot >= entry.slots) {
            None => Ok(()),
            Some(at) => Err(Refusal::Invalid(format!(
                "slot {} (at index {at}) is out of range: pool {} has {} slots",
                slots[at], pool.0, entry.slots
            ))),
        }
    }

    pub(super) fn begin_op(
        &mut self,
        client: ClientId,
        request: RequestId,
        kind: OpKind,
        blocks: usize,
        timeout: Option<Duration>,
    ) -> Result<OpId, Refusal> {
        let ops_max = self.config.ops_per_client_max;
        let now = self.now;
        let entry = self.clients.get_mut(&client).expect("the caller checked its pool");
        if entry.ops >= ops_max {
            let what = "too many stores and loads in flight";
            return Err(Refusal::Busy { what, retry_after: RETRY_AFTER });
        }
        entry.ops += 1;
        self.counters.ops += 1;
        let id = OpId(self.counters.ops);
        let blocks = u32::try_from(blocks).expect("lists are bounded by the service");
        let deadline = timeout.map_or(Time::MAX, |timeout| now + timeout);
        let op = Op {
            client,
            request,
            kind,
            blocks,
            pending: blocks,
            failed: Vec::new(),
            deadline,
            durable: false,
            hardening: 0,
            not_durable: Vec::new(),
            hangs_loose: false,
        };
        self.ops.insert(id, op);
        if blocks == 0 {
            self.ended_ops.push(id);
        }
        Ok(id)
    }

    /// One block of the operation ended.
    pub(super) fn op_block_done(&mut self, op: OpId, index: u32, landed: bool) {
        let entry = self.ops.get_mut(&op).expect("an operation lives until its last block");
        if !landed {
            entry.failed.push(index);
            if entry.kind == OpKind::Store {
                self.counters.dropped_blocks += 1;
            }
        }
        self.op_part_done(op);
    }

    /// One of those that the operation waits for has ended.
    pub(super) fn op_part_done(&mut self, op: OpId) {
        let entry = self.ops.get_mut(&op).expect("an operation lives until its last block");
        entry.pending -= 1;
        if entry.pending == 0 {
            self.ended_ops.push(op);
        }
    }

    pub(super) fn complete_ops(&mut self) {
        for id in std::mem::take(&mut self.ended_ops) {
            let op = self.ops.remove(&id).expect("an operation ends once");
            let Op { client, request, kind, blocks, mut failed, mut not_durable, .. } = op;
            self.behind.end(id);
            // Whoever left is told nothing.
            let Some(entry) = self.clients.get_mut(&client) else { continue };
            entry.ops -= 1;
            failed.sort_unstable();
            if op.hangs_loose {
                not_durable = (0..blocks).filter(|at| failed.binary_search(at).is_err()).collect();
            }
            not_durable.sort_unstable();
            let completion = Completion { op: id, request, kind, blocks, failed, not_durable };
            self.out.push(Effect::Complete { client, completion });
        }
    }

    /// Until when a transfer is waited for, if all that it does is to serve loads.
    #[must_use]
    pub fn waited_for_until(&self, transfer: TransferId) -> Option<Time> {
        let op_of = |item: &FlightItem| self.ops.get(&item.job.part()?.op);
        let ops = self.flights.get(&transfer)?.items.iter().filter_map(op_of);
        ops.map(|op| op.deadline).max().filter(|deadline| *deadline < Time::MAX)
    }

    /// Whether it is a load whose time is up.
    pub(super) fn is_late(&self, op: OpId) -> bool {
        self.ops.get(&op).is_some_and(|op| op.kind == OpKind::Load && op.deadline == Time::MAX)
    }

    /// Loads whose time is up: what has not started fails now, what moves is waited for, since
    /// nothing may land in a slot after its load was answered.
    pub(super) fn expire_ops(&mut self) {
        let now = self.now;
        let late: Vec<OpId> = self
            .ops
            .iter_mut()
            .filter(|(_, op)| op.deadline <= now)
            .map(|(id, op)| {
                op.deadline = Time::MAX;
                *id
            })
            .collect();
        if !late.is_empty() {
            self.cancel(|part| late.binary_search(&part.op).is_ok());
        }
    }

    /// Fails every part that `unwanted` names and that has not started: those that wait for another copy
    /// to land, for room, for their engine, or in a link's queue.
    pub(super) fn cancel(&mut self, unwanted: impl Fn(&Part) -> bool) {
        // First, so that what is cancelled below brings none of them on its way again.
        self.cancel_joined(&unwanted);
        self.cancel_wants(&unwanted);
        self.cancel_partials(&unwanted);
        self.cancel_transfers(&unwanted);
    }

    fn cancel_joined(&mut self, unwanted: &impl Fn(&Part) -> bool) {
        let mut ended: Vec<Part> = Vec::new();
        self.joined.retain(|_, parts| {
            parts.retain(|part| {
                !unwanted(part) || {
                    ended.push(*part);
                    false
                }
            });
            !parts.is_empty()
        });
        for part in ended {
            self.op_block_done(part.op, part.index, false);
        }
    }

    fn cancel_transfers(&mut self, unwanted: &impl Fn(&Part) -> bool) {
        let is_unwanted = |item: &FlightItem| item.job.part().is_some_and(unwanted);
        let (flights, mut apart) = (&mut self.flights, Vec::new());
        // What is left of a transfer, in bytes; what is taken from it becomes one that never starts.
        let mut left_of = |transfer: &mut Transfer| {
            let flight = flights.get_mut(&transfer.id).expect("what waits is in flight");
            if flight.items.iter().all(is_unwanted) {
                return None;
            }
            apart.extend(flight.take(transfer, is_unwanted));
            Some(flight.load.bytes)
        };
        let aside = self.behind.cancel(|transfer| left_of(transfer).is_some());
        let queued = self.links.cancel(left_of);
        self.bounced.extend(aside.iter().chain(&queued).map(|transfer| transfer.id));
        for flight in apart {
            let id = self.next_transfer();
            self.flights.insert(id, flight);
            self.bounced.push(id);
        }
    }

    fn cancel_wants(&mut self, unwanted: &impl Fn(&Part) -> bool) {
        let mut refused = Vec::new();
        for tier in Tier::ALL {
            let Some(space) = &mut self.tiers[tier.index()] else { continue };
            for class in &mut space.classes {
                class.waiting.retain(|want| {
                    let keep = !want.job.part().is_some_and(unwanted);
                    if !keep {
                        refused.push((tier, *want));
                    }
                    keep
                });
            }
        }
        // From the tail, so that children go before their parents.
        for (tier, want) in refused.into_iter().rev() {
            let Job::Store(part) = want.job else { unreachable!("only stores wait with a part") };
            self.store_failed(want.block, tier, part);
            self.unsettle(tier);
        }
    }
}
