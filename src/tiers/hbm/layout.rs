//! How one rank's pages lie in an engine's pool.
//!
//! Arithmetic on claims: everything is checked, since strides come from outside.

use crate::domain::namespace::KvShape;

/// The most slots a pool may have.
const SLOTS_MAX: u32 = 1 << 24;

/// Where one rank's pages lie in a pool, in bytes: page (layer, plane, slot) starts at
/// `base + layer*layer_stride + plane*plane_stride + slot*slot_stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagedLayout {
    pub shape: KvShape,
    pub slots: u32,
    pub base: u64,
    pub layer_stride: u64,
    pub plane_stride: u64,
    pub slot_stride: u64,
}

impl PagedLayout {
    /// The usual paged KV cache: for each layer and plane, all slots' pages in a row. A shape too
    /// large for 64 bits gives strides that no memory holds.
    #[must_use]
    pub const fn page_major(shape: KvShape, slots: u32) -> Self {
        let slot_stride = shape.page_bytes as u64;
        let plane_stride = slot_stride.saturating_mul(slots as u64);
        let layer_stride = plane_stride.saturating_mul(shape.planes as u64);
        Self { shape, slots, base: 0, layer_stride, plane_stride, slot_stride }
    }

    /// Each slot's pages in a row: a block is one copy.
    #[must_use]
    pub const fn slot_major(shape: KvShape, slots: u32) -> Self {
        let plane_stride = shape.page_bytes as u64;
        let layer_stride = plane_stride.saturating_mul(shape.planes as u64);
        let slot_stride = layer_stride.saturating_mul(shape.layers as u64);
        Self { shape, slots, base: 0, layer_stride, plane_stride, slot_stride }
    }

    /// Where the memory must reach, in bytes from its start; nothing when that overflows.
    #[must_use]
    pub fn end_bytes(&self) -> Option<u64> {
        let reach =
            |count: u32, stride: u64| u64::from(count.saturating_sub(1)).checked_mul(stride);
        self.base
            .checked_add(reach(self.shape.layers, self.layer_stride)?)?
            .checked_add(reach(self.shape.planes, self.plane_stride)?)?
            .checked_add(reach(self.slots, self.slot_stride)?)?
            .checked_add(self.shape.page_bytes.into())
    }

    /// Says what is wrong with this layout over a memory of `memory_bytes`, or nothing: counts
    /// within their limits, every page inside the memory, no two pages overlapping.
    ///
    /// # Errors
    /// A sentence naming what is wrong and what to send instead.
    pub fn check(&self, memory_bytes: u64) -> Result<(), String> {
        self.check_counts()?;
        match self.end_bytes() {
            Some(end) if end <= memory_bytes => self.check_apart(),
            Some(end) => Err(format!(
                "the pool's pages reach to byte {end}, its memory has {memory_bytes}: send a \
                 larger memory, or fewer slots than {}",
                self.slots
            )),
            None => Err("the pool's strides overflow 64 bits: send strides in bytes".into()),
        }
    }

    /// The part of the layout that lies within one layer.
    pub(super) fn of_one_layer(&self) -> Self {
        Self { shape: KvShape { layers: 1, ..self.shape }, ..*self }
    }

    /// For each stride that is stepped, from the smallest up: the stride, and the bytes that lie
    /// within one step of it; at last all bytes, which no stride steps over.
    pub(super) fn levels(&self) -> Vec<(u64, u64)> {
        let mut steps = self.steps();
        steps.sort_by_key(|(_, stride, _)| *stride);
        let mut within = u64::from(self.shape.page_bytes);
        let mut levels = Vec::with_capacity(steps.len() + 1);
        for (_, stride, count) in steps.into_iter().filter(|(_, _, count)| *count > 1) {
            levels.push((stride, within));
            within += u64::from(count - 1) * stride;
        }
        levels.push((u64::MAX, within));
        levels
    }

