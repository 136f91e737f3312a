//! Cuts the copy of a block into runs: as many adjacent pages at a time as both ends allow.
//!
//! Numbers only; the device copies.

use std::ops::Range;

use crate::domain::namespace::KvShape;

use super::geometry::PageMap;

/// Bytes that lie in a row at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) bytes: u64,
}

impl Run {
    /// Whether `next` goes on where this ends, at both ends.
    pub(super) fn meets(&self, next: &Self) -> bool {
        self.from + self.bytes == next.from && self.to + self.bytes == next.to
    }
}

/// The pages of the shards `shards`, merged into the longest runs, in the order of a frame. Layers
/// that have their own starts may lie in memories of their own, and are never merged.
pub(super) fn runs(
    shape: KvShape,
    shards: Range<u32>,
    from: PageMap<'_>,
    to: PageMap<'_>,
) -> impl Iterator<Item = Run> {
    let bytes = u64::from(shape.page_bytes);
    let tabled = !from.layers.is_empty() || !to.layers.is_empty();
    let planes =
        (0..shape.layers).flat_map(move |layer| (0..shape.planes).map(move |plane| (layer, plane)));
    let pages = shards.flat_map(move |shard| {
        planes.clone().map(move |(layer, plane)| Page {
            run: Run {
                from: from.page(shard, layer, plane),
                to: to.page(shard, layer, plane),
                bytes,
            },
            alone: tabled && plane == 0,
        })
    });
    merged(pages)
}

struct Page {
    run: Run,
    /// Whether what lies before it is not to be merged with it.
    alone: bool,
}

fn merged(pages: impl Iterator<Item = Page>) -> impl Iterator<Item = Run> {
    let mut pages = pages.peekable();
    std::iter::from_fn(move || {
        let mut run = pages.next()?.run;
        while let Some(next) = pages.next_if(|next| !next.alone && run.meets(&next.run)) {
            run.bytes += next.run.bytes;
        }
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::namespace::{Namespace, example};
    use crate::tiers::hbm::{BlockGeometry, PagedLayout};
    use crate::tiers::store::{FrameSpan, Place};

    const SHAPE: KvShape = KvShape { layers: 3, planes: 2, page_bytes: 4096 };

    fn geometry() -> BlockGeometry {
        BlockGeometry::of(&Namespace { shape: SHAPE, shard_count: 2, ..example() }).unwrap()
    }

    fn cut(shards: Range<u32>, from: PageMap<'_>, to: PageMap<'_>) -> Vec<Run> {
        runs(SHAPE, shards, from, to).collect()
    }

    #[test]
    fn a_slot_in_one_piece_is_one_run() {
        let frame = geometry().in_frame(FrameSpan { offset: 0, bytes: 4096 * 13 });
        let pool = PageMap::in_pool(&PagedLayout::slot_major(SHAPE, 4), 2);
        let run = Run { from: 4096 * 7, to: 4096 * 12, bytes: 4096 * 6 };
        assert_eq!(cut(1..2, frame, pool), [run]);
        let back = Run { from: run.to, to: run.from, ..run };
        assert_eq!(cut(1..2, pool, frame), [back]);
    }

    #[test]
    fn a_strided_slot_is_one_run_a_page() {
        let frame = geometry().in_frame(FrameSpan { offset: 0, bytes: 4096 * 13 });
        let pool = PageMap::in_pool(&PagedLayout::page_major(SHAPE, 4), 2);
        let cut = cut(0..1, frame, pool);
        assert_eq!(cut.len(), 6);
        assert_eq!(cut[5], Run { from: 4096 * 6, to: 4096 * (5 * 4 + 2), bytes: 4096 });
    }

    #[test]
    fn planes_in_a_row_merge_though_layers_do_not() {
        let frame = geometry().in_frame(FrameSpan { offset: 0, bytes: 4096 * 13 });
        let layout = PagedLayout {
            layer_stride: 4096 * 8,
            plane_stride: 4096,
            slot_stride: 4096 * 2,
            ..PagedLayout::page_major(SHAPE, 4)
        };
        let cut = cut(0..1, frame, PageMap::in_pool(&layout, 1));
        assert_eq!(cut.iter().map(|run| run.bytes).collect::<Vec<_>>(), [8192; 3]);
    }

    #[test]
    fn pools_of_one_layout_merge_as_far_as_both_allow() {
        let layout = PagedLayout::page_major(SHAPE, 1);
        let pool = PageMap::in_pool(&layout, 0);
        assert_eq!(cut(0..1, pool, pool).len(), 1);
    }

    #[test]
    fn layers_anywhere_are_runs_of_their_own() {
        let layout = PagedLayout { plane_stride: 4096, ..PagedLayout::page_major(SHAPE, 1) };
        let pool = PageMap::in_pool(&layout, 0).with_layers(&[900_000, 8192, 16_384]);
        let frame = geometry().in_frame(FrameSpan { offset: 0, bytes: 4096 * 13 });
        let starts: Vec<_> = cut(0..1, pool, frame).iter().map(|run| run.from).collect();
        assert_eq!(starts, [900_000, 8192, 16_384]);
    }

    #[test]
    fn all_shards_make_the_whole_payload() {
        let frame = geometry().in_frame(FrameSpan { offset: 8192, bytes: 4096 * 13 });
        let tier = geometry().in_tier(Place { offset: 4096 * 12, slot_bytes: 4096 * 12 });
        let cut = cut(0..2, frame, tier);
        assert_eq!(cut.iter().map(|run| run.bytes).sum::<u64>(), geometry().payload_bytes());
        assert_eq!(cut.len(), 12);
    }
}
