//! One copy with its addresses known: as runs for the copy engines, as a page map for the kernel.
//!
//! Numbers only: what is copied, and by what means, is decided elsewhere.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::device::Stream;
use super::super::geometry::PageMap;
use super::super::runs::{Run, runs};
use super::driver::Address;
use super::kernels::{KernelCopy, Pages};
use crate::domain::namespace::KvShape;

/// Where the pages of one end lie in the unified address space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sheet<'a> {
    /// What the map counts from.
    pub(super) base: Address,
    pub(super) map: PageMap<'a>,
    /// Where the GPU finds the map's table of layers; zero when it has none.
    pub(super) table: Address,
    /// Where the allocations begin that the pages lie in: no copy reaches from one into another.
    pub(super) seams: &'a [Address],
}

/// One copy.
#[derive(Clone, Debug)]
pub(super) struct Piece<'a> {
    pub(super) shape: KvShape,
    pub(super) shards: Range<u32>,
    pub(super) from: Sheet<'a>,
    pub(super) to: Sheet<'a>,
}

impl Sheet<'_> {
    fn pages(&self, first_shard: u32) -> Pages {
        let PageMap { start, shard, layer, plane, .. } = self.map;
        Pages {
            start: self.base + start + u64::from(first_shard) * shard,
            shard_stride: shard,
            layer_stride: layer,
            plane_stride: plane,
            layers: self.table,
        }
    }

    /// Where the pages of these shards begin, if they lie in a row.
    fn in_a_row(&self, shape: KvShape, shards: &Range<u32>) -> Option<Address> {
        let plane = u64::from(shape.page_bytes);
        let layer = plane * u64::from(shape.planes);
        let shard = layer * u64::from(shape.layers);
        let steps = [
            (shape.planes, self.map.plane, plane),
            (shape.layers, self.map.layer, layer),
            (shards.end - shards.start, self.map.shard, shard),
        ];
        let straight = steps.iter().all(|(count, is, wanted)| *count <= 1 || is == wanted);
        (straight && self.table == 0).then(|| self.base + self.map.page(shards.start, 0, 0))
    }
}

impl Piece<'_> {
    pub(super) fn bytes(&self) -> u64 {
        self.shape.shard_bytes() * u64::from(self.shards.end - self.shards.start)
    }

    /// What the copy engines are told, neighbours merged.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        let (from, to) = (self.from.base, self.to.base);
        runs(self.shape, self.shards.clone(), self.from.map, self.to.map).map(move |run| Run {
            from: from + run.from,
            to: to + run.to,
            ..run
        })
    }

    /// What the kernel is told.
    pub(super) fn descriptor(&self) -> KernelCopy {
        KernelCopy {
            from: self.from.pages(self.shards.start),
            to: self.to.pages(self.shards.start),
            shards: self.shards.end - self.shards.start,
            layers: self.shape.layers,
            planes: self.shape.planes,
            page_bytes: self.shape.page_bytes,
        }
    }

    /// The copy as one in one piece between this machine and a buffer at `at` on the GPU, and one
    /// between that and the pages; nothing when the end on this machine is no row.
    pub(super) fn staged(&self, at: Address, stream: Stream) -> Option<Staged> {
        let bytes = self.bytes();
        let buffer = self.buffer(at);
        let row = |sheet: &Sheet<'_>| sheet.in_a_row(self.shape, &self.shards);
        match stream {
            Stream::Up => {
                let whole = Run { from: row(&self.from)?, to: at, bytes };
                Some(Staged { whole, spread: KernelCopy { from: buffer, ..self.descriptor() } })
            }
            Stream::Down => {
                let whole = Run { from: at, to: row(&self.to)?, bytes };
                Some(Staged { whole, spread: KernelCopy { to: buffer, ..self.descriptor() } })
            }
            Stream::Local => None,
        }
    }

    /// The pages in a row from `at` on.
    fn buffer(&self, at: Address) -> Pages {
        let plane_stride = u64::from(self.shape.page_bytes);
        let layer_stride = plane_stride * u64::from(self.shape.planes);
        let shard_stride = layer_stride * u64::from(self.shape.layers);
        Pages { start: at, shard_stride, layer_stride, plane_stride, layers: 0 }
    }
}

/// A copy in two steps: one in one piece, one page by page on the GPU. Up, the piece comes first;
/// down, the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    pub(super) whole: Run,
    pub(super) spread: KernelCopy,
}

