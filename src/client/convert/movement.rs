//! Plans of loads, lifts and links: protobuf to the client's types and back.

use std::time::Duration;

use super::hints::strange;
use super::messages::tier;
use crate::client::{ClientError, LiftCounts, LiftState, Link, LinkStatus, Operation, Prefill};
use crate::domain::hint::LiftReason;
use crate::domain::planner::{Head, Plan};
use crate::domain::units::Time;
use crate::wire::pb;

/// Tokens and microseconds; what was not measured is zero of both.
pub(super) fn prefill(prefill: Option<Prefill>) -> (u32, u64) {
    prefill.map_or((0, 0), |prefill| {
        (prefill.tokens, u64::try_from(prefill.took.as_micros()).unwrap_or(u64::MAX))
    })
}

/// A daemon that plans nothing says nothing against loading all of it.
pub(super) fn plan(message: &pb::LookupResponse) -> Plan {
    let whole = Head { blocks: message.matched_blocks, takes: Duration::ZERO };
    let head = |blocks, takes_us| Head { blocks, takes: Duration::from_micros(takes_us) };
    let planned = message.plan.as_ref();
    Plan {
        ready: message.runs.iter().map(|run| Duration::from_micros(run.ready_us)).collect(),
        load: planned.map_or(whole, |plan| head(plan.load_blocks, plan.load_us)),
        mixed: planned.map_or(whole, |plan| head(plan.mixed_blocks, plan.mixed_us)),
        recompute: planned.and_then(|plan| plan.recompute_us).map(Duration::from_micros),
    }
}

pub(super) fn operation(message: &pb::OperationResponse) -> Result<Operation, ClientError> {
    let state = match message.state() {
        pb::LiftState::Waiting => LiftState::Waiting,
        pb::LiftState::Moving => LiftState::Moving,
        pb::LiftState::Held => LiftState::Held,
        pb::LiftState::Ended => LiftState::Ended,
        pb::LiftState::Cancelled => LiftState::Cancelled,
        pb::LiftState::Unspecified => return Err(strange("a lift in no known state")),
    };
    let reason = match message.reason() {
        pb::LiftReason::Prefetch => LiftReason::Asked,
        pb::LiftReason::SpeculativePrefill => LiftReason::SpeculativePrefill,
        pb::LiftReason::ToolStart => LiftReason::ToolStart,
        pb::LiftReason::ToolReturn => LiftReason::ToolReturn,
        pb::LiftReason::SessionStart => LiftReason::SubagentStart,
        pb::LiftReason::Queued => LiftReason::Queued,
        pb::LiftReason::Unspecified => return Err(strange("a lift for no known reason")),
    };
    Ok(Operation {
        state,
        reason,
        to: tier(message.to())?,
        deadline: Time { micros: message.deadline_unix_us },
        blocks: message.blocks,
        landed: message.landed,
        clipped: message.clipped,
        used: message.used,
    })
}

/// Links that this client does not know are left out: a newer daemon may have more.
pub(super) fn links(figures: &[pb::LinkStatus]) -> [LinkStatus; Link::COUNT] {
    let mut links = [LinkStatus::default(); Link::COUNT];
    for figures in figures {
        let link = match figures.link() {
            pb::Link::DeviceUp => Link::DeviceUp,
            pb::Link::DeviceDown => Link::DeviceDown,
            pb::Link::DeviceLocal => Link::DeviceLocal,
            pb::Link::NvmeRead => Link::NvmeRead,
            pb::Link::NvmeWrite => Link::NvmeWrite,
            pb::Link::ObjectGet => Link::ObjectGet,
            pb::Link::ObjectPut => Link::ObjectPut,
            pb::Link::Unspecified => continue,
        };
        links[link.index()] = LinkStatus {
            demand_bytes: figures.demand_bytes,
            prefetch_bytes: figures.prefetch_bytes,
            background_bytes: figures.background_bytes,
            bytes_per_s: figures.bytes_per_s,
            latency_us: figures.latency_us,
            queued_transfers: figures.queued_transfers,
            in_flight_bytes: figures.in_flight_bytes,
        };
    }
    links
}

pub(super) fn lifts(counts: pb::LiftCounts) -> LiftCounts {
    LiftCounts {
        begun: counts.begun,
        cancelled: counts.cancelled,
        clipped_blocks: counts.clipped_blocks,
        bytes: counts.bytes,
        timely_bytes: counts.timely_bytes,
        late_bytes: counts.late_bytes,
        wasted_bytes: counts.wasted_bytes,
    }
}
