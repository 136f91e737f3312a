//! The upper bound: what a cache finds that knows the future.
//!
//! Furthest next use with bypass. Of one chain the deepest block is used again last, so evicting it
//! first keeps prefixes whole, and the bound can be reached. Offline: it needs all requests at once.

mod prefixes;

use std::collections::BTreeMap;

use crate::workload::Request;

use super::ReplayOutcome;
use prefixes::{ById, Prefixes};

/// A request's number; [`NEVER`] for none.
type Use = u32;
const NEVER: Use = Use::MAX;

/// Blocks in a row that are used again by the same request.
#[derive(Clone, Copy)]
struct Stretch {
    next: Use,
    blocks: u32,
}

/// Takes requests in time order, then says what the best cache of one tier would have found.
#[derive(Default)]
pub struct Opt {
    prefixes: Prefixes,
    requests: Vec<Request>,
}

impl Opt {
    pub fn request(&mut self, mut request: Request) {
        request.blocks = self.prefixes.named(&request);
        self.requests.push(request);
    }

    /// What a tier of `capacity_blocks`, the one at `tier`, would have found.
    #[must_use]
    pub fn finish(self, tier: usize, capacity_blocks: u64, block_tokens: u32) -> ReplayOutcome {
        let stretches = next_uses(&self.requests);
        let mut cache = Cache { kept: BTreeMap::new(), held: 0, capacity_blocks };
        let mut outcome = ReplayOutcome::default();
        for (now, (request, stretches)) in (0_u32..).zip(self.requests.iter().zip(stretches)) {
            let found = cache.ask(now, &stretches);
            outcome.evicted_blocks[tier] += cache.trim(&stretches, found);
            let input = u64::from(request.input_tokens);
            outcome.requests += 1;
            outcome.input_tokens += input;
            outcome.hit_tokens[tier] += (found * u64::from(block_tokens)).min(input);
        }
        outcome
    }
}

/// For each request its blocks' next uses, root first: the deeper, the later.
fn next_uses(requests: &[Request]) -> Vec<Vec<Stretch>> {
    let mut next = ById::new(NEVER);
    let mut all = vec![Vec::new(); requests.len()];
    for (index, request) in requests.iter().enumerate().rev() {
        let now = Use::try_from(index).expect("fewer than 2^32 requests");
        let stretches: &mut Vec<Stretch> = &mut all[index];
        for id in request.block_ids() {
            let used = std::mem::replace(next.of(id), now);
            match stretches.last_mut() {
                Some(last) if last.next == used => last.blocks += 1,
                _ => stretches.push(Stretch { next: used, blocks: 1 }),
            }
        }
    }
    all
}

/// What is kept: by the request that uses it next, and the position in that request's chain, so
/// many blocks from there on.
struct Cache {
    kept: BTreeMap<(Use, u64), u64>,
    held: u64,
    capacity_blocks: u64,
}

impl Cache {
    /// How many of the request's blocks are here; those that are used again are kept from now on.
    fn ask(&mut self, now: Use, stretches: &[Stretch]) -> u64 {
        let here: Vec<_> =
            self.kept.range((now, 0)..=(now, u64::MAX)).map(|(k, n)| (*k, *n)).collect();
        for (key, _) in &here {
            self.kept.remove(key);
        }
        // All of the request's blocks that are here are used next by it, and their ancestors too.
        let found = here.iter().map(|(_, blocks)| blocks).sum();
        self.held -= found;
        let mut position = 0;
        for Stretch { next, blocks } in stretches {
            if *next != NEVER {
                let other = self.kept.insert((*next, position), u64::from(*blocks));
                assert!(other.is_none(), "a request has one block at each position");
                self.held += u64::from(*blocks);
            }
            position += u64::from(*blocks);
        }
        found
    }

