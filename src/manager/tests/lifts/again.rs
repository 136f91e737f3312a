//! Lifts for tools that find no room, and look again.

use super::*;

fn shield(bench: &mut Bench, blocks: &[u64], seconds: u64) {
    let shield = Shield { ttl: Duration::from_secs(seconds), refresh_on_hit: false };
    let wish = Wish { shield: Some(shield), ..Wish::default() };
    bench.hint(Action::Retain { target: Target::Keys(keys(blocks)), wish });
}

fn tool(bench: &mut Bench, seconds: u64) {
    let expected = Some(Duration::from_secs(seconds));
    bench.hint(Action::ToolStart { session: name("s"), expected });
}

#[test]
fn a_lift_for_a_tool_that_finds_no_room_looks_again() {
    let mut bench = sunk();
    bench.turn(Some("s"), &[], &[1, 2, 3]);
    for single in 201..=208 {
        bench.store(None, &[single]);
        shield(&mut bench, &[single], 5);
    }
    tool(&mut bench, 10);
    bench.pass(Duration::from_millis(3_500));
    assert_eq!(bench.found(&[1, 2, 3]), "dram:2 nvme:1", "half of DRAM is shielded");
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
}

/// A chain of which the last three have sunk, and a lift for a tool that came to them and finds no room.
fn refused(blocks: u64) -> (Bench, Vec<u64>) {
    let mut bench =
        Bench::with_config([0, blocks + 1, 2 * blocks, 0], 1, |config| config.lift_percent = 0);
    let chain: Vec<u64> = (1..=blocks).collect();
    bench.store(None, &chain);
    bench.turn(Some("s"), &[], &chain);
    for single in 9_001..=9_004 {
        bench.store(None, &[single]);
    }
    tool(&mut bench, 20);
    bench.pass(Duration::from_millis(6_500));
    (bench, chain)
}

/// What it passed before is not looked through again, each second and for each agent that waits.
#[test]
fn looking_again_costs_the_same_however_long_the_chain_is() {
    let looks = |blocks: u64| {
        let (mut bench, chain) = refused(blocks);
        bench.manager.directory.looks.take();
        bench.now = bench.now + Duration::from_millis(1_100);
        bench.manager.now = bench.now;
        bench.manager.time_lifts();
        bench.manager.move_lifts();
        let looks = bench.manager.directory.looks.take();
        assert_eq!(bench.found(&chain), format!("dram:{} nvme:3", blocks - 3));
        bench.manager.config.lift_percent = 100;
        bench.pass(Duration::from_secs(2));
        assert_eq!(bench.found(&chain), format!("dram:{blocks}"), "there is room");
        looks
    };
    assert_eq!(looks(10), looks(300));
}

#[test]
fn what_sank_meanwhile_is_lifted_too() {
    let (mut bench, chain) = refused(4);
    bench.store(None, &[9_005]);
    bench.manager.config.lift_percent = 100;
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.found(&chain), "dram:4");
}

/// A sub-agent that is told of when its tool runs already has one lift, which ends with it.
#[test]
fn no_lift_is_left_behind_where_a_session_has_one() {
    let mut bench = sunk();
    bench.turn(Some("lead"), &[], &[1, 2]);
    bench.turn(Some("s"), &[], &[1, 2, 3]);
    for single in 201..=208 {
        bench.store(None, &[single]);
    }
    tool(&mut bench, 100);
    bench.hint(Action::SessionStart { session: name("s"), parent: Some(name("lead")) });
    bench.hint(Action::SessionEnd { session: name("s"), tree: false });
    let before = counts(&bench);
    bench.pass(Duration::from_secs(40));
    assert_eq!(counts(&bench), before);
}
