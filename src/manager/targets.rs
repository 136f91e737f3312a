//! Targets: which blocks an action names, and in whose name it asks something for them.
//!
//! Each block is named once. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::block::Key;
use crate::domain::directory::{BlockIndex, Owner};
use crate::domain::hint::{Outcome, Target};
use crate::domain::retention::TokenRange;
use crate::domain::session::{SessionIndex, SessionName};

use super::Manager;
use super::api::NamespaceId;
use super::sessions::missing_session;

/// Who asks something for a block.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    pub owner: Owner,
    /// How many of the block's claims are the asker's own.
    pub claims: u32,
}

impl Manager {
    /// In whose name a request asks, for blocks that its session reaches if it has one.
    pub(super) fn asker(&self, session: Option<SessionIndex>) -> Asker {
        let owner = |at| Owner::Session(self.sessions.get(at).number);
        Asker { owner: session.map_or(Owner::Engine, owner), claims: u32::from(session.is_some()) }
    }

    /// The blocks that a target names, and who asks; of what sessions reach, parents before children.
    pub(super) fn targets(
        &self,
        namespace: NamespaceId,
        target: &Target,
    ) -> Result<Vec<(BlockIndex, Asker)>, Outcome> {
        let session = |name: &SessionName| {
            self.sessions.find(namespace, name).ok_or_else(|| missing_session(name))
        };
        let none_of = |name: &SessionName| format!("session {name} reaches no blocks there");
        let (found, none) = match target {
            Target::Keys(keys) => (self.named(keys), "none of these blocks is here".into()),
            Target::Session { session: name, tokens } => {
                (self.reached(session(name)?, *tokens), none_of(name))
            }
            Target::SessionTree(name) => (self.reached_by_tree(session(name)?), none_of(name)),
        };
        if found.is_empty() { Err(Outcome::Missing(none)) } else { Ok(found) }
    }

    fn named(&self, keys: &[Key]) -> Vec<(BlockIndex, Asker)> {
        let mut seen = BTreeSet::new();
        let rows = keys.iter().filter_map(|key| self.directory.find(*key));
        let here = rows.filter(|row| !self.directory.get(*row).doomed && seen.insert(*row));
        here.map(|row| (row, self.asker(None))).collect()
    }

    fn reached(&self, session: SessionIndex, tokens: TokenRange) -> Vec<(BlockIndex, Asker)> {
        let row = self.sessions.get(session);
        let (block_tokens, asker) =
            (self.namespace(row.namespace).block_tokens(), self.asker(Some(session)));
        let is_meant =
            |at: &BlockIndex| tokens.covers(self.directory.get(*at).position, block_tokens);
        let chain = self.directory.chain_up(row.tip).filter(is_meant);
        let mut found: Vec<_> = chain.map(|at| (at, asker)).collect();
        found.reverse();
        found
    }

    /// What the sessions of a tree reach. They ask as one: in the name of the one that owns the block, or
    /// else of the first that reaches it; and a claim of one is not another's.
    fn reached_by_tree(&self, root: SessionIndex) -> Vec<(BlockIndex, Asker)> {
        let tree = self.session_tree(root);
        let mut found: Vec<(BlockIndex, Asker)> = Vec::new();
        let mut places = BTreeMap::new();
        for session in &tree {
            let Some(tip) = self.sessions.get(*session).tip else { continue };
            let asker = Asker { claims: 0, ..self.asker(Some(*session)) };
            // Above a block that another chain of the tree has they are the same.
            let own = self.directory.chain_up(Some(tip)).take_while(|at| !places.contains_key(at));
            let from = found.len();
            found.extend(own.map(|at| (at, asker)));
            found[from..].reverse();
            places.extend((from..).zip(&found[from..]).map(|(place, (at, _))| (*at, place)));
            found[places[&tip]].1.claims += 1;
        }
        let owners: BTreeSet<u32> =
            tree.iter().map(|session| self.sessions.get(*session).number.0).collect();
        // Children first: who reaches a block reaches its parent.
        for place in (0..found.len()).rev() {
            let (at, Asker { claims, .. }) = found[place];
            let block = self.directory.get(at);
            if let Owner::Session(number) = block.owner
                && owners.contains(&number.0)
            {
                found[place].1.owner = block.owner;
            }
            if let Some(parent) = block.parent() {
                found[places[&parent]].1.claims += claims;
            }
        }
        found
    }
}
