//! Answers, from the manager's replies to protobuf.

use std::time::Duration;

use crate::domain::admission::WriteCounts;
use crate::domain::tier::Tier;
use crate::manager::api::{Completion, OpKind, Reply, Status, TierStatus};
use crate::service::ServiceConfig;
use crate::service::calls::{Welcome, unexpected};
use crate::service::error::CallError;
use crate::wire::{PROTOCOL_VERSION, pb};

use super::{movement, shown};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn hello(welcome: &Welcome, config: &ServiceConfig) -> pb::HelloResponse {
    let (limits, times) = (&config.limits, &config.times);
    pb::HelloResponse {
        token: welcome.session.token.to_vec().into(),
        protocol_version: PROTOCOL_VERSION,
        daemon_version: VERSION.into(),
        node_id: config.node_id.clone(),
        frame_bytes: welcome.frame_bytes,
        lease_ttl_ms: millis(times.lease_ttl),
        attach_timeout_ms: millis(times.attach_timeout),
        limits: Some(pb::Limits {
            message_bytes_max: limits.message_bytes_max as u64,
            lookup_blocks_max: limits.lookup_blocks_max,
            transfer_blocks_max: limits.transfer_blocks_max,
            pools_max: saturated(limits.pools_max),
            pending_fds_max: saturated(limits.pending_fds_max),
            load_timeout_ms_max: millis(times.load_timeout_max),
        }),
    }
}

pub(super) fn lookup(reply: &Reply) -> Result<pb::LookupResponse, CallError> {
    let Reply::Lookup { runs, lease, lease_expires, plan } = reply else {
        return Err(unexpected("Lookup", reply));
    };
    Ok(pb::LookupResponse {
        runs: movement::runs(runs, plan),
        matched_blocks: runs.iter().map(|run| run.blocks).sum(),
        lease_id: lease.map(|lease| lease.0),
        lease_expires_unix_us: lease_expires.micros,
        plan: Some(movement::plan(plan)),
    })
}

pub(super) fn store(
    reply: &Reply,
    clipped_directives: u32,
) -> Result<pb::StoreResponse, CallError> {
    let Reply::Store { op, taken, present, dropped, clipped } = *reply else {
        return Err(unexpected("Store", reply));
    };
    Ok(pb::StoreResponse {
        op_id: op.0,
        taken_blocks: taken,
        present_blocks: present,
        dropped_blocks: dropped,
        clipped_blocks: clipped,
        clipped_directives,
    })
}

pub(super) fn load(reply: &Reply) -> Result<pb::LoadResponse, CallError> {
    match reply {
        Reply::Load { op } => Ok(pb::LoadResponse { op_id: op.0 }),
        other => Err(unexpected("Load", other)),
    }
}

pub(super) fn end_request(reply: &Reply) -> Result<pb::EndRequestResponse, CallError> {
    match reply {
        Reply::EndRequest { usage } => {
            Ok(pb::EndRequestResponse { usage: Some(shown::usage(usage)) })
        }
        other => Err(unexpected("EndRequest", other)),
    }
}

/// For calls whose answer is only that they were done.
pub(super) fn done<T>(call: &str, reply: &Reply, answer: T) -> Result<T, CallError> {
    match reply {
        Reply::Ok => Ok(answer),
        other => Err(unexpected(call, other)),
    }
}

pub(super) fn completion(completion: Completion) -> pb::Completion {
    let kind = match completion.kind {
        OpKind::Store => pb::OpKind::Store,
        OpKind::Load => pb::OpKind::Load,
        OpKind::Prefetch => pb::OpKind::Prefetch,
    };
    pb::Completion {
        op_id: completion.op.0,
        request_id: completion.request.0,
        kind: kind.into(),
        blocks: completion.blocks,
        failed: completion.failed,
        not_durable: completion.not_durable,
    }
}

pub(super) fn status(
    status: &Status,
    config: &ServiceConfig,
    uptime: Duration,
) -> pb::StatusResponse {
    let tiers = Tier::ALL
        .into_iter()
        .map(|tier| tier_status(tier, &status.tiers[tier.index()], config.stores.outage(tier)));
    let mut facts = config.facts.clone();
    if !status.lru_decides.is_empty() {
        let tiers: Vec<_> = status.lru_decides.iter().map(Tier::name).collect();
        facts.insert("retention".into(), format!("lru decides in {}", tiers.join(", ")));
    }
    pb::StatusResponse {
        protocol_version: PROTOCOL_VERSION,
        daemon_version: VERSION.into(),
        node_id: config.node_id.clone(),
        pid: std::process::id(),
        uptime_ms: millis(uptime),
        policy: status.policy.into(),
        tiers: tiers.collect(),
        blocks: status.blocks,
        clients: status.clients,
        pools: status.pools,
        leases: status.leases,
        ops_in_flight: status.ops_in_flight,
        transfers_in_flight: status.transfers_in_flight,
        transfers_queued: status.transfers_queued,
        lookups: status.lookups,
        lookup_blocks: status.lookup_blocks,
        stores_dropped_blocks: status.stores_dropped_blocks,
        corrupt_copies: status.corrupt_copies,
        facts,
        sessions: status.sessions,
        forgotten_blocks: status.forgotten_blocks,
        broken_shields: status.broken_shields,
        links: movement::links(status),
        lifts: Some(movement::lifts(&status.lifts)),
        nvme_writes: Some(nvme_writes(&status.nvme_writes)),
    }
}

fn nvme_writes(counts: &WriteCounts) -> pb::NvmeWrites {
    let [demoted, through, stored, lifted, durable, record] = counts.written_bytes;
    let [dead, floor, unlikely, budget] = counts.spared_bytes;
    pb::NvmeWrites {
        demoted_bytes: demoted,
        through_bytes: through,
        stored_bytes: stored,
        lifted_bytes: lifted,
        durable_bytes: durable,
        record_bytes: record,
        spared_dead_bytes: dead,
        spared_floor_bytes: floor,
        spared_unlikely_bytes: unlikely,
        spared_budget_bytes: budget,
        budget_left_bytes: counts.budget_left_bytes,
    }
}

fn tier_status(tier: Tier, status: &TierStatus, outage: Option<String>) -> pb::TierStatus {
    pb::TierStatus {
        tier: self::tier(tier).into(),
        present: status.present,
        capacity_bytes: status.capacity_bytes,
        used_bytes: status.used_bytes,
        blocks: status.blocks,
        hit_blocks: status.hit_blocks,
        evicted_copies: status.evicted_copies,
        evicted_blocks: status.evicted_blocks,
        in_bytes: status.bytes_in,
        out_bytes: status.bytes_out,
        failures: status.failures,
        shielded_bytes: status.shielded_bytes,
        outage,
    }
}

pub(super) fn tier(tier: Tier) -> pb::Tier {
    match tier {
        Tier::Hbm => pb::Tier::Hbm,
        Tier::Dram => pb::Tier::Dram,
        Tier::Nvme => pb::Tier::Nvme,
        Tier::Object => pb::Tier::Object,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
