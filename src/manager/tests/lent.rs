//! Blocks of HBM that clients read where they lie.

use crate::domain::retention::{TokenRange, Wish};

use super::*;

/// What is lent of these blocks, by index, and how many are not for want of a share.
fn borrow(bench: &mut Bench, request: u64, blocks: &[u64]) -> (Vec<u32>, u32) {
    let command = Command::Borrow { request: RequestId(request), keys: keys(blocks) };
    match bench.ask(command) {
        Reply::Borrow { blocks, clipped } => {
            (blocks.iter().map(|block| block.index).collect(), clipped)
        }
        other => panic!("{other:?}"),
    }
}

fn give_back(bench: &mut Bench, request: u64) -> u32 {
    match bench.ask(Command::GiveBack { request: RequestId(request) }) {
        Reply::GiveBack { blocks } => blocks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_quarter_of_the_tier_is_lent_and_no_more() {
    let mut bench = Bench::new([8, 8, 0, 0]);
    bench.store(None, &[1, 2, 3, 4]);
    assert_eq!(borrow(&mut bench, 1, &[1, 2, 3, 4, 5]), (vec![0, 1], 2));
    assert_eq!(borrow(&mut bench, 2, &[2, 3]), (vec![0], 1), "held by both, counted once");
    assert_eq!(give_back(&mut bench, 1), 2);
    assert_eq!(borrow(&mut bench, 1, &[3, 4]), (vec![0], 1), "one of the two is still read");
    assert_eq!((give_back(&mut bench, 1), give_back(&mut bench, 2)), (1, 1));
    assert_eq!(borrow(&mut bench, 1, &[3, 4]), (vec![0, 1], 0));
}

#[test]
fn what_is_lent_is_not_evicted_and_a_request_s_end_gives_it_back() {
    let mut bench = Bench::new([4, 8, 0, 0]);
    bench.store(None, &[1]);
    assert_eq!(borrow(&mut bench, 5, &[1]).0, [0]);
    for chain in 1..6 {
        bench.store(None, &[chain * 10, chain * 10 + 1]);
    }
    assert_eq!(bench.found(&[1]), "hbm:1", "nobody may write there");
    let (stop, request) = (Stop::Unknown, RequestId(5));
    bench.ask(Command::EndRequest { request, stop, output_tokens: 0, prefill: None });
    bench.store(None, &[71, 72, 73]);
    bench.store(None, &[81, 82, 83]);
    assert!(!bench.found(&[1]).starts_with("hbm"));
}

#[test]
fn what_is_to_be_forgotten_goes_when_it_is_given_back() {
    let mut bench = Bench::new([4, 0, 0, 0]);
    let wish = Wish { delete_after: Some(Duration::from_secs(1)), ..Wish::default() };
    let tokens = TokenRange { start: 0, end: None };
    bench.turn(None, &[Directive { tokens, wish }], &[1]);
    assert_eq!(borrow(&mut bench, 5, &[1]).0, [0]);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.found(&[1]), "", "it is served to nobody any more");
    assert_eq!(borrow(&mut bench, 6, &[1]), (vec![], 0));
    assert_eq!(bench.tier(Tier::Hbm).blocks, 1, "and stays for its reader");
    assert_eq!(give_back(&mut bench, 5), 1);
    assert_eq!(bench.tier(Tier::Hbm).blocks, 0);
}

#[test]
fn a_client_s_end_gives_everything_back() {
    let mut bench = Bench::new([4, 0, 0, 0]);
    bench.store(None, &[1]);
    assert_eq!(borrow(&mut bench, 5, &[1]).0, [0]);
    bench.event(Event::ClientGone { client: ClientId(1) });
    bench.join(ClientId(2), 1);
    for chain in 1..4 {
        bench.store(None, &[chain * 10, chain * 10 + 1]);
    }
    assert_eq!(bench.found(&[1]), "");
}

#[test]
fn without_the_tier_or_a_hello_nothing_is_lent() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    let command = || Command::Borrow { request: RequestId(1), keys: keys(&[1]) };
    assert!(matches!(bench.ask(command()), Reply::Refused(Refusal::Precondition(_))));
    bench.client = ClientId(9);
    assert!(matches!(bench.ask(command()), Reply::Refused(Refusal::Precondition(_))));
    let command = Command::GiveBack { request: RequestId(1) };
    assert!(matches!(bench.ask(command), Reply::Refused(Refusal::Precondition(_))));
}
