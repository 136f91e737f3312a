//! Requests: whose session each belongs to, and what it used.
//!
//! A request is known from its first lookup or store to its end. Engines that never end theirs lose
//! sight of the oldest, never of a block.

use std::collections::BTreeMap;

use crate::domain::directory::BlockIndex;
use crate::domain::retention::value::TipId;
use crate::domain::session::{SessionEvent, SessionIndex, SessionName, Stop};
use crate::domain::tier::Tier;

use super::api::{ClientId, NamespaceId, Prefill, Reply, RequestId, Run, Usage};
use super::sessions::Remembered;
use super::{Answer, Manager};

/// Open requests that are remembered; the oldest gives way.
const REQUESTS_MAX: usize = 65_536;

/// Who names requests: a client, or those that say at Hello that they are of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EngineId(pub u64);

pub(super) type RequestName = (EngineId, RequestId);

/// A request under way.
struct OpenRequest {
    /// Counts requests in the order they were opened.
    number: u64,
    /// By the name under which the request knew it.
    session: Option<(SessionName, Remembered)>,
    /// Of its chain, once that was seen.
    tip: Option<TipId>,
    read_blocks: [u64; Tier::COUNT],
    created_5m_blocks: u64,
    created_1h_blocks: u64,
    /// The longest chain it named.
    asked_blocks: u64,
}

/// All requests under way, by name and by age.
#[derive(Default)]
pub(super) struct Requests {
    open: BTreeMap<RequestName, OpenRequest>,
    by_age: BTreeMap<u64, RequestName>,
    opened: u64,
}

impl Requests {
    fn open(&mut self, name: RequestName) -> &mut OpenRequest {
        if !self.open.contains_key(&name) {
            if self.open.len() >= REQUESTS_MAX
                && let Some((_, oldest)) = self.by_age.pop_first()
            {
                self.open.remove(&oldest);
            }
            self.opened += 1;
            self.by_age.insert(self.opened, name);
        }
        let number = self.opened;
        self.open.entry(name).or_insert_with(|| OpenRequest {
            number,
            session: None,
            tip: None,
            read_blocks: [0; Tier::COUNT],
            created_5m_blocks: 0,
            created_1h_blocks: 0,
            asked_blocks: 0,
        })
    }

    fn close(&mut self, name: RequestName) -> Option<OpenRequest> {
        let closed = self.open.remove(&name)?;
        self.by_age.remove(&closed.number);
        Some(closed)
    }

    /// The tip of the request's chain.
    pub(super) fn tip(&self, name: RequestName) -> Option<TipId> {
        self.open.get(&name)?.tip
    }

    pub(super) fn set_tip(&mut self, name: RequestName, tip: TipId) {
        self.open(name).tip = Some(tip);
    }

    /// The session that the request named, as it knows it still.
    fn named(&self, name: RequestName) -> Option<&(SessionName, Remembered)> {
        self.open.get(&name)?.session.as_ref()
    }

    /// How many were opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Of all that were opened, the how many-th the request is.
    pub(super) fn number(&self, name: RequestName) -> Option<u64> {
        self.open.get(&name).map(|open| open.number)
    }

    /// The engine went, and its requests with it.
    pub(super) fn close_all(&mut self, engine: EngineId) {
        let range = (engine, RequestId(0))..=(engine, RequestId(u64::MAX));
        let names: Vec<_> = self.open.range(range).map(|(name, _)| *name).collect();
        for name in names {
            self.close(name);
        }
    }
}

impl Manager {
    /// What the client's engine calls the request.
    pub(super) fn request_name(&self, (client, request): (ClientId, RequestId)) -> RequestName {
        let engine = self.clients.get(&client).map_or(EngineId(client.0), |entry| entry.engine);
        (engine, request)
    }

    /// Requests under way.
    #[cfg(test)]
    pub(super) fn open_requests(&self) -> usize {
        self.requests.open.len()
    }

