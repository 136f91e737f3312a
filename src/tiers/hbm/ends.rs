//! Whether the ends of a copy fit it: checks that every device makes before it touches a byte.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::tiers::dram::Arena;
use crate::tiers::frame::HEADER_BYTES;
use crate::tiers::store::{FrameSpan, Place, StoreError};

use super::chunks::Beginning;
use super::device::{BlockCopy, CopyEnd};
use super::geometry::BlockGeometry;
use super::pool::EnginePool;

/// Which end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    From,
    To,
}

impl Side {
    /// Begins to read or write the block at a place of the device's memory.
    pub(super) fn begin(
        self,
        chunks: &mut Beginning<'_>,
        place: Place,
        geometry: BlockGeometry,
    ) -> Result<(), StoreError> {
        match self {
            Self::From => chunks.read(place, geometry),
            Self::To => chunks.write(place, geometry),
        }
    }
}

/// The shards that a copy moves: all of them, or the one that its pool holds.
pub(super) fn shards_of(copy: &BlockCopy) -> Result<Range<u32>, StoreError> {
    let pool_shard = |end: &CopyEnd| match end {
        CopyEnd::Pool { pool, .. } => Some(pool.claim().shard),
        CopyEnd::Frame(_) | CopyEnd::Tier(_) => None,
    };
    let count = copy.geometry.shard_count();
    match (pool_shard(&copy.from), pool_shard(&copy.to)) {
        (None, None) => Ok(0..count),
        (Some(from), Some(to)) if from != to => {
            Err(unfit(format!("shard {from} of a block can't become shard {to}")))
        }
        (Some(shard), _) | (_, Some(shard)) if shard < count => Ok(shard..shard + 1),
        (Some(shard), _) | (_, Some(shard)) => {
            Err(unfit(format!("a block of {count} shards has no shard {shard}")))
        }
    }
}

/// What a copy moves, in bytes; nothing where its ends don't fit.
pub(super) fn bytes_of(copy: &BlockCopy) -> u64 {
    let shards = shards_of(copy).map_or(0, |shards| shards.len() as u64);
    shards * copy.geometry.shape().shard_bytes()
}

/// The span is a frame of the arena that holds such a block.
pub(super) fn check_frame(
    arena: &Arena,
    span: FrameSpan,
    geometry: BlockGeometry,
) -> Result<(), StoreError> {
    let needed = HEADER_BYTES as u64 + geometry.payload_bytes();
    if arena.contains(span) && u64::from(span.bytes) >= needed {
        return Ok(());
    }
    Err(unfit(format!("{span:?} is no frame of the arena for {geometry:?}")))
}

/// The pool has that slot, and its slots hold a shard of such a block.
pub(super) fn check_slot(
    pool: &EnginePool,
    slot: u32,
    geometry: BlockGeometry,
) -> Result<(), StoreError> {
    let layout = &pool.claim().layout;
    if slot < layout.slots && layout.shape == geometry.shape() {
        return Ok(());
    }
    Err(unfit(format!("slot {slot} of {layout:?} is none for {geometry:?}")))
}

pub(super) fn unfit(what: String) -> StoreError {
    StoreError::Io { what, source: io::ErrorKind::InvalidInput.into() }
}

/// Whether the copies may run in any order and beside each other: nothing that one writes is
/// read or written by another.
pub(super) fn are_independent(copies: &[BlockCopy]) -> bool {
    let mut targets: Vec<Part> = copies.iter().flat_map(|copy| parts(copy, &copy.to)).collect();
    targets.sort_unstable();
    targets.is_sorted_by(|before, after| before < after)
        && copies
            .iter()
            .all(|copy| parts(copy, &copy.from).all(|part| targets.binary_search(&part).is_err()))
}

/// A shard of an end, by the end's memory and place there. Spans and slots of one memory never
/// overlap, since their owners cut them from it.
type Part = (u8, usize, u64, u32);

fn parts(copy: &BlockCopy, end: &CopyEnd) -> impl Iterator<Item = Part> {
    let (kind, memory, at) = match end {
        CopyEnd::Frame(span) => (0, 0, span.offset),
        CopyEnd::Tier(place) => (1, 0, place.offset),
        CopyEnd::Pool { pool, slot } => (2, Arc::as_ptr(pool).addr(), u64::from(*slot)),
    };
    let shards = shards_of(copy).unwrap_or(0..1);
    shards.map(move |shard| (kind, memory, at, shard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::namespace::{KvShape, Namespace, example};

    fn geometry() -> BlockGeometry {
        let shape = KvShape { layers: 1, planes: 1, page_bytes: 4096 };
        BlockGeometry::of(&Namespace { shape, ..example() }).unwrap()
    }

    fn frame(index: u64) -> CopyEnd {
        CopyEnd::Frame(FrameSpan { offset: index * 8192, bytes: 8192 })
    }

    fn tier(index: u64) -> CopyEnd {
        CopyEnd::Tier(Place { offset: index * 4096, slot_bytes: 4096 })
    }

    #[test]
    fn copies_that_touch_each_other_are_told() {
        let copy = |from, to| BlockCopy { geometry: geometry(), from, to };
        let cases = [
            ("apart", vec![copy(frame(0), tier(0)), copy(frame(1), tier(1))], true),
            ("one source", vec![copy(frame(0), tier(0)), copy(frame(0), tier(1))], true),
            ("one target", vec![copy(frame(0), tier(0)), copy(frame(1), tier(0))], false),
            ("a chain", vec![copy(frame(0), tier(0)), copy(tier(0), frame(1))], false),
            ("a chain backwards", vec![copy(tier(0), frame(1)), copy(frame(0), tier(0))], false),
            (
                "same number, other memory",
                vec![copy(frame(0), tier(0)), copy(tier(1), tier(2))],
                true,
            ),
        ];
        for (name, copies, wanted) in cases {
            assert_eq!(are_independent(&copies), wanted, "{name}");
        }
    }
}
