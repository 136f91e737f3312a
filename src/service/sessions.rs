//! The living sessions: by token, one a `client_id`, so many and no more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::wire::Token;

use super::error::CallError;
use super::session::Session;

/// The table of sessions.
pub(super) struct Sessions {
    clients_max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_token: HashMap<Token, Arc<Session>>,
    /// Of the sessions above, and of those whose Hello is being answered.
    names: HashSet<String>,
}

impl Sessions {
    pub(super) fn new(clients_max: usize) -> Self {
        Self { clients_max, table: Mutex::default() }
    }

    /// Holds a place for a client called `name` until `release_name`, or the end of its session.
    pub(super) fn reserve_name(&self, name: &str) -> Result<(), CallError> {
        let mut table = self.table();
        if table.names.contains(name) {
            return Err(CallError::NameTaken(name.to_owned()));
        }
        if table.names.len() >= self.clients_max {
            return Err(CallError::busy("the daemon has as many clients as it may"));
        }
        table.names.insert(name.to_owned());
        Ok(())
    }

    pub(super) fn release_name(&self, name: &str) {
        self.table().names.remove(name);
    }

    /// The session's name must be reserved.
    pub(super) fn insert(&self, session: Arc<Session>) {
        let mut table = self.table();
        debug_assert!(table.names.contains(&session.name), "reserve_name comes first");
        table.by_token.insert(session.token, session);
    }

    pub(super) fn get(&self, token: &[u8]) -> Result<Arc<Session>, CallError> {
        let token = Token::try_from(token).map_err(|_| CallError::UnknownToken)?;
        self.table().by_token.get(&token).cloned().ok_or(CallError::UnknownToken)
    }

    /// Takes a session out; nothing if it went already.
    pub(super) fn remove(&self, token: &Token) -> Option<Arc<Session>> {
        let mut table = self.table();
        let session = table.by_token.remove(token)?;
        table.names.remove(&session.name);
        Some(session)
    }

    /// The sessions that `chosen` picks.
    pub(super) fn pick(&self, chosen: impl Fn(&Session) -> bool) -> Vec<Token> {
        let table = self.table();
        let picked = table.by_token.values().filter(|session| chosen(session));
        picked.map(|session| session.token).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Both maps change together at the end of each method, so a panic leaves them whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
