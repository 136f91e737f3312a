//! Records: shields, budgets, promises to forget, floors, usage.

use crate::domain::hint::Target;
use crate::domain::retention::{Kind, Scope, Shield, TokenRange, Wish};

use super::*;

const MIN: Duration = Duration::from_mins(1);

fn all(wish: Wish) -> Directive {
    Directive { tokens: TokenRange::ALL, wish }
}

fn shield(ttl: Duration) -> Wish {
    Wish { shield: Some(Shield { ttl, refresh_on_hit: true }), ..Wish::default() }
}

fn priority(priority: u8) -> Wish {
    Wish { priority: Some((priority, None)), ..Wish::default() }
}

fn kind(kind: Kind) -> Wish {
    Wish { kind: Some(kind), ..Wish::default() }
}

fn delete_after(after: Duration) -> Wish {
    Wish { delete_after: Some(after), ..Wish::default() }
}

/// The first blocks of a chain, in tokens; the test namespace has 16 a block.
fn first(blocks: u64, wish: Wish) -> Directive {
    Directive { tokens: TokenRange { start: 0, end: Some(blocks * 16) }, wish }
}

fn of(blocks: &[u64]) -> Target {
    Target::Keys(keys(blocks))
}

#[test]
fn a_shielded_chain_outlives_younger_ones_until_its_time_is_over() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    bench.turn(None, &[all(shield(5 * MIN))], &[1, 2, 3]);
    for chain in 1..5_u64 {
        bench.store(None, &[chain * 10, chain * 10 + 1, chain * 10 + 2]);
    }
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
    bench.pass(4 * MIN);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3", "a hit renews it");
    bench.pass(4 * MIN);
    bench.store(None, &[61, 62, 63, 64, 65]);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3", "renewed, it holds");
    bench.pass(6 * MIN);
    assert!(!bench.block(1).unwrap().record.shield_until.gt(&Time::ZERO));
    bench.store(None, &[71, 72, 73, 74]);
    bench.store(None, &[81, 82, 83, 84]);
    assert_eq!(bench.found(&[1, 2, 3]), "", "over time it is a block like any other");
}

#[test]
fn shields_stay_inside_their_budget_and_the_rest_is_told() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    let turn = bench.turn(None, &[all(shield(MIN))], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(turn.clipped, 2, "half of eight may be shielded, the head comes first");
    assert_eq!(turn.usage.created_5m_tokens, 4 * 16);
    for n in [1, 4] {
        assert!(bench.block(n).unwrap().record.shield_until > bench.now);
    }
    assert_eq!(bench.block(5).unwrap().record.shield_until, Time::ZERO);
    let outcome = bench.hint(Action::Retain { target: of(&[5, 6]), wish: shield(MIN) });
    assert_eq!(outcome, Outcome::Clipped { blocks: 0, clipped: 2 });
    let outcome = bench.hint(Action::Release { target: of(&[3, 4]) });
    assert_eq!(outcome, Outcome::Accepted { blocks: 2 });
    let outcome = bench.hint(Action::Retain { target: of(&[5]), wish: shield(MIN) });
    assert_eq!(outcome, Outcome::Accepted { blocks: 1 });
}

#[test]
fn a_tier_honours_no_more_shields_than_its_share() {
    // 50 % of 4 and of 100: most of the shielded chain ranks as ordinary in DRAM, not on NVMe.
    let mut bench = Bench::new([0, 4, 100, 0]);
    let long: Vec<u64> = (1..=20).collect();
    assert_eq!(bench.turn(None, &[all(shield(MIN))], &long).clipped, 0);
    bench.store(None, &[101, 102]);
    assert_eq!(bench.found(&[101, 102]), "dram:2", "shields don't close the tier");
    assert_eq!(bench.manager.counters.broken_shields, 0);
    assert!(bench.found(&long).contains("nvme:"));
}

