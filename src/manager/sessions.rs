//! Sessions: which chain each one reaches, and what becomes of a chain that none reaches any more.
//!
//! A session claims the blocks from the root to the deepest block its last request named ([`claims`]).
//! Never drops a copy: what nobody claims after an end or a reset is dead, which makes it the first to go.

mod claims;

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::directory::BlockIndex;
use crate::domain::hint::Outcome;
use crate::domain::session::{
    SessionEvent, SessionIndex, SessionName, SessionNumber, SessionState,
};
use crate::domain::units::Time;

use super::Manager;
use super::api::{LiftState, NamespaceId, Reply, SessionStatus};

/// A session the manager knows.
pub(super) struct Session {
    pub namespace: NamespaceId,
    pub number: SessionNumber,
    pub name: SessionName,
    pub parent: Option<SessionIndex>,
    /// It was started below another one; that may have ended since.
    pub is_subagent: bool,
    pub state: SessionState,
    pub last_seen: Time,
    /// The deepest block its last request reached that is still here.
    pub tip: Option<BlockIndex>,
    /// The history was replaced when so many requests had been opened: the next one shows what is left of it.
    pub reset: Option<u64>,
    /// Neighbours in the list of sessions with the same tip.
    next: Option<SessionIndex>,
    prev: Option<SessionIndex>,
}

/// All sessions, by number and by name, and in the order in which they were last heard of.
#[derive(Default)]
pub(super) struct Sessions {
    rows: Vec<Option<Session>>,
    vacant: Vec<SessionIndex>,
    started: u32,
    by_name: BTreeMap<NamespaceId, BTreeMap<SessionName, SessionIndex>>,
    by_last_seen: BTreeSet<(Time, SessionIndex)>,
    /// Parents and children.
    by_parent: BTreeSet<(SessionIndex, SessionIndex)>,
}

/// A session as somebody remembers it who does not hear of its end.
#[derive(Clone, Copy)]
pub(super) struct Remembered {
    index: SessionIndex,
    number: SessionNumber,
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.by_last_seen.len()
    }

    pub fn get(&self, index: SessionIndex) -> &Session {
        self.rows[index.0 as usize].as_ref().expect("a session's number dies with it")
    }

    pub fn get_mut(&mut self, index: SessionIndex) -> &mut Session {
        self.rows[index.0 as usize].as_mut().expect("a session's number dies with it")
    }

    pub fn find(&self, namespace: NamespaceId, name: &SessionName) -> Option<SessionIndex> {
        self.by_name.get(&namespace)?.get(name).copied()
    }

    pub fn iter(&self, namespace: NamespaceId) -> impl Iterator<Item = SessionIndex> + '_ {
        self.by_name.get(&namespace).into_iter().flat_map(BTreeMap::values).copied()
    }

    pub fn remember(&self, index: SessionIndex) -> Remembered {
        Remembered { index, number: self.get(index).number }
    }

    /// The session, if it is known still: its place may be another's by now.
    pub fn recall(&self, remembered: Remembered) -> Option<SessionIndex> {
        let Remembered { index, number } = remembered;
        let row = self.rows.get(index.0 as usize)?.as_ref();
        row.is_some_and(|row| row.number == number).then_some(index)
    }

    /// The sessions right below it.
    fn children(&self, parent: SessionIndex) -> impl Iterator<Item = SessionIndex> + '_ {
        let all = (parent, SessionIndex(0))..=(parent, SessionIndex(u32::MAX));
        self.by_parent.range(all).map(|(_, child)| *child)
    }

    /// How many there are above it. Walked up, and nowhere kept: those above may end at any time.
    fn depth(&self, index: SessionIndex) -> u32 {
        let above = std::iter::successors(self.get(index).parent, |at| self.get(*at).parent);
        u32::try_from(above.count()).expect("trees are a few generations deep")
    }

    fn set_parent(&mut self, child: SessionIndex, parent: Option<SessionIndex>) {
        let row = self.get_mut(child);
        row.is_subagent |= parent.is_some();
        if let Some(before) = std::mem::replace(&mut row.parent, parent) {
            self.by_parent.remove(&(before, child));
        }
        self.by_parent.extend(parent.map(|parent| (parent, child)));
    }

    /// All sessions; the one heard of last comes first.
    fn latest(&self) -> impl Iterator<Item = SessionIndex> + '_ {
        self.by_last_seen.iter().rev().map(|(_, index)| *index)
    }

    /// The session not heard of for longest.
    fn oldest(&self) -> Option<(Time, SessionIndex)> {
        self.by_last_seen.first().copied()
    }

    fn insert(&mut self, mut session: Session) -> SessionIndex {
        self.started = self.started.wrapping_add(1);
        session.number = SessionNumber(self.started);
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.rows.push(None);
            SessionIndex(u32::try_from(self.rows.len() - 1).expect("sessions are bounded"))
        });
        let home = self.by_name.entry(session.namespace).or_default();
        home.insert(session.name.clone(), index);
        self.by_last_seen.insert((session.last_seen, index));
        self.rows[index.0 as usize] = Some(session);
        index
    }

    fn touch(&mut self, index: SessionIndex, now: Time) {
        let session = self.rows[index.0 as usize].as_mut().expect("the caller knows it");
        self.by_last_seen.remove(&(session.last_seen, index));
        session.last_seen = now;
        self.by_last_seen.insert((now, index));
    }

    fn remove(&mut self, index: SessionIndex) {
        let session = self.rows[index.0 as usize].take().expect("the caller knows it");
        if let Some(home) = self.by_name.get_mut(&session.namespace) {
            home.remove(&session.name);
        }
        self.by_last_seen.remove(&(session.last_seen, index));
        self.vacant.push(index);
    }
}

