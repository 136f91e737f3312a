//! More blocks than a node may know: what it can't find later it does not pack, and what was found once
//! stays found.

use super::ground::{Node, options};
use super::shed::forget;
use super::{on_both, priority, read_all, write_all};
use crate::tiers::object::packs::PackOptions;

/// A node that knows so many packed blocks at most.
fn narrow(node: u8, frames_max: usize) -> PackOptions {
    PackOptions { frames_max, ..options(node) }
}

/// The blocks that a lookup counts; each of them can be read.
fn found(node: &Node, numbers: std::ops::Range<u32>) -> Vec<u32> {
    let told: Vec<u32> =
        numbers.clone().filter(|number| priority(node, *number).is_some()).collect();
    assert_eq!(read_all(node, numbers), told);
    told
}

#[test]
fn what_a_node_wrote_is_found_however_few_blocks_it_may_know() {
    on_both(|ground| {
        let one = ground.node_with(narrow(1, 8), |blobs| blobs);
        for first in [0, 4, 8] {
            write_all(&one, first..first + 4);
        }
        assert_eq!((ground.files('p').len(), ground.singles()), (2, 4));
        assert_eq!(found(&one, 0..12).len(), 12);
        drop(one);
        // Told to know fewer, it still knows what it wrote before.
        let one = ground.node_with(narrow(1, 4), |blobs| blobs);
        assert_eq!(found(&one, 0..12).len(), 12);
        // There is room again when blocks have gone.
        drop(one);
        let one = ground.node_with(narrow(1, 8), |blobs| blobs);
        (0..4).for_each(|number| forget(&one, number));
        one.shed(&ground.handle).unwrap();
        write_all(&one, 12..16);
        assert_eq!((ground.files('p').len(), ground.singles()), (2, 4));
    });
}

#[test]
fn others_packs_beyond_what_a_node_may_know_are_not_found_and_those_found_stay() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        write_all(&one, 4..8);
        let two = ground.node_with(narrow(2, 8), |blobs| blobs);
        assert_eq!(found(&two, 0..8), [4, 5, 6, 7], "the newest of two");
        write_all(&one, 8..12);
        assert_eq!(found(&two, 0..12), [4, 5, 6, 7]);
        write_all(&two, 12..16);
        write_all(&two, 16..20);
        assert_eq!(ground.singles(), 4);
        assert_eq!(found(&two, 4..20), [4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 18, 19]);
        // Moved by who wrote it, into a pack for which there is no room.
        forget(&one, 4);
        one.shed(&ground.handle).unwrap();
        assert_eq!(found(&two, 4..8), [5, 6, 7]);
    });
}
