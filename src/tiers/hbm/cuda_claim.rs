//! A pool on a GPU as an engine describes it: IPC handles of whole allocations, and where each
//! layer's pages start in them.
//!
//! Checks claims as far as numbers go; opens nothing.

use std::collections::BTreeSet;

use super::layout::PagedLayout;
use super::lender::Lender;

/// A memory or event handle as `cuIpcGetMemHandle` and `cuIpcGetEventHandle` give it.
pub type IpcHandle = [u8; 64];

/// Allocations of one pool; engines make one a layer, or one for all.
const MEMORIES_MAX: usize = 4096;

/// Ready events of one pool.
pub(super) const EVENTS_MAX: usize = 64;

/// What copies by vectors of 16 bytes need of every address.
const ALIGNMENT: u64 = 16;

/// Where one layer's pages start: an allocation, and bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaLayer {
    pub memory: u32,
    pub base: u64,
}

/// A pool's memory on a GPU: a claim, not a proof.
#[derive(Clone, Debug)]
pub struct CudaClaim {
    /// The GPU that the allocations are on, as `cuDeviceGetUuid` gives it.
    pub device_uuid: [u8; 16],
    pub memories: Vec<IpcHandle>,
    /// One a layer; the layout's `base` and `layer_stride` are not used then. Empty: all layers lie
    /// in the first allocation as the layout says.
    pub layers: Vec<CudaLayer>,
    /// Events of which the engine records one on its stream before it sends a store or load, each in its
    /// turn: copies wait for them.
    pub ready_events: Vec<IpcHandle>,
    /// Whose memory it is, as far as the socket says.
    pub lender: Option<Lender>,
}

impl CudaClaim {
    /// Says what is wrong with the claim before anything is opened, or nothing.
    ///
    /// # Errors
    /// A sentence naming what is wrong and what to send instead.
    pub fn check(&self, layout: &PagedLayout) -> Result<(), String> {
        layout.check_counts()?;
        let memories = self.memories.len();
        if !(1..=MEMORIES_MAX).contains(&memories) {
            return Err(format!(
                "pool.cuda.memories has {memories} handles: send between 1 and {MEMORIES_MAX}, one \
                 an allocation"
            ));
        }
        let mut known = BTreeSet::new();
        if let Some(at) = self.memories.iter().position(|handle| !known.insert(handle)) {
            return Err(format!(
                "pool.cuda.memories[{at}] was sent before: send each allocation once, and let layers \
                 name it"
            ));
        }
        let events = self.ready_events.len();
        if events > EVENTS_MAX {
            return Err(format!(
                "pool.cuda.ready_events has {events} handles: send {EVENTS_MAX} at most; a few are \
                 enough, recorded in turns"
            ));
        }
        let (sent, wanted) = (self.layers.len(), layout.shape.layers as usize);
        if sent != 0 && sent != wanted {
            return Err(format!(
                "pool.cuda.layers has {sent} entries, the namespace {wanted} layers: send one a \
                 layer, or none and the layout's base and strides"
            ));
        }
        if let Some(at) = self.layers.iter().position(|layer| layer.memory as usize >= memories) {
            return Err(format!(
                "pool.cuda.layers[{at}].memory is {}: there are {memories} memories, counted from 0",
                self.layers[at].memory
            ));
        }
        self.check_aligned(layout)
    }

    /// Says what is wrong with the claim over allocations of these lengths, or nothing: every page
    /// inside its allocation, no two pages overlapping.
    ///
    /// # Errors
    /// A sentence naming what is wrong and what to send instead.
    pub fn check_within(&self, layout: &PagedLayout, lengths: &[u64]) -> Result<(), String> {
        if self.layers.is_empty() {
            return layout.check(lengths[0]);
        }
        // The layers' own starts stand in for their stride.
        let one = PagedLayout { base: 0, ..*layout }.of_one_layer();
        let extent = one.end_bytes().ok_or("the pool's strides overflow 64 bits")?;
        one.check(extent)?;
        for (at, layer) in self.layers.iter().enumerate() {
            let (end, length) = (layer.base.checked_add(extent), lengths[layer.memory as usize]);
            if end.is_none_or(|end| end > length) {
                return Err(format!(
                    "layer {at} of the pool reaches beyond its allocation: it starts at byte {} and \
                     takes {extent}, the allocation has {length}; send offsets from the start of \
                     the allocation, not of the tensor",
                    layer.base
                ));
            }
        }
        self.check_apart(&one)
    }