impl Manager {
    /// The session of this name, started if it is new: the one silent for longest makes room.
    pub(super) fn session(&mut self, namespace: NamespaceId, name: &SessionName) -> SessionIndex {
        let known = self.sessions.find(namespace, name);
        let index = known.unwrap_or_else(|| self.start_session(namespace, name.clone()));
        self.sessions.touch(index, self.now);
        index
    }

    fn start_session(&mut self, namespace: NamespaceId, name: SessionName) -> SessionIndex {
        if self.sessions.len() >= self.config.sessions.sessions_max
            && let Some((_, oldest)) = self.sessions.oldest()
        {
            self.forget_session(oldest, Fate::LivesOn);
        }
        self.sessions.insert(Session {
            namespace,
            number: SessionNumber::default(),
            name,
            parent: None,
            is_subagent: false,
            state: SessionState::Idle,
            last_seen: self.now,
            tip: None,
            reset: None,
            next: None,
            prev: None,
        })
    }

    /// `session.start`: what is known already gets its parent, if it had none.
    pub(super) fn session_start(
        &mut self,
        namespace: NamespaceId,
        name: &SessionName,
        parent: Option<&SessionName>,
    ) -> Outcome {
        let Some(parent_name) = parent else {
            self.session(namespace, name);
            return Outcome::Accepted { blocks: 0 };
        };
        if parent_name == name {
            return Outcome::Rejected(format!("session {name} can't be its own parent"));
        }
        if let Some(why) = self.misplaced(namespace, name, parent_name) {
            return Outcome::Rejected(why);
        }
        // A parent nobody spoke of yet is started: hints may overtake requests.
        self.session(namespace, parent_name);
        let child = self.session(namespace, name);
        // Where sessions are at their bound, starting one may have cost the other its place.
        let Some(parent) = self.sessions.find(namespace, parent_name) else {
            return Outcome::Rejected(format!(
                "session {name} can't go below {parent_name}: there is no room for both, raise \
                 sessions.max"
            ));
        };
        if self.sessions.get(child).parent == Some(parent) {
            return Outcome::Accepted { blocks: 0 };
        }
        self.sessions.set_parent(child, Some(parent));
        self.lift_for_child(child, parent);
        Outcome::Accepted { blocks: 0 }
    }

    /// Why the session can't go below that one, if so. Starts nothing.
    fn misplaced(
        &self,
        namespace: NamespaceId,
        name: &SessionName,
        parent_name: &SessionName,
    ) -> Option<String> {
        let row = |name| self.sessions.find(namespace, name);
        let (child, parent) = (row(name), row(parent_name));
        let depth_max = self.config.sessions.depth_max;
        match child.and_then(|child| self.sessions.get(child).parent) {
            Some(above) if parent == Some(above) => None,
            Some(_) => Some(format!("session {name} has another parent already")),
            None => {
                let is_deep = parent.is_some_and(|at| self.sessions.depth(at) >= depth_max);
                let is_parent =
                    child.is_some_and(|child| self.sessions.children(child).next().is_some());
                (is_deep || is_parent).then(|| {
                    format!(
                        "session {name} can't go below {parent_name}: name parents before children, \
                         at most {depth_max} generations below the first"
                    )
                })
            }
        }
    }

