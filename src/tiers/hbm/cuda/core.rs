//! What all streams of a CUDA device share: its memories, and whether it is still there.
//!
//! Finds addresses; copies nothing.

use std::slice;
use std::sync::{Arc, OnceLock};

use super::super::chunks::{Beginning, Chunks};
use super::super::device::{BlockCopy, CopyEnd};
use super::super::ends::{self, Side, shards_of, unfit};
use super::super::geometry::BlockGeometry;
use super::calibration::Calibration;
use super::driver::{Driver, DriverError};
use super::memory::{DeviceMemory, Event, Registered};
use super::piece::{Piece, Sheet};
use super::pool::OpenPool;
use crate::tiers::dram::Arena;
use crate::tiers::store::StoreError;

/// What all streams share.
pub(super) struct Core {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) table: Calibration,
    arena: Arc<Arena>,
    /// The arena as every GPU sees it.
    registered: Arc<Registered>,
    tier: Option<Arc<DeviceMemory>>,
    tier_bytes: u64,
    pub(super) chunks: Arc<Chunks>,
    /// Why the GPU is lost to this process, once it is.
    lost: OnceLock<String>,
}

/// A copy with its addresses.
pub(super) struct Located<'a> {
    pub(super) piece: Piece<'a>,
    /// Whether an end lies on another GPU: the copy engines reach it, kernels may not.
    pub(super) far: bool,
}

impl Core {
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        arena: Arc<Arena>,
        tier_bytes: u64,
        table: Calibration,
    ) -> Result<Self, String> {
        let registered = Registered::new(driver, Arc::clone(&arena) as _).map_err(|error| {
            format!(
                "the DRAM arena of {} bytes can't be shown to the GPU: {error}: lower \
                     dram.capacity, or raise the container's limit of locked memory",
                arena.len_bytes()
            )
        })?;
        let tier = (tier_bytes > 0).then(|| DeviceMemory::new(driver, tier_bytes)).transpose();
        let tier = tier.map_err(|error| {
            format!(
                "the HBM tier of {tier_bytes} bytes has no room on {}: {error}: lower \
                 hbm.capacity, or leave the engine less of the GPU",
                driver.facts()
            )
        })?;
        Ok(Self {
            driver: Arc::clone(driver),
            table,
            arena,
            registered: Arc::new(registered),
            tier: tier.map(Arc::new),
            tier_bytes,
            chunks: Chunks::new(tier_bytes),
            lost: OnceLock::new(),
        })
    }

    /// The same memories as another GPU sees them, with its driver and its table.
    pub(super) fn beside(&self, driver: &Arc<dyn Driver>, table: Calibration) -> Self {
        Self {
            driver: Arc::clone(driver),
            table,
            arena: Arc::clone(&self.arena),
            registered: Arc::clone(&self.registered),
            tier: self.tier.clone(),
            tier_bytes: self.tier_bytes,
            chunks: Arc::clone(&self.chunks),
            lost: OnceLock::new(),
        }
    }

    /// Where the tier's memory lies on the GPU.
    pub(super) fn tier(&self) -> Option<&DeviceMemory> {
        self.tier.as_deref()
    }

    pub(super) fn tier_bytes(&self) -> u64 {
        self.tier_bytes
    }

    /// Checks both ends and finds their addresses.
    pub(super) fn locate<'a>(
        &'a self,
        copy: &'a BlockCopy,
        chunks: &mut Beginning<'_>,
    ) -> Result<Located<'a>, StoreError> {
        let shards = shards_of(copy)?;
        let from = self.find(&copy.from, copy.geometry, Side::From, chunks)?;
        let to = self.find(&copy.to, copy.geometry, Side::To, chunks)?;
        let piece = Piece { shape: copy.geometry.shape(), shards, from, to };
        let far = self.is_far(&copy.from) || self.is_far(&copy.to);
        Ok(Located { piece, far })
    }

    fn is_far(&self, end: &CopyEnd) -> bool {
        let CopyEnd::Pool { pool, .. } = end else { return false };
        let gpu = pool.opened_as::<OpenPool>().and_then(OpenPool::gpu);
        gpu.is_some_and(|gpu| gpu != self.driver.facts().uuid)
    }

    fn find<'a>(
        &'a self,
        end: &'a CopyEnd,
        geometry: BlockGeometry,
        side: Side,
        chunks: &mut Beginning<'_>,
    ) -> Result<Sheet<'a>, StoreError> {
        match end {
            CopyEnd::Frame(span) => {
                ends::check_frame(&self.arena, *span, geometry)?;
                let map = geometry.in_frame(*span);
                let at = &self.registered.at;
                Ok(Sheet { base: *at, map, table: 0, seams: slice::from_ref(at) })
            }
            CopyEnd::Pool { pool, slot } => {
                ends::check_slot(pool, *slot, geometry)?;
                let open = pool.opened_as::<OpenPool>();
                let open = open.ok_or_else(|| unfit(format!("{pool:?} is not this device's")))?;
                Ok(open.sheet(&pool.claim().layout, *slot))
            }
            CopyEnd::Tier(place) => {
                side.begin(chunks, *place, geometry)?;
                let tier = self.tier.as_ref().expect("a memory of no bytes has no places");
                let map = geometry.in_tier(*place);
                let seams = slice::from_ref(&tier.at);
                Ok(Sheet { base: tier.at, map, table: 0, seams })
            }
        }
    }

    /// The error of a copy that the driver did not do; from a fatal one on, of all copies.
    pub(super) fn failed(&self, error: &DriverError) -> StoreError {
        if !error.is_fatal() {
            return unfit(error.to_string());
        }
        let why = format!(
            "the GPU is lost to this daemon: {error}: restart the daemon, and look into dmesg for \
             Xid messages; the other tiers go on"
        );
        StoreError::TierLost(self.lost.get_or_init(|| why).clone())
    }

    /// Whether the GPU is lost to this process: it does nothing that is asked of it.
    pub(super) fn finds_itself_lost(&self) -> bool {
        let asked = Event::new(&self.driver);
        matches!(asked.map_err(|error| self.failed(&error)), Err(StoreError::TierLost(_)))
    }

    /// Why no copy can be begun any more, if so.
    pub(super) fn lost(&self) -> Option<StoreError> {
        self.lost.get().map(|why| StoreError::TierLost(why.clone()))
    }
}
