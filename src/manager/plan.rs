//! Load or recompute: what a lookup advises, from what the links and the engine were seen to do.
//!
//! Moves nothing: an engine may follow the advice or not.

use std::time::Duration;

use crate::domain::planner::{Plan, Stretch, plan};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::movement::{Class, Link};

use super::Manager;
use super::api::{ClientId, Prefill, RequestId, Run};

/// How fast one engine computes KV: as it said, corrected by what it measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PrefillRate {
    tokens_per_s: Option<f64>,
}

/// What one report counts against all before. A few are enough, one odd one does little.
const REPORT_WEIGHT: f64 = 0.2;

/// The pace of a prefill of fewer tokens says more of the call than of the model.
const REPORT_TOKENS_MIN: u32 = 16;

impl PrefillRate {
    pub fn declared(tokens_per_s: Option<u32>) -> Self {
        Self { tokens_per_s: tokens_per_s.map(f64::from) }
    }

    fn reported(&mut self, prefill: Prefill) {
        if prefill.tokens < REPORT_TOKENS_MIN || prefill.took.is_zero() {
            return;
        }
        let seen = f64::from(prefill.tokens) / prefill.took.as_secs_f64();
        let before = self.tokens_per_s.unwrap_or(seen);
        self.tokens_per_s = Some(before + REPORT_WEIGHT * (seen - before));
    }

    fn takes(&self, tokens: u32) -> Option<Duration> {
        let seconds = f64::from(tokens) / self.tokens_per_s?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

/// What calling costs one engine, on top of what moves: from the answer to a lookup until the load
/// that follows it is here, which is one way each, as are the load's call and its completion.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CallCost {
    takes: Duration,
    answered: Option<(RequestId, Time)>,
}

/// Whoever loads later than this after its lookup had something else to do.
const CALL_MAX: Duration = Duration::from_millis(2);

/// What one call counts against all before.
const CALL_WEIGHT: f64 = 0.1;

impl CallCost {
    const fn answered(&mut self, now: Time, request: RequestId) {
        self.answered = Some((request, now));
    }

    fn called(&mut self, now: Time, request: RequestId) {
        let Some((_, since)) = self.answered.take_if(|(answered, _)| *answered == request) else {
            return;
        };
        let seen = now.since(since);
        if seen > CALL_MAX {
            return;
        }
        let before = if self.takes.is_zero() { seen } else { self.takes };
        self.takes = before.mul_f64(1.0 - CALL_WEIGHT) + seen.mul_f64(CALL_WEIGHT);
    }
}

/// The links that a block of this tier takes into the engine, in order.
const fn road(tier: Tier) -> &'static [Link] {
    match tier {
        Tier::Hbm => &[Link::DeviceLocal],
        Tier::Dram => &[Link::DeviceUp],
        Tier::Nvme => &[Link::NvmeRead, Link::DeviceUp],
        Tier::Object => &[Link::ObjectGet, Link::DeviceUp],
    }
}

impl Manager {
    pub(super) fn prefill_reported(&mut self, client: ClientId, prefill: Prefill) {
        let entry = self.clients.get_mut(&client).expect("the caller knows the client");
        entry.prefill.reported(prefill);
    }

    /// A load of the request is here.
    pub(super) fn load_called(&mut self, client: ClientId, request: RequestId) {
        if let Some(entry) = self.clients.get_mut(&client) {
            entry.call.called(self.now, request);
        }
    }

    /// What to load of the prefix in `runs`, of `asked` blocks that the request needs.
    pub(super) fn plan(
        &mut self,
        (client, request): (ClientId, RequestId),
        asked: usize,
        runs: &[Run],
    ) -> Plan {
        let entry = self.clients.get_mut(&client).expect("the caller knows the client");
        entry.call.answered(self.now, request);
        let call = entry.call.takes;
        let entry = &self.clients[&client];
        let namespace = self.namespace(entry.namespace);
        let block_compute = entry.prefill.takes(namespace.block_tokens());
        let asked = u32::try_from(asked).unwrap_or(u32::MAX);
        plan(&self.stretches(namespace.payload_bytes, call, runs), asked, block_compute)
    }

    /// When each run can be in the engine that is asked for it in a `call`, as things stand: links
    /// work side by side, each after what goes first there.
    fn stretches(&self, block_bytes: u64, call: Duration, runs: &[Run]) -> Vec<Stretch> {
        let ahead = |link: Link| self.links.bytes_ahead(link, Class::Demand);
        let mut queued_bytes = Link::ALL.map(ahead);
        let stretch = |run: &Run| {
            let run_bytes = block_bytes.saturating_mul(run.blocks.into());
            let (mut first, mut last) = (call, call);
            let mut passing = call;
            for link in road(run.tier) {
                let speed = self.links.speed(self.now, *link);
                let queued = &mut queued_bytes[link.index()];
                let cut = self.links.cut_bytes(self.now, *link, Class::Demand);
                let piece = speed.moving(cut.clamp(block_bytes, run_bytes.max(block_bytes)));
                // What comes over a link goes on piece by piece.
                let latency = passing + speed.latency();
                first = first.max(speed.moving(*queued) + piece + latency);
                *queued = queued.saturating_add(run_bytes);
                last = last.max(speed.moving(*queued) + latency);
                passing = latency + piece;
            }
            Stretch { blocks: run.blocks, first, last: last.max(first) }
        };
        runs.iter().map(stretch).collect()
    }
}