    pub(super) fn session_happened(&mut self, index: SessionIndex, event: SessionEvent) {
        self.sessions.touch(index, self.now);
        let opened = self.requests.opened();
        let session = self.sessions.get_mut(index);
        session.state = session.state.after(event);
        if event == SessionEvent::Reset {
            session.reset = Some(opened);
        }
        let pause = self.pause_of(event);
        self.heed_session(index, event, pause.and_then(|pause| pause.yields_until));
        match event {
            SessionEvent::ToolStart { .. } => self.lift_for_tool(index, pause),
            SessionEvent::ToolReturn => self.lift_for_return(index),
            SessionEvent::Request => self.stop_session_lift(index),
            SessionEvent::Reset => self.end_session_lift(index, LiftState::Ended),
            SessionEvent::Answered(_) => {}
        }
    }

    /// `session.end`: what only this session reached is dead.
    pub(super) fn session_end(
        &mut self,
        namespace: NamespaceId,
        name: &SessionName,
        tree: bool,
    ) -> Outcome {
        let Some(index) = self.sessions.find(namespace, name) else {
            return missing_session(name);
        };
        let ended = if tree { self.session_tree(index) } else { vec![index] };
        let blocks = ended.into_iter().map(|index| self.forget_session(index, Fate::Dies)).sum();
        Outcome::Accepted { blocks }
    }

    /// The session and all below it.
    pub(super) fn session_tree(&self, root: SessionIndex) -> Vec<SessionIndex> {
        let mut tree = vec![root];
        let mut next = 0;
        while let Some(parent) = tree.get(next).copied() {
            next += 1;
            tree.extend(self.sessions.children(parent));
        }
        tree
    }

    /// The session is known no longer. Children live on without a parent. Gives how many blocks
    /// nobody claims any more.
    pub(super) fn forget_session(&mut self, index: SessionIndex, fate: Fate) -> u32 {
        let freed = self.move_tip(index, None, fate);
        self.end_session_lift(index, LiftState::Ended);
        self.heed_session_gone(index, fate == Fate::Dies);
        self.sessions.set_parent(index, None);
        for child in self.sessions.children(index).collect::<Vec<_>>() {
            self.sessions.set_parent(child, None);
        }
        self.sessions.remove(index);
        freed
    }

    /// Sessions that said nothing for too long are forgotten; their blocks live on by themselves.
    pub(super) fn expire_sessions(&mut self) {
        while let Some((last_seen, index)) = self.sessions.oldest()
            && last_seen + self.config.sessions.idle_timeout <= self.now
        {
            self.forget_session(index, Fate::LivesOn);
        }
    }

    pub(super) fn session_list(&self, sessions_max: usize) -> Reply {
        let status = |index: SessionIndex| {
            let session = self.sessions.get(index);
            let chain = std::iter::successors(session.tip, |at| self.directory.get(*at).parent());
            let own = chain.take_while(|at| self.directory.get(*at).claims == 1).count();
            SessionStatus {
                home: self.home(session.namespace),
                session: session.name.clone(),
                parent: session.parent.map(|parent| self.sessions.get(parent).name.clone()),
                state: session.state,
                last_seen: session.last_seen,
                blocks: session.tip.map_or(0, |tip| self.directory.get(tip).position + 1),
                own_blocks: u32::try_from(own).unwrap_or(u32::MAX),
            }
        };
        let sessions = self.sessions.latest().take(sessions_max).map(status).collect();
        Reply::Sessions { sessions, sessions_total: self.sessions.len() }
    }
}

/// What becomes of blocks that nobody claims any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are ordinary blocks, as if no session had been named.
    LivesOn,
    Dies,
}

pub(super) fn missing_session(name: &SessionName) -> Outcome {
    Outcome::Missing(format!("session {name} is not known: it never started, or it has ended"))
}
