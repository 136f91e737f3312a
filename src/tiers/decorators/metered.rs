//! A store whose operations are counted and timed.
//!
//! Never changes an operation or its answer. `observe::names` describes the metrics.

use std::sync::Arc;

use metrics::{Counter, Histogram, counter, histogram};

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::env::Stopwatch;
use crate::tiers::frame::FrameHeader;
use crate::tiers::health::Health;
use crate::tiers::store::{Done, FoundFrame, Peeked, StoreError, StoreOp, TierStore};

/// How long operations took, in seconds, by tier and op.
pub const OP_SECONDS: &str = "terrace_tier_op_seconds";
/// Bytes of frames moved by operations that ended well, by tier and op.
pub const BYTES_TOTAL: &str = "terrace_tier_bytes_total";
/// Operations that failed, by tier and op.
pub const ERRORS_TOTAL: &str = "terrace_tier_errors_total";

/// A measured store. Make it after the recorder of metrics is installed: what it reports to is
/// settled then.
pub struct Metered {
    store: Arc<dyn TierStore>,
    writes: Arc<Meter>,
    reads: Arc<Meter>,
    erases: Arc<Meter>,
    restamps: Arc<Meter>,
    peeks: Arc<Meter>,
    syncs: Arc<Meter>,
}

struct Meter {
    seconds: Histogram,
    bytes: Counter,
    errors: Counter,
}

impl Metered {
    #[must_use]
    pub fn new(store: Arc<dyn TierStore>) -> Self {
        let tier = store.tier().name();
        let meter = |op: &'static str| {
            Arc::new(Meter {
                seconds: histogram!(OP_SECONDS, "tier" => tier, "op" => op),
                bytes: counter!(BYTES_TOTAL, "tier" => tier, "op" => op),
                errors: counter!(ERRORS_TOTAL, "tier" => tier, "op" => op),
            })
        };
        Self {
            store,
            writes: meter("write"),
            reads: meter("read"),
            erases: meter("erase"),
            restamps: meter("restamp"),
            peeks: meter("peek"),
            syncs: meter("sync"),
        }
    }
}

impl TierStore for Metered {
    fn tier(&self) -> Tier {
        self.store.tier()
    }

    fn erasures_max(&self) -> usize {
        self.store.erasures_max()
    }

    fn leaves_others(&self) -> bool {
        self.store.leaves_others()
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    fn submit(&self, op: StoreOp, done: Done) {
        let (meter, bytes) = match op {
            StoreOp::Write { frame, .. } => (&self.writes, frame.bytes),
            StoreOp::Read { frame, .. } => (&self.reads, frame.bytes),
            StoreOp::Erase { .. } => (&self.erases, 0),
            StoreOp::Restamp { .. } => (&self.restamps, 0),
        };
        self.store.submit(op, measured(meter, bytes.into(), done));
    }

    fn peek(&self, key: Key, told: Peeked) {
        let (meter, watch) = (Arc::clone(&self.peeks), Stopwatch::start());
        let measured = move |found: Result<FrameHeader, StoreError>| {
            meter.seconds.record(watch.elapsed().as_secs_f64());
            // Not being there is what most of them are asked for.
            if !matches!(found, Ok(_) | Err(StoreError::Missing(_))) {
                meter.errors.increment(1);
            }
            told(found);
        };
        self.store.peek(key, Box::new(measured));
    }

    fn sync(&self, done: Done) {
        self.store.sync(measured(&self.syncs, 0, done));
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.store.scan(found)
    }
}

/// `done`, with the time until then, and with `bytes` if all went well.
fn measured(meter: &Arc<Meter>, bytes: u64, done: Done) -> Done {
    let (meter, watch) = (Arc::clone(meter), Stopwatch::start());
    Box::new(move |result| {
        meter.seconds.record(watch.elapsed().as_secs_f64());
        match &result {
            Ok(()) | Err(StoreError::Outdone(_)) => meter.bytes.increment(bytes),
            Err(_) => meter.errors.increment(1),
        }
        done(result);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::decorators::check_contract;
    use crate::tiers::memory::MemoryStore;
    use crate::tiers::sample::{self, Sample};
    use crate::tiers::store::Erasure;

    #[test]
    fn keeps_the_contract() {
        check_contract(|inside, _| Metered::new(inside));
    }

    #[test]
    fn operations_bytes_and_errors_are_counted_by_tier_and_op() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let arena = sample::arena();
        let inside = Arc::new(MemoryStore::new(Tier::Nvme, Arc::clone(&arena)));
        let store = metrics::with_local_recorder(&recorder, || Metered::new(inside));
        let block = Sample { number: 1, payload_bytes: 20_000 };
        let (here, nowhere) = (block.place(0, 0), block.place(0, 1));
        sample::write(&store, &arena, block, here).unwrap();
        sample::read(&store, &arena, block, here).unwrap();
        sample::read(&store, &arena, block, nowhere).unwrap_err();
        sample::run(
            &store,
            StoreOp::Erase { key: block.key(), place: here, why: Erasure::Unusable },
        )
        .unwrap();
        let (told, ended) = std::sync::mpsc::sync_channel(1);
        store.sync(Box::new(move |result| told.send(result).unwrap()));
        ended.recv().unwrap().unwrap();
        let shown = recorder.handle().render();
        let frame_bytes = block.frame_bytes();
        for line in [
            format!("terrace_tier_bytes_total{{tier=\"nvme\",op=\"write\"}} {frame_bytes}"),
            format!("terrace_tier_bytes_total{{tier=\"nvme\",op=\"read\"}} {frame_bytes}"),
            "terrace_tier_errors_total{tier=\"nvme\",op=\"read\"} 1".into(),
            "terrace_tier_errors_total{tier=\"nvme\",op=\"write\"} 0".into(),
            "terrace_tier_op_seconds_count{tier=\"nvme\",op=\"read\"} 2".into(),
            "terrace_tier_op_seconds_count{tier=\"nvme\",op=\"erase\"} 1".into(),
            "terrace_tier_op_seconds_count{tier=\"nvme\",op=\"sync\"} 1".into(),
            "terrace_tier_errors_total{tier=\"nvme\",op=\"sync\"} 0".into(),
        ] {
            assert!(shown.contains(&line), "no line `{line}` in\n{shown}");
        }
    }
}
