//! One engine on a daemon: asks for a request's blocks, compares what comes, stores what is missing.
//!
//! Several windows of the pool are under way at once, so that the daemon copies one while another
//! is compared or filled.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::{
    Client, ClientConfig, ClientError, Completion, HostPool, Lookup, Op, PoolHandle, PoolOrder,
    RequestId, Run,
};
use crate::domain::namespace::Namespace;
use crate::domain::planner::Plan;
use crate::domain::units::Time;
use crate::env::{self, Stopwatch};
use crate::workload::Request;
use crate::workload::content::Content;

use super::LiveError;
use super::chain::{Chain, Stretch, stretches};
use super::tally::Tally;
use super::windows::Windows;

/// A load that has not started by then is not worth waiting for.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a call is tried again when the daemon says that it is busy.
const TRIES_MAX: u32 = 100;

pub(super) struct Engine {
    client: Client,
    pool: HostPool,
    handle: PoolHandle,
    windows: Windows,
    content: Content,
    clock: Stopwatch,
    block: Vec<u8>,
    pub(super) tally: Tally,
}

/// A load under way: what was asked for, into which slots, and how it will have ended.
struct Flight {
    stretch: Stretch,
    slots: Vec<u32>,
    started: Duration,
    end: JoinHandle<(Duration, Result<Completion, ClientError>)>,
}

