//! Chunks that change hands: what goes when blocks of another length need one.

use super::travel::shield;
use super::*;

/// Blocks of 1 MiB that a chunk holds, and blocks of half that.
const LARGE_IN_CHUNK: u64 = 63;

/// A node with so many chunks in each tier.
fn node(chunks: [u64; 4], policy: PolicyName) -> Bench {
    let blocks = chunks.map(|chunks| if chunks > 0 { u64::MAX } else { 0 });
    let mut bench = Bench::with_config(blocks, 1, |config| {
        config.policy = policy;
        for (tier, chunks) in config.tiers.iter_mut().zip(chunks) {
            if let Some(tier) = tier {
                tier.capacity_bytes = chunks * CHUNK_BYTES;
            }
        }
    });
    bench.join_with(2, 256 << 10);
    bench
}

impl Bench {
    /// Goes on as a client whose blocks have pages of this length: a block has four.
    fn join_with(&mut self, client: u64, page_bytes: u32) {
        self.client = ClientId(client);
        let mut other = namespace(1);
        other.shape.page_bytes = page_bytes;
        self.ask(Command::hello(other));
        self.pool = self.register(0);
    }

    /// Blocks from 0 on, each a root, until a tier of so many chunks is full. Most are used, in no
    /// order; some never, so that a newcomer is worth more.
    fn fill(&mut self, chunks: u64) {
        let blocks = chunks * LARGE_IN_CHUNK;
        for n in 0..blocks {
            self.start_store(None, &[n]);
            self.run();
        }
        self.completions.clear();
        let mut at = 1_u64;
        for _ in 0..blocks {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.found(&[(at >> 33) % blocks]);
        }
    }

    fn half_blocks(&mut self) {
        self.join_with(3, 128 << 10);
    }

    fn try_lease(&mut self, blocks: &[u64]) -> Option<LeaseId> {
        let reply = self.ask(Command::Lookup {
            request: RequestId(7),
            session: None,
            keys: keys(blocks),
            ask_shared: Duration::ZERO,
            queued: false,
        });
        let Reply::Lookup { lease, .. } = reply else { panic!("{reply:?}") };
        lease
    }

    fn evicted(&self, tier: Tier) -> u64 {
        self.tier(tier).evicted_copies
    }

    /// Copies that are on their way down.
    fn draining(&self, tier: Tier) -> u64 {
        let space = self.manager.tiers[tier.index()].as_ref().expect("present");
        space.classes.iter().map(|class| class.draining as u64).sum()
    }
}

const POLICIES: [PolicyName; 3] = PolicyName::ALL;

#[test]
fn a_block_of_another_length_costs_one_chunk_and_not_the_tier() {
    for policy in POLICIES {
        let mut bench = node([0, 0, 8, 0], policy);
        bench.fill(8);
        bench.half_blocks();
        let many: Vec<u64> = (9000..9000 + 2 * LARGE_IN_CHUNK).collect();
        assert!(bench.store(None, &many[..1]).failed.is_empty(), "{policy:?}");
        assert_eq!(bench.evicted(Tier::Nvme), LARGE_IN_CHUNK, "{policy:?}");
        assert!(bench.store(Some(9000), &many[1..]).failed.is_empty(), "{policy:?}");
        assert_eq!(bench.evicted(Tier::Nvme), LARGE_IN_CHUNK, "{policy:?}: they share the chunk");
    }
}

#[test]
fn many_of_another_length_take_chunk_after_chunk_in_one_step() {
    let mut bench = node([0, 0, 8, 0], PolicyName::Lru);
    bench.fill(8);
    bench.half_blocks();
    let many: Vec<u64> = (9000..9375).collect();
    assert!(bench.store(None, &many).failed.is_empty());
    assert_eq!(bench.evicted(Tier::Nvme), 3 * LARGE_IN_CHUNK);
}