#[test]
fn memory_pressure_breaks_shields_last_and_counts_it() {
    let mut bench = Bench::with_config([0, 4, 0, 0], 1, |config| {
        config.shields = super::super::ShieldShares { namespace_percent: 100, tenant_percent: 100 };
    });
    bench.turn(None, &[all(shield(MIN))], &[1, 2, 3, 4]);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[11, 12]), "dram:2", "a tier full of shields still takes stores");
    assert_eq!(bench.found(&[1, 2, 3, 4]), "dram:2");
    assert_eq!(bench.manager.counters.broken_shields, 2);
}

#[test]
fn a_promise_to_forget_is_kept_in_every_tier_and_never_late() {
    let mut bench = Bench::new([0, 4, 4, 8]);
    let long: Vec<u64> = (1..=12).collect();
    bench.turn(None, &[first(2, delete_after(MIN))], &long);
    assert!(bench.found(&long).contains("object"));
    bench.now = bench.now + MIN;
    assert_eq!(bench.found(&long), "", "not even before anybody was told that time passed");
    assert_eq!(bench.load(&[1, 2]).failed, [0, 1]);
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.block(1), None);
    assert_eq!(bench.block(12), None, "what hangs on it went too");
    assert_eq!(bench.manager.directory.len(), 0);
    assert_eq!(bench.manager.status().forgotten_blocks, 12, "each of them counts");
}

#[test]
fn a_priority_that_was_lowered_for_a_while_is_not_made_to_last_by_a_release() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.store(None, &[1]);
    let lowered = Wish { priority: Some((10, Some(MIN))), ..Wish::default() };
    bench.hint(Action::Retain { target: of(&[1]), wish: lowered });
    let until = bench.now + MIN;
    bench.hint(Action::Release { target: of(&[1]) });
    let record = bench.block(1).unwrap().record;
    assert_eq!((record.priority, record.priority_until), (10, until));
}

#[test]
fn of_a_shared_block_only_all_owners_together_are_forgotten_early() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.turn(Some("a"), &[all(delete_after(MIN))], &[1, 2]);
    bench.turn(Some("b"), &[all(delete_after(3 * MIN))], &[1, 2]);
    bench.turn(Some("c"), &[], &[1, 2]);
    assert_eq!(bench.block(2).unwrap().record.delete_after, bench.now + 3 * MIN);
    bench.turn(Some("d"), &[all(priority(80))], &[1, 2]);
    let record = bench.block(2).unwrap().record;
    assert_eq!((record.delete_after, record.priority), (Time::ZERO, 80), "one wants to keep it");
    let own = Wish { scope: Some(Scope::Session), ..delete_after(MIN) };
    bench.turn(Some("e"), &[all(own)], &[1, 2, 3]);
    assert_eq!(bench.block(3).unwrap().record.delete_after, bench.now + MIN);
    bench.turn(Some("f"), &[all(priority(80))], &[1, 2, 3]);
    assert_eq!(bench.block(3).unwrap().record.delete_after, bench.now + MIN, "a session's own");
}

#[test]
fn what_another_owner_wants_otherwise_is_told_as_clipped() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.turn(Some("a"), &[], &[1, 2]);
    let mut retain = |wish| {
        let target = Target::Keys(keys(&[1, 2]));
        bench.hint(Action::Retain { target, wish })
    };
    for wish in [delete_after(MIN), priority(10)] {
        assert_eq!(retain(wish), Outcome::Clipped { blocks: 0, clipped: 2 });
    }
    assert_eq!(retain(priority(80)), Outcome::Accepted { blocks: 2 });
    assert_eq!(retain(shield(MIN)), Outcome::Accepted { blocks: 2 });
    for (wish, clipped) in [(delete_after(MIN), 2), (priority(80), 0)] {
        assert_eq!(bench.turn(Some("b"), &[all(wish)], &[1, 2]).clipped, clipped);
    }
}

