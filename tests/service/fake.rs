//! A stand-in for the manager: remembers what it was asked and answers simply.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use terrace::domain::block::Key;
use terrace::domain::hint::{Action, Outcome};
use terrace::domain::planner::Plan;
use terrace::domain::retention::Directives;
use terrace::domain::session::{SessionName, Stop};
use terrace::domain::tier::Tier;
use terrace::domain::units::Time;
use terrace::manager::api::{
    ClientId, Command, Completion, LeaseId, LiftCounts, LiftStatus, NamespaceId, OpId, OpKind,
    Overlap, PoolId, Prefill, Refusal, Reply, RequestId, Run, Status, Usage,
};
use terrace::manager::shell::{Journal, Page};
use terrace::service::Backend;
use terrace::tiers::hbm::{ClaimedPool, Exported, LentMemory};
use tokio::sync::mpsc;

pub const ARENA_BYTES: u64 = 8192;

/// The byte that loads write into each page.
pub const LOADED: u8 = 0xA5;

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    numbers: u64,
    completions: BTreeMap<ClientId, mpsc::Sender<Completion>>,
    pools: BTreeMap<PoolId, (File, ClaimedPool)>,
    stored: HashSet<Key>,
    /// Clients that said Hello and those that went, in order.
    pub helloed: Vec<ClientId>,
    pub gone: Vec<ClientId>,
    /// What clients said of their speed, at Hello and at the ends of requests.
    pub prefill_rates: Vec<Option<u32>>,
    pub engines: Vec<Option<String>>,
    pub prefills: Vec<Option<Prefill>>,
    /// Whether lookups were of requests that wait, and what they are advised.
    pub queued: Vec<bool>,
    pub plan: Plan,
    /// Lifts, and whose they are.
    pub lifts: BTreeMap<(ClientId, OpId), LiftStatus>,
    pub ended_requests: Vec<RequestId>,
    /// Why they ended, and how many tokens they made.
    pub stops: Vec<(Stop, u32)>,
    /// Actions that hints brought, and what they are answered with; all are accepted without.
    pub hinted: Vec<Action>,
    pub outcomes: Option<Vec<Outcome>>,
    /// Sessions and directives that lookups and stores named.
    pub sessions: Vec<Option<SessionName>>,
    pub directives: Vec<Directives>,
    pub released: Vec<LeaseId>,
    pub load_timeouts: Vec<Duration>,
    /// First bytes of the pages that stores named.
    pub stored_bytes: Vec<u8>,
    /// The next command is refused with this.
    pub refuse: Option<Refusal>,
    /// Commands other than Hello never end.
    pub hang: bool,
    /// Commands that hung.
    pub hung: usize,
    /// How long every other command takes.
    pub answering_takes: Duration,
    /// Operations never complete.
    pub silent: bool,
    /// How long opening a pool takes.
    pub registering_takes: Duration,
    pub no_arena: bool,
    pub hbm: Option<FakeHbm>,
}

/// Where the HBM tier is; without one there is none.
#[derive(Clone, Copy, Debug)]
pub enum FakeHbm {
    OnGpu,
    Broken,
}

