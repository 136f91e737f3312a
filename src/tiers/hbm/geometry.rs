//! The shape of a namespace's blocks, and where their pages lie in each kind of memory.
//!
//! Pages are counted shard-major, then layer, then plane: a frame's payload has them in that order.
//! In a chunk of the HBM tier with `n` slots, page `p` of the block in slot `i` starts at
//! `chunk + (p*n + i) * page_bytes`, as in an engine's paged KV cache.

use crate::domain::namespace::{KvShape, Namespace};
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::frame::HEADER_BYTES;
use crate::tiers::store::{FrameSpan, Place};

use super::layout::PagedLayout;

/// How a whole block is cut into pages. Only checked namespaces have one, so no product of its
/// numbers overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockGeometry {
    shape: KvShape,
    shard_count: u32,
}

impl BlockGeometry {
    /// # Errors
    /// The namespace is outside its limits; the text names the field.
    pub fn of(namespace: &Namespace) -> Result<Self, String> {
        namespace.check()?;
        Ok(Self { shape: namespace.shape, shard_count: namespace.shard_count })
    }

    #[must_use]
    pub const fn shape(&self) -> KvShape {
        self.shape
    }

    #[must_use]
    pub const fn shard_count(&self) -> u32 {
        self.shard_count
    }

    /// A block's payload over all its shards.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        self.shape.shard_bytes() * self.shard_count as u64
    }

    /// Pages in a row from `start` on.
    fn contiguous(&self, start: u64) -> PageMap<'static> {
        let plane = u64::from(self.shape.page_bytes);
        let layer = plane * u64::from(self.shape.planes);
        let shard = layer * u64::from(self.shape.layers);
        PageMap { start, shard, layer, plane, layers: &[] }
    }

    /// The payload of the frame at `span` of the arena.
    pub(super) fn in_frame(&self, span: FrameSpan) -> PageMap<'static> {
        self.contiguous(span.offset + HEADER_BYTES as u64)
    }

    /// Where the pages of the block at `place` lie in the HBM tier, for who reads it there.
    #[must_use]
    pub fn tier_pages(&self, place: Place) -> InTier {
        let PageMap { start, shard, layer, plane, .. } = self.in_tier(place);
        InTier { start, shard_stride: shard, layer_stride: layer, plane_stride: plane }
    }

    /// The block at `place` of the HBM tier, which was checked.
    pub(super) fn in_tier(&self, place: Place) -> PageMap<'static> {
        let slots = CHUNK_BYTES / u64::from(place.slot_bytes);
        let slot = place.offset % CHUNK_BYTES / u64::from(place.slot_bytes);
        let chunk = place.offset - place.offset % CHUNK_BYTES;
        let page_bytes = u64::from(self.shape.page_bytes);
        let PageMap { shard, layer, plane, layers, .. } = self.contiguous(0);
        PageMap {
            start: chunk + slot * page_bytes,
            shard: shard * slots,
            layer: layer * slots,
            plane: plane * slots,
            layers,
        }
    }
}

/// Where a block's pages lie in the HBM tier's memory: page (shard, layer, plane) starts so many
/// strides after `start`, in bytes. All blocks of a namespace have the same strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InTier {
    pub start: u64,
    pub shard_stride: u64,
    pub layer_stride: u64,
    pub plane_stride: u64,
}

/// Where each page of one block starts, in bytes from the start of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageMap<'a> {
    pub(super) start: u64,
    pub(super) shard: u64,
    pub(super) layer: u64,
    pub(super) plane: u64,
    /// One start a layer, where layers are not `layer` apart; empty where they are.
    pub(super) layers: &'a [u64],
}

impl<'a> PageMap<'a> {
    /// The pages of slot `slot` of a pool, which holds one shard: the shard's index adds nothing.
    pub(super) fn in_pool(layout: &PagedLayout, slot: u32) -> Self {
        Self {
            start: layout.base + u64::from(slot) * layout.slot_stride,
            shard: 0,
            layer: layout.layer_stride,
            plane: layout.plane_stride,
            layers: &[],
        }
    }

    /// The same pages, but each layer's from its own start on.
    pub(super) fn with_layers(self, layers: &'a [u64]) -> Self {
        Self { layers, ..self }
    }

    pub(super) fn page(&self, shard: u32, layer: u32, plane: u32) -> u64 {
        let of_layer = match self.layers {
            [] => u64::from(layer) * self.layer,
            starts => starts[layer as usize],
        };
        self.start + of_layer + u64::from(shard) * self.shard + u64::from(plane) * self.plane
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::namespace::example;

    fn geometry(shard_count: u32) -> BlockGeometry {
        let shape = KvShape { layers: 3, planes: 2, page_bytes: 8192 };
        BlockGeometry::of(&Namespace { shape, shard_count, ..example() }).unwrap()
    }

    #[test]
    fn a_frame_has_its_pages_in_order() {
        let pages = geometry(2).in_frame(FrameSpan { offset: 65_536, bytes: 4096 + 12 * 8192 });
        assert_eq!(pages.page(0, 0, 0), 65_536 + 4096);
        assert_eq!(pages.page(0, 0, 1), 65_536 + 4096 + 8192);
        assert_eq!(pages.page(0, 2, 1), 65_536 + 4096 + 5 * 8192);
        assert_eq!(pages.page(1, 0, 0), 65_536 + 4096 + 6 * 8192);
    }

    #[test]
    fn slots_of_a_chunk_share_nothing_and_stay_inside() {
        let geometry = geometry(2);
        let slot_bytes = 12 * 8192;
        let slots = CHUNK_BYTES / slot_bytes;
        let mut seen = BTreeSet::new();
        for slot in [0, 1, 2, slots - 1] {
            let place = Place {
                offset: CHUNK_BYTES + slot * slot_bytes,
                slot_bytes: u32::try_from(slot_bytes).unwrap(),
            };
            let pages = geometry.in_tier(place);
            for (shard, layer, plane) in (0..12).map(|page| (page / 6, page / 2 % 3, page % 2)) {
                let at = pages.page(shard, layer, plane);
                assert!(at >= CHUNK_BYTES && at + 8192 <= 2 * CHUNK_BYTES);
                assert!(at.is_multiple_of(8192) && seen.insert(at));
            }
        }
    }

    #[test]
    fn only_checked_namespaces_have_a_geometry() {
        let shape = KvShape { layers: u32::MAX, planes: u32::MAX, page_bytes: u32::MAX };
        let said = BlockGeometry::of(&Namespace { shape, ..example() }).unwrap_err();
        assert!(said.contains("namespace.layers"), "{said}");
    }
}