impl Engine {
    pub(super) async fn join(
        socket: &std::path::Path,
        namespace: Namespace,
        content: Content,
    ) -> Result<Self, LiveError> {
        let block_bytes = namespace.payload_bytes();
        let shape = namespace.shape;
        let client = Client::connect(socket, ClientConfig::new("replay", namespace)).await?;
        let limits = client.welcome().limits;
        let windows = Windows::of_blocks(block_bytes, limits.transfer_blocks_max);
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(shape, windows.slots()))?;
        let handle = client.register_pool(&pool, 0).await?;
        let block_len = usize::try_from(block_bytes).expect("a block is smaller than a chunk");
        Ok(Self {
            client,
            pool,
            handle,
            windows,
            content,
            clock: Stopwatch::start(),
            block: vec![0; block_len],
            tally: Tally::default(),
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// One request from its lookup to its end.
    pub(super) async fn request(&mut self, request: &Request) -> Result<(), LiveError> {
        let blocks_max = self.client.welcome().limits.lookup_blocks_max;
        let chain = Chain::of(request, self.content, blocks_max);
        let id = RequestId(self.tally.requests + 1);
        let found = self.lookup(id, &chain).await?;
        let usable = self.load(id, &chain, &found.runs).await?;
        let block_tokens = self.client.namespace().block_tokens;
        self.tally.request(request, (&found.runs, usable), block_tokens);
        self.tally.left_out += chain.left_out();
        self.store(id, &chain, usable).await?;
        patiently(|| self.client.end_request(id)).await?;
        Ok(())
    }

    async fn lookup(&mut self, id: RequestId, chain: &Chain) -> Result<Lookup, LiveError> {
        if chain.len() == 0 {
            return Ok(nothing());
        }
        let started = self.clock.elapsed();
        let found = patiently(|| self.client.lookup(id, chain.hashes(0..chain.len()))).await?;
        self.tally.lookup_took(self.clock.elapsed().saturating_sub(started));
        Ok(found)
    }

    /// Loads what was found and says how much of it, from the root on, came as it should.
    async fn load(
        &mut self,
        id: RequestId,
        chain: &Chain,
        runs: &[Run],
    ) -> Result<usize, LiveError> {
        let mut usable = runs.iter().map(|run| run.blocks as usize).sum();
        let mut flying = VecDeque::new();
        for stretch in stretches(runs, self.windows.blocks()) {
            if flying.len() == self.windows.count()
                && let Some(flight) = flying.pop_front()
            {
                usable = self.land(chain, flight).await?.unwrap_or(usable).min(usable);
            }
            flying.push_back(self.start_load(id, chain, stretch).await?);
        }
        while let Some(flight) = flying.pop_front() {
            usable = self.land(chain, flight).await?.unwrap_or(usable).min(usable);
        }
        Ok(usable)
    }

    async fn start_load(
        &mut self,
        id: RequestId,
        chain: &Chain,
        stretch: Stretch,
    ) -> Result<Flight, LiveError> {
        let slots = self.windows.take(stretch.blocks.len());
        let hashes = chain.hashes(stretch.blocks.clone());
        let started = self.clock.elapsed();
        let op =
            patiently(|| self.client.load(id, hashes.clone(), self.handle, &slots, LOAD_TIMEOUT))
                .await?;
        // On a task of its own, so that its end is timed while this one compares other blocks.
        let (client, clock) = (self.client.clone(), self.clock);
        let end = env::spawn_task(async move {
            let end = client.wait(op).await;
            (clock.elapsed(), end)
        });
        Ok(Flight { stretch, slots, started, end })
    }

    /// Waits for a load and compares every byte of it. Gives the first block of the chain that did
    /// not come as it should, if there is one.
    async fn land(&mut self, chain: &Chain, flight: Flight) -> Result<Option<usize>, LiveError> {
        let Flight { stretch, slots, started, end } = flight;
        let (ended, completion) =
            end.await.map_err(|_| ClientError::SessionLost("the waiting was given up".into()))?;
        let failed = completion?.failed;
        let landed = (slots.len() - failed.len()) as u64;
        let bytes = landed * self.block.len() as u64;
        self.tally.load_took(stretch.tier, started, ended, bytes);
        self.tally.failed_loads += failed.len() as u64;
        let mut first_bad = None;
        let ids = chain.ids(stretch.blocks.clone());
        for (at, (slot, id)) in (0_u32..).zip(slots.iter().zip(ids)) {
            if failed.binary_search(&at).is_ok() || !self.compare(*slot, *id)? {
                first_bad = first_bad.or(Some(stretch.blocks.start + at as usize));
            }
        }
        Ok(first_bad)
    }

    fn compare(&mut self, slot: u32, id: u64) -> Result<bool, LiveError> {
        self.pool.read_block(slot, &mut self.block)?;
        let right = self.content.matches(id, 0, &self.block);
        self.tally.bytes_verified += self.block.len() as u64;
        self.tally.corrupt_blocks += u64::from(!right);
        if !right {
            tracing::error!(block = id, "a loaded block is not what was stored");
        }
        Ok(right)
    }

    /// Stores the chain's blocks from `first` on, as an engine that has just computed them.
    async fn store(&mut self, id: RequestId, chain: &Chain, first: usize) -> Result<(), LiveError> {
        let mut flying: VecDeque<Op> = VecDeque::new();
        let window = self.windows.blocks();
        for start in (first..chain.len()).step_by(window) {
            if flying.len() == self.windows.count()
                && let Some(op) = flying.pop_front()
            {
                self.stored(op).await?;
            }
            let (op, dropped) =
                self.start_store(id, chain, start..chain.len().min(start + window)).await?;
            flying.push_back(op);
            if dropped > 0 {
                // What follows would hang on blocks that are not there.
                break;
            }
        }
        while let Some(op) = flying.pop_front() {
            self.stored(op).await?;
        }
        Ok(())
    }

    async fn start_store(
        &mut self,
        id: RequestId,
        chain: &Chain,
        blocks: Range<usize>,
    ) -> Result<(Op, u32), LiveError> {
        let slots = self.windows.take(blocks.len());
        for (slot, block) in slots.iter().zip(chain.ids(blocks.clone())) {
            self.content.fill(*block, 0, &mut self.block);
            self.pool.write_block(*slot, &self.block)?;
        }
        let (parent, hashes) = (chain.parent(blocks.start), chain.hashes(blocks));
        let stored = patiently(|| {
            self.client.store(id, parent.as_deref(), hashes.clone(), self.handle, &slots)
        })
        .await?;
        Ok((stored.op, stored.dropped))
    }

    async fn stored(&mut self, op: Op) -> Result<(), LiveError> {
        let completion = self.client.wait(op).await?;
        self.tally.failed_stores += completion.failed.len() as u64;
        Ok(())
    }
}

/// A request of less than a block.
fn nothing() -> Lookup {
    let (lease_expires, plan) = (Time::ZERO, Plan::default());
    Lookup { runs: Vec::new(), matched_blocks: 0, lease: None, lease_expires, plan }
}

/// Makes a call again while the daemon says when to come back.
async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    for _ in 0..TRIES_MAX {
        match call().await {
            Err(ClientError::Busy { retry_after, .. }) => sleep(retry_after).await,
            end => return end,
        }
    }
    call().await
}
