//! Hands out a tier's space: chunks of one slot length each, slots inside them.
//!
//! Never touches bytes. Allocation and release are O(1), whatever the tier's size; a chunk whose
//! slots are all free goes back to be used for any slot length. One chunk at a time can be emptied for
//! another kind of slots.

mod emptying;

#[cfg(test)]
mod tests;

use super::units::{CHUNK_BYTES, PAGE_BYTES};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// A slot's address inside a tier, in pages of [`PAGE_BYTES`] from the tier's start; kept as one
/// more, so that "no slot" takes no room of its own in a directory of millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotPage(NonZeroU32);

impl SlotPage {
    #[must_use]
    pub const fn offset_bytes(self) -> u64 {
        (self.0.get() as u64 - 1) * PAGE_BYTES as u64
    }

    /// The chunk that it lies in.
    #[must_use]
    pub fn chunk(self) -> u32 {
        u32::try_from(self.offset_bytes() / CHUNK_BYTES)
            .expect("a tier has fewer chunks than pages")
    }

    /// The page at `offset` bytes, if that is a page's start and within reach.
    #[must_use]
    pub fn at(offset_bytes: u64) -> Option<Self> {
        let aligned = offset_bytes.is_multiple_of(PAGE_BYTES as u64);
        let page = u32::try_from(offset_bytes / PAGE_BYTES as u64).ok()?.checked_add(1)?;
        aligned.then_some(Self(NonZeroU32::new(page)?))
    }
}

/// The most a tier can hold: what a [`SlotPage`] reaches in whole chunks, in bytes (just under
/// 16 TiB).
pub const TIER_BYTES_MAX: u64 = (1 << 44) - CHUNK_BYTES;

/// What a chunk's slots are. Slots of one length may still lie differently: HBM interleaves the
/// pages of a chunk's blocks, so blocks with other pages would cut through each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKind {
    /// A slot's length: whole pages of [`PAGE_BYTES`], at most a chunk.
    pub bytes: u32,
    /// The length of the interleaved pages; zero where slots lie in one piece.
    pub interleave_bytes: u32,
}

impl SlotKind {
    /// Slots that lie in one piece.
    #[must_use]
    pub const fn whole(bytes: u32) -> Self {
        Self { bytes, interleave_bytes: 0 }
    }
}

#[derive(Clone, Debug)]
struct Chunk {
    kind: SlotKind,
    /// Free slots by index; the lowest is given out first while the chunk is young.
    free: Vec<u16>,
    /// A bit for each slot, set for those that are taken.
    taken: Vec<u64>,
    used: u32,
    /// Where the chunk stands in its class's `open` list while it has free slots.
    open_at: usize,
}

impl Chunk {
    /// The slot is on the list of free ones no more.
    fn note_taken(&mut self, slot: u16) {
        self.taken[usize::from(slot) / 64] |= 1 << (slot % 64);
        self.used += 1;
    }

    /// False if the slot is free already.
    fn give_back(&mut self, slot: u16) -> bool {
        let (word, bit) = (&mut self.taken[usize::from(slot) / 64], 1 << (slot % 64));
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        self.free.push(slot);
        self.used -= 1;
        true
    }
}

/// The space of one tier.
#[derive(Clone, Debug)]
pub struct SlotMap {
    chunks: Vec<Option<Chunk>>,
    /// Chunks given back, by stripe; reused lowest first so that a file stays dense.
    idle: Vec<BTreeSet<u32>>,
    chunks_max: u32,
    slots_max: u64,
    slots_used: u64,
    bytes_used: u64,
    /// Per kind of slot and stripe: the chunks that have free slots.
    open: BTreeMap<SlotKind, Vec<Vec<u32>>>,
    /// The stripe that gives the next slot.
    turn: usize,
    /// The chunk that gives out no slots until it is empty, and then slots of this kind.
    emptying: Option<(u32, SlotKind)>,
}

const CHUNK_BYTES_U32: u32 = 64 << 20;
const PAGE_BYTES_U32: u32 = 4096;
const _: () = assert!(CHUNK_BYTES_U32 as u64 == CHUNK_BYTES);
const _: () = assert!(PAGE_BYTES_U32 as usize == PAGE_BYTES);

/// How many slots of this length a chunk holds.
#[must_use]
pub const fn slots_per_chunk(slot_bytes: u32) -> u32 {
    CHUNK_BYTES_U32 / slot_bytes
}