/// What hangs on a chunk's blocks goes with them, and the chunk on which little hangs goes first.
#[test]
fn children_elsewhere_go_first() {
    for policy in POLICIES {
        let mut bench = node([0, 0, 4, 0], policy);
        let chains = LARGE_IN_CHUNK;
        for depth in 0..4 {
            for chain in 0..chains {
                let at = |depth: u64| 1000 * chain + depth;
                bench.start_store((depth > 0).then(|| at(depth - 1)), &[at(depth)]);
            }
            bench.run();
        }
        bench.completions.clear();
        bench.half_blocks();
        assert!(bench.store(None, &[1_000_000]).failed.is_empty(), "{policy:?}");
        assert_eq!(bench.evicted(Tier::Nvme), LARGE_IN_CHUNK, "{policy:?}: the tails");
        bench.join_with(2, 256 << 10);
        assert_eq!(bench.found(&[0, 1, 2, 3]), "nvme:3");
    }
}

/// Roots in the first chunk, and what hangs on them in the second, beside a root.
fn roots_and_tails() -> Bench {
    let mut bench = node([0, 0, 2, 0], PolicyName::Lru);
    for n in 0..LARGE_IN_CHUNK {
        bench.store(None, &[n]);
    }
    for n in 1..LARGE_IN_CHUNK {
        bench.store(Some(n), &[1000 + n]);
    }
    bench.store(None, &[2000]);
    bench
}

#[test]
fn what_hangs_on_the_only_chunk_that_can_go_goes_as_well() {
    let mut bench = roots_and_tails();
    bench.lease(&[2000]);
    bench.half_blocks();
    assert!(bench.store(None, &[9000]).failed.is_empty());
    assert_eq!(bench.evicted(Tier::Nvme), 2 * LARGE_IN_CHUNK - 1);
}

#[test]
fn a_chunk_stays_for_what_is_held_behind_it_in_another() {
    let mut bench = roots_and_tails();
    bench.lease(&[7, 1007]);
    bench.half_blocks();
    assert_eq!(bench.store(None, &[9000]).failed, [0]);
    assert_eq!(bench.evicted(Tier::Nvme), 0);
}

#[test]
fn a_chunk_that_holds_what_is_leased_is_passed_by() {
    for policy in POLICIES {
        let mut bench = node([0, 0, 4, 0], policy);
        bench.fill(4);
        // One in each chunk but the third.
        for chunk in [0, 1, 3] {
            bench.lease(&[chunk * LARGE_IN_CHUNK + 5]);
        }
        bench.half_blocks();
        assert!(bench.store(None, &[9000]).failed.is_empty(), "{policy:?}");
        assert_eq!(bench.evicted(Tier::Nvme), LARGE_IN_CHUNK, "{policy:?}");
        bench.join_with(2, 256 << 10);
        assert_eq!(bench.found(&[2 * LARGE_IN_CHUNK]), "", "{policy:?}");
        assert_eq!(bench.found(&[3 * LARGE_IN_CHUNK]), "nvme:1", "{policy:?}");
    }
}

#[test]
fn where_no_chunk_can_go_nothing_does() {
    for policy in POLICIES {
        let mut bench = node([0, 0, 4, 0], policy);
        bench.fill(4);
        for chunk in 0..4 {
            bench.lease(&[chunk * LARGE_IN_CHUNK + chunk]);
        }
        bench.half_blocks();
        for n in 9000..9010 {
            assert_eq!(bench.store(None, &[n]).failed, [0], "{policy:?}");
        }
        assert_eq!(bench.evicted(Tier::Nvme), 0, "{policy:?}");
    }
}

#[test]
fn what_drains_from_a_chunk_is_not_lost_and_nobody_takes_its_slots() {
    for policy in POLICIES {
        let mut bench = node([0, 4, 64, 0], policy);
        bench.fill(4);
        bench.half_blocks();
        bench.start_store(None, &[9000]);
        assert_eq!(bench.draining(Tier::Dram), LARGE_IN_CHUNK, "{policy:?}");
        // Others come for the old length while the chunk drains.
        bench.join_with(2, 256 << 10);
        for n in 500..510 {
            bench.start_store(None, &[n]);
        }
        bench.run();
        assert!(bench.completions.drain(..).all(|end| end.failed.is_empty()), "{policy:?}");
        let went = bench.evicted(Tier::Dram);
        assert!(went <= LARGE_IN_CHUNK + 10, "{policy:?}: {went} went");
        assert_eq!(bench.manager.status().blocks, 4 * LARGE_IN_CHUNK + 11, "{policy:?}");
        bench.half_blocks();
        assert_eq!(bench.found(&[9000]), "dram:1", "{policy:?}");
    }
}

