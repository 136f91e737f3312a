//! Every metric there is, in one table: name, kind, unit, labels and meaning.
//!
//! The endpoint's descriptions and `docs/metrics.md` come from here; no metric exists outside it.

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the daemon's start.
    Counter,
    /// Stands for now.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

impl Kind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Bytes,
    Seconds,
    BytesPerSecond,
}

impl Unit {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::BytesPerSecond => "bytes per second",
        }
    }
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub labels: &'static [&'static str],
    pub about: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $unit:ident $name:literal [$($label:literal),*] $about:literal;)*) => {
        $(#[doc = $about] pub const $constant: &str = $name;)*

        /// Every metric, in the order of the documentation.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
            about: $about,
        }),*];
    };
}

metrics! {
    BUILD_INFO: Gauge Count "terrace_build_info" ["version", "policy"]
        "Always 1; the labels say which version runs and which policy ranks copies.";

    TIER_CAPACITY_BYTES: Gauge Bytes "terrace_tier_capacity_bytes" ["tier"]
        "What a tier may hold.";
    TIER_USED_BYTES: Gauge Bytes "terrace_tier_used_bytes" ["tier"]
        "What a tier holds, by the slots that are taken.";
    TIER_SHIELDED_BYTES: Gauge Bytes "terrace_tier_shielded_bytes" ["tier"]
        "What shields hold of a tier, by the slots that are taken.";
    TIER_BLOCKS: Gauge Count "terrace_tier_blocks" ["tier"]
        "Copies of blocks in a tier.";
    TIER_LRU_DECIDES: Gauge Count "terrace_tier_lru_decides" ["tier"]
        "1 while LRU decides in a tier because the policy `value` found less than it would have, else 0.";
    TIER_HIT_BLOCKS: Counter Count "terrace_tier_hit_blocks_total" ["tier"]
        "Blocks that a lookup found with this as their fastest tier.";
    TIER_EVICTED_COPIES: Counter Count "terrace_tier_evicted_copies_total" ["tier"]
        "Copies that went from a tier because room was needed.";
    TIER_EVICTED_BLOCKS: Counter Count "terrace_tier_evicted_blocks_total" ["tier"]
        "Those of the evicted copies that were a block's last: the block is gone from this node.";
    TIER_IN_BYTES: Counter Bytes "terrace_tier_in_bytes_total" ["tier"]
        "Payload that was copied into a tier.";
    TIER_OUT_BYTES: Counter Bytes "terrace_tier_out_bytes_total" ["tier"]
        "Payload that was read from a tier.";
    TIER_FAILURES: Counter Count "terrace_tier_failures_total" ["tier"]
        "Copies to or from a tier that failed.";

    NVME_WRITTEN_BYTES: Counter Bytes "terrace_nvme_written_bytes_total" ["reason"]
        "Frames and headers that were written to NVMe, by why.";
    NVME_SPARED_BYTES: Counter Bytes "terrace_nvme_spared_bytes_total" ["reason"]
        "Frames that were not written to NVMe although memory needed their room, by why.";
    NVME_WRITE_BUDGET_BYTES: Gauge Bytes "terrace_nvme_write_budget_bytes" []
        "What the write budget has left, below zero while it is overdrawn; only where there is one.";

    LINK_BYTES: Counter Bytes "terrace_link_bytes_total" ["link", "class"]
        "Payload that a link moved, by how urgent it was.";
    LINK_BYTES_PER_SECOND: Gauge BytesPerSecond "terrace_link_bytes_per_second" ["link"]
        "How fast a link is, learned from what it moved; 0 until it moved something.";
    LINK_LATENCY_SECONDS: Gauge Seconds "terrace_link_latency_seconds" ["link"]
        "How long a link takes before bytes move, learned like its speed.";
    LINK_QUEUED_TRANSFERS: Gauge Count "terrace_link_queued_transfers" ["link"]
        "Batches of copies that wait for a link.";
    LINK_IN_FLIGHT_BYTES: Gauge Bytes "terrace_link_in_flight_bytes" ["link"]
        "Payload that a link is moving.";

    LIFT_BEGUN: Counter Count "terrace_lift_begun_total" []
        "Lifts of blocks ahead of need that were begun, asked for or not.";
    LIFT_CANCELLED: Counter Count "terrace_lift_cancelled_total" []
        "Those of them that were cancelled.";
    LIFT_CLIPPED_BLOCKS: Counter Count "terrace_lift_clipped_blocks_total" []
        "Blocks of lifts that found no room, or were not here any more.";
    LIFT_BYTES: Counter Bytes "terrace_lift_bytes_total" []
        "Payload of lifted blocks that started moving.";
    LIFT_TIMELY_BYTES: Counter Bytes "terrace_lift_timely_bytes_total" []
        "Payload of lifted blocks that were there before they were asked for.";
    LIFT_LATE_BYTES: Counter Bytes "terrace_lift_late_bytes_total" []
        "Payload of lifted blocks that were asked for while they moved.";
    LIFT_WASTED_BYTES: Counter Bytes "terrace_lift_wasted_bytes_total" []
        "Payload of lifted blocks that nobody asked for.";

    BLOCKS: Gauge Count "terrace_blocks" []
        "Blocks with a copy in any tier.";
    CLIENTS: Gauge Count "terrace_clients" []
        "Connected clients.";
    POOLS: Gauge Count "terrace_pools" []
        "Registered pools of the engines.";
    LEASES: Gauge Count "terrace_leases" []
        "Leases that hold blocks for readers.";
    SESSIONS: Gauge Count "terrace_sessions" []
        "Sessions that are known.";
    OPS_IN_FLIGHT: Gauge Count "terrace_ops_in_flight" []
        "Stores and loads that have not ended.";
    TRANSFERS_IN_FLIGHT: Gauge Count "terrace_transfers_in_flight" []
        "Batches of copies under way.";
    TRANSFERS_QUEUED: Gauge Count "terrace_transfers_queued" []
        "Batches of copies that wait for their link.";
    LOOKUPS: Counter Count "terrace_lookups_total" []
        "Lookups that were answered.";
    LOOKUP_BLOCKS: Counter Count "terrace_lookup_blocks_total" []
        "Blocks that lookups asked for: hits over this is the hit ratio.";
    STORES_DROPPED_BLOCKS: Counter Count "terrace_stores_dropped_blocks_total" []
        "Blocks offered by engines that were not kept: no room, no parent here, a copy that failed, or an \
         engine that went before it had stored them.";
    CORRUPT_COPIES: Counter Count "terrace_corrupt_copies_total" []
        "Copies dropped because their bytes were not what was committed. Never served. An object that is \
         gone is none of them: its writer may erase it.";
    FORGOTTEN_BLOCKS: Counter Count "terrace_forgotten_blocks_total" []
        "Blocks deleted because their owners had asked for that.";
    BROKEN_SHIELDS: Counter Count "terrace_broken_shields_total" []
        "Shields that gave way because nothing else was left to evict.";

    TIER_OP_SECONDS: Histogram Seconds "terrace_tier_op_seconds" ["tier", "op"]
        "How long a tier's store took for a write, read, erase, peek (a header), restamp (a record) or \
         sync (a flush), its queue included.";
    TIER_OP_BYTES: Counter Bytes "terrace_tier_bytes_total" ["tier", "op"]
        "Frames that a tier's store wrote or read, headers included.";
    TIER_ERRORS: Counter Count "terrace_tier_errors_total" ["tier", "op"]
        "Writes, reads, erases, peeks, restamps and syncs that a tier's store failed.";
    OBJECT_OUT: Gauge Count "terrace_object_out" []
        "1 while the object store is out and asked by itself whether it is back, else 0.";
    OBJECT_STRAY_BLOCKS: Gauge Count "terrace_object_stray_blocks" []
        "Objects that earlier runs of this node left and nobody has asked for since; they count in their tier.";
    OBJECT_STRAY_BYTES: Gauge Bytes "terrace_object_stray_bytes" []
        "What those take up of the object tier.";
    OBJECT_PACKS: Gauge Count "terrace_object_packs" []
        "Packs in the object store that this node knows, its own and others'.";
    OBJECT_PACKED_BLOCKS: Gauge Count "terrace_object_packed_blocks" []
        "Blocks in them whose places this node knows, erased ones included until their pack goes.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len(), "two metrics have one name");
        for Metric { name, kind, unit, about, .. } in METRICS {
            assert!(name.starts_with("terrace_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            let stem = name.trim_end_matches("_total");
            assert_eq!(*unit == Unit::Bytes, stem.ends_with("_bytes"), "{name}");
            assert_eq!(*unit == Unit::Seconds, stem.ends_with("_seconds"), "{name}");
            let is_rate = stem.ends_with("_bytes_per_second");
            assert_eq!(*unit == Unit::BytesPerSecond, is_rate, "{name}");
            assert!(about.ends_with('.'), "{name}: {about}");
        }
    }
}
