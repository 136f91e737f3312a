//! Messages: protobuf to the client's types and back.

use std::time::Duration;

use bytes::Bytes;

use super::movement;
use crate::client::{
    ClientConfig, ClientError, Completion, DaemonStatus, LeaseId, Lookup, OpId, OpKind, RequestId,
    Run, TierStatus, Welcome, WelcomeLimits,
};
use crate::domain::admission::WriteCounts;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::hbm::PagedLayout;
use crate::wire::{PROTOCOL_VERSION, pb};

pub(super) fn hello(config: &ClientConfig) -> pb::HelloRequest {
    let namespace = &config.namespace;
    pb::HelloRequest {
        protocol_version: PROTOCOL_VERSION,
        client_id: config.client_id.clone(),
        client_name: config.client_name.clone(),
        namespace: Some(pb::Namespace {
            model: namespace.model.clone(),
            revision: namespace.revision.clone(),
            dtype: namespace.dtype.clone(),
            layout: namespace.layout.clone(),
            layers: namespace.shape.layers,
            planes: namespace.shape.planes,
            page_bytes: namespace.shape.page_bytes,
            block_tokens: namespace.block_tokens,
            shard_count: namespace.shard_count,
            hash_scheme: namespace.hash_scheme.clone(),
            hash_bytes: namespace.hash_bytes,
            tenant_salt: Bytes::copy_from_slice(&namespace.tenant_salt),
        }),
        engine: config.engine.clone(),
        prefill_tokens_per_s: config.prefill_tokens_per_s,
    }
}

pub(super) fn layout(layout: &PagedLayout) -> pb::PoolLayout {
    pb::PoolLayout {
        slots: layout.slots,
        base_bytes: layout.base,
        layer_stride_bytes: layout.layer_stride,
        plane_stride_bytes: layout.plane_stride,
        slot_stride_bytes: layout.slot_stride,
    }
}

pub(super) fn welcome(message: pb::HelloResponse) -> Result<Welcome, ClientError> {
    let limits =
        message.limits.ok_or_else(|| ClientError::Daemon("it did not say its limits".into()))?;
    Ok(Welcome {
        daemon_version: message.daemon_version,
        node_id: message.node_id,
        frame_bytes: message.frame_bytes,
        lease_ttl: Duration::from_millis(message.lease_ttl_ms),
        limits: WelcomeLimits {
            message_bytes_max: limits.message_bytes_max,
            lookup_blocks_max: limits.lookup_blocks_max,
            transfer_blocks_max: limits.transfer_blocks_max,
            pools_max: limits.pools_max,
            load_timeout_max: Duration::from_millis(limits.load_timeout_ms_max),
        },
    })
}

pub(super) fn lookup(message: &pb::LookupResponse) -> Result<Lookup, ClientError> {
    let run = |run: &pb::Run| Ok(Run { tier: tier(run.tier())?, blocks: run.blocks });
    Ok(Lookup {
        runs: message.runs.iter().map(run).collect::<Result<_, ClientError>>()?,
        matched_blocks: message.matched_blocks,
        lease: message.lease_id.map(LeaseId),
        lease_expires: Time { micros: message.lease_expires_unix_us },
        plan: movement::plan(message),
    })
}

pub(super) fn completion(message: pb::Completion) -> Result<Completion, ClientError> {
    let kind = match message.kind() {
        pb::OpKind::Store => OpKind::Store,
        pb::OpKind::Load => OpKind::Load,
        pb::OpKind::Prefetch => OpKind::Prefetch,
        pb::OpKind::Unspecified => {
            return Err(ClientError::Daemon("a completion of no known kind".into()));
        }
    };
    Ok(Completion {
        op: OpId(message.op_id),
        request: RequestId(message.request_id),
        kind,
        blocks: message.blocks,
        failed: message.failed,
        not_durable: message.not_durable,
    })
}

pub(super) fn status(message: pb::StatusResponse) -> Result<DaemonStatus, ClientError> {
    let mut tiers = <[TierStatus; Tier::COUNT]>::default();
    for figures in message.tiers {
        let tier = tier(figures.tier())?;
        tiers[tier.index()] = tier_status(figures);
    }
    Ok(DaemonStatus {
        protocol_version: message.protocol_version,
        daemon_version: message.daemon_version,
        node_id: message.node_id,
        pid: message.pid,
        uptime: Duration::from_millis(message.uptime_ms),
        policy: message.policy,
        tiers,
        blocks: message.blocks,
        clients: message.clients,
        pools: message.pools,
        leases: message.leases,
        ops_in_flight: message.ops_in_flight,
        transfers_in_flight: message.transfers_in_flight,
        transfers_queued: message.transfers_queued,
        lookups: message.lookups,
        lookup_blocks: message.lookup_blocks,
        stores_dropped_blocks: message.stores_dropped_blocks,
        corrupt_copies: message.corrupt_copies,
        sessions: message.sessions,
        forgotten_blocks: message.forgotten_blocks,
        broken_shields: message.broken_shields,
        links: movement::links(&message.links),
        lifts: movement::lifts(message.lifts.unwrap_or_default()),
        nvme_writes: nvme_writes(message.nvme_writes.unwrap_or_default()),
        facts: message.facts,
    })
}

fn nvme_writes(message: pb::NvmeWrites) -> WriteCounts {
    WriteCounts {
        written_bytes: [
            message.demoted_bytes,
            message.through_bytes,
            message.stored_bytes,
            message.lifted_bytes,
            message.durable_bytes,
            message.record_bytes,
        ],
        spared_bytes: [
            message.spared_dead_bytes,
            message.spared_floor_bytes,
            message.spared_unlikely_bytes,
            message.spared_budget_bytes,
        ],
        budget_left_bytes: message.budget_left_bytes,
    }
}

fn tier_status(figures: pb::TierStatus) -> TierStatus {
    TierStatus {
        present: figures.present,
        capacity_bytes: figures.capacity_bytes,
        used_bytes: figures.used_bytes,
        blocks: figures.blocks,
        hit_blocks: figures.hit_blocks,
        evicted_copies: figures.evicted_copies,
        evicted_blocks: figures.evicted_blocks,
        bytes_in: figures.in_bytes,
        bytes_out: figures.out_bytes,
        failures: figures.failures,
        shielded_bytes: figures.shielded_bytes,
        outage: figures.outage,
    }
}

pub(super) fn tier(message: pb::Tier) -> Result<Tier, ClientError> {
    match message {
        pb::Tier::Hbm => Ok(Tier::Hbm),
        pb::Tier::Dram => Ok(Tier::Dram),
        pb::Tier::Nvme => Ok(Tier::Nvme),
        pb::Tier::Object => Ok(Tier::Object),
        pb::Tier::Unspecified => Err(ClientError::Daemon("it named a tier unknown here".into())),
    }
}
