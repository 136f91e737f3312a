//! The chunk that is being emptied: whoever needs one for another kind of slots gets this one whole.
//!
//! Only withholds what comes free in it. What goes, and whether it can, is for others to say.

use super::{SlotKind, SlotMap, SlotPage, slot_within};

impl SlotMap {
    /// The chunk that is being emptied, or is empty by now, and the kind of slots it is for.
    #[must_use]
    pub const fn emptying(&self) -> Option<(u32, SlotKind)> {
        self.emptying
    }

    /// From now on the chunk gives out no slots; once it is empty, it gives out slots of `kind`.
    ///
    /// # Panics
    /// Another one is being emptied already.
    pub fn empty_out(&mut self, chunk: u32, kind: SlotKind) {
        assert!(self.emptying.is_none(), "one chunk is emptied at a time");
        if !self.chunk_mut(chunk).free.is_empty() {
            self.close(chunk);
        }
        self.emptying = Some((chunk, kind));
    }

    /// The chunk goes back to what it was, or is anyone's if it is empty.
    pub fn stop_emptying(&mut self) {
        let Some((chunk, _)) = self.emptying.take() else { return };
        let stripe = self.stripe_of(chunk);
        match self.chunks[chunk as usize].as_ref().map(|cut| (cut.kind, cut.free.is_empty())) {
            Some((_, true)) => {}
            Some((kind, false)) => self.reopen(chunk, kind),
            None => {
                self.idle[stripe].insert(chunk);
            }
        }
    }

    /// How many slots of the chunk are taken.
    #[must_use]
    pub fn used_in(&self, chunk: u32) -> u32 {
        self.chunks[chunk as usize].as_ref().map_or(0, |chunk| chunk.used)
    }

    /// How the chunk is cut, if it is in use.
    #[must_use]
    pub fn kind_of(&self, chunk: u32) -> Option<SlotKind> {
        self.chunks[chunk as usize].as_ref().map(|chunk| chunk.kind)
    }

    /// Where the page lies as its chunk is cut now: the chunk, and the slot's number in it.
    #[must_use]
    pub fn slot_at(&self, page: SlotPage) -> Option<(u32, u16)> {
        let cut = self.chunks.get(page.chunk() as usize)?.as_ref()?;
        Some((page.chunk(), slot_within(page, cut.kind)))
    }

    /// Of the chunks with slots of this kind the one with the fewest taken, if some of its slots are
    /// free.
    #[must_use]
    pub fn emptiest(&self, kind: SlotKind) -> Option<u32> {
        let open = self.open.get(&kind)?.iter().flatten().copied();
        open.min_by_key(|chunk| (self.used_in(*chunk), *chunk))
    }

    /// The next chunk with slots of this kind, from `chunk` on and round to those before it.
    #[must_use]
    pub fn next_cut(&self, kind: SlotKind, chunk: u32) -> Option<u32> {
        let all = u32::try_from(self.chunks.len()).expect("bounded by chunks_max");
        (chunk..all).chain(0..chunk.min(all)).find(|at| self.kind_of(*at) == Some(kind))
    }

    pub(super) fn is_withheld(&self, chunk: u32) -> bool {
        self.emptying.is_some_and(|(at, _)| at == chunk)
    }

    pub(super) fn is_emptied_for(&self, kind: SlotKind) -> bool {
        self.emptying.is_some_and(|(at, whose)| whose == kind && self.used_in(at) == 0)
    }

    /// Cuts the emptied chunk if it was for this kind of slots.
    pub(super) fn hand_over(&mut self, kind: SlotKind) {
        if self.is_emptied_for(kind)
            && let Some((chunk, _)) = self.emptying.take()
        {
            self.install(chunk, kind);
        }
    }
}