#[test]
fn scratch_is_never_written_down() {
    let mut bench = Bench::new([0, 4, 50, 50]);
    bench.turn(None, &[], &[1, 2]);
    let claims =
        [Directive { tokens: TokenRange { start: 32, end: None }, wish: kind(Kind::Reasoning) }];
    bench.turn(None, &claims, &[1, 2, 3, 4]);
    bench.store(None, &[11, 12, 13, 14]);
    assert_eq!(bench.found(&[1, 2, 3, 4]), "nvme:2");
    assert_eq!(bench.tier(Tier::Nvme).blocks, 2);
}

#[test]
fn what_hangs_on_scratch_sinks_no_lower_than_it() {
    let mut bench = Bench::new([0, 4, 50, 0]);
    let claims = [first(1, kind(Kind::Subagent))];
    bench.turn(None, &claims, &[1, 2, 3, 4]);
    bench.store(None, &[11, 12, 13, 14]);
    assert_eq!(bench.tier(Tier::Nvme).blocks, 0, "they would hang on nothing");
    assert_eq!(bench.found(&[11, 12, 13, 14]), "dram:4");
}

#[test]
fn usage_is_counted_a_request() {
    let mut bench = Bench::new([0, 2, 50, 0]);
    let hour = Duration::from_hours(1);
    let claims = [
        first(2, shield(hour)),
        Directive { tokens: TokenRange { start: 32, end: Some(48) }, wish: shield(5 * MIN) },
    ];
    let usage = bench.turn(None, &claims, &[1, 2, 3, 4]).usage;
    assert_eq!((usage.created_1h_tokens, usage.created_5m_tokens), (32, 16));
    assert_eq!(usage.uncached_tokens, 16);
    let usage = bench.turn(None, &claims, &[1, 2, 3, 4, 5]).usage;
    assert_eq!(usage.read_tokens.iter().sum::<u64>(), 64);
    assert_eq!((usage.created_1h_tokens, usage.created_5m_tokens), (0, 0));
    assert_eq!(usage.uncached_tokens, 16);
}

#[test]
fn a_raised_priority_falls_back_when_its_time_is_over() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    let wish = Wish { priority: Some((90, Some(MIN))), ..Wish::default() };
    bench.turn(None, &[all(wish)], &[1]);
    assert_eq!(bench.block(1).unwrap().record.priority, 90);
    bench.pass(MIN);
    let record = bench.block(1).unwrap().record;
    assert_eq!((record.priority, record.priority_until), (35, Time::ZERO));
}

#[test]
fn what_is_demoted_goes_first_and_sinks() {
    let mut bench = Bench::new([0, 4, 4, 0]);
    bench.turn(None, &[], &[1, 2]);
    bench.turn(None, &[], &[11, 12]);
    let outcome = bench.hint(Action::Demote { target: of(&[11, 12]), to: Tier::Nvme });
    assert_eq!(outcome, Outcome::Accepted { blocks: 2 });
    bench.turn(None, &[], &[21, 22]);
    assert_eq!(bench.found(&[11, 12]), "nvme:2");
    assert_eq!(bench.found(&[1, 2]), "dram:2");
}