impl SlotMap {
    /// A space of `capacity_bytes` in whole chunks, giving out at most `slots_max` slots.
    #[must_use]
    pub fn new(capacity_bytes: u64, slots_max: u64) -> Self {
        let chunks = capacity_bytes.min(TIER_BYTES_MAX) / CHUNK_BYTES;
        Self {
            chunks: Vec::new(),
            idle: vec![BTreeSet::new()],
            chunks_max: u32::try_from(chunks).unwrap_or(u32::MAX),
            slots_max,
            slots_used: 0,
            bytes_used: 0,
            open: BTreeMap::new(),
            turn: 0,
            emptying: None,
        }
    }

    /// Deals slots out over so many devices in turn: chunk after chunk lies on one after the other.
    ///
    /// # Panics
    /// There are none, or slots were given out already.
    #[must_use]
    pub fn striped(self, stripes: usize) -> Self {
        assert!(stripes > 0 && self.chunks.is_empty(), "a tier is striped before it is used");
        Self { idle: vec![BTreeSet::new(); stripes], ..self }
    }

    fn stripe_of(&self, chunk: u32) -> usize {
        chunk as usize % self.idle.len()
    }

    #[must_use]
    pub const fn slots_used(&self) -> u64 {
        self.slots_used
    }

    #[must_use]
    pub const fn bytes_used(&self) -> u64 {
        self.bytes_used
    }

    /// Whether `alloc` would find a slot of this kind.
    #[must_use]
    pub fn has_room(&self, kind: SlotKind) -> bool {
        self.slots_used < self.slots_max && self.has_chunk(kind)
    }

    /// Whether there would be a slot of this kind if only they were not counted out.
    #[must_use]
    pub fn has_chunk(&self, kind: SlotKind) -> bool {
        self.open.get(&kind).is_some_and(|open| open.iter().any(|some| !some.is_empty()))
            || self.idle.iter().any(|idle| !idle.is_empty())
            || (self.chunks.len() as u64) < u64::from(self.chunks_max)
            || self.is_emptied_for(kind)
    }

    /// A free slot of this kind, or nothing if there is none.
    pub fn alloc(&mut self, kind: SlotKind) -> Option<SlotPage> {
        if self.slots_used >= self.slots_max {
            return None;
        }
        self.hand_over(kind);
        let stripes = self.idle.len();
        let first = self.turn;
        let chunk_index = (0..stripes).find_map(|more| {
            let stripe = (first + more) % stripes;
            let open = self.open.get(&kind).and_then(|open| open[stripe].last().copied());
            open.or_else(|| self.open_chunk(kind, stripe))
        })?;
        self.turn = (self.stripe_of(chunk_index) + 1) % stripes;
        let chunk = self.chunk_mut(chunk_index);
        let slot = chunk.free.pop().expect("a chunk on the open list has free slots");
        chunk.note_taken(slot);
        if chunk.free.is_empty() {
            self.close(chunk_index);
        }
        self.slots_used += 1;
        self.bytes_used += u64::from(kind.bytes);
        Some(page_of(chunk_index, kind.bytes, slot))
    }

    /// Takes exactly the slot at `page`, as a recovery scan found it. False if it overlaps
    /// something taken, is of another kind than its chunk's slots, lies outside the tier, or the tier
    /// may have no more slots.
    pub fn reserve(&mut self, page: SlotPage, kind: SlotKind) -> bool {
        self.slots_used < self.slots_max && self.take_back(page, kind)
    }

    /// As [`Self::reserve`], however many slots the tier has: nobody is to get this one yet.
    pub fn take_back(&mut self, page: SlotPage, kind: SlotKind) -> bool {
        let slot_bytes = kind.bytes;
        let chunk_index = page.chunk();
        let within = page.offset_bytes() % CHUNK_BYTES;
        let slot = within / u64::from(slot_bytes.max(1));
        let fits = slot_bytes > 0
            && slot_bytes.is_multiple_of(PAGE_BYTES_U32)
            && within.is_multiple_of(u64::from(slot_bytes))
            && slot < u64::from(slots_per_chunk(slot_bytes))
            && chunk_index < self.chunks_max;
        if !fits {
            return false;
        }
        while self.chunks.len() <= chunk_index as usize {
            self.add_chunk();
        }
        if self.chunks[chunk_index as usize].is_none() {
            let stripe = self.stripe_of(chunk_index);
            self.idle[stripe].remove(&chunk_index);
            self.install(chunk_index, kind);
            if self.is_withheld(chunk_index) {
                self.close(chunk_index);
            }
        }
        let chunk = self.chunk_mut(chunk_index);
        if chunk.kind != kind {
            return false;
        }
        let Some(at) = chunk.free.iter().rposition(|free| u64::from(*free) == slot) else {
            return false;
        };
        let slot = chunk.free.remove(at);
        chunk.note_taken(slot);
        if chunk.free.is_empty() && !self.is_withheld(chunk_index) {
            self.close(chunk_index);
        }
        self.slots_used += 1;
        self.bytes_used += u64::from(slot_bytes);
        true
    }

