//! Order, bounds and bytes of the queues, on links whose speed is assumed or just seen.

use super::*;

const MB: u64 = 1_000_000;

fn links(in_flight_max: usize, queued_max: usize) -> Links<u32> {
    links_of(LinkLimits { in_flight_max, queued_max, shares_processors: false })
}

fn links_of(limits: LinkLimits) -> Links<u32> {
    Links::new([limits; Link::COUNT])
}

fn load(class: Class, bytes: u64) -> Load {
    Load { link: Link::NvmeRead, class, bytes }
}

fn ms(millis: u64) -> Time {
    Time::from_millis(millis)
}

#[test]
fn bounds_hold_and_urgent_goes_first() {
    let mut links = links(1, 2);
    let now = ms(1);
    let demand = load(Class::Demand, MB);
    assert_eq!(links.offer(now, load(Class::Background, MB), 1), Offer::Start(1));
    assert_eq!(links.offer(now, load(Class::Background, MB), 2), Offer::Queued);
    assert_eq!(links.offer(now, demand, 3), Offer::Queued);
    assert_eq!(links.offer(now, demand, 4), Offer::Full(4));
    let elsewhere = Load { link: Link::NvmeWrite, ..demand };
    assert_eq!(links.offer(now, elsewhere, 5), Offer::Start(5));
    assert_eq!(links.next(now, Link::NvmeRead), None);
    links.ended(ms(2), load(Class::Background, MB), now, MB);
    assert_eq!(links.next(ms(2), Link::NvmeRead), Some(3));
    assert_eq!(links.next(ms(2), Link::NvmeRead), None);
    links.ended(ms(3), demand, ms(2), 5);
    assert_eq!(links.next(ms(3), Link::NvmeRead), Some(2));
    assert_eq!(links.counts(), (2, 0));
    assert_eq!(links.moved_bytes(Link::NvmeRead), [5, 0, MB]);
}

#[test]
fn what_nobody_waits_for_leaves_the_link_all_but_free() {
    let mut links = links(16, 100);
    let (background, demand) = (load(Class::Background, 3 * MB), load(Class::Demand, 30 * MB));
    // Assumed are 3 GB/s: 60 MB in 20 ms, 6 MB in 2 ms.
    let started = (0..30).filter(|n| matches!(links.offer(ms(1), background, *n), Offer::Start(_)));
    assert_eq!(started.count(), 12, "the last places are kept");
    assert_eq!(links.offer(ms(2), demand, 100), Offer::Start(100));
    for _ in 0..12 {
        links.ended(ms(3), background, ms(1), background.bytes);
    }
    links.ended(ms(3), demand, ms(2), demand.bytes);
    assert!(links.next(ms(4), Link::NvmeRead).is_some());
    assert!(links.next(ms(4), Link::NvmeRead).is_some());
    assert_eq!(links.next(ms(4), Link::NvmeRead), None, "requests came a moment ago");
    assert_eq!(links.next(ms(1500), Link::NvmeRead), Some(14));
    assert!(links.cut_bytes(ms(4), Link::NvmeRead, Class::Background) < 4 * MB);
    assert_eq!(links.bytes_ahead(Link::NvmeRead, Class::Demand), 9 * MB);
    assert!(!links.takes_prefetch(ms(4), Link::NvmeRead));
}

#[test]
fn a_load_is_heeded_wherever_processors_copy_and_a_store_on_its_own_link() {
    let yields = |shares_processors, link| {
        let limits = LinkLimits { in_flight_max: 16, queued_max: 100, shares_processors };
        let mut links = links_of(limits);
        let cut = |links: &Links<u32>| links.cut_bytes(ms(2), Link::NvmeWrite, Class::Background);
        let open = cut(&links);
        links.offer(ms(1), Load { link, ..load(Class::Demand, MB) }, 1);
        cut(&links) < open
    };
    assert!(yields(true, Link::DeviceUp));
    assert!(!yields(true, Link::DeviceDown));
    assert!(!yields(true, Link::ObjectPut));
    assert!(!yields(false, Link::DeviceUp));
    assert!(yields(false, Link::NvmeWrite));
}

