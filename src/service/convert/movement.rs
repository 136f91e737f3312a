//! What the daemon says of blocks that move ahead of need, from the manager's words to protobuf:
//! plans of loads, lifts, links. And what engines say of their speed.

use std::time::Duration;

use crate::domain::hint::LiftReason;
use crate::domain::planner::Plan;
use crate::manager::api::{
    LiftCounts, LiftState, LiftStatus, LinkStatus, Prefill, Reply, Run, Status,
};
use crate::movement::{Class, Link};
use crate::service::calls::unexpected;
use crate::service::error::CallError;
use crate::wire::pb;

use super::answers::tier;

/// Each link, and what it is called outside.
const LINKS: [(Link, pb::Link); Link::COUNT] = [
    (Link::DeviceUp, pb::Link::DeviceUp),
    (Link::DeviceDown, pb::Link::DeviceDown),
    (Link::DeviceLocal, pb::Link::DeviceLocal),
    (Link::NvmeRead, pb::Link::NvmeRead),
    (Link::NvmeWrite, pb::Link::NvmeWrite),
    (Link::ObjectGet, pb::Link::ObjectGet),
    (Link::ObjectPut, pb::Link::ObjectPut),
];

/// What an engine measured of a request's prefill, if it measured that.
pub(super) fn prefill(tokens: u32, took_us: u64) -> Result<Option<Prefill>, CallError> {
    match (tokens, took_us) {
        (0, 0) => Ok(None),
        (0, _) | (_, 0) => Err(CallError::invalid(format!(
            "prefill_tokens is {tokens} and prefill_us is {took_us}: report both, each at least 1, \
             or leave both out"
        ))),
        (tokens, took_us) => Ok(Some(Prefill { tokens, took: Duration::from_micros(took_us) })),
    }
}

/// The runs of a lookup's answer, with the time until each is in HBM.
pub(super) fn runs(runs: &[Run], plan: &Plan) -> Vec<pb::Run> {
    let ready = plan.ready.iter().copied().chain(std::iter::repeat(Duration::ZERO));
    let run = |(run, ready): (&Run, Duration)| pb::Run {
        tier: tier(run.tier).into(),
        blocks: run.blocks,
        ready_us: micros(ready),
    };
    runs.iter().zip(ready).map(run).collect()
}

pub(super) fn plan(plan: &Plan) -> pb::LoadPlan {
    pb::LoadPlan {
        load_blocks: plan.load.blocks,
        load_us: micros(plan.load.takes),
        mixed_blocks: plan.mixed.blocks,
        mixed_us: micros(plan.mixed.takes),
        recompute_us: plan.recompute.map(micros),
    }
}

pub(super) fn operation(reply: &Reply) -> Result<pb::OperationResponse, CallError> {
    match reply {
        Reply::Lift(lift) => Ok(self::lift(lift)),
        other => Err(unexpected("Operation", other)),
    }
}

fn lift(lift: &LiftStatus) -> pb::OperationResponse {
    let state = match lift.state {
        LiftState::Waiting => pb::LiftState::Waiting,
        LiftState::Moving => pb::LiftState::Moving,
        LiftState::Held => pb::LiftState::Held,
        LiftState::Ended => pb::LiftState::Ended,
        LiftState::Cancelled => pb::LiftState::Cancelled,
    };
    let reason = match lift.reason {
        LiftReason::Asked => pb::LiftReason::Prefetch,
        LiftReason::SpeculativePrefill => pb::LiftReason::SpeculativePrefill,
        LiftReason::ToolStart => pb::LiftReason::ToolStart,
        LiftReason::ToolReturn => pb::LiftReason::ToolReturn,
        LiftReason::SubagentStart => pb::LiftReason::SessionStart,
        LiftReason::Queued => pb::LiftReason::Queued,
    };
    pb::OperationResponse {
        state: state.into(),
        reason: reason.into(),
        to: tier(lift.to).into(),
        deadline_unix_us: lift.deadline.micros,
        blocks: lift.blocks,
        landed: lift.landed,
        clipped: lift.clipped,
        used: lift.used,
    }
}

pub(super) fn links(status: &Status) -> Vec<pb::LinkStatus> {
    LINKS.iter().map(|(link, shown)| link_status(*shown, &status.links[link.index()])).collect()
}

fn link_status(link: pb::Link, status: &LinkStatus) -> pb::LinkStatus {
    let moved = |class: Class| status.moved_bytes[class.index()];
    pb::LinkStatus {
        link: link.into(),
        demand_bytes: moved(Class::Demand),
        prefetch_bytes: moved(Class::Prefetch),
        background_bytes: moved(Class::Background),
        bytes_per_s: status.bytes_per_s,
        latency_us: status.latency_us,
        queued_transfers: status.queued_transfers,
        in_flight_bytes: status.in_flight_bytes,
    }
}

pub(super) fn lifts(counts: &LiftCounts) -> pb::LiftCounts {
    pb::LiftCounts {
        begun: counts.begun,
        cancelled: counts.cancelled,
        clipped_blocks: counts.clipped_blocks,
        bytes: counts.bytes,
        timely_bytes: counts.timely_bytes,
        late_bytes: counts.late_bytes,
        wasted_bytes: counts.wasted_bytes,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_has_a_name_outside() {
        for (index, (link, shown)) in LINKS.into_iter().enumerate() {
            assert_eq!(link.index(), index, "the list is in the order of the manager's figures");
            assert_eq!(i32::try_from(index + 1), Ok(shown.into()));
        }
        assert!(pb::Link::try_from(8).is_err(), "a new link needs a number on both sides");
    }

    #[test]
    fn a_report_of_half_a_prefill_is_refused() {
        assert_eq!(prefill(0, 0).unwrap(), None);
        let whole = Prefill { tokens: 512, took: Duration::from_micros(70) };
        assert_eq!(prefill(512, 70).unwrap(), Some(whole));
        let said = prefill(512, 0).unwrap_err().to_string();
        assert_eq!(
            said,
            "prefill_tokens is 512 and prefill_us is 0: report both, each at least 1, or leave \
             both out"
        );
        assert!(prefill(0, 70).is_err());
    }
}