#[test]
fn a_chunk_in_which_something_is_read_again_is_given_up_for_another() {
    let mut bench = node([0, 4, 64, 0], PolicyName::Lru);
    bench.fill(4);
    let first = bench.transfers.len();
    bench.half_blocks();
    bench.start_store(None, &[9000]);
    assert!(bench.transfers.len() > first, "a chunk drains");
    let moved: Vec<Key> = bench.transfers.iter().map(|t| t.items[0].meta.key).collect();
    let read = (0..4 * LARGE_IN_CHUNK).find(|n| key(*n) == moved[0]).expect("one of them");
    // It is read while it drains, and that takes longer.
    bench.join_with(2, 256 << 10);
    let is_of_load = |transfer: &Transfer| transfer.items[0].to.kind() == EndKind::Pool;
    bench.start_load(&[read]);
    let load = bench.transfers.iter().position(is_of_load).expect("a load starts at once");
    let load = bench.transfers.remove(load).expect("it is there");
    bench.run();
    let went = bench.evicted(Tier::Dram);
    assert_eq!(went, 2 * LARGE_IN_CHUNK - 1, "and one more chunk; what is read stays");
    bench.half_blocks();
    assert_eq!(bench.found(&[9000]), "dram:1");
    bench.transfers.push_back(load);
    bench.run();
    assert_eq!(bench.manager.status().blocks, 4 * LARGE_IN_CHUNK + 1, "nothing was lost");
}

#[test]
fn who_waits_no_more_leaves_the_chunk_to_others() {
    let mut bench = node([0, 4, 64, 0], PolicyName::Lru);
    bench.fill(4);
    bench.half_blocks();
    bench.start_store(None, &[9000]);
    bench.event(Event::ClientGone { client: ClientId(3) });
    bench.join_with(2, 256 << 10);
    bench.run();
    for n in 500..500 + LARGE_IN_CHUNK {
        assert!(bench.store(None, &[n]).failed.is_empty());
    }
    assert_eq!(bench.evicted(Tier::Dram), LARGE_IN_CHUNK, "what was freed is used");
}

#[test]
fn shields_are_broken_where_no_chunk_is_without() {
    let mut bench = node([0, 0, 4, 0], PolicyName::Lru);
    bench.fill(4);
    let ttl = Duration::from_mins(1);
    for chunk in 0..4 {
        for n in 0..=chunk {
            bench.retain(&[chunk * LARGE_IN_CHUNK + n], shield(ttl));
        }
    }
    bench.half_blocks();
    assert!(bench.store(None, &[9000]).failed.is_empty());
    assert_eq!(bench.evicted(Tier::Nvme), LARGE_IN_CHUNK);
    assert_eq!(bench.manager.status().broken_shields, 1, "the fewest");
}

impl Bench {
    /// Ends every transfer well and no erase.
    fn run_transfers(&mut self) {
        while let Some(transfer) = self.transfers.pop_front() {
            self.event(Event::TransferDone { transfer: transfer.id, failed: Vec::new() });
        }
    }

    /// A write fails, and its slot is being erased.
    fn fail_a_write(&mut self, block: u64) -> (Tier, Option<Place>, Key) {
        self.start_store(None, &[block]);
        let transfer = self.transfers.pop_front().expect("it has room");
        let failed = vec![ItemFailure { item: 0, kind: FailureKind::TargetFailed }];
        self.event(Event::TransferDone { transfer: transfer.id, failed });
        self.completions.clear();
        self.erases.pop_front().expect("its slot is made unreadable")
    }

    fn end_erase(&mut self, (tier, place, key): (Tier, Option<Place>, Key), done: bool) {
        self.event(Event::Erased { tier, place, key, done });
    }
}

