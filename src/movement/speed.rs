//! How fast a link is: learned from what it moved, corrected by every busy stretch, and believed for as
//! long as it is confirmed.
//!
//! Never knows what is moved, only how many bytes and for how long.

mod stretches;

use std::time::Duration;

use super::Link;
use crate::domain::units::Time;
use stretches::{Stretch, Stretches};

/// What one more stretch leaves of the weight of those before.
const DECAY: f64 = 0.97;

/// Stretches after which what was seen counts more than what was assumed.
const STRETCHES_MIN: u32 = 3;

/// A stretch that took so much longer than expected met something else than the link, and counts as
/// if it had taken only that long, unless as many come one after the other: then the link is slow.
const SLOW_FACTOR: f64 = 1.5;
const SLOW_STREAK: u32 = 4;

/// What is under way hangs when nothing was heard of it for so many times what all of it takes.
const SILENCE_FACTOR: u32 = 4;

/// What was seen counts half after so long in which nobody saw it again. A link that is held to be slow
/// is not loaded from, so that nothing else would ever tell that it is fast again.
const TRUST_HALVES: Duration = Duration::from_mins(1);

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

    /// What is left of it once it is trusted only so far: as much of what it is slower by than `assumed`.
    fn relaxed(self, assumed: Self, trust: f64) -> Self {
        let towards =
            |seen: f64, assumed: f64| assumed.min(seen) + (seen - assumed).max(0.0) * trust;
        Self {
            latency_us: towards(self.latency_us, assumed.latency_us),
            byte_us: towards(self.byte_us, assumed.byte_us),
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
    assumed: Speed,
    /// As seen, and when last.
    speed: Speed,
    seen: Time,
    stretches: Stretches,
    learned: u32,
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
            assumed,
            speed: assumed,
            seen: Time::ZERO,
            stretches: Stretches::new(),
            learned: 0,
            slow_streak: 0,
            weight: 0.0,
            sum_x: 0.0,
            sum_y: 0.0,
            sum_xx: 0.0,
            sum_xy: 0.0,
        }
    }

    /// As it was seen.
    #[must_use]
    pub const fn seen(&self) -> Speed {
        self.speed
    }

    /// What to expect now: as it was seen, or as is assumed, the longer nobody saw it the more.
    #[must_use]
    pub fn expected(&self, now: Time) -> Speed {
        self.speed.relaxed(self.assumed, self.trust(now))
    }

    /// What is left of one: half after each [`TRUST_HALVES`], and straight in between, so that every
    /// machine counts the same.
    fn trust(&self, now: Time) -> f64 {
        let (age, half) = (now.since(self.seen).as_micros(), TRUST_HALVES.as_micros());
        let halvings = i32::try_from(age / half).unwrap_or(i32::MAX);
        let begun = Duration::from_micros(u64::try_from(age % half).unwrap_or(0));
        0.5_f64.powi(halvings) * (1.0 - 0.5 * begun.div_duration_f64(TRUST_HALVES))
    }

    /// Whether the speed was seen, not assumed.
    #[must_use]
    pub const fn is_learned(&self) -> bool {
        self.learned >= STRETCHES_MIN
    }

    /// Time has come to `now`, with so many bytes under way. Is told before anything starts or ends.
    pub fn pass(&mut self, now: Time, in_flight_bytes: u64) {
        if self.is_learned() {
            let takes = self.speed.latency().saturating_add(self.speed.moving(in_flight_bytes));
            let stretch = self.stretches.pass(now, takes.saturating_mul(SILENCE_FACTOR));
            self.learn(now, stretch);
        }
    }

    pub fn started(&mut self, now: Time) {
        self.stretches.started(now);
    }

    /// The last one that started never did.
    pub fn withdrawn(&mut self) {
        self.stretches.withdrawn();
    }

    /// A transfer of `bytes` that had started at `start` ended; `failed` if they did not all land.
    ///
    /// # Panics
    /// None had started then: a broken invariant of the caller.
    pub fn ended(&mut self, now: Time, start: Time, bytes: u64, failed: bool) {
        let stretch = self.stretches.ended(now, start, bytes, failed);
        self.learn(now, stretch);
    }

    fn learn(&mut self, now: Time, stretch: Option<Stretch>) {
        let Some(Stretch { bytes, took }) = stretch else { return };
        let (x, y) = (as_float(bytes), took.as_secs_f64() * 1e6);
        let expected = self.speed.latency_us + self.speed.byte_us * x;
        let y = self.without_surprise(y, expected);
        let kept = DECAY * self.trust(now);
        self.seen = now;
        for sum in
            [&mut self.weight, &mut self.sum_x, &mut self.sum_y, &mut self.sum_xx, &mut self.sum_xy]
        {
            *sum *= kept;
        }
        self.weight += 1.0;
        self.sum_x += x;
        self.sum_y += y;
        self.sum_xx += x * x;
        self.sum_xy += x * y;
        self.learned = self.learned.saturating_add(1);
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
mod tests;
