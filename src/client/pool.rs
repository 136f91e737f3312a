//! A paged KV pool in shared memory, as a CPU engine would have one.

use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::namespace::KvShape;
use crate::domain::units::page_align;
use crate::tiers::hbm::PagedLayout;
use crate::tiers::shm::SharedMemory;

use super::ClientError;

/// The largest pool, in bytes: what an address space has room for.
const POOL_BYTES_MAX: u64 = 1 << 46;

/// The usual orders of an engine's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolOrder {
    /// `[layer][plane][slot]`: one tensor a layer and plane, as vLLM's.
    LayerMajor,
    /// `[slot][layer][plane]`: all pages of a block side by side.
    BlockMajor,
}

impl PoolOrder {
    /// The layout of a pool in this order, packed, from byte 0.
    #[must_use]
    pub const fn layout(self, shape: KvShape, slots: u32) -> PagedLayout {
        match self {
            Self::LayerMajor => PagedLayout::page_major(shape, slots),
            Self::BlockMajor => PagedLayout::slot_major(shape, slots),
        }
    }
}

/// Shared memory with a paged layout: registered at the daemon by descriptor, read and written here
/// a block at a time.
///
/// A slot of an operation under way belongs to the daemon: reading it gives mixed bytes, writing it
/// stores or leaves mixed bytes.
pub struct HostPool {
    memory: Arc<SharedMemory>,
    layout: PagedLayout,
    /// Slots being read or written by a thread of this process.
    busy: Vec<AtomicBool>,
}

impl HostPool {
    /// Makes the memory: a memfd of as many whole pages as the layout needs, touched, on huge pages
    /// where the machine makes them, and sealed so that its size never changes.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for a layout that is empty, larger than an address space, or whose
    /// pages overlap; [`ClientError::Io`] when the machine has not that much memory.
    pub fn create(layout: PagedLayout) -> Result<Self, ClientError> {
        let len_bytes = layout_bytes(&layout).map_err(ClientError::Invalid)?;
        let memory = SharedMemory::touched("terrace-pool", len_bytes)
            .map_err(ClientError::io("make a pool"))?;
        let busy = (0..layout.slots).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { memory, layout, busy })
    }

    #[must_use]
    pub fn layout(&self) -> &PagedLayout {
        &self.layout
    }

    #[must_use]
    pub fn slots(&self) -> u32 {
        self.layout.slots
    }

    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.memory.len_bytes()
    }

    /// The memory, to hand to the daemon.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// Writes one block's pages: `bytes` holds them in order of layer, then plane, without gaps.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for a slot outside the pool, bytes of another length than the
    /// shape's, or a slot that another thread is at.
    pub fn write_block(&self, slot: u32, bytes: &[u8]) -> Result<(), ClientError> {
        let _slot = self.enter(slot, bytes.len())?;
        for (page, source) in self.pages(slot).zip(bytes.chunks_exact(self.page_bytes())) {
            // SAFETY: `pages` gives whole pages inside the mapping, which lives as long as `self`;
            // `enter` keeps this process's other threads away from the slot.
            unsafe { ptr::copy_nonoverlapping(source.as_ptr(), page, source.len()) };
        }
        Ok(())
    }

    /// Reads one block's pages into `out`, in order of layer, then plane, without gaps.
    ///
    /// # Errors
    /// As [`HostPool::write_block`].
    pub fn read_block(&self, slot: u32, out: &mut [u8]) -> Result<(), ClientError> {
        let _slot = self.enter(slot, out.len())?;
        for (page, target) in self.pages(slot).zip(out.chunks_exact_mut(self.page_bytes())) {
            // SAFETY: as in `write_block`, the other way round.
            unsafe { ptr::copy_nonoverlapping(page, target.as_mut_ptr(), target.len()) };
        }
        Ok(())
    }

    fn page_bytes(&self) -> usize {
        self.layout.shape.page_bytes as usize
    }

    /// Where a slot's pages start, in order of layer, then plane. The slot is inside the pool.
    fn pages(&self, slot: u32) -> impl Iterator<Item = *mut u8> + '_ {
        let layout = &self.layout;
        let planes = layout.shape.planes;
        (0..layout.shape.pages()).map(move |page| {
            let (layer, plane) = (u64::from(page / planes), u64::from(page % planes));
            let offset = layout.base
                + layer * layout.layer_stride
                + plane * layout.plane_stride
                + u64::from(slot) * layout.slot_stride;
            let end = offset + u64::from(layout.shape.page_bytes);
            assert!(end <= self.memory.len_bytes(), "slot {slot} is outside");
            let offset = usize::try_from(offset).expect("the mapping is in the address space");
            self.memory.base().wrapping_add(offset)
        })
    }

    /// Takes a slot for this thread, and checks the length of what goes in or out.
    fn enter(&self, slot: u32, bytes: usize) -> Result<SlotGuard<'_>, ClientError> {
        let block_bytes = self.layout.shape.shard_bytes();
        if bytes as u64 != block_bytes {
            return Err(ClientError::Invalid(format!(
                "{bytes} bytes for a block of {block_bytes}: pass all its pages, without gaps"
            )));
        }
        let busy = self.busy.get(slot as usize).ok_or_else(|| {
            let slots = self.layout.slots;
            ClientError::Invalid(format!("slot {slot} is outside the pool's {slots} slots"))
        })?;
        if busy.swap(true, Ordering::Acquire) {
            return Err(ClientError::Invalid(format!(
                "slot {slot} is being read or written by another thread"
            )));
        }
        Ok(SlotGuard(busy))
    }
}