    /// The session that the request belongs to: the one it names now, or named before.
    pub(super) fn session_of(
        &mut self,
        request: (ClientId, RequestId),
        namespace: NamespaceId,
        named: Option<&SessionName>,
    ) -> Option<SessionIndex> {
        let named = named.map(|name| {
            let session = self.session(namespace, name);
            (name, self.sessions.remember(session))
        });
        let open = self.requests.open(self.request_name(request));
        if let Some((name, session)) = named {
            open.session = Some((name.clone(), session));
        }
        self.sessions.recall(open.own()?)
    }

    /// The session that a store under the request belongs to. One that the request named before and that is
    /// known no longer is not started anew: the store may have been on its way while the session ended.
    pub(super) fn session_of_store(
        &mut self,
        request: (ClientId, RequestId),
        namespace: NamespaceId,
        named: Option<&SessionName>,
    ) -> Option<SessionIndex> {
        let known = self.requests.named(self.request_name(request));
        let gone = known.filter(|(_, own)| self.sessions.recall(*own).is_none());
        let named = named.filter(|name| gone.is_none_or(|(gone, _)| gone != *name));
        self.session_of(request, namespace, named)
    }

    /// A lookup under the request was answered with `runs`.
    pub(super) fn request_read(
        &mut self,
        request: (ClientId, RequestId),
        asked: usize,
        runs: &[Run],
    ) {
        let open = self.requests.open(self.request_name(request));
        open.asked_blocks = open.asked_blocks.max(asked as u64);
        // Engines ask again while they wait: the last answer counts.
        open.read_blocks = [0; Tier::COUNT];
        for run in runs {
            open.read_blocks[run.tier.index()] += u64::from(run.blocks);
        }
        if let Some(session) = open.own().and_then(|own| self.sessions.recall(own)) {
            self.session_happened(session, SessionEvent::Request);
        }
    }

    /// A store under the request reached down to `tip`, and created so many blocks under a shield of
    /// up to five minutes, and under a longer one.
    pub(super) fn request_created(
        &mut self,
        request: (ClientId, RequestId),
        tip: BlockIndex,
        [short, long]: [u64; 2],
    ) {
        let asked = u64::from(self.directory.get(tip).position) + 1;
        let open = self.requests.open(self.request_name(request));
        open.asked_blocks = open.asked_blocks.max(asked);
        open.created_5m_blocks += short;
        open.created_1h_blocks += long;
    }

    pub(super) fn end_request(
        &mut self,
        (client, request): (ClientId, RequestId),
        (stop, output_tokens): (Stop, u32),
        prefill: Option<Prefill>,
    ) -> Answer {
        let namespace = self.client(client)?.namespace;
        if let Some(prefill) = prefill {
            self.prefill_reported(client, prefill);
        }
        self.end_leases(client, request);
        self.give_back((client, request));
        let Some(closed) = self.requests.close(self.request_name((client, request))) else {
            return Ok(Reply::EndRequest { usage: Usage::default() });
        };
        self.heed_answer(closed.tip, stop, output_tokens);
        if let Some(session) = closed.own().and_then(|own| self.sessions.recall(own)) {
            self.session_happened(session, SessionEvent::Answered(stop));
        }
        let usage = closed.usage(self.namespace(namespace).block_tokens().into());
        Ok(Reply::EndRequest { usage })
    }
}

impl OpenRequest {
    /// The session that it named last.
    fn own(&self) -> Option<Remembered> {
        self.session.as_ref().map(|(_, own)| *own)
    }

    fn usage(&self, block_tokens: u64) -> Usage {
        let read: u64 = self.read_blocks.iter().sum();
        let created = self.created_5m_blocks + self.created_1h_blocks;
        Usage {
            read_tokens: self.read_blocks.map(|blocks| blocks * block_tokens),
            created_5m_tokens: self.created_5m_blocks * block_tokens,
            created_1h_tokens: self.created_1h_blocks * block_tokens,
            uncached_tokens: self.asked_blocks.saturating_sub(read + created) * block_tokens,
        }
    }
}