impl Fake {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Waits until the fake's state is as `wanted` says; false after a second.
    pub async fn becomes(&self, wanted: impl Fn(&State) -> bool) -> bool {
        for _ in 0..100 {
            if wanted(&self.state()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn store(&mut self, keys: &[Key], pool: PoolId, slots: &[u32]) -> (OpId, u32) {
        let (memory, claim) = &self.pools[&pool];
        for slot in slots {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, page_zero(claim, *slot)).unwrap();
            self.stored_bytes.push(byte[0]);
        }
        let fresh = keys.iter().filter(|key| self.stored.insert(**key)).count();
        (OpId(self.number()), u32::try_from(fresh).unwrap())
    }

    fn load(&mut self, keys: &[Key], pool: PoolId, slots: &[u32]) -> (OpId, Vec<u32>) {
        let (memory, claim) = &self.pools[&pool];
        for slot in slots {
            memory.write_all_at(&[LOADED], page_zero(claim, *slot)).unwrap();
        }
        let missing = (0u32..).zip(keys).filter(|(_, key)| !self.stored.contains(key));
        let failed = missing.map(|(index, _)| index).collect();
        (OpId(self.number()), failed)
    }

    pub fn complete(&mut self, client: ClientId, completion: Completion) {
        if !self.silent {
            self.completions[&client].try_send(completion).unwrap();
        }
    }

    fn answer(&mut self, client: ClientId, command: Command) -> Reply {
        match command {
            Command::Hello { namespace, engine, prefill_tokens_per_s } => {
                self.helloed.push(client);
                self.prefill_rates.push(prefill_tokens_per_s);
                self.engines.push(engine);
                Reply::Hello { namespace: NamespaceId(0), frame_bytes: namespace.frame_bytes() }
            }
            Command::Lookup { keys, session, queued, .. } => {
                self.sessions.push(session);
                self.queued.push(queued);
                let hits = keys.iter().take_while(|key| self.stored.contains(key)).count();
                let blocks = u32::try_from(hits).unwrap();
                let lease = (hits > 0).then(|| LeaseId(self.number()));
                let runs = if hits > 0 { vec![Run { tier: Tier::Dram, blocks }] } else { vec![] };
                let plan = self.plan.clone();
                Reply::Lookup { runs, lease, lease_expires: Time::from_millis(77), plan }
            }
            Command::Store { request, session, directives, keys, pool, slots, durable, .. } => {
                self.sessions.push(session);
                self.directives.push(directives);
                let blocks = u32::try_from(keys.len()).unwrap();
                let (op, taken) = self.store(&keys, pool, &slots);
                let kind = OpKind::Store;
                let not_durable = if durable { vec![0] } else { vec![] };
                let failed = vec![];
                let end = Completion { op, request, kind, blocks, failed, not_durable };
                self.complete(client, end);
                Reply::Store { op, taken, present: blocks - taken, dropped: 0, clipped: 2 }
            }
            Command::Load { request, keys, pool, slots, timeout } => {
                self.load_timeouts.push(timeout);
                let blocks = u32::try_from(keys.len()).unwrap();
                let (op, failed) = self.load(&keys, pool, &slots);
                let kind = OpKind::Load;
                let not_durable = vec![];
                let end = Completion { op, request, kind, blocks, failed, not_durable };
                self.complete(client, end);
                Reply::Load { op }
            }
            Command::UnregisterPool { pool } => {
                self.pools.remove(&pool);
                Reply::Ok
            }
            Command::Borrow { .. } => Reply::Borrow { blocks: Vec::new(), clipped: 0 },
            Command::GiveBack { .. } => Reply::GiveBack { blocks: 0 },
            Command::ReleaseLease { lease } => {
                self.released.push(lease);
                Reply::Ok
            }
            Command::EndRequest { request, stop, output_tokens, prefill } => {
                self.ended_requests.push(request);
                self.prefills.push(prefill);
                self.stops.push((stop, output_tokens));
                Reply::EndRequest { usage: Usage::default() }
            }
            Command::Hint { actions } => {
                let accepted = || actions.iter().map(|_| Outcome::Accepted { blocks: 0 }).collect();
                let outcomes = self.outcomes.take().unwrap_or_else(accepted);
                self.hinted.extend(actions);
                Reply::Hint { outcomes }
            }
            Command::Sessions { .. } => Reply::Sessions { sessions: Vec::new(), sessions_total: 0 },
            Command::Inspect { .. } => Reply::Refused(Refusal::NotFound("no such block".into())),
            Command::Overlap { .. } => Reply::Overlap(Overlap::default()),
            Command::Lift { op } => match self.lifts.get(&(client, op)) {
                Some(lift) => Reply::Lift(Box::new(lift.clone())),
                None => Reply::Refused(Refusal::NotFound(format!("no lift {} here", op.0))),
            },
            Command::Status => Reply::Status(Box::new(self.status())),
            Command::RegisterPool { .. } => panic!("pools come by register_pool"),
        }
    }

    /// Gives a client up, as the manager does with one that reads nothing.
    pub fn give_up(&mut self, client: ClientId) {
        self.completions.remove(&client);
    }

    fn status(&self) -> Status {
        let mut status = Status { blocks: self.stored.len() as u64, ..Status::default() };
        status.policy = "lru";
        status.tiers[Tier::Dram.index()].present = true;
        status.tiers[Tier::Dram.index()].hit_blocks = 5;
        // Every figure of every link is another, so that none can stand in another's place.
        for (link, figures) in (1..).zip(&mut status.links) {
            figures.moved_bytes = [link * 100 + 1, link * 100 + 2, link * 100 + 3];
            (figures.bytes_per_s, figures.latency_us) = (link * 100 + 4, link * 100 + 5);
            (figures.queued_transfers, figures.in_flight_bytes) = (link * 100 + 6, link * 100 + 7);
        }
        status.lifts = LiftCounts {
            begun: 1,
            cancelled: 2,
            clipped_blocks: 3,
            bytes: 4,
            timely_bytes: 5,
            late_bytes: 6,
            wasted_bytes: 7,
        };
        status
    }
}

fn page_zero(claim: &ClaimedPool, slot: u32) -> u64 {
    claim.layout.base + u64::from(slot) * claim.layout.slot_stride
}

impl Backend for Fake {
    fn observe(&self) -> ClientId {
        ClientId(self.state().number())
    }

    fn join(&self) -> Result<(ClientId, mpsc::Receiver<Completion>), Refusal> {
        let (send, receive) = mpsc::channel(1024);
        let mut state = self.state();
        let client = ClientId(state.number());
        state.completions.insert(client, send);
        Ok((client, receive))
    }

    async fn call(&self, client: ClientId, command: Command) -> Result<Reply, Refusal> {
        let hang = self.state().hang && !matches!(command, Command::Hello { .. });
        if hang {
            self.state().hung += 1;
            std::future::pending::<()>().await;
        }
        let takes = self.state().answering_takes;
        tokio::time::sleep(takes).await;
        let mut state = self.state();
        match state.refuse.take() {
            Some(refusal) => Err(refusal),
            None => Ok(state.answer(client, command)),
        }
    }

    async fn register_pool(
        &self,
        _client: ClientId,
        memory: LentMemory,
        claim: ClaimedPool,
    ) -> Result<PoolId, Refusal> {
        let takes = self.state().registering_takes;
        tokio::time::sleep(takes).await;
        let mut state = self.state();
        if let Some(refusal) = state.refuse.take() {
            return Err(refusal);
        }
        let LentMemory::Shared(memory) = memory else {
            return Err(Refusal::Invalid("this backend has no GPU".into()));
        };
        let memory = File::from(memory);
        let last = page_zero(&claim, claim.layout.slots - 1);
        if memory.metadata().unwrap().len() <= last {
            return Err(Refusal::Invalid("the memory is smaller than the pool claims".into()));
        }
        let pool = PoolId(state.number());
        state.pools.insert(pool, (memory, claim));
        Ok(pool)
    }

    fn client_gone(&self, client: ClientId) {
        let mut state = self.state();
        state.completions.remove(&client);
        state.gone.push(client);
    }

    fn hbm(&self) -> Result<Option<Exported>, String> {
        match self.state().hbm {
            Some(FakeHbm::Broken) => Err("the HBM tier can't be shared: no".into()),
            Some(FakeHbm::OnGpu) => {
                Ok(Some(Exported::Cuda { device_uuid: [7; 16], handle: [8; 64], bytes: 1 << 26 }))
            }
            None => Ok(None),
        }
    }

    fn journal(&self) -> Option<Arc<Journal>> {
        None
    }

    async fn residents(&self, _first_row: u32) -> Result<Page, Refusal> {
        panic!("there is no journal to follow");
    }

    fn arena(&self) -> io::Result<(OwnedFd, u64)> {
        if self.state().no_arena {
            return Err(io::Error::other("none here"));
        }
        let arena = File::from(rustix::fs::memfd_create("fake-arena", MemfdFlags::CLOEXEC)?);
        arena.set_len(ARENA_BYTES)?;
        arena.write_all_at(b"frame", 4096)?;
        let read_only = File::open(format!("/proc/self/fd/{}", arena.as_raw_fd()))?;
        Ok((read_only.into(), ARENA_BYTES))
    }
}
