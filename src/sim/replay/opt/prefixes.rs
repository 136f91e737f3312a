//! Names for blocks that stand for all that is before them, as the ids of a sound trace do.
//!
//! A bound must hold for ids that contradict themselves too, and it is one only if no cache can do
//! more: a block counts as another one after other blocks, and nothing counts that no cache finds.

use std::collections::BTreeMap;

use crate::workload::Request;
use crate::workload::request::{IdRun, push_id};

/// Beyond all ids: names of blocks whose id was met after other blocks first.
const NAMES_FROM: u64 = 1 << 49;

/// What is above a root.
const NOTHING: u64 = u64::MAX;

/// Where an id was met.
#[derive(Clone, Copy)]
struct Met {
    /// The name of the block before it, the first time.
    above: u64,
    /// The request that named it last, counted from 1; 0 for none.
    by: u32,
}

/// Takes requests in time order.
pub(super) struct Prefixes {
    requests: u32,
    met: ById<Met>,
    /// Names of blocks that are not after what their id was met after first.
    others: BTreeMap<(u64, u64), u64>,
}

impl Default for Prefixes {
    fn default() -> Self {
        let met = ById::new(Met { above: NOTHING, by: 0 });
        Self { requests: 0, met, others: BTreeMap::new() }
    }
}

impl Prefixes {
    /// The request's blocks by name, up to the first that it names twice: a block is after one other
    /// only, so no cache finds both.
    pub(super) fn named(&mut self, request: &Request) -> Vec<IdRun> {
        self.requests += 1;
        let mut names = Vec::new();
        let mut above = NOTHING;
        for id in request.block_ids() {
            let met = self.met.of(id);
            if met.by == self.requests {
                break;
            }
            if met.by == 0 {
                met.above = above;
            }
            met.by = self.requests;
            let is_as_first = met.above == above;
            above = if is_as_first { id } else { self.other(above, id) };
            push_id(&mut names, above);
        }
        names
    }

    fn other(&mut self, above: u64, id: u64) -> u64 {
        let next = NAMES_FROM + self.others.len() as u64;
        *self.others.entry((above, id)).or_insert(next)
    }
}

/// A value for each id. Ids are dense in most traces: those live in a list, and others in a map.
pub(super) struct ById<T> {
    dense: Vec<T>,
    sparse: BTreeMap<u64, T>,
    unset: T,
}

impl<T: Copy> ById<T> {
    const DENSE_MAX: usize = 1 << 24;

    /// `unset` for every id.
    pub(super) const fn new(unset: T) -> Self {
        Self { dense: Vec::new(), sparse: BTreeMap::new(), unset }
    }

    pub(super) fn of(&mut self, id: u64) -> &mut T {
        match usize::try_from(id) {
            Ok(at) if at < Self::DENSE_MAX => {
                if self.dense.len() <= at {
                    self.dense.resize(at + 1, self.unset);
                }
                &mut self.dense[at]
            }
            _ => self.sparse.entry(id).or_insert(self.unset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_a_whole_prefix() {
        let mut prefixes = Prefixes::default();
        let mut names = |ids: &[u64]| -> Vec<u64> {
            let mut request = Request::default();
            for id in ids {
                push_id(&mut request.blocks, *id);
            }
            prefixes.named(&request).into_iter().flat_map(IdRun::ids).collect()
        };
        let other = |number| NAMES_FROM + number;
        assert_eq!(names(&[0, 1, 1 << 40]), [0, 1, 1 << 40], "an id is its own name");
        assert_eq!(names(&[0, 1, 2]), [0, 1, 2]);
        assert_eq!(names(&[5, 1, 2]), [5, other(0), other(1)], "2 hangs on another 1");
        assert_eq!(names(&[1]), [other(2)], "a root");
        assert_eq!(names(&[5, 1, 2, 7]), [5, other(0), other(1), 7]);
        assert_eq!(names(&[0, 1, 0, 2]), [0, 1], "0 can't be after 1 too");
    }
}
