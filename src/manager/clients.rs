//! Clients: namespaces they speak in, pools they lend, leases they hold, and what ends when they go.

use std::collections::BTreeSet;

use crate::domain::namespace::Namespace;
use crate::domain::tier::Tier;

use super::api::{ClientId, Effect, LeaseId, NamespaceId, PoolId, Refusal, Reply, RequestId};
use super::plan::{CallCost, PrefillRate};
use super::requests::EngineId;
use super::sessions::Fate;
use super::state::{Client, Lease, NamespaceEntry, Pool};
use super::{Answer, Manager};

/// When a bound was reached: how long until trying again makes sense.
pub(super) const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(100);

impl Manager {
    pub(super) fn hello(
        &mut self,
        client: ClientId,
        namespace: Namespace,
        engine: Option<String>,
        prefill_tokens_per_s: Option<u32>,
    ) -> Answer {
        namespace.check().map_err(Refusal::Invalid)?;
        if prefill_tokens_per_s == Some(0) {
            return Err(Refusal::Invalid(
                "prefill_tokens_per_s is 0: give the engine's prefill rate, or leave it out if \
                 nobody knows it"
                    .into(),
            ));
        }
        if self.clients.contains_key(&client) {
            return Err(Refusal::Precondition("this client has said Hello already".into()));
        }
        if self.clients.len() >= self.config.clients_max {
            return Err(Refusal::Busy { what: "too many clients", retry_after: RETRY_AFTER });
        }
        let in_memory = [Tier::Hbm, Tier::Dram];
        if namespace.shard_count > 1 && in_memory.iter().all(|t| self.tiers[t.index()].is_none()) {
            return Err(Refusal::Precondition(
                "blocks of several shards are put together in memory: give the daemon a DRAM tier"
                    .into(),
            ));
        }
        let frame_bytes = namespace.frame_bytes();
        let id = self.namespace_id(namespace)?;
        let entry = Client {
            namespace: id,
            engine: self.engine_of(client, id, engine.as_deref()),
            engine_name: engine,
            pools: Vec::new(),
            leases: BTreeSet::new(),
            ops: 0,
            prefill: PrefillRate::declared(prefill_tokens_per_s),
            call: CallCost::default(),
        };
        self.clients.insert(client, entry);
        Ok(Reply::Hello { namespace: id, frame_bytes })
    }

    /// The engine whose requests the client speaks of: that of another client of the namespace, where both
    /// name the same.
    fn engine_of(&self, client: ClientId, namespace: NamespaceId, name: Option<&str>) -> EngineId {
        let is_of = |other: &&Client| {
            name.is_some() && other.namespace == namespace && other.engine_name.as_deref() == name
        };
        self.clients.values().find(is_of).map_or(EngineId(client.0), |other| other.engine)
    }

    fn namespace_id(&mut self, namespace: Namespace) -> Result<NamespaceId, Refusal> {
        let (digest, payload_bytes) = (namespace.digest(), namespace.payload_bytes());
        let id = self.intern(digest, payload_bytes).ok_or_else(|| {
            Refusal::Precondition(format!(
                "this daemon has clients or blocks of {} namespaces, its limit: let clients share \
                 namespaces, or run a daemon each",
                self.config.namespaces_max
            ))
        })?;
        self.namespaces[id.0 as usize].namespace = Some(namespace);
        Ok(id)
    }

    /// The number of the namespace with this digest, new if need be; nothing when there are too
    /// many.
    pub(super) fn intern(
        &mut self,
        digest: crate::domain::namespace::NamespaceDigest,
        payload_bytes: u64,
    ) -> Option<NamespaceId> {
        let known = self.namespaces.iter().position(|entry| entry.digest == digest);
        if let Some(at) = known {
            return u32::try_from(at).ok().map(NamespaceId);
        }
        let entry = NamespaceEntry { digest, payload_bytes, namespace: None };
        if self.namespaces.len() < self.config.namespaces_max {
            self.namespaces.push(entry);
            return u32::try_from(self.namespaces.len() - 1).ok().map(NamespaceId);
        }
        let unused = self.unused_namespace()?;
        for session in self.sessions.iter(unused).collect::<Vec<_>>() {
            self.forget_session(session, Fate::LivesOn);
        }
        self.namespaces[unused.0 as usize] = entry;
        Some(unused)
    }

    /// A namespace without clients and without blocks, of which all is told: its number may serve another.
    fn unused_namespace(&self) -> Option<NamespaceId> {
        let all = (0..u32::try_from(self.namespaces.len()).ok()?).map(NamespaceId);
        let spoken: BTreeSet<NamespaceId> =
            self.clients.values().map(|client| client.namespace).collect();
        all.into_iter().find(|id| {
            let is_empty = self.directory.blocks_of(id.0) == 0;
            is_empty && !spoken.contains(id) && !self.directory.has_changes_of(id.0)
        })
    }

    pub(super) fn client(&self, client: ClientId) -> Result<&Client, Refusal> {
        self.clients.get(&client).ok_or_else(|| Refusal::Precondition("say Hello first".into()))
    }

