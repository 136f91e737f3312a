//! What is told of residency, and what is answered about it: in words, block by block.

use super::*;

fn telling(blocks: [u64; 4]) -> Bench {
    Bench::with_config(blocks, 1, |config| config.tells_residency = true)
}

impl Bench {
    /// The changes since they were last asked for: `2<1 -> dram` is block 2, whose parent is 1.
    fn told(&mut self) -> String {
        let tiers = |served: crate::domain::tier::TierSet| {
            let names: Vec<_> = served.iter().map(Tier::name).collect();
            names.join("+")
        };
        let changes = self.changes.drain(..).map(|change| {
            let parent = change.parent_tail.known().map(|tail| format!("<{tail}"));
            let (before, after) = (tiers(change.before), tiers(change.after));
            format!("{}{} {before}->{after}", change.tail.0, parent.unwrap_or_default())
        });
        changes.collect::<Vec<_>>().join(", ")
    }

    fn overlap(&mut self, blocks: &[u64]) -> Overlap {
        match self.ask(Command::Overlap { keys: keys(blocks) }) {
            Reply::Overlap(overlap) => overlap,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_copy_that_comes_or_goes_is_told_once_it_is_so() {
    let mut bench = telling([0, 2, 4, 0]);
    bench.start_store(None, &[1, 2]);
    assert_eq!(bench.told(), "", "nothing has landed");
    bench.run();
    assert_eq!(bench.told(), "1 ->dram, 2<1 ->dram");
    bench.store(None, &[11, 12]);
    assert_eq!(
        bench.told(),
        "2<1 dram->dram+nvme, 2<1 dram+nvme->nvme, 1 dram->dram+nvme, 1 dram+nvme->nvme, \
         11 ->dram, 12<11 ->dram"
    );
}

#[test]
fn nothing_is_told_where_nobody_wants_to_hear() {
    let mut bench = Bench::new([0, 2, 4, 0]);
    bench.store(None, &[1, 2]);
    assert_eq!(bench.told(), "");
}

#[test]
fn what_is_forgotten_is_gone_from_everywhere_at_once() {
    let mut bench = telling([0, 10, 10, 0]);
    let wish = crate::domain::retention::Wish {
        delete_after: Some(Duration::from_secs(5)),
        ..Default::default()
    };
    let claim = Directive { tokens: crate::domain::retention::TokenRange::ALL, wish };
    bench.turn(None, &[claim], &[1, 2]);
    bench.told();
    bench.pass(Duration::from_secs(6));
    assert_eq!(bench.told(), "1 dram->, 2<1 dram->");
}

#[test]
fn a_name_that_comes_late_is_told() {
    let mut bench = telling([0, 10, 0, 0]);
    let pool = bench.pool;
    let store = |labels| Command::Store {
        request: RequestId(1),
        session: None,
        directives: Directives::default(),
        parent: None,
        keys: keys(&[1]),
        labels,
        pool,
        slots: vec![0],
        durable: false,
    };
    bench.ask(store(Labels::default()));
    bench.run();
    assert_eq!(bench.told(), "0 ->dram");
    bench.ask(store(Labels { tails: vec![HashTail(1)], tokens: Vec::new() }));
    bench.run();
    assert_eq!(bench.told(), "1 ->dram");
    bench.ask(store(Labels { tails: vec![HashTail(7)], tokens: Vec::new() }));
    assert_eq!(bench.told(), "", "the first name stays");
    let tokens = bytes::Bytes::from_static(&[5; 64]);
    bench.ask(store(Labels { tails: Vec::new(), tokens: vec![tokens.clone()] }));
    assert_eq!(bench.changes.last().map(|change| &change.tokens), Some(&tokens));
    assert_eq!(bench.told(), "1 dram->, 1 ->dram", "told without tokens, so it is taken back");
    bench.ask(store(Labels { tails: Vec::new(), tokens: vec![tokens] }));
    assert_eq!(bench.told(), "");
}

#[test]
fn pages_of_residents_are_what_was_told() {
    let mut bench = telling([0, 3, 4, 0]);
    bench.store(None, &[1, 2, 3]);
    bench.store(None, &[11]);
    let mut told = std::collections::BTreeMap::new();
    for change in bench.changes.drain(..) {
        told.insert(change.key, change.after);
    }
    let (mut row, mut pages) = (Some(0), Vec::new());
    while let Some(first) = row {
        let (page, next) = bench.manager.residents(first, 2);
        pages.extend(page.into_iter().map(|change| (change.key, change.after)));
        row = next;
    }
    pages.sort_unstable_by_key(|(key, _)| *key);
    assert_eq!(pages, told.into_iter().collect::<Vec<_>>());
}

#[test]
fn an_overlap_counts_every_copy_of_the_prefix() {
    let mut bench = telling([0, 2, 4, 0]);
    bench.store(None, &[1, 2]);
    bench.store(None, &[11, 12]);
    let overlap = bench.overlap(&[1, 2, 3]);
    assert_eq!(overlap.runs, [Run { tier: Tier::Nvme, blocks: 2 }]);
    assert_eq!((overlap.held_blocks, overlap.block_tokens), ([0, 0, 2, 0], Some(16)));
    bench.load(&[1]);
    let overlap = bench.overlap(&[1, 2]);
    assert_eq!(overlap.held_blocks, [0, 1, 2, 0], "block 1 is in both");
    assert_eq!(bench.overlap(&[3]), Overlap::default());
}

#[test]
fn asking_for_an_overlap_keeps_nothing() {
    // The same twice; in the second run the oldest chain is asked for before room is needed.
    let found = [false, true].map(|asks| {
        let mut bench = Bench::new([0, 4, 0, 0]);
        bench.store(None, &[1, 2]);
        bench.store(None, &[11, 12]);
        if asks {
            assert_eq!(bench.overlap(&[1, 2]).held_blocks, [0, 2, 0, 0]);
        }
        let status = bench.manager.status();
        assert_eq!((status.leases, status.lookups, status.tiers[1].hit_blocks), (0, 0, 0));
        bench.store(None, &[21, 22]);
        (bench.found(&[1, 2]), bench.found(&[11, 12]))
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[1], (String::new(), "dram:2".into()));
}

#[test]
fn what_is_gone_is_told_before_its_namespaces_number_serves_another() {
    let mut bench = Bench::with_config([0, 10, 0, 0], 1, |config| {
        (config.tells_residency, config.namespaces_max) = (true, 1);
    });
    let after = Duration::from_secs(5);
    let wish = crate::domain::retention::Wish { delete_after: Some(after), ..Default::default() };
    let claim = Directive { tokens: crate::domain::retention::TokenRange::ALL, wish };
    bench.turn(None, &[claim], &[1]);
    bench.told();
    bench.event(Event::ClientGone { client: bench.client });
    // Due, and nothing has come since that would have told of it.
    bench.now = bench.now + after + Duration::from_secs(1);
    bench.client = ClientId(2);
    let other = Namespace { model: "other".into(), ..namespace(1) };
    let hello = bench.ask(Command::hello(other.clone()));
    assert!(matches!(hello, Reply::Refused(_)), "{hello:?}");
    assert_eq!(bench.told(), "1 dram->");
    let hello = bench.ask(Command::hello(other));
    assert!(matches!(hello, Reply::Hello { .. }), "{hello:?}");
}
