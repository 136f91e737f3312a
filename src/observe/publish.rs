//! The manager's figures as metrics.

use metrics::{counter, gauge};

use super::names;
use crate::domain::tier::Tier;
use crate::manager::api::{Status, TierStatus};

/// Sets every gauge and counter that the status knows. Called about once a second.
pub fn publish(status: &Status) {
    gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "policy" => status.policy)
        .set(1.0);
    for tier in Tier::ALL {
        let figures = &status.tiers[tier.index()];
        if figures.present {
            publish_tier(tier.name(), figures);
        }
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

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number")]
fn shown(value: u64) -> f64 {
    value as f64
}
