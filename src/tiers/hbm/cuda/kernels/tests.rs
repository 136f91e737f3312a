//! The kernels' sources, run on this CPU, against naive copies and the frame's own checksum.

use std::ffi::c_void;

use proptest::prelude::*;

use super::*;
use crate::tiers::frame;

/// Blocks of one shape in a memory of their own: pages in some order, with gaps.
#[derive(Clone, Debug)]
struct Shape {
    shards: u32,
    layers: u32,
    planes: u32,
    page_bytes: u32,
}

/// How one end's pages lie, in bytes from the start of its memory.
#[derive(Clone, Debug)]
struct End {
    start: u64,
    gap: u64,
    /// Layers found by a table instead of a stride, in reverse.
    table: bool,
}

impl Shape {
    fn pages(&self) -> u64 {
        u64::from(self.shards * self.layers * self.planes)
    }

    fn page_step(&self, end: &End) -> u64 {
        u64::from(self.page_bytes) + end.gap
    }

    /// The naive place of a page.
    fn place(&self, end: &End, block: u64, shard: u32, layer: u32, plane: u32) -> u64 {
        let layer = if end.table { self.layers - 1 - layer } else { layer };
        let page = (shard * self.layers + layer) * self.planes + plane;
        end.start + (block * self.pages() + u64::from(page)) * self.page_step(end)
    }

    fn table(&self, end: &End) -> Vec<u64> {
        let step = u64::from(self.planes) * self.page_step(end);
        (0..u64::from(self.layers)).rev().map(|layer| layer * step).collect()
    }

    fn map(&self, end: &End, block: u64, base: u64, table: &[u64]) -> Pages {
        let plane_stride = self.page_step(end);
        let layer_stride = plane_stride * u64::from(self.planes);
        Pages {
            start: base + end.start + block * self.pages() * plane_stride,
            shard_stride: layer_stride * u64::from(self.layers),
            layer_stride: if end.table { u64::MAX } else { layer_stride },
            plane_stride,
            layers: if end.table { table.as_ptr().expose_provenance() as u64 } else { 0 },
        }
    }

    fn memory_bytes(&self, end: &End, blocks: u64) -> usize {
        usize::try_from(end.start + blocks * self.pages() * self.page_step(end) + 64).unwrap()
    }

    /// Every page of every block: where it lies in both memories.
    fn each_page(&self, blocks: u64) -> impl Iterator<Item = (u64, u32, u32, u32)> {
        let Self { shards, layers, planes, .. } = *self;
        (0..blocks).flat_map(move |block| {
            (0..shards).flat_map(move |shard| {
                (0..layers).flat_map(move |layer| {
                    (0..planes).map(move |plane| (block, shard, layer, plane))
                })
            })
        })
    }
}

/// A memory whose first byte lies on 64, so that a case means the same each time.
struct Memory(Vec<u8>);

impl Memory {
    fn new(bytes: usize, fill: impl Fn(usize) -> u8) -> Self {
        let mut memory = Self(vec![0; bytes + 64]);
        let skipped = memory.skipped();
        for (at, byte) in memory.0[skipped..].iter_mut().enumerate() {
            *byte = fill(at);
        }
        memory
    }

    fn skipped(&self) -> usize {
        self.0.as_ptr().align_offset(64)
    }

    fn base(&mut self) -> u64 {
        let skipped = self.skipped();
        self.0[skipped..].as_mut_ptr().expose_provenance() as u64
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.skipped()..]
    }
}

