//! A leaf-first LRU cache of one tier, as small as it can be: what the manager is measured against.
//!
//! Knows nothing of leases, transfers or chunks: a request's blocks are there at its arrival. Takes
//! every id for a whole prefix, and doesn't see where a trace contradicts that.

use std::collections::HashMap;

use crate::workload::Request;

const NONE: u32 = u32::MAX;

/// One cached block in the list from the least to the most recently used.
#[derive(Clone, Copy)]
struct Node {
    id: u64,
    older: u32,
    newer: u32,
}

/// The cache. A request's blocks are touched deepest first, so an ancestor is always more recent
/// than what hangs on it, and plain LRU order is leaf-first.
pub struct LruOracle {
    capacity_blocks: u64,
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_id: HashMap<u64, u32>,
    oldest: u32,
    newest: u32,
}

impl LruOracle {
    #[must_use]
    pub fn new(capacity_blocks: u64) -> Self {
        Self {
            capacity_blocks,
            nodes: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            oldest: NONE,
            newest: NONE,
        }
    }

    /// How many of the request's first blocks are cached; then all of them are, or as many of the
    /// first as there is room for.
    pub fn access(&mut self, request: &Request) -> u64 {
        let ids: Vec<u64> = request.block_ids().collect();
        let hits = ids.iter().take_while(|id| self.by_id.contains_key(id)).count();
        let room = usize::try_from(self.capacity_blocks).unwrap_or(usize::MAX);
        for id in ids.iter().take(room).rev() {
            self.touch(*id);
        }
        while self.by_id.len() > room {
            self.evict_oldest();
        }
        hits as u64
    }

    fn touch(&mut self, id: u64) {
        if let Some(node) = self.by_id.get(&id).copied() {
            self.unlink(node);
            self.link_newest(node);
            return;
        }
        let node = Node { id, older: NONE, newer: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 blocks")
            }
        };
        self.by_id.insert(id, index);
        self.link_newest(index);
    }

    fn evict_oldest(&mut self) {
        let index = self.oldest;
        self.unlink(index);
        self.by_id.remove(&self.nodes[index as usize].id);
        self.free.push(index);
    }

    fn link_newest(&mut self, index: u32) {
        let before = self.newest;
        let node = &mut self.nodes[index as usize];
        (node.older, node.newer) = (before, NONE);
        self.newest = index;
        match before {
            NONE => self.oldest = index,
            before => self.nodes[before as usize].newer = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Node { older, newer, .. } = self.nodes[index as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::request::push_id;

    /// Feeds requests of ids to a cache of `capacity` blocks and lists the hits.
    fn hits(capacity: u64, requests: &[&[u64]]) -> Vec<u64> {
        let mut oracle = LruOracle::new(capacity);
        requests
            .iter()
            .map(|ids| {
                let mut request = Request::default();
                ids.iter().for_each(|id| push_id(&mut request.blocks, *id));
                oracle.access(&request)
            })
            .collect()
    }

    #[test]
    fn facts() {
        let chain: &[u64] = &[1, 2, 3];
        assert_eq!(hits(3, &[chain, chain]), [0, 3]);
        assert_eq!(hits(2, &[chain, chain]), [0, 2], "the tail found no room");
        assert_eq!(hits(3, &[chain, &[9], chain]), [0, 0, 2], "the leaf went first");
        assert_eq!(hits(4, &[&[1, 2], &[1, 5], &[7, 8], &[1, 5]]), [0, 1, 0, 2]);
        assert_eq!(hits(0, &[chain, chain]), [0, 0]);
    }
}