/// A slot taken for one thread.
struct SlotGuard<'a>(&'a AtomicBool);

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// From byte 0 to the end of the last page, in whole pages of memory.
fn layout_bytes(layout: &PagedLayout) -> Result<u64, String> {
    layout.check(POOL_BYTES_MAX)?;
    let end = layout.end_bytes().filter(|end| *end <= POOL_BYTES_MAX);
    let len = end.map(page_align);
    len.ok_or_else(|| format!("a pool has at most {POOL_BYTES_MAX} bytes: {layout:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 3, planes: 2, page_bytes: 512 };

    fn block(mark: u8) -> Vec<u8> {
        let bytes = usize::try_from(SHAPE.shard_bytes()).unwrap();
        (0..bytes).map(|at| mark.wrapping_add(u8::try_from(at / 512).unwrap())).collect()
    }

    #[test]
    fn blocks_come_back_and_lie_where_the_layout_says() {
        for order in [PoolOrder::LayerMajor, PoolOrder::BlockMajor] {
            let layout = order.layout(SHAPE, 5);
            let pool = HostPool::create(layout).unwrap();
            for slot in 0..5u8 {
                pool.write_block(slot.into(), &block(slot * 16)).unwrap();
            }
            let mut read = block(0);
            for slot in 0..5u8 {
                pool.read_block(slot.into(), &mut read).unwrap();
                assert_eq!(read, block(slot * 16), "{order:?} slot {slot}");
            }
            // Through the descriptor, as the daemon sees it: layer 2, plane 1 of slot 3.
            let at = 2 * layout.layer_stride + layout.plane_stride + 3 * layout.slot_stride;
            let mut page = [0; 512];
            assert_eq!(rustix::io::pread(pool.memory(), &mut page, at).unwrap(), page.len());
            assert_eq!(page, [3 * 16 + 5; 512], "{order:?}");
        }
    }

    #[test]
    fn the_orders_have_the_strides_of_their_names() {
        let strides = |order: PoolOrder| {
            let layout = order.layout(SHAPE, 5);
            (layout.layer_stride, layout.plane_stride, layout.slot_stride)
        };
        assert_eq!(strides(PoolOrder::LayerMajor), (2 * 5 * 512, 5 * 512, 512));
        assert_eq!(strides(PoolOrder::BlockMajor), (2 * 512, 512, 3 * 2 * 512));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(SHAPE, 2)).unwrap();
        let said = |result: Result<(), ClientError>| result.unwrap_err().to_string();
        assert!(said(pool.write_block(2, &block(0))).contains("outside the pool's 2 slots"));
        assert!(said(pool.write_block(0, &[0; 7])).contains("7 bytes for a block of 3072"));
        let taken = pool.enter(1, block(0).len()).unwrap();
        assert!(said(pool.read_block(1, &mut block(0))).contains("another thread"));
        drop(taken);
        pool.read_block(1, &mut block(0)).unwrap();

        let huge = KvShape { layers: u32::MAX, planes: u32::MAX, page_bytes: u32::MAX };
        for shape in [huge, KvShape { planes: 0, ..SHAPE }, KvShape { page_bytes: 0, ..SHAPE }] {
            let made = HostPool::create(PoolOrder::BlockMajor.layout(shape, 2));
            assert!(matches!(made, Err(ClientError::Invalid(_))), "{shape:?}");
        }
        let packed = PoolOrder::BlockMajor.layout(SHAPE, 2);
        let overlapping = PagedLayout { slot_stride: packed.slot_stride - 1, ..packed };
        let far = PagedLayout { base: u64::MAX, ..packed };
        let empty = PagedLayout { slots: 0, ..packed };
        for layout in [overlapping, far, empty] {
            assert!(matches!(HostPool::create(layout), Err(ClientError::Invalid(_))), "{layout:?}");
        }
    }

    #[test]
    fn the_memory_cannot_shrink() {
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(SHAPE, 2)).unwrap();
        assert!(rustix::fs::ftruncate(pool.memory(), 0).is_err());
    }
}