    pub(super) fn register_pool(
        &mut self,
        client: ClientId,
        shard: u32,
        (slots, has_events): (u32, bool),
    ) -> Answer {
        let entry = self.client(client)?;
        let shard_count = self.namespace(entry.namespace).shard_count();
        if shard >= shard_count {
            return Err(Refusal::Invalid(format!(
                "shard {shard} of a namespace with {shard_count}: shards count from 0"
            )));
        }
        if entry.pools.len() >= self.config.pools_per_client_max {
            return Err(Refusal::Busy { what: "too many pools", retry_after: RETRY_AFTER });
        }
        self.counters.pools += 1;
        let pool = PoolId(self.counters.pools);
        let entry = Pool { client, shard, slots, has_events, flights: 0, retired: false };
        self.pools.insert(pool, entry);
        self.clients.get_mut(&client).expect("looked up above").pools.push(pool);
        Ok(Reply::Pool { pool })
    }

    pub(super) fn unregister_pool(&mut self, client: ClientId, pool: PoolId) -> Answer {
        if self.is_leaving(client, pool) {
            // Whoever asks again was not patient enough.
            return Ok(Reply::Ok);
        }
        self.own_pool(client, pool)?;
        self.clients.get_mut(&client).expect("it owns a pool").pools.retain(|own| *own != pool);
        self.retire_pool(pool);
        Ok(Reply::Ok)
    }

    /// Whether the client has given the pool back, and copies still touch it.
    fn is_leaving(&self, client: ClientId, pool: PoolId) -> bool {
        self.pools.get(&pool).is_some_and(|entry| entry.client == client && entry.retired)
    }

    /// The client's own pool, in use.
    pub(super) fn own_pool(&self, client: ClientId, pool: PoolId) -> Result<&Pool, Refusal> {
        self.client(client)?;
        self.pools.get(&pool).filter(|entry| entry.client == client && !entry.retired).ok_or_else(
            || Refusal::NotFound(format!("pool {} is not registered by this client", pool.0)),
        )
    }

    /// The client's pools, those that it has given back among them while copies touch them.
    pub(super) fn pools_of(&self, client: ClientId) -> impl Iterator<Item = PoolId> {
        let own = self.pools.iter().filter(move |(_, entry)| entry.client == client);
        own.map(|(pool, _)| *pool)
    }

    /// No new copies touch the pool; it is given back when those under way have ended.
    fn retire_pool(&mut self, pool: PoolId) {
        self.pools.get_mut(&pool).expect("a known pool").retired = true;
        self.cancel(|part| part.pool == pool);
        self.free_if_idle(pool);
    }

    pub(super) fn free_if_idle(&mut self, pool: PoolId) {
        let entry = &self.pools[&pool];
        if entry.retired && entry.flights == 0 {
            let client = entry.client;
            self.pools.remove(&pool);
            self.out.push(Effect::PoolFreed { client, pool });
        }
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        let Some(entry) = self.clients.remove(&client) else { return };
        if self.clients.values().all(|other| other.engine != entry.engine) {
            self.requests.close_all(entry.engine);
        }
        self.end_lifts_of(client);
        self.give_back_all(client);
        for (_, lease) in entry.leases {
            self.end_lease(lease);
        }
        for pool in entry.pools {
            self.retire_pool(pool);
        }
    }

    /// A hold on the chain that ends in `block`. The block's ancestors need no hold of their own:
    /// they stay while it does.
    pub(super) fn grant_lease(
        &mut self,
        client: ClientId,
        request: RequestId,
        block: crate::domain::directory::BlockIndex,
    ) -> LeaseId {
        self.counters.leases += 1;
        let id = LeaseId(self.counters.leases);
        let expires = self.now + self.config.lease_ttl;
        self.leases.insert(id, Lease { client, request, block, expires });
        let entry = self.clients.get_mut(&client).expect("the caller looked it up");
        entry.leases.insert((request, id));
        self.directory.get_mut(block).leases += 1;
        id
    }

    pub(super) fn release_lease(&mut self, client: ClientId, lease: LeaseId) -> Answer {
        self.client(client)?;
        if self.leases.get(&lease).is_none_or(|entry| entry.client != client) {
            return Err(Refusal::NotFound(format!(
                "lease {} is not held by this client: it may have run out",
                lease.0
            )));
        }
        self.end_lease(lease);
        Ok(Reply::Ok)
    }

    /// Ends all leases taken under the request.
    pub(super) fn end_leases(&mut self, client: ClientId, request: RequestId) {
        let held = &self.clients[&client].leases;
        let range = (request, LeaseId(0))..=(request, LeaseId(u64::MAX));
        let leases: Vec<LeaseId> = held.range(range).map(|(_, lease)| *lease).collect();
        for lease in leases {
            self.end_lease(lease);
        }
    }

    fn end_lease(&mut self, id: LeaseId) {
        let lease = self.leases.remove(&id).expect("callers name a held lease");
        if let Some(client) = self.clients.get_mut(&lease.client) {
            client.leases.remove(&(lease.request, id));
        }
        let block = self.directory.get_mut(lease.block);
        block.leases -= 1;
        if block.leases == 0 {
            self.reconsider_all(lease.block);
            self.sweep(lease.block);
        }
    }

    /// Ends what has run out: leases, loads that waited too long, blocks whose other shards never
    /// came.
    pub(super) fn time_passed(&mut self) {
        // Leases all live equally long, so they run out in the order they were given.
        while let Some((id, lease)) = self.leases.first_key_value() {
            if lease.expires > self.now {
                break;
            }
            let id = *id;
            self.end_lease(id);
        }
        self.lifts.stirred = true;
        self.expire_ops();
        self.expire_sessions();
        self.expire_partials();
        self.rewrite_records();
        self.erase_owed();
        self.let_strays_go();
        self.went.prune(self.now);
        self.time_kept();
    }
}
