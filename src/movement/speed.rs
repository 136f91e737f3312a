//! How fast a link is: learned from what it moved, corrected by every busy stretch.
//!
//! Never knows what is moved, only how many bytes and for how long.

use std::time::Duration;

use super::Link;
use crate::domain::units::Time;

/// A busy stretch is cut after so long, so that a link that is never idle is heard of, too.
const STRETCH_MAX: Duration = Duration::from_millis(100);

/// What one more stretch leaves of the weight of those before.
const DECAY: f64 = 0.97;

/// Stretches after which what was seen counts more than what was assumed.
const STRETCHES_MIN: u32 = 3;

/// A stretch that took so much longer than expected met something else than the link, and counts as
/// if it had taken only that long, unless as many come one after the other: then the link is slow.
const SLOW_FACTOR: f64 = 1.5;
const SLOW_STREAK: u32 = 4;

/// What a link needs for so many bytes: a latency, and the time at its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    pub latency_us: f64,
    /// Of one byte.
    pub byte_us: f64,
}

impl Speed {
    #[must_use]
    pub const fn new(bytes_per_s: f64, latency_us: f64) -> Self {
        Self { latency_us, byte_us: 1e6 / bytes_per_s }
    }

    /// What is assumed of a link before anything moved: a modest current server.
    #[must_use]
    pub const fn assumed(link: Link) -> Self {
        match link {
            Link::DeviceUp | Link::DeviceDown => Self::new(10e9, 30.0),
            Link::DeviceLocal => Self::new(100e9, 30.0),
            Link::NvmeRead => Self::new(3e9, 200.0),
            Link::NvmeWrite => Self::new(2e9, 200.0),
            Link::ObjectGet | Link::ObjectPut => Self::new(0.5e9, 20_000.0),
        }
    }

    /// How long `bytes` take, without the latency.
    #[must_use]
    pub fn moving(&self, bytes: u64) -> Duration {
        micros(as_float(bytes) * self.byte_us)
    }

    #[must_use]
    pub fn latency(&self) -> Duration {
        micros(self.latency_us)
    }

    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate, saturating"
    )]
    pub fn bytes_per_s(&self) -> u64 {
        (1e6 / self.byte_us) as u64
    }

    /// The bytes that move within `time`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating")]
    pub fn bytes_within(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * 1e6 / self.byte_us) as u64
    }
}

fn micros(micros: f64) -> Duration {
    Duration::try_from_secs_f64(micros.max(0.0) / 1e6).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "estimates need few digits")]
const fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

/// Watches one link.
#[derive(Clone, Debug)]
pub struct Gauge {
    speed: Speed,
    stretches: u32,
    /// Under way, and since when anything is; a failure among them makes the stretch worthless.
    in_flight: u32,
    since: Time,
    bytes: u64,
    failed: bool,
    /// Stretches on end that took much longer than expected.
    slow_streak: u32,
    /// Weighted sums over stretches of bytes x and microseconds y.
    weight: f64,
    sum_x: f64,
    sum_y: f64,
    sum_xx: f64,
    sum_xy: f64,
}

impl Gauge {
    #[must_use]
    pub const fn new(assumed: Speed) -> Self {
        Self {
            speed: assumed,
            stretches: 0,
            in_flight: 0,
            since: Time::ZERO,
            bytes: 0,
            failed: false,
            slow_streak: 0,
            weight: 0.0,
            sum_x: 0.0,
            sum_y: 0.0,
            sum_xx: 0.0,
            sum_xy: 0.0,
        }
    }

    #[must_use]
    pub const fn speed(&self) -> Speed {
        self.speed
    }

    /// Whether the speed was seen, not assumed.
    #[must_use]
    pub const fn is_learned(&self) -> bool {
        self.stretches >= STRETCHES_MIN
    }

    pub const fn started(&mut self, now: Time) {
        if self.in_flight == 0 {
            self.begin(now);
        }
        self.in_flight += 1;
    }

    /// A transfer of `bytes` ended; `failed` if they did not all land.
    pub fn ended(&mut self, now: Time, bytes: u64, failed: bool) {
        self.in_flight -= 1;
        self.bytes += bytes;
        self.failed |= failed;
        let took = now.since(self.since);
        if self.in_flight > 0 && took < STRETCH_MAX {
            return;
        }
        if self.bytes > 0 && !self.failed && !took.is_zero() {
            self.learn(as_float(self.bytes), took.as_secs_f64() * 1e6);
        }
        self.begin(now);
    }

    const fn begin(&mut self, now: Time) {
        (self.since, self.bytes, self.failed) = (now, 0, false);
    }

    fn learn(&mut self, x: f64, y: f64) {
        let expected = self.speed.latency_us + self.speed.byte_us * x;
        let y = self.without_surprise(y, expected);
        for sum in
            [&mut self.weight, &mut self.sum_x, &mut self.sum_y, &mut self.sum_xx, &mut self.sum_xy]
        {
            *sum *= DECAY;
        }
        self.weight += 1.0;
        self.sum_x += x;
        self.sum_y += y;
        self.sum_xx += x * x;
        self.sum_xy += x * y;
        self.stretches = self.stretches.saturating_add(1);
        if self.is_learned() {
            self.speed = self.fitted();
        }
    }