    /// Gives a slot back.
    ///
    /// # Panics
    /// The slot was not taken: a broken invariant of the caller.
    pub fn free(&mut self, page: SlotPage) {
        let chunk_index = page.chunk();
        let chunk = self.chunk_mut(chunk_index);
        let kind = chunk.kind;
        let slot = slot_within(page, kind);
        assert!(chunk.give_back(slot), "slot {slot} of chunk {chunk_index} was freed twice");
        let (used, free) = (chunk.used, chunk.free.len());
        let is_withheld = self.is_withheld(chunk_index);
        if free == 1 && !is_withheld {
            self.reopen(chunk_index, kind);
        }
        if used == 0 {
            if !is_withheld {
                self.close(chunk_index);
                let stripe = self.stripe_of(chunk_index);
                self.idle[stripe].insert(chunk_index);
            }
            self.chunks[chunk_index as usize] = None;
        }
        self.slots_used -= 1;
        self.bytes_used -= u64::from(kind.bytes);
    }

    /// One more chunk, idle.
    fn add_chunk(&mut self) {
        let index = u32::try_from(self.chunks.len()).expect("bounded by chunks_max");
        let stripe = self.stripe_of(index);
        self.idle[stripe].insert(index);
        self.chunks.push(None);
    }

    fn open_chunk(&mut self, kind: SlotKind, stripe: usize) -> Option<u32> {
        if slots_per_chunk(kind.bytes) == 0 {
            return None;
        }
        while self.idle[stripe].is_empty() && (self.chunks.len() as u64) < self.chunks_max.into() {
            self.add_chunk();
        }
        let index = self.idle[stripe].pop_first()?;
        self.install(index, kind);
        Some(index)
    }

    fn install(&mut self, index: u32, kind: SlotKind) {
        let slots = u16::try_from(slots_per_chunk(kind.bytes)).expect("at most 16,384 slots");
        let free = (0..slots).rev().collect();
        let taken = vec![0; usize::from(slots).div_ceil(64)];
        self.chunks[index as usize] = Some(Chunk { kind, free, taken, used: 0, open_at: 0 });
        self.reopen(index, kind);
    }

    fn reopen(&mut self, index: u32, kind: SlotKind) {
        let (stripe, stripes) = (self.stripe_of(index), self.idle.len());
        let open = self.open.entry(kind).or_insert_with(|| vec![Vec::new(); stripes]);
        let open = &mut open[stripe];
        open.push(index);
        let at = open.len() - 1;
        self.chunk_mut(index).open_at = at;
    }

    fn close(&mut self, index: u32) {
        let chunk = self.chunk_mut(index);
        let (kind, at) = (chunk.kind, chunk.open_at);
        let stripe = self.stripe_of(index);
        let open = self.open.get_mut(&kind).expect("an open chunk's class has a list");
        let open = &mut open[stripe];
        open.swap_remove(at);
        if let Some(moved) = open.get(at).copied() {
            self.chunk_mut(moved).open_at = at;
        }
    }

    fn chunk_mut(&mut self, index: u32) -> &mut Chunk {
        self.chunks[index as usize].as_mut().expect("a chunk in use is installed")
    }
}

fn slot_within(page: SlotPage, kind: SlotKind) -> u16 {
    let slot = page.offset_bytes() % CHUNK_BYTES / u64::from(kind.bytes);
    u16::try_from(slot).expect("a chunk has at most 16,384 slots")
}

fn page_of(chunk: u32, slot_bytes: u32, slot: u16) -> SlotPage {
    let offset = u64::from(chunk) * CHUNK_BYTES + u64::from(slot) * u64::from(slot_bytes);
    SlotPage::at(offset).expect("a chunk lies within the tier")
}
