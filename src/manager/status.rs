//! What the manager says of itself: figures, links, single blocks.

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::movement::Link;

use super::api::{BlockStatus, Home, LinkStatus, NamespaceId, Refusal, Reply, Status, TierStatus};
use super::{Answer, Manager};

impl Manager {
    pub(super) fn inspect(&self, key: Key) -> Answer {
        let block = self.directory.find(key).map(|row| self.directory.get(row));
        let block = block.filter(|block| !block.doomed).ok_or_else(|| {
            Refusal::NotFound(format!("no block with key {key} is here: it may have been evicted"))
        })?;
        Ok(Reply::Inspect(Box::new(BlockStatus {
            home: self.home(NamespaceId(block.namespace)),
            key,
            parent: block.parent().map(|parent| self.directory.get(parent).key),
            position: block.position,
            created_at: block.created_at,
            record: block.record,
            copies: Tier::ALL.map(|tier| block.copy(tier).state),
            claims: block.claims,
            dead: block.dead,
            leases: block.leases,
        })))
    }

    pub(super) fn home(&self, namespace: NamespaceId) -> Home {
        let entry = self.namespace(namespace);
        let model = entry.namespace.as_ref().map(|namespace| namespace.model.clone());
        Home { digest: entry.digest, model: model.unwrap_or_default() }
    }

    /// What shields hold of a tier.
    fn shielded_bytes_in(&self, tier: Tier) -> u64 {
        let namespaces = (0_u32..).zip(&self.namespaces);
        let bytes = namespaces.map(|(id, entry)| {
            self.directory.shielded_copies(id, tier) * u64::from(entry.slot_bytes(tier))
        });
        bytes.sum()
    }

    fn link_status(&self, link: Link) -> LinkStatus {
        let speed = self.links.speed(self.now, link);
        let learned = self.links.is_learned(link);
        LinkStatus {
            moved_bytes: self.links.moved_bytes(link),
            bytes_per_s: if learned { speed.bytes_per_s() } else { 0 },
            latency_us: if learned { micros(speed.latency()) } else { 0 },
            queued_transfers: self.links.queued(link) as u64,
            in_flight_bytes: self.links.in_flight_bytes(link),
        }
    }

    pub(super) fn status(&self) -> Status {
        let count = |n: usize| n as u64;
        let (stray_blocks, stray_bytes) = self.strays.taken();
        let (in_flight, queued) = self.links.counts();
        let queued = queued + self.behind.transfers();
        Status {
            tiers: Tier::ALL.map(|tier| {
                let space = self.tiers[tier.index()].as_ref();
                let is_object = u64::from(tier == Tier::Object);
                space.map_or_else(TierStatus::default, |space| TierStatus {
                    used_bytes: space.slots.bytes_used() + stray_bytes * is_object,
                    blocks: space.slots.slots_used() + stray_blocks * is_object,
                    shielded_bytes: self.shielded_bytes_in(tier),
                    ..space.stats
                })
            }),
            blocks: count(self.directory.len()),
            clients: count(self.clients.len()),
            pools: count(self.pools.len()),
            leases: count(self.leases.len()),
            ops_in_flight: count(self.ops.len()),
            transfers_in_flight: count(in_flight),
            transfers_queued: count(queued),
            lookups: self.counters.lookups,
            lookup_blocks: self.counters.lookup_blocks,
            stores_dropped_blocks: self.counters.dropped_blocks,
            corrupt_copies: self.counters.corrupt_copies,
            sessions: count(self.sessions.len()),
            forgotten_blocks: self.counters.forgotten_blocks,
            stray_blocks,
            stray_bytes,
            broken_shields: self.counters.broken_shields,
            links: Link::ALL.map(|link| self.link_status(link)),
            lifts: self.lift_counts(),
            nvme_writes: self.gate.counts(self.now),
            policy: self.config.policy.name(),
            lru_decides: self.lru_decides(),
        }
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