    fn without_surprise(&mut self, y: f64, expected: f64) -> f64 {
        let most = SLOW_FACTOR * expected;
        if !self.is_learned() || y <= most {
            self.slow_streak = 0;
            return y;
        }
        self.slow_streak += 1;
        if self.slow_streak < SLOW_STREAK { most } else { y }
    }

    /// The straight line through the stretches; through the origin where they don't tell latency
    /// and rate apart.
    fn fitted(&self) -> Speed {
        const SPREAD_MIN: f64 = 0.01;
        let through_origin = Speed { latency_us: 0.0, byte_us: self.sum_y / self.sum_x };
        let spread = self.weight * self.sum_xx - self.sum_x * self.sum_x;
        if spread < SPREAD_MIN * self.sum_x * self.sum_x {
            return through_origin;
        }
        let byte_us = (self.weight * self.sum_xy - self.sum_x * self.sum_y) / spread;
        let latency_us = (self.sum_y - byte_us * self.sum_x) / self.weight;
        if byte_us <= 0.0 || latency_us < 0.0 {
            return through_origin;
        }
        Speed { latency_us, byte_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn at(micros: u64) -> Time {
        Time { micros }
    }

    /// Moves each of `megabytes` alone over a link of 100 us and 1 GB/s, `noise` thousandths off in
    /// turns.
    fn after(megabytes: &[u64], noise: u64) -> Gauge {
        let mut gauge = Gauge::new(Speed::assumed(Link::NvmeRead));
        let mut now = 0;
        for (turn, megabytes) in (0_u64..).zip(megabytes) {
            gauge.started(at(now));
            let takes = 100 + megabytes * 1000;
            now += if turn % 2 == 0 { takes + takes * noise / 1000 } else { takes };
            gauge.ended(at(now), megabytes * MB, false);
            now += 5_000;
        }
        gauge
    }

    fn check(gauge: &Gauge, latency_us: f64, byte_us: f64, within: f64) {
        let Speed { latency_us: latency, byte_us: byte } = gauge.speed();
        assert!((latency - latency_us).abs() <= within * 1000.0, "latency {latency}");
        assert!((byte / byte_us - 1.0).abs() <= within, "a byte takes {byte} us");
    }

    #[test]
    fn latency_and_rate_are_told_apart() {
        check(&after(&[1, 8, 2, 16, 4, 1], 0), 100.0, 0.001, 1e-6);
        check(&after(&[1, 8, 2, 16, 4, 1, 8, 2, 16], 50), 100.0, 0.001, 0.1);
    }

    #[test]
    fn equal_stretches_give_a_rate() {
        let gauge = after(&[4; 6], 0);
        check(&gauge, 0.0, 0.001_025, 1e-6);
        assert_eq!(gauge.speed().moving(4 * MB), Duration::from_micros(4_100));
    }

    #[test]
    fn what_was_assumed_holds_until_enough_was_seen() {
        assert_eq!(after(&[1, 1], 0).speed(), Speed::assumed(Link::NvmeRead));
        assert!(!after(&[1, 1], 0).is_learned() && after(&[1, 1, 1], 0).is_learned());
    }

    #[test]
    fn transfers_side_by_side_count_once() {
        let mut gauge = Gauge::new(Speed::assumed(Link::NvmeRead));
        for round in 0..4 {
            let start = round * 100_000;
            gauge.started(at(start));
            gauge.started(at(start));
            gauge.ended(at(start + 2_000), 2 * MB, false);
            gauge.ended(at(start + 4_000), 2 * MB, false);
        }
        check(&gauge, 0.0, 0.001, 1e-6);
    }

    #[test]
    fn a_link_that_is_never_idle_is_heard_of() {
        let mut gauge = Gauge::new(Speed::assumed(Link::NvmeRead));
        gauge.started(at(0));
        for n in 1..=500_u64 {
            gauge.started(at(n * 1_000));
            gauge.ended(at(n * 1_000), 3 * MB, false);
        }
        assert_eq!(gauge.speed().bytes_per_s() / MB, 3_000);
    }

    /// Moves 4 MB in so many microseconds, alone.
    fn moves(gauge: &mut Gauge, now: &mut u64, micros: u64) {
        gauge.started(at(*now));
        *now += micros;
        gauge.ended(at(*now), 4 * MB, false);
        *now += 5_000;
    }

    #[test]
    fn one_slow_stretch_is_a_surprise_and_many_are_a_slow_link() {
        let mut gauge = after(&[1, 8, 2, 16, 4, 1, 8, 2, 16], 0);
        let mut now = 10_000_000;
        for turn in 0..50 {
            moves(&mut gauge, &mut now, if turn % 5 == 0 { 40_000 } else { 4_100 });
        }
        let usual = gauge.speed().moving(4 * MB) + gauge.speed().latency();
        assert!(usual < Duration::from_micros(4_700), "{usual:?}");
        for _ in 0..100 {
            moves(&mut gauge, &mut now, 40_000);
        }
        let slow = gauge.speed().moving(4 * MB) + gauge.speed().latency();
        assert!(slow > Duration::from_millis(30), "{slow:?}");
    }

    #[test]
    fn failures_teach_nothing() {
        let mut gauge = after(&[4; 6], 0);
        let before = gauge.speed();
        gauge.started(at(10_000_000));
        gauge.ended(at(30_000_000), 4 * MB, true);
        assert_eq!(gauge.speed(), before);
    }
}
