//! The manager's figures as metrics.

use metrics::{counter, gauge};

use super::names;
use crate::domain::admission::{Reason, Spared, WriteCounts};
use crate::domain::tier::Tier;
use crate::manager::api::{LiftCounts, LinkStatus, Status, TierStatus};
use crate::movement::{Class, Link};

/// Sets every gauge and counter that the status knows. Called about once a second.
pub fn publish(status: &Status) {
    gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "policy" => status.policy)
        .set(1.0);
    for tier in Tier::ALL {
        let figures = &status.tiers[tier.index()];
        if figures.present {
            publish_tier(tier.name(), figures);
            let decides = u8::from(status.lru_decides.has(tier));
            gauge!(names::TIER_LRU_DECIDES, "tier" => tier.name()).set(f64::from(decides));
        }
    }
    for link in Link::ALL {
        publish_link(link.name(), &status.links[link.index()]);
    }
    publish_lifts(&status.lifts);
    if status.tiers[Tier::Nvme.index()].present {
        publish_writes(&status.nvme_writes);
    }
    for (name, value) in [
        (names::BLOCKS, status.blocks),
        (names::CLIENTS, status.clients),
        (names::POOLS, status.pools),
        (names::LEASES, status.leases),
        (names::SESSIONS, status.sessions),
        (names::OPS_IN_FLIGHT, status.ops_in_flight),
        (names::TRANSFERS_IN_FLIGHT, status.transfers_in_flight),
        (names::TRANSFERS_QUEUED, status.transfers_queued),
        (names::OBJECT_STRAY_BLOCKS, status.stray_blocks),
        (names::OBJECT_STRAY_BYTES, status.stray_bytes),
    ] {
        gauge!(name).set(shown(value));
    }
    for (name, value) in [
        (names::LOOKUPS, status.lookups),
        (names::LOOKUP_BLOCKS, status.lookup_blocks),
        (names::STORES_DROPPED_BLOCKS, status.stores_dropped_blocks),
        (names::CORRUPT_COPIES, status.corrupt_copies),
        (names::FORGOTTEN_BLOCKS, status.forgotten_blocks),
        (names::BROKEN_SHIELDS, status.broken_shields),
    ] {
        counter!(name).absolute(value);
    }
}

fn publish_tier(tier: &'static str, figures: &TierStatus) {
    for (name, value) in [
        (names::TIER_CAPACITY_BYTES, figures.capacity_bytes),
        (names::TIER_USED_BYTES, figures.used_bytes),
        (names::TIER_SHIELDED_BYTES, figures.shielded_bytes),
        (names::TIER_BLOCKS, figures.blocks),
    ] {
        gauge!(name, "tier" => tier).set(shown(value));
    }
    for (name, value) in [
        (names::TIER_HIT_BLOCKS, figures.hit_blocks),
        (names::TIER_EVICTED_COPIES, figures.evicted_copies),
        (names::TIER_EVICTED_BLOCKS, figures.evicted_blocks),
        (names::TIER_IN_BYTES, figures.bytes_in),
        (names::TIER_OUT_BYTES, figures.bytes_out),
        (names::TIER_FAILURES, figures.failures),
    ] {
        counter!(name, "tier" => tier).absolute(value);
    }
}

fn publish_link(link: &'static str, figures: &LinkStatus) {
    for class in Class::ALL {
        let moved = figures.moved_bytes[class.index()];
        counter!(names::LINK_BYTES, "link" => link, "class" => class.name()).absolute(moved);
    }
    for (name, value) in [
        (names::LINK_BYTES_PER_SECOND, figures.bytes_per_s),
        (names::LINK_QUEUED_TRANSFERS, figures.queued_transfers),
        (names::LINK_IN_FLIGHT_BYTES, figures.in_flight_bytes),
    ] {
        gauge!(name, "link" => link).set(shown(value));
    }
    let latency_seconds = shown(figures.latency_us) / 1e6;
    gauge!(names::LINK_LATENCY_SECONDS, "link" => link).set(latency_seconds);
}

fn publish_writes(counts: &WriteCounts) {
    for reason in Reason::ALL {
        let bytes = counts.written_bytes[reason.index()];
        counter!(names::NVME_WRITTEN_BYTES, "reason" => reason.name()).absolute(bytes);
    }
    for why in Spared::ALL {
        let bytes = counts.spared_bytes[why.index()];
        counter!(names::NVME_SPARED_BYTES, "reason" => why.name()).absolute(bytes);
    }
    if let Some(left_bytes) = counts.budget_left_bytes {
        let owed = if left_bytes < 0 { -1.0 } else { 1.0 };
        gauge!(names::NVME_WRITE_BUDGET_BYTES).set(owed * shown(left_bytes.unsigned_abs()));
    }
}

fn publish_lifts(counts: &LiftCounts) {
    for (name, value) in [
        (names::LIFT_BEGUN, counts.begun),
        (names::LIFT_CANCELLED, counts.cancelled),
        (names::LIFT_CLIPPED_BLOCKS, counts.clipped_blocks),
        (names::LIFT_BYTES, counts.bytes),
        (names::LIFT_TIMELY_BYTES, counts.timely_bytes),
        (names::LIFT_LATE_BYTES, counts.late_bytes),
        (names::LIFT_WASTED_BYTES, counts.wasted_bytes),
    ] {
        counter!(name).absolute(value);
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number")]
fn shown(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_link_and_class_has_a_label_of_its_own() {
        assert!(Link::ALL.iter().map(|link| link.index()).eq(0..Link::COUNT));
        assert!(Class::ALL.iter().map(|class| class.index()).eq(0..Class::COUNT));
        let labels = Link::ALL.iter().map(|link| link.name());
        let labels: BTreeSet<_> =
            labels.chain(Class::ALL.iter().map(|class| class.name())).collect();
        assert_eq!(labels.len(), Link::COUNT + Class::COUNT);
    }
}