#[test]
fn a_chunk_with_a_slot_that_could_not_be_erased_is_passed_by() {
    for policy in POLICIES {
        let mut bench = node([0, 0, 2, 0], policy);
        let stuck = bench.fail_a_write(5000);
        bench.end_erase(stuck, false);
        for n in 0..2 * LARGE_IN_CHUNK - 1 {
            assert!(bench.store(None, &[n]).failed.is_empty());
        }
        bench.half_blocks();
        assert!(bench.store(None, &[9000]).failed.is_empty(), "{policy:?}");
        assert_eq!(
            bench.evicted(Tier::Nvme),
            LARGE_IN_CHUNK,
            "{policy:?}: one more than the other"
        );
        // Where no chunk is without, nobody waits for one.
        bench.lease(&[9000]);
        bench.join_with(4, 512 << 10);
        assert_eq!(bench.store(None, &[9500]).failed, [0], "{policy:?}");
        assert_eq!(bench.evicted(Tier::Nvme), LARGE_IN_CHUNK, "{policy:?}");
    }
}

#[test]
fn a_chunk_in_which_a_slot_is_not_erased_after_all_is_given_up_for_another() {
    let mut bench = node([0, 0, 2, 0], PolicyName::Lru);
    let late = bench.fail_a_write(5000);
    for n in 0..2 * LARGE_IN_CHUNK - 1 {
        bench.start_store(None, &[n]);
        bench.run_transfers();
    }
    bench.completions.clear();
    bench.half_blocks();
    bench.start_store(None, &[9000]);
    bench.run();
    assert_eq!(bench.evicted(Tier::Nvme), LARGE_IN_CHUNK - 1);
    assert!(bench.completions.is_empty(), "all but one slot of the chunk is free");
    bench.end_erase(late, false);
    bench.run();
    assert_eq!(bench.evicted(Tier::Nvme), 2 * LARGE_IN_CHUNK - 1);
    assert_eq!(bench.completions.pop().map(|end| end.failed), Some(Vec::new()));
    bench.join_with(2, 256 << 10);
    for n in 0..LARGE_IN_CHUNK - 1 {
        assert!(bench.store(None, &[500 + n]).failed.is_empty(), "the first is as it was");
    }
}

/// Three lengths in two small tiers, with readers, failures and clients that go: whatever happens,
/// everybody gets an answer and nothing is emptied for ever.
#[test]
fn whatever_comes_between_nobody_waits_for_ever() {
    for seed in 0..60 {
        let mut at = seed + 1_u64;
        let mut draw = move |below: usize| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(at >> 33).expect("31 bits") % below
        };
        let policy = POLICIES[draw(3)];
        let mut bench = node([0, 3, 3 * draw(3) as u64, 0], policy);
        let mut clients = [(2, 4 << 20), (3, 1 << 20), (4, 3 << 20)].map(|(client, page_bytes)| {
            bench.join_with(client, page_bytes);
            (client, page_bytes, bench.pool)
        });
        let mut leases = Vec::new();
        for _ in 0..150 {
            let which = draw(3);
            let (client, page_bytes, pool) = clients[which];
            let chain = (which * 1000 + draw(12) * 10) as u64;
            let blocks: Vec<u64> = (chain..=chain + draw(6) as u64).collect();
            (bench.client, bench.pool) = (ClientId(client), pool);
            match draw(8) {
                0..3 => {
                    bench.start_store(None, &blocks);
                }
                3 => {
                    bench.start_load(&blocks);
                }
                4 => leases.extend(bench.try_lease(&blocks).map(|lease| (client, lease))),
                5 if !leases.is_empty() => {
                    let (client, lease) = leases.swap_remove(draw(leases.len()));
                    bench.client = ClientId(client);
                    bench.ask(Command::ReleaseLease { lease });
                }
                6 => {
                    bench.event(Event::ClientGone { client: ClientId(client) });
                    leases.retain(|(whose, _)| *whose != client);
                    bench.join_with(client + 3, page_bytes);
                    clients[which] = (client + 3, page_bytes, bench.pool);
                }
                _ => {
                    let ends = draw(1 + bench.transfers.len());
                    for _ in 0..ends {
                        let Some(transfer) = bench.transfers.pop_front() else { break };
                        let fails = draw(6) == 0;
                        let failed = ItemFailure { item: 0, kind: FailureKind::TargetFailed };
                        let failed = Vec::from_iter(fails.then_some(failed));
                        bench.event(Event::TransferDone { transfer: transfer.id, failed });
                    }
                    bench.end_slot_erases();
                }
            }
        }
        bench.run();
        let status = bench.manager.status();
        assert_eq!((status.ops_in_flight, status.transfers_in_flight), (0, 0), "seed {seed}");
    }
}