/// The runs of all pieces, merged where they lie in a row at both ends, whatever piece they are of.
/// The pieces are independent.
pub(super) fn coalesced(pieces: &[Piece<'_>]) -> Vec<Run> {
    let sheets = pieces.iter().flat_map(|piece| [&piece.from, &piece.to]);
    let seams: BTreeSet<Address> = sheets.flat_map(|sheet| sheet.seams).copied().collect();
    let mut runs: Vec<Run> = pieces.iter().flat_map(Piece::runs).collect();
    runs.sort_unstable_by_key(|run| run.to);
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        let seam = seams.contains(&run.from) || seams.contains(&run.to);
        match merged.last_mut() {
            Some(last) if !seam && last.meets(&run) => last.bytes += run.bytes,
            _ => merged.push(run),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::hbm::PagedLayout;

    const SHAPE: KvShape = KvShape { layers: 3, planes: 2, page_bytes: 4096 };

    fn row(base: Address) -> Sheet<'static> {
        let map = PageMap { start: 0, shard: 24_576, layer: 8192, plane: 4096, layers: &[] };
        Sheet { base, map, table: 0, seams: &[] }
    }

    fn slot(base: Address, slot: u32) -> Sheet<'static> {
        let map = PageMap::in_pool(&PagedLayout::page_major(SHAPE, 4), slot);
        Sheet { base, map, table: 0, seams: &[] }
    }

    fn piece<'a>(from: Sheet<'a>, to: Sheet<'a>) -> Piece<'a> {
        Piece { shape: SHAPE, shards: 0..1, from, to }
    }

    #[test]
    fn runs_are_addresses() {
        let runs: Vec<_> = piece(row(1 << 20), slot(1 << 30, 2)).runs().collect();
        assert_eq!(runs.len(), 6);
        assert_eq!(runs[0], Run { from: 1 << 20, to: (1 << 30) + 8192, bytes: 4096 });
    }

    #[test]
    fn neighbouring_slots_become_one_run_a_page() {
        let pieces = [0, 1, 3].map(|at| piece(slot(1 << 20, at), slot(1 << 30, at)));
        let bytes =
            |runs: &[Run]| -> Vec<u64> { runs.iter().map(|run| run.bytes / 4096).collect() };
        // Slots 0 and 1 of the first plane; slot 3 of each and 0 and 1 of the next; the last slot 3.
        assert_eq!(bytes(&coalesced(&pieces)), [2, 3, 3, 3, 3, 3, 1]);
        // Where an allocation ends, so does the run.
        let seams = [(1 << 20) + 4 * 4096];
        let cut =
            pieces.map(|piece| Piece { from: Sheet { seams: &seams, ..piece.from }, ..piece });
        assert_eq!(bytes(&coalesced(&cut)), [2, 1, 2, 3, 3, 3, 3, 1]);
    }

    #[test]
    fn what_lies_in_a_row_is_staged_in_one_piece() {
        let up = piece(row(1 << 20), slot(1 << 30, 2)).staged(1 << 40, Stream::Up).unwrap();
        assert_eq!(up.whole, Run { from: 1 << 20, to: 1 << 40, bytes: 6 * 4096 });
        assert_eq!((up.spread.from.start, up.spread.to.start), (1 << 40, (1 << 30) + 8192));
        let down = piece(slot(1 << 30, 2), row(1 << 20)).staged(1 << 40, Stream::Down).unwrap();
        assert_eq!(down.whole, Run { from: 1 << 40, to: 1 << 20, bytes: 6 * 4096 });
        assert_eq!((down.spread.from.start, down.spread.to.start), ((1 << 30) + 8192, 1 << 40));
        for stream in Stream::ALL {
            assert!(piece(slot(1 << 30, 2), slot(1 << 20, 2)).staged(0, stream).is_none());
        }
    }

    #[test]
    fn a_later_shard_begins_where_it_lies() {
        let later = Piece { shards: 2..3, ..piece(row(1 << 20), slot(1 << 30, 0)) };
        let wanted = (1 << 20) + 2 * 24_576;
        assert_eq!(later.descriptor().from.start, wanted);
        assert_eq!(later.staged(0, Stream::Up).unwrap().whole.from, wanted);
        assert_eq!(later.runs().next().unwrap().from, wanted);
    }
}
