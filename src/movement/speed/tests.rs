//! Links that a test makes fast, slow or silent, and what is made of them.

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
        let (start, takes) = (now, 100 + megabytes * 1000);
        gauge.started(at(start));
        now += if turn % 2 == 0 { takes + takes * noise / 1000 } else { takes };
        gauge.ended(at(now), at(start), megabytes * MB, false);
        now += 5_000;
    }
    gauge
}

fn check(gauge: &Gauge, latency_us: f64, byte_us: f64, within: f64) {
    let Speed { latency_us: latency, byte_us: byte } = gauge.seen();
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
    assert_eq!(gauge.seen().moving(4 * MB), Duration::from_micros(4_100));
}

#[test]
fn what_was_assumed_holds_until_enough_was_seen() {
    assert_eq!(after(&[1, 1], 0).seen(), Speed::assumed(Link::NvmeRead));
    assert!(!after(&[1, 1], 0).is_learned() && after(&[1, 1, 1], 0).is_learned());
}

#[test]
fn transfers_side_by_side_count_once() {
    let mut gauge = Gauge::new(Speed::assumed(Link::NvmeRead));
    for round in 0..4 {
        let start = round * 100_000;
        gauge.started(at(start));
        gauge.started(at(start));
        gauge.ended(at(start + 2_000), at(start), 2 * MB, false);
        gauge.ended(at(start + 4_000), at(start), 2 * MB, false);
    }
    check(&gauge, 0.0, 0.001, 1e-6);
}

#[test]
fn a_link_that_is_never_idle_is_heard_of() {
    let mut gauge = Gauge::new(Speed::assumed(Link::NvmeRead));
    gauge.started(at(0));
    for n in 1..=500_u64 {
        gauge.started(at(n * 1_000));
        gauge.ended(at(n * 1_000), at((n - 1) * 1_000), 3 * MB, false);
    }
    check(&gauge, 0.0, 1.0 / 3_000.0, 1e-6);
}

/// Moves 4 MB in so many microseconds, alone.
fn moves(gauge: &mut Gauge, now: &mut u64, micros: u64) {
    let start = at(*now);
    gauge.pass(start, 0);
    gauge.started(start);
    *now += micros;
    gauge.pass(at(*now), 4 * MB);
    gauge.ended(at(*now), start, 4 * MB, false);
    *now += 5_000;
}

#[test]
fn one_slow_stretch_is_a_surprise_and_many_are_a_slow_link() {
    let mut gauge = after(&[1, 8, 2, 16, 4, 1, 8, 2, 16], 0);
    let mut now = 10_000_000;
    for turn in 0..50 {
        moves(&mut gauge, &mut now, if turn % 5 == 0 { 40_000 } else { 4_100 });
    }
    let usual = gauge.seen().moving(4 * MB) + gauge.seen().latency();
    assert!(usual < Duration::from_micros(4_700), "{usual:?}");
    for _ in 0..100 {
        moves(&mut gauge, &mut now, 40_000);
    }
    let slow = gauge.seen().moving(4 * MB) + gauge.seen().latency();
    assert!(slow > Duration::from_millis(30), "{slow:?}");
}

#[test]
fn failures_teach_nothing() {
    let mut gauge = after(&[4; 6], 0);
    let before = gauge.seen();
    gauge.started(at(10_000_000));
    gauge.ended(at(30_000_000), at(10_000_000), 4 * MB, true);
    assert_eq!(gauge.seen(), before);
}

/// Believes 0.1 GB/s since ten seconds, of a link that is assumed to move 3 GB/s.
fn slow() -> (Gauge, u64) {
    let (mut gauge, mut now) = (Gauge::new(Speed::assumed(Link::NvmeRead)), 0);
    while now < 10_000_000 {
        moves(&mut gauge, &mut now, 40_000);
    }
    (gauge, now)
}

fn megabytes_per_s(gauge: &Gauge, now: u64) -> u64 {
    gauge.expected(at(now)).bytes_per_s() / MB
}