    fn check_aligned(&self, layout: &PagedLayout) -> Result<(), String> {
        let PagedLayout { base, layer_stride, plane_stride, slot_stride, .. } = *layout;
        let strides = [
            ("base", base),
            ("layer_stride", layer_stride),
            ("plane_stride", plane_stride),
            ("slot_stride", slot_stride),
        ];
        let layers = self.layers.iter().map(|layer| ("layers.base", layer.base));
        match strides.into_iter().chain(layers).find(|(_, at)| !at.is_multiple_of(ALIGNMENT)) {
            None => Ok(()),
            Some((name, at)) => Err(format!(
                "the pool's {name} is {at} bytes, which is no multiple of {ALIGNMENT}: pad the pages \
                 of a pool on a GPU to {ALIGNMENT} bytes"
            )),
        }
    }

    /// Layers of one allocation are apart when, at some stride, they lie side by side within one
    /// step of it, and all of them together within one step of each larger stride; at the last
    /// level, when each ends before the next begins.
    fn check_apart(&self, one: &PagedLayout) -> Result<(), String> {
        let mut sorted = self.layers.clone();
        sorted.sort_by_key(|layer| (layer.memory, layer.base));
        let levels = one.levels();
        for memory in sorted.chunk_by(|a, b| a.memory == b.memory) {
            let span = memory[memory.len() - 1].base - memory[0].base;
            let apart =
                |within| memory.windows(2).all(|pair| pair[1].base - pair[0].base >= within);
            let fits = |&(step, within): &(u64, u64)| span.saturating_add(within) <= step;
            let beside = |at: usize| apart(levels[at].1) && levels[at..].iter().all(fits);
            if !(0..levels.len()).any(beside) {
                return Err(format!(
                    "layers of the pool overlap in allocation {}: send each layer's own start, and \
                     strides that step over what lies within",
                    memory[0].memory
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::namespace::KvShape;

    const SHAPE: KvShape = KvShape { layers: 3, planes: 2, page_bytes: 64 };

    /// Each layer takes 2 planes x 4 slots x 64 bytes.
    const LAYER_BYTES: u64 = 512;

    fn layout() -> PagedLayout {
        PagedLayout::page_major(SHAPE, 4)
    }

    fn layer(memory: u32, base: u64) -> CudaLayer {
        CudaLayer { memory, base }
    }

    fn claim(memories: usize, layers: &[CudaLayer]) -> CudaClaim {
        CudaClaim {
            device_uuid: [7; 16],
            memories: (0..memories).map(|at| [u8::try_from(at).unwrap(); 64]).collect(),
            layers: layers.to_vec(),
            ready_events: Vec::new(),
            lender: None,
        }
    }

    fn check(claim: &CudaClaim, layout: &PagedLayout, lengths: &[u64]) -> Result<(), String> {
        claim.check(layout).and_then(|()| claim.check_within(layout, lengths))
    }

    #[test]
    fn true_claims_pass() {
        let one = claim(1, &[]);
        assert_eq!(check(&one, &layout(), &[3 * LAYER_BYTES]), Ok(()));
        let apart = claim(3, &[layer(0, 0), layer(1, 32), layer(2, 0)]);
        assert_eq!(check(&apart, &layout(), &[512, 544, 512]), Ok(()));
        let backwards = claim(1, &[layer(0, 1024), layer(0, 512), layer(0, 0)]);
        assert_eq!(check(&backwards, &layout(), &[1536]), Ok(()));
        // A slot's pages in a row: layers lie side by side within a slot.
        let rows = PagedLayout::slot_major(SHAPE, 4);
        let beside = claim(1, &[layer(0, 0), layer(0, 128), layer(0, 256)]);
        assert_eq!(check(&beside, &rows, &[4 * 384]), Ok(()));
        // Planes outermost, then slots, then layers.
        let inner = PagedLayout { slot_stride: 192, plane_stride: 4 * 192, ..layout() };
        let within = claim(1, &[layer(0, 0), layer(0, 64), layer(0, 128)]);
        assert_eq!(check(&within, &inner, &[2 * 4 * 192]), Ok(()));
    }

    #[test]
    fn a_handle_sent_twice_is_refused() {
        let twice = CudaClaim { memories: vec![[1; 64]; 2], ..claim(2, &[]) };
        let said = twice.check(&layout()).unwrap_err();
        assert!(said.contains("memories[1] was sent before"), "{said}");
    }

    #[test]
    fn false_claims_are_refused_with_the_remedy() {
        let rows = PagedLayout::slot_major(SHAPE, 4);
        let page_bytes = |page_bytes| PagedLayout::page_major(KvShape { page_bytes, ..SHAPE }, 4);
        let cases: &[(&str, CudaClaim, PagedLayout, &[u64], &str)] = &[
            ("no memory", claim(0, &[]), layout(), &[], "memories has 0 handles"),
            ("two layers of three", claim(1, &[layer(0, 0); 2]), layout(), &[512], "one a layer"),
            (
                "no such memory",
                claim(1, &[layer(0, 0), layer(0, 0), layer(1, 0)]),
                layout(),
                &[512],
                "layers[2].memory is 1",
            ),
            (
                "unaligned start",
                claim(1, &[layer(0, 0), layer(0, 512), layer(0, 1032)]),
                layout(),
                &[2048],
                "layers.base is 1032 bytes, which is no multiple of 16",
            ),
            ("unaligned pages", claim(1, &[]), page_bytes(72), &[4096], "multiple of 16"),
            ("too short", claim(1, &[]), layout(), &[1535], "reach to byte 1536"),
            (
                "a layer outside",
                claim(3, &[layer(0, 0), layer(1, 0), layer(2, 16)]),
                layout(),
                &[512, 512, 512],
                "layer 2 of the pool reaches beyond its allocation",
            ),
            (
                "a layer far outside",
                claim(1, &[layer(0, 0), layer(0, 512), layer(0, u64::MAX - 15)]),
                layout(),
                &[2048],
                "layer 2 of the pool reaches beyond",
            ),
            (
                "layers over each other",
                claim(1, &[layer(0, 0), layer(0, 496), layer(0, 1024)]),
                layout(),
                &[2048],
                "overlap in allocation 0",
            ),
            ("one start for all", claim(1, &[layer(0, 0); 3]), layout(), &[2048], "overlap"),
            (
                "beside, but too near",
                claim(1, &[layer(0, 0), layer(0, 112), layer(0, 256)]),
                rows,
                &[2048],
                "overlap",
            ),
            (
                "beside, but over the next slot",
                claim(1, &[layer(0, 0), layer(0, 128), layer(0, 272)]),
                rows,
                &[2048],
                "overlap",
            ),
            (
                "beside, but over the next plane",
                claim(1, &[layer(0, 0), layer(0, 64), layer(0, 128)]),
                PagedLayout { slot_stride: 192, plane_stride: 640, ..layout() },
                &[2048],
                "overlap in allocation 0",
            ),
            (
                "planes over each other",
                claim(1, &[layer(0, 0), layer(0, 512), layer(0, 1024)]),
                PagedLayout { plane_stride: 128, ..layout() },
                &[2048],
                "overlap: plane_stride",
            ),
            (
                "no slots",
                claim(1, &[]),
                PagedLayout { slots: 0, ..layout() },
                &[2048],
                "slots is 0",
            ),
        ];
        for (name, claim, layout, lengths, want) in cases {
            let said = check(claim, layout, lengths).expect_err(name);
            assert!(said.contains(want), "{name}: {said}");
        }
    }

    prop_compose! {
        /// Layers near each other. About two thirds of these claims pass.
        fn any_layers()(
            layers in 1..4_u32, planes in 1..3_u32, slots in 1..4_u32, pages in 1..3_u32,
            starts in prop::array::uniform3(0..30_u64), allocations in 1..3_u32,
            strides in prop::array::uniform2(1..24_u64),
        ) -> (CudaClaim, PagedLayout) {
            let shape = KvShape { layers, planes, page_bytes: pages * 16 };
            let [plane_stride, slot_stride] = strides.map(|stride| stride * 16);
            let layout = PagedLayout { plane_stride, slot_stride, ..PagedLayout::page_major(shape, slots) };
            let layers = (0..layers).zip(starts);
            let layers: Vec<_> = layers.map(|(at, start)| layer(at % allocations, start * 16)).collect();
            (claim(2, &layers), layout)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn what_passes_has_every_byte_once_and_inside((claim, layout) in any_layers()) {
            const MEMORY_BYTES: u64 = 1024;
            if check(&claim, &layout, &[MEMORY_BYTES; 2]).is_err() {
                return Ok(());
            }
            let mut seen = BTreeSet::new();
            for layer in &claim.layers {
                for plane in 0..u64::from(layout.shape.planes) {
                    for slot in 0..u64::from(layout.slots) {
                        let page = layer.base + plane * layout.plane_stride + slot * layout.slot_stride;
                        for byte in page..page + u64::from(layout.shape.page_bytes) {
                            prop_assert!(byte < MEMORY_BYTES && seen.insert((layer.memory, byte)));
                        }
                    }
                }
            }
        }
    }
}
