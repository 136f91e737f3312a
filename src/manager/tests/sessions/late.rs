//! Stores that come after what was said of their session: requests and hints go different ways.

use super::*;

impl Bench {
    /// One call of request `number` of the session: a lookup of all the chain, or a store of its last block.
    fn call(&mut self, number: u64, session: &str, chain: &[u64], stores: bool) {
        let (request, session) = (RequestId(number), Some(name(session)));
        let Some((last, above)) = chain.split_last().filter(|_| stores) else {
            let keys = keys(chain);
            let ask_shared = Duration::ZERO;
            self.ask(Command::Lookup { request, session, keys, ask_shared, queued: false });
            return;
        };
        self.ask(Command::Store {
            request,
            session,
            directives: Directives::default(),
            parent: above.last().copied().map(key),
            keys: keys(&[*last]),
            labels: Labels::default(),
            pool: self.pool,
            slots: vec![0],
            durable: false,
        });
        self.run();
    }
}

#[test]
fn a_store_after_its_sessions_end_does_not_start_the_session_anew() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.start("sub", Some("lead"));
    bench.call(1, "sub", &[1, 2, 3], false);
    for blocks in 1..=3 {
        bench.call(1, "sub", &[1, 2, 3][..blocks], true);
    }
    assert_eq!(bench.end("sub", false), Outcome::Accepted { blocks: 3 });
    bench.call(1, "sub", &[1, 2, 3, 4], true);
    let names: Vec<_> = bench.sessions().into_iter().map(|status| status.session).collect();
    assert_eq!(names, [name("lead")]);
    for n in [1, 2, 3] {
        let block = bench.block(n).expect("it is here");
        assert_eq!((block.claims, block.record.kind), (0, Kind::Subagent), "{n}");
        assert_eq!(block.record.floor, Tier::Dram);
    }
    // Another session, and the next request of this name, are as welcome as ever.
    bench.call(1, "other", &[1, 2, 3, 4, 5], true);
    bench.call(2, "sub", &[1], false);
    assert_eq!(bench.sessions().len(), 3);
    assert_eq!(bench.block(1).expect("it is here").claims, 2);
    bench.call(2, "sub", &[1, 12], true);
    assert_eq!(bench.block(12).expect("it is here").claims, 1);
}

#[test]
fn a_store_of_the_request_before_a_reset_does_not_say_what_that_left() {
    let cases: [(&[u64], bool); 3] = [(&[1, 2, 3, 4], false), (&[1, 2, 3, 4], true), (&[], false)];
    for (late, next_stores) in cases {
        let mut bench = Bench::new([0, 20, 0, 0]);
        bench.call(1, "a", &[1, 2, 3], false);
        for blocks in 1..=3 {
            bench.call(1, "a", &[1, 2, 3][..blocks], true);
        }
        bench.hint(Action::SessionReset { session: name("a") });
        if !late.is_empty() {
            bench.call(1, "a", late, true);
        }
        let is_dead = |bench: &mut Bench, n| bench.block(n).expect("it is here").dead;
        assert!(!is_dead(&mut bench, 3), "nobody knows yet what is left");
        bench.call(2, "a", &[1, 12], next_stores);
        let dead = [1, 2, 3].map(|n| is_dead(&mut bench, n));
        assert_eq!(dead, [false, true, true], "after {late:?}");
    }
}