    /// Lets go what is used last, deepest first, until the rest fits. Gives how many blocks went: those of the
    /// request that were not found before it, and do not stay, were never there.
    fn trim(&mut self, stretches: &[Stretch], found: u64) -> u64 {
        let mut own = BTreeMap::new();
        let mut position = 0;
        for Stretch { next, blocks } in stretches {
            own.insert((*next, position), position);
            position += u64::from(*blocks);
        }
        let mut gone = 0;
        while self.held > self.capacity_blocks {
            let Some(mut last) = self.kept.last_entry() else { break };
            let over = self.held - self.capacity_blocks;
            let take = over.min(*last.get());
            *last.get_mut() -= take;
            let passed_by = own.get(last.key()).map_or(0, |from| {
                let left = from + *last.get();
                (left + take).saturating_sub(left.max(found))
            });
            if *last.get() == 0 {
                last.remove();
            }
            self.held -= take;
            gone += take - passed_by;
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::request::IdRun;

    fn found(chains: &[&[u64]], capacity_blocks: u64) -> u64 {
        let mut opt = Opt::default();
        for chain in chains {
            let runs = chain.iter().map(|id| IdRun { first_id: *id, count: 1 });
            let input_tokens = u32::try_from(chain.len()).unwrap();
            opt.request(Request { input_tokens, blocks: runs.collect(), ..Request::default() });
        }
        opt.finish(0, capacity_blocks, 1).hit_tokens[0]
    }

    #[test]
    fn what_is_used_again_soonest_is_kept() {
        let (a, b): (&[u64], &[u64]) = (&[0, 1, 2], &[10, 11, 12]);
        assert_eq!(found(&[a, b, a, b], 6), 6);
        assert_eq!(found(&[a, b, a, b], 3), 3, "a whole, or b: never parts of both");
        assert_eq!(found(&[a, b, b, b, a], 3), 6, "b twice");
        assert_eq!(found(&[a, b, b, b, a], 4), 7, "and a's root");
        assert_eq!(found(&[a, b, a, b], 0), 0);
        assert_eq!(found(&[&[0, 1, 2], &[0, 5], &[0, 1, 2]], 2), 1 + 2, "5 is not used again");
    }

    #[test]
    fn what_was_never_kept_is_not_evicted() {
        let evicted = |chains: &[&[u64]], capacity_blocks| {
            let mut opt = Opt::default();
            for chain in chains {
                let runs = chain.iter().map(|id| IdRun { first_id: *id, count: 1 });
                opt.request(Request {
                    input_tokens: 1,
                    blocks: runs.collect(),
                    ..Request::default()
                });
            }
            opt.finish(0, capacity_blocks, 1).evicted_blocks[0]
        };
        let (long, other): (&[u64], &[u64]) = (&[0, 1, 2, 3, 4], &[10, 11]);
        assert_eq!(evicted(&[long, long], 3), 0, "two blocks never found room");
        assert_eq!(evicted(&[long, other, other, long], 5), 2, "made way for the other chain");
        assert_eq!(evicted(&[long, other, long, other], 5), 0, "the other one passed by");
    }

    #[test]
    fn what_contradicts_itself_is_found_no_deeper_than_it_can_be() {
        let twice: &[u64] = &[0, 0, 1];
        assert_eq!(found(&[twice, twice, twice], 4), 2, "nothing behind the second 0");
        let (one, other): (&[u64], &[u64]) = (&[0, 5, 6], &[1, 5, 6]);
        assert_eq!(
            found(&[one, other, one, other], 4),
            3 + 1,
            "5 and 6 after 0 are others than after 1"
        );
        assert_eq!(found(&[one, &[5, 6], one, &[5, 6]], 5), 5, "and than at the root");
    }

    /// Against every way of keeping prefixes, tried one by one.
    #[test]
    fn nothing_finds_more() {
        let chains: [&[u64]; 7] = [&[0, 1], &[0, 2], &[3, 4], &[0, 1, 5], &[3], &[0, 2], &[3, 4]];
        for capacity in 0..5 {
            let best = best_from(&chains, 0, capacity);
            assert_eq!(found(&chains, capacity.into()), best as u64, "capacity {capacity}");
        }
    }

    /// What a cache finds that holds `kept`, a bit for each id, and keeps the best it can.
    fn best_from(chains: &[&[u64]], kept: u32, capacity: u32) -> usize {
        let Some((chain, rest)) = chains.split_first() else { return 0 };
        let hits = chain.iter().take_while(|id| kept >> **id & 1 == 1).count();
        let all = chain.iter().fold(kept, |all, id| all | 1 << id);
        let fits = |set: &u32| set & !all == 0 && set.count_ones() <= capacity;
        let kept = (0..=all).filter(fits);
        hits + kept.map(|set| best_from(rest, set, capacity)).max().unwrap_or(0)
    }
}