#[test]
fn an_unknown_link_is_tried_out_before_it_is_filled() {
    let mut links = links(16, 100);
    let lift = load(Class::Prefetch, MB / 100);
    for turn in 0..3 {
        assert_eq!(links.cut_bytes(ms(turn), Link::NvmeRead, Class::Prefetch), TRIAL_BYTES);
        assert_eq!(links.offer(ms(turn * 10), lift, 0), Offer::Start(0));
        assert!(!links.takes_prefetch(ms(turn * 10), Link::NvmeRead), "one at a time");
        links.ended(ms(turn * 10 + 10), lift, ms(turn * 10), lift.bytes);
    }
    // It moves 1 MB a second: so much in flight is over within 20 ms.
    assert_eq!(links.cut_bytes(ms(40), Link::NvmeRead, Class::Prefetch), 5 * MB / 1000);
    let started = (0..9).filter(|_| links.offer(ms(40), lift, 0) == Offer::Start(0)).count();
    assert_eq!(started, 2);
}

#[test]
fn nobody_starves() {
    let mut links = links(1, 100);
    let (background, demand) = (load(Class::Background, MB), load(Class::Demand, MB));
    links.offer(ms(0), demand, 0);
    links.offer(ms(0), background, 1000);
    for n in 1..50 {
        links.offer(ms(0), demand, n);
    }
    let started = (1..40).map(|turn| {
        let class = if turn > 1 && links.lanes[Link::NvmeRead.index()].in_flight[2] > 0 {
            background
        } else {
            demand
        };
        links.ended(ms(turn * 10), class, ms(turn * 10 - 10), class.bytes);
        links.next(ms(turn * 10), Link::NvmeRead).unwrap()
    });
    let started: Vec<u32> = started.collect();
    assert_eq!(started.iter().position(|n| *n == 1000), Some(19), "{started:?}");
}

#[test]
fn cancelled_transfers_leave_the_queue() {
    let mut links = links(1, 10);
    let demand = load(Class::Demand, MB);
    for n in 0..5 {
        links.offer(ms(0), demand, n);
    }
    assert_eq!(links.cancel(|n| (*n % 2 == 1).then_some(MB)), [2, 4]);
    assert_eq!((links.counts(), links.queued(Link::NvmeRead)), ((1, 2), 2));
    links.ended(ms(1), demand, ms(0), demand.bytes);
    assert_eq!(links.next(ms(1), Link::NvmeRead), Some(1));
    assert_eq!(links.bytes_ahead(Link::NvmeRead, Class::Demand), 2 * MB);
    assert!(links.cancel(|_| Some(MB / 4)).is_empty());
    assert_eq!(links.bytes_ahead(Link::NvmeRead, Class::Demand), MB + MB / 4, "a part is left");
    assert_eq!(links.in_flight_bytes(Link::NvmeRead), MB);
}

#[test]
fn what_starts_with_less_than_it_waited_with_counts_as_so_much() {
    let mut links = links(1, 10);
    let demand = load(Class::Demand, 5 * MB);
    links.offer(ms(0), demand, 0);
    links.offer(ms(0), demand, 1);
    links.ended(ms(1), demand, ms(0), demand.bytes);
    assert_eq!(links.next(ms(1), Link::NvmeRead), Some(1));
    links.shrink(demand, 4 * MB);
    let left = load(Class::Demand, MB);
    assert_eq!(links.in_flight_bytes(Link::NvmeRead), MB);
    links.ended(ms(2), left, ms(1), left.bytes);
    assert_eq!(links.in_flight_bytes(Link::NvmeRead), 0);
    assert_eq!(links.moved_bytes(Link::NvmeRead), [6 * MB, 0, 0]);
}

#[test]
fn what_moves_no_bytes_says_nothing_of_the_speed() {
    let mut links = links(4, 10);
    let (write, flush) = (load(Class::Demand, 4 * MB), load(Class::Demand, 0));
    for start in [0, 100, 200] {
        links.offer(ms(start), write, 0);
        links.offer(ms(start), flush, 1);
        links.ended(ms(start + 4), write, ms(start), write.bytes);
        links.ended(ms(start + 40), flush, ms(start), 0);
    }
    assert!(links.is_learned(Link::NvmeRead));
    assert_eq!(links.speed(ms(204), Link::NvmeRead).moving(4 * MB), Duration::from_millis(4));
}

#[test]
fn what_starts_with_nothing_left_was_never_on_the_link() {
    let mut links = links(2, 10);
    let demand = load(Class::Demand, MB);
    links.offer(ms(0), demand, 0);
    links.offer(ms(1), demand, 1);
    links.shrink(demand, MB);
    links.ended(ms(1), load(Class::Demand, 0), ms(1), 0);
    links.ended(ms(2), demand, ms(0), MB);
    assert_eq!((links.counts(), links.in_flight_bytes(Link::NvmeRead)), ((0, 0), 0));
}
