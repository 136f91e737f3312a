//! Counts different block ids without holding each of them.

use std::collections::BTreeMap;

use crate::workload::request::IdRun;

/// A set of ids kept as disjoint, not touching stretches. Ids are dense in first-use order, so
/// there are few.
#[derive(Debug, Default)]
pub(super) struct DistinctIds {
    /// Start to end, half-open.
    stretches: BTreeMap<u64, u64>,
    count: u64,
}

impl DistinctIds {
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.stretches.range(..=id).next_back().is_some_and(|(_, end)| id < *end)
    }

    pub(super) fn insert(&mut self, run: IdRun) {
        let (mut start, mut end) = (run.ids().start, run.ids().end);
        if start == end {
            return;
        }
        if let Some((before, before_end)) = self.stretches.range(..=start).next_back()
            && *before_end >= start
        {
            if *before_end >= end {
                return;
            }
            start = *before;
        }
        let mut already = 0;
        while let Some((from, to)) = self.first_within(start, end) {
            already += to - from;
            end = end.max(to);
            self.stretches.remove(&from);
        }
        self.stretches.insert(start, end);
        self.count += end - start - already;
    }

    /// The first stretch that starts in `start..=end`: it meets or touches the new one.
    fn first_within(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        self.stretches.range(start..=end).next().map(|(from, to)| (*from, *to))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_like_a_set(runs in prop::collection::vec((0_u64..60, 0_u32..9), 0..40)) {
            let (mut ids, mut model) = (DistinctIds::default(), BTreeSet::new());
            for (first_id, count) in runs {
                let run = IdRun { first_id, count };
                ids.insert(run);
                model.extend(run.ids());
                prop_assert_eq!(ids.count(), model.len() as u64);
                prop_assert!((0..80).all(|id| ids.contains(id) == model.contains(&id)));
            }
            let gaps = model.iter().filter(|id| !model.contains(&(**id + 1))).count();
            prop_assert_eq!(ids.stretches.len(), gaps);
        }
    }
}
