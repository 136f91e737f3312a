//! Claims: which blocks a session reaches, and what is dead when it moves on.
//!
//! They are counted a block, so moving a session's tip costs what changed. Knows nothing of names,
//! parents or time.

use crate::domain::directory::BlockIndex;
use crate::domain::retention::Kind;
use crate::domain::session::SessionIndex;

use super::{Fate, Manager};
use crate::manager::api::{ClientId, RequestId};

impl Manager {
    /// A request of the session reached down to `tip`.
    pub(in crate::manager) fn session_reached(
        &mut self,
        index: SessionIndex,
        tip: Option<BlockIndex>,
    ) {
        let reset = self.sessions.get_mut(index).reset.take().is_some();
        // A policy that learns knows better what a reset leaves behind: some of it comes back.
        let fate = if reset && !self.learned.is_on() { Fate::Dies } else { Fate::LivesOn };
        self.move_tip(index, tip, fate);
    }

    /// A store of the session reached down to `tip`. Storing less than what it reaches already says
    /// nothing new, and a request that was there before a reset says nothing of what that left.
    pub(in crate::manager) fn session_stored(
        &mut self,
        index: SessionIndex,
        tip: BlockIndex,
        request: (ClientId, RequestId),
    ) {
        let position = self.directory.get(tip).position;
        let current = self.sessions.get(index).tip;
        let is_no_deeper = |at: &BlockIndex| self.directory.get(*at).position <= position;
        let same_depth = self.directory.chain_up(current).find(is_no_deeper);
        if same_depth == Some(tip) {
            return;
        }
        let number = self.requests.number(self.request_name(request));
        if number.is_some_and(|number| self.sessions.get(index).reset >= Some(number)) {
            self.move_tip(index, Some(tip), Fate::LivesOn);
        } else {
            self.session_reached(index, Some(tip));
        }
    }

    /// Moves the session's claim from the chain it had to the chain that ends in `to`. Gives how
    /// many blocks nobody claims any more; they are dead if that is their `fate`.
    pub(super) fn move_tip(
        &mut self,
        index: SessionIndex,
        to: Option<BlockIndex>,
        fate: Fate,
    ) -> u32 {
        let from = self.sessions.get(index).tip;
        if from == to {
            return 0;
        }
        self.unlink_tip(index);
        let (mut old, mut new, mut freed) = (from, to, 0);
        while old != new {
            let depth = |at: Option<BlockIndex>| at.map(|at| self.directory.get(at).position);
            if depth(old) >= depth(new) {
                let at = old.expect("the deeper end of two that differ");
                freed += u32::from(self.unclaim(at, fate));
                old = self.directory.get(at).parent();
            } else {
                let at = new.expect("the deeper end of two that differ");
                self.claim(at, index);
                new = self.directory.get(at).parent();
            }
        }
        if let Some(tip) = to {
            self.link_tip(index, tip);
        }
        freed
    }

    fn claim(&mut self, at: BlockIndex, by: SessionIndex) {
        let is_subagent = self.sessions.get(by).is_subagent;
        let block = self.directory.get_mut(at);
        block.claims += 1;
        // What the main agent reads is no sub-agent's scratch any more.
        let mut record = block.record;
        if block.scratch && !is_subagent {
            block.scratch = false;
            if record.kind == Kind::Subagent {
                record.kind = Kind::Conversation;
            }
            record.floor = record.floor.max(record.kind.floor());
            self.set_record(at, record);
        }
        self.revive(at);
    }

    /// True if nobody claims the block any more.
    fn unclaim(&mut self, at: BlockIndex, fate: Fate) -> bool {
        let block = self.directory.get_mut(at);
        block.claims -= 1;
        if block.claims > 0 {
            return false;
        }
        if fate == Fate::Dies && !block.dead {
            block.dead = true;
            self.rank_changed(at);
        }
        true
    }

    /// Someone wants the block: it is dead no longer.
    pub(in crate::manager) fn revive(&mut self, at: BlockIndex) {
        let block = self.directory.get_mut(at);
        if block.dead || block.cold_above.is_some() {
            (block.dead, block.cold_above) = (false, None);
            self.rank_changed(at);
        }
    }

    fn link_tip(&mut self, index: SessionIndex, tip: BlockIndex) {
        let block = self.directory.get_mut(tip);
        let next = block.tip_of.replace(index);
        if let Some(next) = next {
            self.sessions.get_mut(next).prev = Some(index);
        }
        let session = self.sessions.get_mut(index);
        (session.tip, session.next, session.prev) = (Some(tip), next, None);
    }

    fn unlink_tip(&mut self, index: SessionIndex) {
        let session = self.sessions.get_mut(index);
        let Some(tip) = session.tip.take() else { return };
        let (next, prev) = (session.next.take(), session.prev.take());
        if let Some(next) = next {
            self.sessions.get_mut(next).prev = prev;
        }
        match prev {
            Some(prev) => self.sessions.get_mut(prev).next = next,
            None => self.directory.get_mut(tip).tip_of = next,
        }
    }

    /// A block leaves the directory: the sessions whose tip it was reach down to its parent, which
    /// they claim already.
    pub(in crate::manager) fn tips_rise(&mut self, from: BlockIndex) {
        let parent = self.directory.get(from).parent();
        while let Some(index) = self.directory.get(from).tip_of {
            self.unlink_tip(index);
            if let Some(parent) = parent {
                self.link_tip(index, parent);
            }
        }
    }
}
