//! How long copies take on each link.
//!
//! Assumed figures of one current server, not measurements: PCI Express 4.0 x16 to the GPU, one data
//! centre `NVMe` drive, a 10 Gbit/s object store nearby.

use std::time::Duration;

use crate::domain::units::Time;
use crate::movement::Link;

/// One link: transfers go one after another at its rate, then each still takes the latency.
#[derive(Clone, Copy, Debug)]
struct Road {
    bytes_per_s: u64,
    latency_us: u64,
    free_at: Time,
}

/// All links of a node.
#[derive(Clone, Debug)]
pub(super) struct Roads {
    roads: [Road; Link::COUNT],
    block_bytes: u64,
}

impl Roads {
    pub(super) fn new(block_bytes: u64) -> Self {
        const GB: u64 = 1_000_000_000;
        let mut roads = [Road { bytes_per_s: GB, latency_us: 0, free_at: Time::ZERO }; Link::COUNT];
        for (link, bytes_per_s, latency_us) in [
            (Link::DeviceUp, 25 * GB, 20),
            (Link::DeviceDown, 25 * GB, 20),
            (Link::DeviceLocal, 1000 * GB, 10),
            (Link::NvmeRead, 6 * GB, 100),
            (Link::NvmeWrite, 3 * GB, 50),
            (Link::ObjectGet, GB, 20_000),
            (Link::ObjectPut, GB, 40_000),
        ] {
            roads[link.index()] = Road { bytes_per_s, latency_us, free_at: Time::ZERO };
        }
        Self { roads, block_bytes }
    }

    /// When a transfer of `blocks` that starts now will have landed.
    pub(super) fn landing(&mut self, now: Time, link: Link, blocks: usize) -> Time {
        let road = &mut self.roads[link.index()];
        let bytes = u128::from(self.block_bytes) * blocks as u128;
        let micros = (bytes * 1_000_000).div_ceil(u128::from(road.bytes_per_s));
        let moving = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        road.free_at = road.free_at.max(now) + moving;
        road.free_at + Duration::from_micros(road.latency_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_queue_on_their_link_only() {
        let mut roads = Roads::new(3_000_000);
        let landing = |roads: &mut Roads, link| roads.landing(Time::ZERO, link, 2).micros;
        assert_eq!(landing(&mut roads, Link::NvmeWrite), 2050);
        assert_eq!(landing(&mut roads, Link::NvmeWrite), 4050);
        assert_eq!(landing(&mut roads, Link::NvmeRead), 1100);
        assert_eq!(roads.landing(Time::from_millis(9), Link::NvmeWrite, 2).micros, 11_050);
    }
}
