//! A node in this process, and an engine that speaks to its manager directly.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use terrace::client::{HostPool, PoolOrder};
use terrace::domain::block::Key;
use terrace::domain::hint::{Action, Outcome, Target};
use terrace::domain::namespace::{KvShape, Namespace};
use terrace::domain::retention::{Directive, Directives, TokenRange, Wish};
use terrace::domain::session::Stop;
use terrace::domain::tier::Tier;
use terrace::domain::units::Time;
use terrace::env::{Clock, Stopwatch, SystemClock};
use terrace::manager::api::{
    BlockStatus, ClientId, Command, Completion, Labels, PoolId, Refusal, Reply, RequestId, Status,
};
use terrace::manager::shell::{Handle, Shell, ShellParts};
use terrace::manager::{ManagerConfig, PolicyName, TierConfig};
use terrace::tiers::dram::{Arena, ArenaConfig};
use terrace::tiers::hbm::{ClaimedPool, HostDevice, HostDeviceConfig, LentMemory};
use terrace::tiers::nvme::{self, NvmeConfig};
use terrace::tiers::object::{self, ObjectOptions, PackOptions, Target as ObjectTarget};
use terrace::workload::content::{self, Content};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const BLOCK_BYTES: usize = 64 << 10;
/// No less than a block's header and payload take in a slot.
const FRAME_BYTES: u64 = 80 << 10;
const CHUNK_BYTES: u64 = 64 << 20;
const SLOTS: u32 = 128;
const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST: RequestId = RequestId(1);

/// How long a changed record may wait in these tests.
pub const REWRITE_DELAY: Duration = Duration::from_millis(100);

/// Where a node's tiers are, and how many blocks each holds; zero: no such tier.
pub struct Spec {
    pub dram: u64,
    pub nvme: u64,
    pub object: u64,
    pub nvme_dir: PathBuf,
    pub object_dir: PathBuf,
    /// Instead of the folder.
    pub object_url: Option<String>,
    /// By how many seconds its clock is ahead.
    pub skew_s: i64,
    /// Whether blocks are packed into larger objects.
    pub packs: bool,
    /// Where there is no NVMe tier that says another.
    pub node_id: [u8; 16],
}

impl Spec {
    /// Both folders below `root`.
    pub fn new(root: &Path, dram: u64, nvme: u64, object: u64) -> Self {
        let (nvme_dir, object_dir) = (root.join("nvme"), root.join("object"));
        let (object_url, skew_s, packs) = (None, 0, false);
        let node_id = terrace::env::random_bytes();
        Self { dram, nvme, object, nvme_dir, object_dir, object_url, skew_s, packs, node_id }
    }
}

pub struct Node {
    runtime: Runtime,
    shell: Option<Shell>,
    handle: Handle,
    client: ClientId,
    completions: mpsc::Receiver<Completion>,
    memory: HostPool,
    pool: PoolId,
    content: Content,
}

fn namespace() -> Namespace {
    let shape = KvShape { layers: 4, planes: 2, page_bytes: 8 << 10 };
    Namespace { block_tokens: 64, ..content::namespace("test", shape) }
}

