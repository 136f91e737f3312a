//! Pages of memory that direct IO takes: aligned to their own size.

use crate::domain::units::PAGE_BYTES;
use crate::tiers::frame;

/// One aligned page.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
pub struct Page([u8; PAGE_BYTES]);

const _: () = assert!(align_of::<Page>() == PAGE_BYTES && size_of::<Page>() == PAGE_BYTES);

impl Page {
    #[must_use]
    pub fn zeroed() -> Box<Self> {
        Box::new(Self([0; PAGE_BYTES]))
    }

    /// So many pages in a row.
    #[must_use]
    pub fn row(pages: usize) -> Box<[Self]> {
        vec![Self([0; PAGE_BYTES]); pages].into()
    }

    /// The bytes of pages in a row.
    #[must_use]
    pub fn bytes_of_row(row: &mut [Self]) -> &mut [u8] {
        bytemuck::cast_slice_mut(row)
    }

    /// What stands in an erased slot instead of its frame's header.
    #[must_use]
    pub fn erased() -> Box<Self> {
        Box::new(Self(frame::erased_page()))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
