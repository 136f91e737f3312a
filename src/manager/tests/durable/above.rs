//! Durable stores whose directives count for blocks above their own.

use super::*;

const TICK: Duration = Duration::from_millis(100);

/// Three durable blocks, and a durable store of two behind them that wants `wish` for these tokens.
fn behind_three(wish: Wish, start_token: u64, end: Option<u64>) -> Bench {
    let mut bench = Bench::new([0, 8, 8, 0]);
    persist(&mut bench, None, &[1, 2, 3], |_| None);
    let tokens = TokenRange { start: start_token, end };
    let directives = Directives::admit(vec![Directive { tokens, wish }]).expect("it makes sense");
    start(&mut bench, Some(3), &[4, 5], directives);
    bench.run();
    bench
}

fn raised() -> Wish {
    Wish { priority: Some((90, None)), ..Wish::default() }
}

/// Ends the writes of records that are under way; which blocks' they were.
fn restamp(bench: &mut Bench, end: RestampEnd) -> Vec<Key> {
    let asked: Vec<_> = bench.restamps.drain(..).collect();
    for (tier, key, _) in &asked {
        bench.event(Event::Restamped { tier: *tier, key: *key, end });
    }
    bench.run();
    asked.into_iter().map(|(_, key, _)| key).collect()
}

#[test]
fn a_store_ends_when_the_headers_above_say_what_it_asked_for() {
    // All of the chain, or only what is farthest from the blocks that are stored.
    for (tokens, changed) in [(None, 3), (Some(16), 1)] {
        let mut bench = behind_three(raised(), 0, tokens);
        assert_eq!(bench.completions.len(), 0, "a restart would find what was asked for before");
        bench.pass(TICK);
        assert_eq!(bench.completions.len(), 0, "nor is it written yet");
        let mut written = restamp(&mut bench, RestampEnd::Written);
        written.sort_unstable();
        let mut above = keys(&[1, 2, 3][..changed]);
        above.sort_unstable();
        assert_eq!(written, above);
        let end = bench.completions.pop().expect("it completes");
        assert_eq!((end.blocks, end.failed, end.not_durable), (2, NONE, NONE));
    }
}

#[test]
fn a_header_above_that_cannot_be_written_is_told() {
    let mut bench = behind_three(raised(), 0, Some(16));
    bench.pass(TICK);
    assert_eq!(restamp(&mut bench, RestampEnd::Failed), [key(1)]);
    let end = bench.completions.pop().expect("it completes");
    assert_eq!((end.failed, end.not_durable), (NONE, vec![0, 1]));
    assert!(are_durable(&bench, Tier::Nvme, &[1, 2, 3, 4, 5]), "as blocks they are");
}

#[test]
fn a_store_that_changes_nothing_above_waits_for_nothing_there() {
    let usual = Wish { priority: Some((35, None)), ..Wish::default() };
    for (wish, start_token) in [(usual, 0), (raised(), 3 * 16)] {
        let mut bench = behind_three(wish, start_token, None);
        let end = bench.completions.pop().expect("it completes");
        assert_eq!((end.failed, end.not_durable), (NONE, NONE));
        bench.pass(Duration::from_secs(2));
        assert!(bench.restamps.is_empty());
    }
}

#[test]
fn a_block_above_that_is_lost_meanwhile_takes_the_store_along() {
    let mut bench = behind_three(raised(), 0, Some(16));
    bench.pass(TICK);
    restamp(&mut bench, RestampEnd::Corrupt);
    let end = bench.completions.pop().expect("it completes");
    assert_eq!((end.failed, end.not_durable), (NONE, vec![0, 1]));
}