fn noise(at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

fn launch_with<const N: usize>(kernel: Kernel, groups: u32, threads: u32, args: [*mut c_void; N]) {
    let mut args = args;
    // SAFETY: each test hands over what its kernel takes, over memories that it owns.
    unsafe { host::launch(kernel, groups, threads, &mut args) };
}

fn arg<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

fn run_copy(copies: &[KernelCopy], groups: u32, threads: u32) {
    let Extent { mut blocks, mut pages_max, mut page_bytes_max } = Extent::of(copies);
    let mut at = copies.as_ptr();
    let args = [arg(&mut at), arg(&mut blocks), arg(&mut pages_max), arg(&mut page_bytes_max)];
    launch_with(Kernel::CopyBlocks, groups, threads, args);
}

fn run_sums(copies: &[KernelCopy], groups: u32, threads: u32) -> Vec<u64> {
    let Extent { mut blocks, mut pages_max, .. } = Extent::of(copies);
    // What is not written must not count.
    let mut sums = vec![0xdead_beef_u64; copies.len() * pages_max as usize];
    let mut checksums = vec![0_u64; copies.len()];
    let (mut at, mut sums_at) = (copies.as_ptr(), sums.as_mut_ptr());
    let mut checksums_at = checksums.as_mut_ptr();
    let args = [arg(&mut at), arg(&mut blocks), arg(&mut pages_max), arg(&mut sums_at)];
    launch_with(Kernel::SumPages, groups, threads, args);
    let args = [
        arg(&mut at),
        arg(&mut blocks),
        arg(&mut pages_max),
        arg(&mut sums_at),
        arg(&mut checksums_at),
    ];
    launch_with(Kernel::SumBlocks, blocks.div_ceil(threads), threads, args);
    checksums
}

prop_compose! {
    fn any_shape()(
        shards in 1..3_u32, layers in 1..5_u32, planes in 1..3_u32,
        page_bytes in prop_oneof![1..80_u32, 500..3000_u32, Just(4096), Just(16_384)],
    ) -> Shape {
        Shape { shards, layers, planes, page_bytes }
    }
}

prop_compose! {
    fn any_end()(
        start in prop_oneof![Just(0), Just(16), 0..40_u64],
        gap in prop_oneof![Just(0), Just(16), 0..40_u64],
        table in any::<bool>(),
    ) -> End {
        End { start, gap, table }
    }
}

fn power_of_two(max: u32) -> impl Strategy<Value = u32> {
    (0..=max.ilog2()).prop_map(|power| 1 << power)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_copy_is_the_naive_copy_and_touches_nothing_else(
        shape in any_shape(), from in any_end(), to in any_end(), blocks in 1..5_u64,
        groups in 1..20_u32, warps in 1..5_u32,
    ) {
        let mut source = Memory::new(shape.memory_bytes(&from, blocks), noise);
        let mut target = Memory::new(shape.memory_bytes(&to, blocks), |_| 0xa5);
        let mut wanted = target.bytes().to_vec();
        let len = shape.page_bytes as usize;
        for (block, shard, layer, plane) in shape.each_page(blocks) {
            let at = |end| usize::try_from(shape.place(end, block, shard, layer, plane)).unwrap();
            let (from, to) = (at(&from), at(&to));
            wanted[to..to + len].copy_from_slice(&source.bytes()[from..from + len]);
        }
        let tables = [shape.table(&from), shape.table(&to)];
        let (source_base, target_base) = (source.base(), target.base());
        let copies: Vec<KernelCopy> = (0..blocks).map(|block| KernelCopy {
            from: shape.map(&from, block, source_base, &tables[0]),
            to: shape.map(&to, block, target_base, &tables[1]),
            shards: shape.shards,
            layers: shape.layers,
            planes: shape.planes,
            page_bytes: shape.page_bytes,
        }).collect();
        run_copy(&copies, groups, warps * 32);
        prop_assert!(target.bytes() == wanted, "the target differs");
    }

    #[test]
    fn a_sum_is_the_checksum_of_the_frame(
        shape in any_shape(), end in any_end(), blocks in 1..4_u64,
        groups in 1..5_u32, threads in power_of_two(64),
    ) {
        let mut memory = Memory::new(shape.memory_bytes(&end, blocks), noise);
        let mut payloads = vec![Vec::new(); usize::try_from(blocks).unwrap()];
        for (block, shard, layer, plane) in shape.each_page(blocks) {
            let at = usize::try_from(shape.place(&end, block, shard, layer, plane)).unwrap();
            let page = &memory.bytes()[at..at + shape.page_bytes as usize];
            payloads[usize::try_from(block).unwrap()].extend_from_slice(page);
        }
        let wanted: Vec<u64> = payloads.iter().map(|payload| frame::checksum(payload)).collect();
        let (table, base) = (shape.table(&end), memory.base());
        let copies: Vec<KernelCopy> = (0..blocks).map(|block| KernelCopy {
            from: shape.map(&end, block, base, &table),
            to: Pages::default(),
            shards: shape.shards,
            layers: shape.layers,
            planes: shape.planes,
            page_bytes: shape.page_bytes,
        }).collect();
        prop_assert_eq!(run_sums(&copies, groups, threads), wanted);
    }
}

/// One contiguous block: page after page from `base` on.
fn in_a_row(base: u64, pages: u32, page_bytes: u32) -> KernelCopy {
    let map = Pages { start: base, layer_stride: page_bytes.into(), ..Pages::default() };
    KernelCopy { from: map, to: map, shards: 1, layers: pages, planes: 1, page_bytes }
}

#[test]
fn blocks_of_several_shapes_go_in_one_launch() {
    let mut source = Memory::new(300_000, noise);
    let mut target = Memory::new(300_000, |_| 0);
    let shapes = [(3, 70_000), (1, 33_000), (20, 100)];
    let offsets = [0, 220_000, 260_000];
    let copies: Vec<KernelCopy> = shapes
        .iter()
        .zip(offsets)
        .map(|((pages, page_bytes), offset)| {
            let mut copy = in_a_row(source.base() + offset, *pages, *page_bytes);
            copy.to.start = target.base() + offset;
            copy
        })
        .collect();
    run_copy(&copies, 7, 64);
    let sums = run_sums(&copies, 3, 256);
    for (((pages, page_bytes), offset), sum) in shapes.iter().zip(offsets).zip(sums) {
        let start = usize::try_from(offset).unwrap();
        let range = start..start + (pages * page_bytes) as usize;
        assert!(target.bytes()[range.clone()] == source.bytes()[range.clone()]);
        assert_eq!(sum, frame::checksum(&source.bytes()[range]));
    }
    assert!(target.bytes()[210_000..220_000].iter().all(|byte| *byte == 0));
}

#[test]
fn the_ptx_is_made_of_the_sources_that_stand_here() {
    let block = include_str!("../../../../../kernels/block.h");
    let sources = [
        (COPY_PTX, include_str!("../../../../../kernels/copy.cu")),
        (CHECKSUM_PTX, include_str!("../../../../../kernels/checksum.cu")),
    ];
    for (ptx, source) in sources {
        let hash = blake3::hash([block, source].concat().as_bytes());
        let wanted = format!("// source: {}", hash.to_hex());
        assert_eq!(ptx.lines().next(), Some(&*wanted), "run scripts/build-kernels");
    }
}

#[test]
fn every_kernel_is_in_its_ptx() {
    for kernel in Kernel::ALL {
        let entry = format!(".visible .entry {}(", kernel.name());
        assert!(kernel.ptx().contains(&entry), "{kernel:?}");
    }
}