/// However often the order is changed, the lists stay as long as what they list; and it still holds.
#[test]
fn changes_of_rank_do_not_pile_up() {
    for policy in PolicyName::ALL {
        let mut bench = Bench::with_config([0, 4, 0, 0], 1, |config| config.policy = policy);
        for n in 1..=4 {
            bench.turn(None, &[], &[n]);
        }
        let entries = |bench: &Bench| {
            let classes = &bench.manager.tiers[Tier::Dram.index()].as_ref().unwrap().classes;
            classes.iter().map(|class| class.ranks.entries()).sum::<usize>()
        };
        let retain = |n, wish| Action::Retain { target: of(&[n]), wish };
        for round in 0..2_000_u64 {
            let n = 1 + round % 4;
            bench.hint(retain(n, priority(if round % 8 < 4 { 60 } else { 10 })));
            bench.hint(retain(n, shield(MIN)));
            bench.hint(Action::Release { target: of(&[n]) });
            assert!(entries(&bench) <= 2 * 4 + 1024 + 1, "{policy:?}: {}", entries(&bench));
        }
        for (n, level) in [(1, 80), (2, 90), (3, 20), (4, 70)] {
            bench.hint(retain(n, priority(level)));
        }
        bench.turn(None, &[], &[11]);
        let here: Vec<_> = (1..=4).filter(|n| bench.block(*n).is_some()).collect();
        assert_eq!(here, [1, 2, 4], "{policy:?}");
        assert!(entries(&bench) >= 4, "{policy:?}: each is listed");
    }
}

#[test]
fn bad_wishes_are_rejected_one_by_one() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    bench.turn(None, &[], &[1, 2]);
    let mut check = |target: Target, wish: Wish, expected: &str| {
        let said = format!("{:?}", bench.hint(Action::Retain { target, wish }));
        assert!(said.contains(expected), "{wish:?}\n  said  {said}\n  lacks {expected}");
    };
    check(of(&[1]), priority(101), "Rejected(\"priority 101 is out of range");
    check(of(&[1]), shield(Duration::ZERO), "Rejected(\"a TTL of 0 keeps nothing");
    check(of(&[1]), shield(Duration::from_hours(8760)), "Clipped { blocks: 1, clipped: 0 }");
    check(of(&[9]), priority(50), "Missing(\"none of these blocks is here");
    let session = Target::Session { session: name("who"), tokens: TokenRange::ALL };
    check(session, priority(50), "Missing(\"session who is not known");
    check(Target::SessionTree(name("who")), priority(50), "Missing(\"session who is not known");
}

#[test]
fn a_clock_that_jumps_back_changes_nothing() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    bench.turn(None, &[all(shield(MIN))], &[1, 2]);
    let then = bench.now;
    bench.now = Time::from_millis(0);
    bench.pass(Duration::from_millis(1));
    assert!(bench.block(1).unwrap().record.shield_until > then);
    bench.now = then + 1000 * MIN;
    bench.pass(Duration::ZERO);
    assert_eq!(bench.block(1).unwrap().record.shield_until, Time::ZERO);
}

#[test]
fn a_tenant_has_a_budget_over_all_its_namespaces() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    let other = |bench: &mut Bench, client: u64, model: &str, salt: u8, block: u64| {
        bench.client = ClientId(client);
        let namespace = Namespace { model: model.into(), tenant_salt: vec![salt], ..namespace(1) };
        bench.ask(Command::hello(namespace));
        bench.pool = bench.register(0);
        let blocks: Vec<u64> = (block..block + 4).collect();
        bench.turn(None, &[all(shield(MIN))], &blocks).clipped
    };
    assert_eq!(other(&mut bench, 2, "a", 7, 10), 0, "half of eight for one namespace");
    assert_eq!(other(&mut bench, 3, "b", 7, 20), 2, "three quarters for one tenant");
    assert_eq!(other(&mut bench, 4, "a", 8, 30), 0, "another tenant has its own");
}

#[test]
fn a_block_between_two_ranges_counts_once_and_the_later_range_wins() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    let range = |start, end, wish| Directive { tokens: TokenRange { start, end }, wish };
    let claims = [range(0, Some(24), shield(60 * MIN)), range(24, Some(32), shield(5 * MIN))];
    let usage = bench.turn(None, &claims, &[1, 2]).usage;
    assert_eq!((usage.created_1h_tokens, usage.created_5m_tokens), (16, 16));
    assert_eq!(bench.block(2).unwrap().record.shield_until, bench.now + 5 * MIN);
}