    fn steps(&self) -> [(&'static str, u64, u32); 3] {
        [
            ("layer_stride", self.layer_stride, self.shape.layers),
            ("plane_stride", self.plane_stride, self.shape.planes),
            ("slot_stride", self.slot_stride, self.slots),
        ]
    }

    pub(super) fn check_counts(&self) -> Result<(), String> {
        let KvShape { layers, planes, page_bytes } = self.shape;
        for (name, value, max) in [
            ("layers", layers, 4096),
            ("planes", planes, 16),
            ("page_bytes", page_bytes, 64 << 20),
            ("slots", self.slots, SLOTS_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(format!("pool.{name} is {value}: it must be between 1 and {max}"));
            }
        }
        Ok(())
    }

    /// Pages are apart when, from the smallest stride up, each steps over all that lies within.
    fn check_apart(&self) -> Result<(), String> {
        let mut steps = self.steps();
        steps.sort_by_key(|(_, stride, _)| *stride);
        let mut within = u64::from(self.shape.page_bytes);
        for (name, stride, count) in steps.into_iter().filter(|(_, _, count)| *count > 1) {
            if stride < within {
                return Err(format!(
                    "the pool's pages overlap: {name} is {stride} bytes, and {within} bytes lie \
                     within one step; send strides in bytes that step over them"
                ));
            }
            within += u64::from(count - 1) * stride;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SHAPE: KvShape = KvShape { layers: 3, planes: 2, page_bytes: 100 };

    #[test]
    fn usual_layouts_fit_their_memory_exactly() {
        for layout in [PagedLayout::page_major(SHAPE, 5), PagedLayout::slot_major(SHAPE, 5)] {
            assert_eq!(layout.end_bytes(), Some(3000));
            assert_eq!(layout.check(3000), Ok(()));
            let said = layout.check(2999).unwrap_err();
            assert!(said.contains("reach to byte 3000, its memory has 2999"), "{said}");
        }
    }

    #[test]
    fn claims_that_make_no_sense_are_named() {
        let good = PagedLayout::page_major(SHAPE, 5);
        let cases: &[(PagedLayout, &str)] = &[
            (
                PagedLayout { slots: 0, ..good },
                "pool.slots is 0: it must be between 1 and 16777216",
            ),
            (PagedLayout { slots: u32::MAX, ..good }, "pool.slots is 4294967295"),
            (PagedLayout { shape: KvShape { layers: 0, ..SHAPE }, ..good }, "pool.layers is 0"),
            (PagedLayout { shape: KvShape { planes: 17, ..SHAPE }, ..good }, "pool.planes is 17"),
            (PagedLayout { shape: KvShape { page_bytes: 0, ..SHAPE }, ..good }, "pool.page_bytes"),
            (PagedLayout { base: u64::MAX, ..good }, "overflow 64 bits"),
            (PagedLayout { layer_stride: u64::MAX, ..good }, "overflow 64 bits"),
            (PagedLayout { slot_stride: 0, ..good }, "overlap: slot_stride is 0 bytes, and 100"),
            (PagedLayout { slot_stride: 99, ..good }, "overlap: slot_stride is 99"),
            (
                PagedLayout { plane_stride: 499, ..good },
                "overlap: plane_stride is 499 bytes, and 500",
            ),
            (PagedLayout { layer_stride: 100, ..good }, "the pool's pages overlap"),
        ];
        for (layout, want) in cases {
            let said = layout.check(1 << 20).unwrap_err();
            assert!(said.contains(want), "{layout:?}: {said}");
        }
    }

    #[test]
    fn a_stride_that_is_never_stepped_does_not_matter() {
        let shape = KvShape { layers: 1, planes: 1, page_bytes: 100 };
        let layout =
            PagedLayout { layer_stride: 0, plane_stride: 7, ..PagedLayout::page_major(shape, 5) };
        assert_eq!(layout.check(500), Ok(()));
    }

    prop_compose! {
        fn any_layout()(
            layers in 1..4_u32, planes in 1..3_u32, page_bytes in 1..9_u32, slots in 1..5_u32,
            base in 0..9_u64, strides in prop::array::uniform3(0..80_u64),
        ) -> PagedLayout {
            let [layer_stride, plane_stride, slot_stride] = strides;
            let shape = KvShape { layers, planes, page_bytes };
            PagedLayout { shape, slots, base, layer_stride, plane_stride, slot_stride }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_passes_has_every_byte_once_and_inside(layout in any_layout()) {
            const MEMORY_BYTES: u64 = 300;
            // About half of all layouts pass.
            if layout.check(MEMORY_BYTES).is_err() {
                return Ok(());
            }
            let mut seen = BTreeSet::new();
            for layer in 0..u64::from(layout.shape.layers) {
                for plane in 0..u64::from(layout.shape.planes) {
                    for slot in 0..u64::from(layout.slots) {
                        let page = layout.base + layer * layout.layer_stride
                            + plane * layout.plane_stride + slot * layout.slot_stride;
                        for byte in page..page + u64::from(layout.shape.page_bytes) {
                            prop_assert!(byte < MEMORY_BYTES && seen.insert(byte));
                        }
                    }
                }
            }
        }
    }
}
