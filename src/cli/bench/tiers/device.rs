//! Where HBM is while it is measured: this machine's memory, or a GPU.

use std::io;
use std::sync::Arc;

use crate::cli::Failure;
use crate::tiers::dram::Arena;
use crate::tiers::hbm::cuda::{self, CudaConfig, CudaDevice, GpuFacts, NoDriver};
use crate::tiers::hbm::{Device, DeviceChoice, HostDevice, HostDeviceConfig};

/// A device as the daemon opens it.
pub enum Hbm {
    Host(Arc<HostDevice>),
    Gpu(Arc<CudaDevice>),
}

impl Hbm {
    /// Opens what [`choose`] has found.
    ///
    /// # Errors
    /// There is no room, or the GPU can't be used; the text says what to do.
    pub fn open(
        choice: DeviceChoice,
        arena: &Arc<Arena>,
        tier_bytes: u64,
    ) -> Result<Self, Failure> {
        let arena = Arc::clone(arena);
        if let DeviceChoice::Cuda(ordinal) = choice {
            let config =
                CudaConfig { tier_bytes, multiprocessors_max: CudaConfig::MULTIPROCESSORS_DEFAULT };
            let device = cuda::open(ordinal, arena, config).map_err(Failure::Failed)?;
            return Ok(Self::Gpu(Arc::new(device)));
        }
        let config = HostDeviceConfig { tier_bytes, pretouch_threads: super::ground::cores() };
        let device = HostDevice::new(arena, config).map_err(|error| no_memory(&error))?;
        Ok(Self::Host(Arc::new(device)))
    }

    #[must_use]
    pub fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Host(device) => Arc::clone(device) as _,
            Self::Gpu(device) => Arc::clone(device) as _,
        }
    }
}

pub fn no_memory(error: &io::Error) -> Failure {
    Failure::Failed(format!("{error}; or measure with a smaller --set"))
}

/// What `--device` comes to on this machine, before anything is made for it; with the GPU, if it is one.
///
/// # Errors
/// The GPU that is named is not there.
pub fn choose(choice: DeviceChoice) -> Result<(DeviceChoice, Option<GpuFacts>), Failure> {
    match choice {
        DeviceChoice::Host => Ok((choice, None)),
        DeviceChoice::Auto | DeviceChoice::Cuda(_) => chosen(choice, &cuda::gpus()),
    }
}

fn chosen(
    choice: DeviceChoice,
    found: &Result<Vec<GpuFacts>, NoDriver>,
) -> Result<(DeviceChoice, Option<GpuFacts>), Failure> {
    if let Some(gpu) = choice.among(found.as_deref().unwrap_or_default()) {
        return Ok((DeviceChoice::Cuda(gpu.ordinal), Some(gpu.clone())));
    }
    let DeviceChoice::Cuda(ordinal) = choice else { return Ok((DeviceChoice::Host, None)) };
    let there = match found {
        Ok(gpus) if gpus.is_empty() => "the driver shows this process no GPU".to_owned(),
        Ok(gpus) => gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Err(error) => error.to_string(),
    };
    Err(Failure::Usage(format!(
        "--device cuda:{ordinal} is not here: {there}; name host or auto, or run this where \
         nvidia-smi -L lists that GPU"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_found_or_said_to_be_missing() {
        let check = |choice, found: Result<Vec<GpuFacts>, NoDriver>, wanted: &str| {
            let said = match chosen(choice, &found) {
                Ok((choice, gpu)) => format!("{choice:?} {:?}", gpu.map(|gpu| gpu.ordinal)),
                Err(Failure::Usage(said) | Failure::Failed(said)) => said,
            };
            assert!(said.contains(wanted), "{choice:?}\n  said   {said}\n  lacks  {wanted}");
        };
        let (auto, second) = (DeviceChoice::Auto, DeviceChoice::Cuda(1));
        let old = || Err(NoDriver::Old { major: 11, minor: 4 });
        check(auto, Err(NoDriver::Missing), "Host");
        check(auto, old(), "Host");
        check(auto, Ok(vec![]), "Host");
        check(auto, Ok(vec![GpuFacts::h100(0), GpuFacts::h100(1)]), "Cuda(0) Some(0)");
        check(second, Ok(vec![GpuFacts::h100(0), GpuFacts::h100(1)]), "Cuda(1) Some(1)");
        check(second, Ok(vec![GpuFacts::h100(0)]), "cuda:1 is not here: cuda:0, NVIDIA H100");
        check(second, Ok(vec![]), "shows this process no GPU; name host or auto");
        check(second, Err(NoDriver::Missing), "no libcuda.so.1: there is no NVIDIA driver here");
        check(second, old(), "install driver 525");
    }
}
