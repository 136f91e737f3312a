//! How long copies take on each link, and how busy the links are.
//!
//! Never decides what goes over a link, or in what order: the manager has queued it already.

use std::time::Duration;

use crate::domain::units::Time;
use crate::movement::Link;

/// One link's speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpeed {
    /// At least one.
    pub bytes_per_s: u64,
    /// What each transfer takes beyond its bytes, while the next one moves already.
    pub latency_us: u64,
}

impl LinkSpeed {
    const fn new(bytes_per_s: u64, latency_us: u64) -> Self {
        Self { bytes_per_s, latency_us }
    }
}

/// The speed of every link of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpeeds([LinkSpeed; Link::COUNT]);

impl LinkSpeeds {
    /// One H100 with one drive and a bucket in the same region. `docs/movement.md` has the same
    /// table.
    ///
    /// - HBM to and from DRAM: 52 GB/s, the middle of the 50 to 55 GB/s that pinned copies reach
    ///   over PCI Express 5.0 x16, one way. 20 us to submit a copy and hear of its end: assumed.
    /// - HBM to HBM: 1.5 TB/s. HBM3 peaks at 3.35 TB/s (NVIDIA's data sheet of the H100 SXM), and a
    ///   copy reads and writes every byte. 10 us: assumed.
    /// - `NVMe`: 6.5 GB/s read and 3.5 GB/s written, what Samsung states for the PM9A3, a PCI
    ///   Express 4.0 drive of data centres (heise 4720224); the best drives read 14 GB/s. 100 us and
    ///   50 us: assumed.
    /// - Objects: 64 requests in flight at 70 MB/s, of the 64 to 256 at 50 to 90 MB/s that S3
    ///   sustains. 100 ms is the lower end of what AWS states for the first byte of a read (100 to
    ///   200 ms); the same for a write is assumed.
    pub const H100_NODE: Self = {
        const GB: u64 = 1_000_000_000;
        let mut speeds = [LinkSpeed::new(GB, 0); Link::COUNT];
        speeds[Link::DeviceUp.index()] = LinkSpeed::new(52 * GB, 20);
        speeds[Link::DeviceDown.index()] = LinkSpeed::new(52 * GB, 20);
        speeds[Link::DeviceLocal.index()] = LinkSpeed::new(1500 * GB, 10);
        speeds[Link::NvmeRead.index()] = LinkSpeed::new(13 * GB / 2, 100);
        speeds[Link::NvmeWrite.index()] = LinkSpeed::new(7 * GB / 2, 50);
        speeds[Link::ObjectGet.index()] = LinkSpeed::new(64 * 70_000_000, 100_000);
        speeds[Link::ObjectPut.index()] = LinkSpeed::new(64 * 70_000_000, 100_000);
        Self(speeds)
    };

    #[must_use]
    pub const fn of(&self, link: Link) -> LinkSpeed {
        self.0[link.index()]
    }

    pub const fn set(&mut self, link: Link, speed: LinkSpeed) {
        self.0[link.index()] = speed;
    }
}

/// What one link did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkUse {
    pub bytes: u64,
    /// While bytes moved; latencies are not counted.
    pub busy: Duration,
}

/// One link: transfers go one after another at its rate, then each still takes the latency.
///
/// Counts in nanoseconds, since a small block takes less than a microsecond on a fast link.
#[derive(Clone, Copy, Debug)]
struct Road {
    speed: LinkSpeed,
    free_at_ns: u64,
    bytes: u64,
    busy_ns: u64,
}

/// All links of a node.
#[derive(Clone, Debug)]
pub(super) struct Roads {
    roads: [Road; Link::COUNT],
    block_bytes: u64,
}

impl Roads {
    pub(super) fn new(speeds: &LinkSpeeds, block_bytes: u64) -> Self {
        let road = |speed| Road { speed, free_at_ns: 0, bytes: 0, busy_ns: 0 };
        Self { roads: speeds.0.map(road), block_bytes }
    }

    /// When a transfer of `blocks` that starts now will have landed.
    pub(super) fn landing(&mut self, now: Time, link: Link, blocks: usize) -> Time {
        let bytes = self.block_bytes.saturating_mul(blocks as u64);
        self.roads[link.index()].landing(now, bytes)
    }

    pub(super) fn used(&self) -> [LinkUse; Link::COUNT] {
        self.roads
            .map(|road| LinkUse { bytes: road.bytes, busy: Duration::from_nanos(road.busy_ns) })
    }
}

impl Road {
    fn landing(&mut self, now: Time, bytes: u64) -> Time {
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(self.speed.bytes_per_s.into());
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let start_ns = self.free_at_ns.max(now.micros.saturating_mul(1000));
        self.free_at_ns = start_ns.saturating_add(nanos);
        self.bytes += bytes;
        self.busy_ns = self.busy_ns.saturating_add(nanos);
        Time { micros: self.free_at_ns.div_ceil(1000) }
            + Duration::from_micros(self.speed.latency_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link::NvmeWrite;

    fn roads(bytes_per_s: u64, latency_us: u64, block_bytes: u64) -> Roads {
        let mut speeds = LinkSpeeds::H100_NODE;
        speeds.set(LINK, LinkSpeed { bytes_per_s, latency_us });
        Roads::new(&speeds, block_bytes)
    }

    #[test]
    fn transfers_queue_on_their_link_only() {
        let mut roads = roads(3_000_000_000, 50, 3_000_000);
        assert_eq!(roads.landing(Time::ZERO, LINK, 2).micros, 2050);
        assert_eq!(roads.landing(Time::ZERO, LINK, 2).micros, 4050);
        assert_eq!(roads.landing(Time::ZERO, Link::NvmeRead, 13).micros, 6100);
        assert_eq!(roads.landing(Time::from_millis(9), LINK, 2).micros, 11_050);
    }

    #[test]
    fn a_link_is_busy_while_bytes_move() {
        let mut roads = roads(3_000_000_000, 50, 3_000_000);
        for at in [0, 1, 50] {
            roads.landing(Time::from_millis(at), LINK, 2);
        }
        let used = roads.used();
        let expected = LinkUse { bytes: 18_000_000, busy: Duration::from_millis(6) };
        assert_eq!(used[LINK.index()], expected);
        assert_eq!(used[Link::NvmeRead.index()], LinkUse::default());
    }

    /// A thousand blocks of 41 ns each: rounded one by one they would take a thousand microseconds.
    #[test]
    fn small_blocks_keep_the_rate() {
        let mut roads = roads(100_000_000_000, 0, 4096);
        let last = (0..1000).map(|_| roads.landing(Time::ZERO, LINK, 1).micros).last();
        assert_eq!(last, Some(41));
    }

    #[test]
    fn every_link_has_one_name_and_a_speed() {
        let mut links: Vec<_> = Link::ALL.iter().map(|link| link.index()).collect();
        let mut names: Vec<_> = Link::ALL.iter().map(|link| link.name()).collect();
        links.sort_unstable();
        names.sort_unstable();
        names.dedup();
        assert_eq!(links, (0..Link::COUNT).collect::<Vec<_>>());
        assert_eq!(names.len(), Link::COUNT);
        for link in Link::ALL {
            let name = link.name();
            assert!(LinkSpeeds::H100_NODE.of(link).latency_us > 0, "{name} has no speed");
        }
    }
}