impl Node {
    pub fn start(spec: &Spec) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shell = shell(spec, &runtime);
        let handle = shell.handle();
        let (client, completions) = handle.join().unwrap();
        let memory = HostPool::create(PoolOrder::LayerMajor.layout(namespace().shape, SLOTS));
        let memory = memory.unwrap();
        let pool = runtime.block_on(async {
            handle.call(client, Command::hello(namespace())).await.unwrap();
            let fd = memory.memory().as_fd().try_clone_to_owned().unwrap();
            let claim = ClaimedPool { shard: 0, layout: *memory.layout() };
            handle.register_pool(client, LentMemory::Shared(fd), claim).await.unwrap()
        });
        let (shell, content) = (Some(shell), Content::new(7));
        Self { runtime, shell, handle, client, completions, memory, pool, content }
    }

    fn ask(&self, command: Command) -> Result<Reply, Refusal> {
        self.runtime.block_on(self.handle.call(self.client, command))
    }

    pub fn keys(&self, ids: &[u64]) -> Vec<Key> {
        let digest = namespace().digest();
        ids.iter().map(|id| digest.key(&self.content.engine_hash(*id))).collect()
    }

    fn ended(&mut self) -> Completion {
        self.runtime.block_on(self.completions.recv()).expect("the manager lives")
    }

    /// Stores a chain from its root, with one wish for all of it.
    pub fn store(&mut self, ids: &[u64], wish: Option<Wish>) {
        self.store_behind(None, ids, wish);
    }

    /// Stores what follows a block.
    pub fn store_behind(&mut self, parent: Option<u64>, ids: &[u64], wish: Option<Wish>) {
        let (reply, failed) = self.offer(parent, ids, wish);
        assert_eq!(failed, Vec::<u32>::new(), "{:?}", self.status());
        assert!(matches!(reply, Ok(Reply::Store { dropped: 0, clipped: 0, .. })), "{reply:?}");
    }

    /// The same as far as there is room; which blocks found none only later.
    pub fn offer(
        &mut self,
        parent: Option<u64>,
        ids: &[u64],
        wish: Option<Wish>,
    ) -> (Result<Reply, Refusal>, Vec<u32>) {
        let slots: Vec<u32> = (0..SLOTS).take(ids.len()).collect();
        let mut block = vec![0; BLOCK_BYTES];
        for (slot, id) in slots.iter().zip(ids) {
            self.content.fill(*id, 0, &mut block);
            self.memory.write_block(*slot, &block).unwrap();
        }
        let claims = wish.map(|wish| Directive { tokens: TokenRange::ALL, wish });
        let reply = self.ask(Command::Store {
            request: REQUEST,
            session: None,
            directives: Directives::admit(claims.into_iter().collect()).unwrap(),
            parent: parent.map(|parent| self.keys(&[parent])[0]),
            keys: self.keys(ids),
            labels: Labels::default(),
            pool: self.pool,
            slots,
            durable: false,
        });
        let failed = self.ended().failed;
        (reply, failed)
    }

    /// How many of the chain's first blocks are found, and in which tiers.
    pub fn found(&self, ids: &[u64], ask_shared: Duration) -> Vec<(Tier, u32)> {
        let keys = self.keys(ids);
        let lookup =
            Command::Lookup { request: REQUEST, session: None, keys, ask_shared, queued: false };
        let Ok(Reply::Lookup { runs, .. }) = self.ask(lookup) else { panic!("a lookup") };
        let end = Command::EndRequest {
            request: REQUEST,
            stop: Stop::Unknown,
            output_tokens: 0,
            prefill: None,
        };
        self.ask(end).unwrap();
        runs.iter().map(|run| (run.tier, run.blocks)).collect()
    }

    pub fn count(&self, ids: &[u64]) -> u32 {
        self.found(ids, Duration::ZERO).iter().map(|(_, blocks)| blocks).sum()
    }

    /// Loads blocks over what the slots held and compares all that came; gives those that failed.
    pub fn load(&mut self, ids: &[u64]) -> Vec<u32> {
        let slots: Vec<u32> = (0..SLOTS).take(ids.len()).collect();
        for slot in &slots {
            self.memory.write_block(*slot, &vec![0xee; BLOCK_BYTES]).unwrap();
        }
        let (keys, pool) = (self.keys(ids), self.pool);
        let load = Command::Load { request: REQUEST, keys, pool, slots, timeout: PATIENCE };
        self.ask(load).unwrap();
        let failed = self.ended().failed;
        let mut block = vec![0; BLOCK_BYTES];
        for (slot, id) in (0..).zip(ids).filter(|(slot, _)| !failed.contains(slot)) {
            self.memory.read_block(slot, &mut block).unwrap();
            assert!(self.content.matches(*id, 0, &block), "block {id} has wrong bytes");
        }
        failed
    }

    pub fn retain(&self, ids: &[u64], wish: Wish) {
        let action = Action::Retain { target: Target::Keys(self.keys(ids)), wish };
        let reply = self.ask(Command::Hint { actions: vec![action] });
        let Ok(Reply::Hint { outcomes }) = reply else { panic!("{reply:?}") };
        assert!(matches!(outcomes[..], [Outcome::Accepted { .. }]), "{outcomes:?}");
    }

    pub fn inspect(&self, id: u64) -> Option<BlockStatus> {
        let key = self.keys(&[id])[0];
        match self.ask(Command::Inspect { key }) {
            Ok(Reply::Inspect(found)) => Some(*found),
            Err(Refusal::NotFound(_)) => None,
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&self) -> Status {
        match self.ask(Command::Status) {
            Ok(Reply::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until it is so.
    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let waiting = Stopwatch::start();
        while !reached(self) {
            assert!(waiting.elapsed() < PATIENCE, "never came: {what}; {:?}", self.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn settle(&mut self) {
        self.until("everything landed", |node| {
            let status = node.status();
            status.transfers_in_flight + status.transfers_queued + status.ops_in_flight == 0
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.client_gone(self.client);
        if let Some(shell) = self.shell.take() {
            shell.stop(Duration::from_secs(10));
        }
    }
}

/// A clock that somebody set wrong.
struct SkewedClock(SystemClock, i64);

impl Clock for SkewedClock {
    fn now(&self) -> Time {
        let skew = Duration::from_secs(self.1.unsigned_abs());
        let micros = u64::try_from(skew.as_micros()).unwrap();
        let now = self.0.now().micros;
        Time { micros: if self.1 < 0 { now - micros } else { now + micros } }
    }
}

fn shell(spec: &Spec, runtime: &Runtime) -> Shell {
    let staging_bytes = CHUNK_BYTES;
    let config = ArenaConfig { tier_bytes: CHUNK_BYTES, staging_bytes, pretouch_threads: 0 };
    let arena = Arc::new(Arena::new(config).unwrap());
    let device = HostDeviceConfig { tier_bytes: 0, pretouch_threads: 0 };
    let device = HostDevice::new(Arc::clone(&arena), device).unwrap();
    let (nvme, node_id) = match spec.nvme {
        0 => (None, spec.node_id),
        _ => {
            let config = NvmeConfig::new(&spec.nvme_dir, CHUNK_BYTES);
            let (store, facts) = nvme::open(&config, &arena).unwrap();
            (Some(store), facts.node_id)
        }
    };
    let folder = ObjectTarget::Dir { path: spec.object_dir.clone(), fsync: false };
    let target = spec.object_url.as_ref().map_or(folder, |url| url.parse().unwrap());
    let packs = spec.packs.then(|| PackOptions::new(node_id));
    let options = ObjectOptions { packs, ..ObjectOptions::default() };
    let object = (spec.object > 0)
        .then(|| object::open(&target, options, &arena, runtime.handle()).unwrap());
    let tier = |slots_max: u64, capacity_bytes: u64, recovers: bool| {
        (slots_max > 0).then_some(TierConfig { capacity_bytes, slots_max, recovers })
    };
    let object_bytes = (spec.object * FRAME_BYTES).next_multiple_of(CHUNK_BYTES);
    let tiers = [
        None,
        tier(spec.dram, CHUNK_BYTES, false),
        tier(spec.nvme, CHUNK_BYTES, true),
        tier(spec.object, object_bytes, false),
    ];
    let mut config = ManagerConfig::with_tiers(tiers);
    config.rewrites.delay = REWRITE_DELAY;
    // Which blocks sink is plain to see with it.
    config.policy = PolicyName::Lru;
    let parts = ShellParts {
        config,
        clock: Arc::new(SkewedClock(SystemClock::start(), spec.skew_s)),
        runtime: runtime.handle().clone(),
        staging: CHUNK_BYTES..arena.len_bytes(),
        arena,
        device: Arc::new(device),
        nvme,
        object,
        node_id,
        journal_changes_max: 0,
    };
    Shell::start(parts).unwrap()
}