#[test]
fn who_asked_alone_takes_it_back_though_others_read_the_block() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.turn(Some("a"), &[], &[1, 2]);
    bench.turn(Some("b"), &[], &[1, 2]);
    let reached = |session| Target::Session { session: name(session), tokens: TokenRange::ALL };
    let retain = |session| Action::Retain { target: reached(session), wish: shield(MIN) };
    let release = |session| Action::Release { target: reached(session) };
    let until = |bench: &mut Bench| bench.block(2).unwrap().record.shield_until;
    assert_eq!(bench.hint(retain("a")), Outcome::Accepted { blocks: 2 });
    assert_eq!(bench.hint(release("b")), Outcome::Clipped { blocks: 0, clipped: 2 });
    assert_eq!(until(&mut bench), bench.now + MIN);
    assert_eq!(bench.hint(release("a")), Outcome::Accepted { blocks: 2 });
    assert_eq!(until(&mut bench), Time::ZERO);
    bench.hint(retain("a"));
    bench.hint(retain("b"));
    for session in ["a", "b"] {
        assert_eq!(bench.hint(release(session)), Outcome::Clipped { blocks: 0, clipped: 2 });
    }
}

#[test]
fn a_shield_that_was_shortened_ends_in_its_new_turn() {
    let mut bench = Bench::with_config([0, 2, 0, 0], 1, |config| {
        config.shields = super::super::ShieldShares { namespace_percent: 100, tenant_percent: 100 };
    });
    bench.turn(None, &[all(shield(60 * MIN))], &[1]);
    bench.turn(None, &[all(shield(30 * MIN))], &[2]);
    bench.hint(Action::Retain { target: of(&[1]), wish: shield(5 * MIN) });
    bench.store(None, &[11]);
    assert_eq!(bench.manager.counters.broken_shields, 1);
    assert_eq!((bench.found(&[1]), bench.found(&[2])), (String::new(), "dram:1".into()));
}

/// In a tier of four of which shields may have two, the third that came took the first one's.
#[test]
fn a_shield_that_was_waived_counts_again_once_it_ends_later() {
    let pinned_anew = |bench: &mut Bench| {
        bench.hint(Action::Retain { target: of(&[1]), wish: shield(60 * MIN) });
    };
    let hit = |bench: &mut Bench| {
        bench.pass(MIN / 2);
        bench.found(&[1]);
    };
    let ways: [&dyn Fn(&mut Bench); 2] = [&pinned_anew, &hit];
    for ends_later in ways {
        let mut bench = Bench::new([0, 4, 100, 0]);
        bench.store(None, &[9]);
        for n in 1..=3 {
            bench.turn(None, &[all(shield(n * MIN))], &[u64::from(n)]);
        }
        bench.store(None, &[11]);
        assert_eq!(bench.found(&[9]), "nvme:1");
        ends_later(&mut bench);
        bench.hint(Action::Release { target: of(&[2, 3]) });
        for n in [2, 3, 11] {
            bench.found(&[n]);
        }
        bench.store(None, &[12]);
        assert_eq!(bench.found(&[1]), "dram:1", "the only shield there is");
    }
}

#[test]
fn a_floor_above_all_memory_there_is_shuts_nobody_out() {
    let mut bench = Bench::new([0, 8, 8, 0]);
    bench.store(None, &[1, 2]);
    let wish = Wish { floor: Some(Tier::Hbm), ..shield(MIN) };
    let outcome = bench.hint(Action::Retain { target: of(&[1, 2]), wish });
    assert_eq!(outcome, Outcome::Accepted { blocks: 2 });
    assert_eq!(bench.block(1).unwrap().record.floor, Tier::Hbm, "as it was asked for");
    bench.store(Some(2), &[3, 4]);
    assert_eq!(bench.found(&[1, 2, 3, 4]), "dram:4");
    for n in 11..20 {
        bench.store(None, &[n]);
    }
    assert_eq!(bench.found(&[1, 2]), "dram:2", "it sinks no lower than memory");
}
