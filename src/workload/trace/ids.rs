//! What a trace's ids come to: how many blocks, and how many that stand after different blocks.
//!
//! An id stands for a whole prefix, so a block has one block before it. Holds neither each id nor
//! what is before it: ids are dense in first-use order, so most follow the number before their own.

use std::collections::BTreeMap;

use crate::workload::Request;
use crate::workload::request::IdRun;

use super::distinct::DistinctIds;

#[derive(Debug, Default)]
pub(super) struct TraceIds {
    all: DistinctIds,
    /// What comes before an id where that is not the number before it.
    after: BTreeMap<u64, Above>,
    contradicted: DistinctIds,
}

/// The id before a block's, plus one; zero before a root. So an id that follows the number before
/// it has its own number here.
type Above = u64;

impl TraceIds {
    /// Different blocks.
    pub(super) const fn unique_count(&self) -> u64 {
        self.all.count()
    }

    /// Blocks that stood after another block than the first time.
    pub(super) const fn contradicted_count(&self) -> u64 {
        self.contradicted.count()
    }

    pub(super) fn take_in(&mut self, request: &Request) {
        let mut above: Above = 0;
        for run in &request.blocks {
            self.follows(run.first_id, above);
            // The others follow the number before theirs.
            let end = run.ids().end;
            let inner = self.after.range((run.first_id + 1).min(end)..end);
            inner.for_each(|(id, _)| self.contradicted.insert(one(*id)));
            self.all.insert(*run);
            above = end;
        }
    }

    fn follows(&mut self, id: u64, above: Above) {
        let first = match self.after.get(&id) {
            Some(first) => *first,
            None if above == id || self.all.contains(id) => id,
            None => {
                self.after.insert(id, above);
                above
            }
        };
        if first != above {
            self.contradicted.insert(one(id));
        }
    }
}

const fn one(id: u64) -> IdRun {
    IdRun { first_id: id, count: 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn counted(requests: &[Vec<IdRun>]) -> (u64, u64) {
        let mut ids = TraceIds::default();
        for blocks in requests {
            ids.take_in(&Request { blocks: blocks.clone(), ..Request::default() });
        }
        (ids.unique_count(), ids.contradicted_count())
    }

    /// The same with every id in a map.
    fn naive(requests: &[Vec<IdRun>]) -> (u64, u64) {
        let (mut first, mut contradicted) = (BTreeMap::new(), BTreeSet::new());
        for blocks in requests {
            let mut above = None;
            for id in blocks.iter().flat_map(|run| run.ids()) {
                if *first.entry(id).or_insert(above) != above {
                    contradicted.insert(id);
                }
                above = Some(id);
            }
        }
        (first.len() as u64, contradicted.len() as u64)
    }

    #[test]
    fn facts() {
        let check = |requests: &[&[(u64, u32)]], contradicted: u64| {
            let run = |(first_id, count): &(u64, u32)| IdRun { first_id: *first_id, count: *count };
            let runs: Vec<Vec<_>> =
                requests.iter().map(|runs| runs.iter().map(run).collect()).collect();
            assert_eq!(counted(&runs).1, contradicted, "{requests:?}");
        };
        check(&[&[(0, 9)], &[(0, 4), (20, 3)], &[(0, 1), (1, 8)]], 0);
        check(&[&[(0, 2), (0, 1)]], 1);
        check(&[&[(0, 2), (7, 2)], &[(0, 1), (7, 2)], &[(7, 2)]], 1);
        check(&[&[(5, 1)], &[(4, 3)]], 1);
        check(&[&[(4, 3)], &[(5, 1)]], 1);
        check(&[&[(1, 1)], &[(0, 1)], &[(0, 2)]], 1);
    }

    proptest! {
        #[test]
        fn counts_like_a_map(
            requests in prop::collection::vec(
                prop::collection::vec((0_u64..20, 1_u32..5), 0..6),
                0..12,
            ),
        ) {
            let run = |(first_id, count)| IdRun { first_id, count };
            let requests: Vec<Vec<IdRun>> =
                requests.into_iter().map(|runs| runs.into_iter().map(run).collect()).collect();
            prop_assert_eq!(counted(&requests), naive(&requests));
        }
    }
}