#[test]
fn a_slow_link_that_nobody_uses_is_held_to_be_as_fast_as_is_assumed_again() {
    const MINUTE: u64 = 60_000_000;
    let (gauge, now) = slow();
    let after = [0, 1, 3, 5, 10, 1_000_000].map(|n| megabytes_per_s(&gauge, now + n * MINUTE));
    assert_eq!(after, [100, 193, 648, 1_573, 2_917, 3_000]);
    // What was seen is not forgotten.
    check(&gauge, 0.0, 0.01, 1e-6);
}

#[test]
fn what_is_seen_after_a_silence_counts_more_than_what_was_seen_before() {
    for (micros, then) in [(40_000, 99..101), (1_400, 1_500..3_000)] {
        let (mut gauge, mut now) = slow();
        now += 600_000_000;
        moves(&mut gauge, &mut now, micros);
        let speed = megabytes_per_s(&gauge, now);
        assert!(then.contains(&speed), "{speed} after {micros} us");
    }
}

#[test]
fn a_link_faster_than_is_assumed_stays_so() {
    let gauge = after(&[1, 8, 2, 16, 4, 1], 0);
    let fast = Gauge { assumed: Speed::new(0.5e9, 20_000.0), ..gauge };
    assert_eq!(fast.expected(Time::MAX), fast.seen());
}

/// Starts one of 4 MB beside `hanging_bytes`, which ends after so many microseconds.
fn passes_by(gauge: &mut Gauge, now: &mut u64, hanging_bytes: u64, micros: u64) {
    let start = at(*now);
    gauge.pass(start, hanging_bytes);
    gauge.started(start);
    *now += micros;
    gauge.pass(at(*now), hanging_bytes + 4 * MB);
    gauge.ended(at(*now), start, 4 * MB, false);
}

#[test]
fn one_that_hangs_does_not_make_the_others_slow() {
    let mut gauge = after(&[4; 9], 0);
    let (start, mut now) = (10_000_000, 10_000_000);
    gauge.started(at(start));
    for _ in 0..30 {
        now += 1_000_000;
        passes_by(&mut gauge, &mut now, 4 * MB, 4_100);
        assert_eq!(gauge.seen().moving(4 * MB), Duration::from_micros(4_100));
    }
    now += 5_000_000;
    gauge.pass(at(now), 4 * MB);
    gauge.ended(at(now), at(start), 4 * MB, false);
    assert_eq!(gauge.seen().moving(4 * MB), Duration::from_micros(4_100), "others passed it by");
    moves(&mut gauge, &mut now, 4_100);
    assert_eq!(gauge.seen().moving(4 * MB), Duration::from_micros(4_100));
}

/// Transfers of 4 MB, each begun so many microseconds after the one before, each as long under way.
fn overlapping(gauge: &mut Gauge, every: u64, takes: u64) {
    let start = |n: u64| 20_000_000 + n * every;
    let mut moments: Vec<(u64, Option<u64>)> =
        (0..200).flat_map(|n| [(start(n), None), (start(n) + takes, Some(start(n)))]).collect();
    // What ends makes room for what starts.
    moments.sort_by_key(|(when, ended)| (*when, ended.is_none()));
    let mut in_flight_bytes = 0;
    for (when, ended) in moments {
        gauge.pass(at(when), in_flight_bytes);
        if let Some(start) = ended {
            gauge.ended(at(when), at(start), 4 * MB, false);
            in_flight_bytes -= 4 * MB;
        } else {
            gauge.started(at(when));
            in_flight_bytes += 4 * MB;
        }
    }
}

#[test]
fn a_link_on_which_all_takes_long_is_slow_however_its_transfers_overlap() {
    // Nothing is heard for far longer than all of it took when the link was fast.
    for (every, takes) in [(500_000, 1_000_000), (700_000, 1_000_000), (500_000, 4_000_000)] {
        let mut gauge = after(&[4; 9], 0);
        overlapping(&mut gauge, every, takes);
        let seen = gauge.seen().moving(4 * MB);
        let of_each = Duration::from_micros(every);
        assert!(seen > of_each / 2 && seen < 2 * of_each, "{seen:?}, one every {of_each:?}");
    }
}
