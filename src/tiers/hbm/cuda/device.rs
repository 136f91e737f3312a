//! The CUDA device: the HBM tier on a GPU, and engines' pools on any.
//!
//! Its threads only queue copies, wait for them, and look at engines' events; `done` is called on those that
//! wait.

use std::sync::Arc;

use super::super::device::{BlockCopy, CopiesDone, Device, EngineCame, Exported, Stream};
use super::super::pool::{ClaimedPool, EnginePool, LentMemory};
use super::calibration::Calibration;
use super::core::Core;
use super::driver::{Driver, DriverError, GpuFacts};
use super::gpus::{self, Finder, Gpu, Gpus};
use super::plain::PlainCopies;
use super::pool::{self, OpenPool};
use super::tune::{self, Trial};
use super::watch::{Call, Watch};
use crate::domain::units::{Bytes, CHUNK_BYTES};
use crate::tiers::dram::Arena;

/// How a CUDA device is made.
#[derive(Clone, Copy, Debug)]
pub struct CudaConfig {
    /// The HBM tier's memory on the GPU: whole chunks, zero when the tier is absent.
    pub tier_bytes: u64,
    /// The most multiprocessors that copy kernels hold at a time over PCIe, so that decoding is not
    /// disturbed; zero: no kernels.
    pub multiprocessors_max: u32,
}

impl CudaConfig {
    /// What copy kernels may hold where no setting says otherwise.
    pub const MULTIPROCESSORS_DEFAULT: u32 = 8;
}

/// How the device gets its table.
#[derive(Clone, Debug)]
pub(super) enum Tuning {
    Measure(Trial),
    #[cfg(test)]
    Given(Calibration),
}

/// A GPU, and others that engines' pools lie on.
pub struct CudaDevice {
    gpus: Gpus,
    watch: Watch,
}

impl CudaDevice {
    /// Takes the GPU into use: registers the arena, takes the tier's memory, measures the ways to
    /// copy. `find` takes others into use later.
    pub(super) fn with_driver(
        driver: &Arc<dyn Driver>,
        arena: Arc<Arena>,
        config: CudaConfig,
        tuning: &Tuning,
        find: Box<Finder>,
    ) -> Result<Self, String> {
        let CudaConfig { tier_bytes, multiprocessors_max } = config;
        if !tier_bytes.is_multiple_of(CHUNK_BYTES) {
            return Err(format!(
                "the HBM tier of {tier_bytes} bytes is not whole chunks of 64 MiB"
            ));
        }
        let groups_max = multiprocessors_max.min(driver.facts().multiprocessors);
        let no_room = |error: DriverError| no_room(driver, &error);
        let parts = Gpu::parts(driver, groups_max).map_err(no_room)?;
        let table = match tuning {
            Tuning::Measure(trial) => {
                tune::measure(driver, &gpus::copiers(&parts), *trial).map_err(no_room)?
            }
            #[cfg(test)]
            Tuning::Given(table) => table.clone(),
        };
        let core = Core::new(driver, arena, tier_bytes, table)?;
        let home = Gpu::start(core, parts)?;
        let watch = Watch::start().map_err(|error| format!("can't start a thread: {error}"))?;
        Ok(Self { gpus: Gpus::new(home, find, groups_max), watch })
    }

    #[must_use]
    pub fn facts(&self) -> &GpuFacts {
        self.core().driver.facts()
    }

    /// How fast each way of copying was at the start.
    #[must_use]
    pub fn calibration(&self) -> &Calibration {
        &self.core().table
    }

    /// Plain memories of `bytes` bytes beside the device's own, and twice as much on the GPU, to
    /// measure what single copies reach.
    ///
    /// # Errors
    /// There is no room for them; the text says what to do.
    pub fn plain_copies(&self, bytes: u64) -> Result<PlainCopies, String> {
        PlainCopies::new(&self.core().driver, bytes).map_err(|error| {
            format!(
                "no room on {} for {} to hold copies against: {error}: measure with less",
                self.facts(),
                Bytes(3 * bytes)
            )
        })
    }

    fn core(&self) -> &Core {
        &self.gpus.home.core
    }

    /// Flips a bit of the tier's byte at `offset`, while no copy is under way.
    #[cfg(test)]
    pub(super) fn flip_bit(&self, offset: u64) {
        use super::super::runs::Run;
        use super::memory::{Event, MappedMemory, OwnStream};

        let driver = &self.core().driver;
        let there = self.core().tier().expect("the test has a tier").at + offset;
        let here = MappedMemory::new(driver, 8).unwrap();
        let (stream, landed) = (OwnStream::new(driver).unwrap(), Event::new(driver).unwrap());
        let copy = |from, to| {
            // SAFETY: a byte of the tier and one of `here`, which outlive the wait.
            unsafe { driver.copy(Run { from, to, bytes: 1 }, stream.id) }.unwrap();
            driver.record(landed.id, stream.id).unwrap();
            driver.wait(landed.id).unwrap();
        };
        here.write(0, &[0_u64]);
        copy(there, here.at);
        here.write(0, &[here.read(0, 1)[0] ^ 1]);
        copy(here.at, there);
    }
}

impl Device for CudaDevice {
    fn tier_bytes(&self) -> u64 {
        self.core().tier_bytes()
    }

    fn submit(&self, stream: Stream, copies: Vec<BlockCopy>, done: CopiesDone) {
        self.gpus.submit(stream, copies, done);
    }

    fn admit(&self, memory: LentMemory, claim: ClaimedPool) -> Result<EnginePool, String> {
        match memory {
            LentMemory::Shared(fd) => pool::admit_shared(&self.core().driver, fd, claim),
            LentMemory::Cuda(cuda) => {
                claim.check_shard()?;
                cuda.check(&claim.layout)?;
                pool::admit_cuda(&self.gpus.driver_of(cuda.device_uuid)?, &cuda, claim)
            }
        }
    }

    fn await_engine(&self, pool: &Arc<EnginePool>, came: EngineCame) {
        match pool.opened_as::<OpenPool>().and_then(OpenPool::gpu) {
            Some(gpu) if pool.has_events() => {
                let (pool, core) = (Arc::clone(pool), self.gpus.core_of(gpu));
                self.watch.call(Call { pool, core, came });
            }
            _ => came(true),
        }
    }

    fn export(&self) -> Result<Option<Exported>, String> {
        let Some(tier) = self.core().tier() else { return Ok(None) };
        let handle = self.core().driver.export_memory(tier.at).map_err(|error| {
            format!(
                "the HBM tier can't be shared: {error}: its driver must allow CUDA IPC, which it \
                 does not under MIG or WSL"
            )
        })?;
        let device_uuid = self.facts().uuid;
        Ok(Some(Exported::Cuda { device_uuid, handle, bytes: self.tier_bytes() }))
    }

    fn copies_by_processor(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        self.facts().to_string()
    }
}

fn no_room(driver: &Arc<dyn Driver>, error: &DriverError) -> String {
    format!(
        "{} can't be taken into use: {error}: free about 200 MB on it, or set hbm.device to \
         another one or to host",
        driver.facts()
    )
}
