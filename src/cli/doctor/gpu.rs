//! The GPU: whether there is one that can be used, and how fast each way of copying is on it.
//!
//! Takes about 200 MB of it for a moment, and gives them back.

use std::path::PathBuf;
use std::sync::Arc;

use super::Check;
use crate::cli::serve::numa::Placement;
use crate::config::Config;
use crate::domain::units::Bytes;
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::hbm::DeviceChoice;
use crate::tiers::hbm::cuda::{self, Calibration, CudaConfig, GpuFacts, NoDriver};
use crate::tiers::shm::{MemoryRoom, Nodes};

/// The GPUs of this machine, or why there are none.
type Found = Result<Vec<GpuFacts>, NoDriver>;

pub(super) fn checks(config: Option<&Config>) -> Vec<Check> {
    let choice = config.map_or(DeviceChoice::Auto, |config| config.device.choice);
    let found = cuda::gpus();
    let used = choice.among(found.as_deref().unwrap_or_default());
    let mut checks = vec![gpu(choice, &found)];
    checks.extend(used.map(|_| mps(mps_is_there())));
    if let Some(config) = config {
        let machine = Nodes::of_this_machine();
        let place = Placement::of(config.dram.numa, || used.cloned(), &machine);
        checks.push(numa(&place, &machine, MemoryRoom::of_this_machine()));
    }
    if let (Some(config), Some(facts)) = (config, used) {
        checks.extend(copies(facts, config.device.multiprocessors_max));
    }
    checks
}

fn gpu(choice: DeviceChoice, found: &Found) -> Check {
    const CHECK: &str = "gpu";
    const ON_HOST: &str = "the HBM tier stands in host memory";
    if let Some(facts) = choice.among(found.as_deref().unwrap_or_default()) {
        return Check::ok(CHECK, facts.to_string());
    }
    let there = match found {
        Ok(gpus) if gpus.is_empty() => "none that this process may use".to_owned(),
        Ok(gpus) => gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Err(error) => error.to_string(),
    };
    match (choice, found) {
        (DeviceChoice::Cuda(ordinal), _) => Check::fail(
            CHECK,
            format!("hbm.device is cuda:{ordinal}, but: {there}"),
            "set hbm.device to auto, or show the GPU to this process: nvidia-smi -L lists them, and \
             containers want --gpus all",
        ),
        (DeviceChoice::Auto, Err(NoDriver::Old { .. } | NoDriver::Broken(_))) => Check::warn(
            CHECK,
            format!("{there}; {ON_HOST}"),
            "install a driver that works, or set hbm.device to host",
        ),
        _ => Check::ok(CHECK, format!("{there}; {ON_HOST}")),
    }
}

/// Whether a daemon and an engine that are started now would share the GPU by CUDA's multi-process service.
fn mps(is_there: bool) -> Check {
    const CHECK: &str = "mps";
    if is_there {
        return Check::ok(CHECK, "the daemon and engines may use the GPU at the same time");
    }
    Check::warn(
        CHECK,
        "not running: the daemon and a decoding engine take turns on the GPU, and slow each other",
        "run nvidia-cuda-mps-control -d before both, with one CUDA_MPS_PIPE_DIRECTORY; docs/gpu.md \
         has what that is worth",
    )
}

/// Its control daemon listens in this folder.
///
/// Source: NVIDIA, Multi-Process Service, section 4 (environment variables).
fn mps_is_there() -> bool {
    let named = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").map(PathBuf::from);
    named.unwrap_or_else(|| "/tmp/nvidia-mps".into()).join("control").exists()
}

/// Where the arena lies, and what the node has of huge pages.
fn numa(place: &Placement, machine: &Nodes, room: MemoryRoom) -> Check {
    const CHECK: &str = "numa";
    match place {
        Placement::Off | Placement::OneNode | Placement::NoGpu => {
            Check::ok(CHECK, place.to_string())
        }
        Placement::Unknown { .. } => Check::warn(
            CHECK,
            place.to_string(),
            "copies cross the processors' link where the arena lies on another node: nvidia-smi topo \
             -m shows the GPU's node, which dram.numa_node takes",
        ),
        Placement::Missing { .. } => {
            Check::fail(CHECK, place.to_string(), "set dram.numa_node to auto, or to one of these")
        }
        Placement::On { node, .. } => {
            let huge = machine.huge_free_bytes(*node, room.huge_page_bytes);
            let huge = huge.map(|bytes| format!("; {} of huge pages free there", Bytes(bytes)));
            Check::ok(CHECK, format!("{place}{}", huge.unwrap_or_default()))
        }
    }
}

/// What the daemon measures when it starts, a line for each stream and fragment length.
fn copies(facts: &GpuFacts, multiprocessors_max: u32) -> Vec<Check> {
    const CHECK: &str = "gpu copies";
    match measured(facts.ordinal, multiprocessors_max) {
        Ok(table) => rows(&table).into_iter().map(|row| Check::ok(CHECK, row)).collect(),
        Err(error) => vec![Check::fail(
            CHECK,
            error,
            "mend what it names, or set hbm.device to host: the other tiers work without a GPU",
        )],
    }
}

fn measured(ordinal: u32, multiprocessors_max: u32) -> Result<Calibration, String> {
    let config = ArenaConfig { tier_bytes: 0, staging_bytes: 64 << 10, pretouch_threads: 0 };
    let arena = Arena::new(config).map_err(|error| error.to_string())?;
    let config = CudaConfig { tier_bytes: 0, multiprocessors_max };
    Ok(cuda::open(ordinal, Arc::new(arena), config)?.calibration().clone())
}

fn rows(table: &Calibration) -> Vec<String> {
    let rows = table.rows().iter().map(|row| {
        let best = table.best(row.stream, row.fragment_bytes);
        format!("{row}: {}", best.map_or("nothing measured", |strategy| strategy.name()))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::tiers::hbm::Stream;
    use crate::tiers::hbm::cuda::{Measured, Strategy};
    use crate::tiers::shm::NumaNode;

    #[test]
    fn a_gpu_in_turns_is_warned_of() {
        assert_eq!(mps(true).verdict, Verdict::Ok);
        assert_eq!(mps(false).verdict, Verdict::Warn);
    }

    #[test]
    fn what_is_found_is_judged_by_what_was_asked_for() {
        let (auto, host, second) = (DeviceChoice::Auto, DeviceChoice::Host, DeviceChoice::Cuda(1));
        let missing = || Found::Err(NoDriver::Missing);
        let old = || Found::Err(NoDriver::Old { major: 11, minor: 4 });
        let cases = [
            (auto, missing(), Verdict::Ok, "no libcuda.so.1"),
            (host, missing(), Verdict::Ok, "stands in host memory"),
            (second, missing(), Verdict::Fail, "hbm.device is cuda:1, but: no libcuda.so.1"),
            (auto, old(), Verdict::Warn, "CUDA 11.4, which is too old: install driver 525"),
            (second, old(), Verdict::Fail, "too old"),
            (auto, Ok(vec![]), Verdict::Ok, "none that this process may use"),
            (auto, Ok(vec![GpuFacts::h100(0)]), Verdict::Ok, "cuda:0, NVIDIA H100, CUDA 12.8"),
            (second, Ok(vec![GpuFacts::h100(0)]), Verdict::Fail, "but: cuda:0"),
            (second, Ok(vec![GpuFacts::h100(0), GpuFacts::h100(1)]), Verdict::Ok, "cuda:1"),
        ];
        for (choice, found, verdict, want) in cases {
            let check = gpu(choice, &found);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.found.contains(want), "{check:?}");
        }
    }

    #[test]
    fn the_arena_s_node_is_shown_and_judged() {
        let folder = tempfile::tempdir().unwrap();
        let huge = folder.path().join("devices/system/node/node1/hugepages/hugepages-2048kB");
        std::fs::create_dir_all(&huge).unwrap();
        std::fs::write(huge.join("free_hugepages"), "512\n").unwrap();
        let machine = Nodes::under(folder.path());
        let room = MemoryRoom { huge_page_bytes: 2 << 20, ..MemoryRoom::default() };
        let gpu = || "cuda:0 at 0000:3b:00.0".to_owned();
        let cases = [
            (Placement::OneNode, Verdict::Ok, "nothing to bind"),
            (Placement::Unknown { gpu: gpu(), nodes: 2 }, Verdict::Warn, "does not say"),
            (
                Placement::Missing { node: NumaNode(3), there: vec![NumaNode(0)] },
                Verdict::Fail,
                "is 3, and this machine's are 0",
            ),
            (
                Placement::On { node: NumaNode(1), gpu: Some(gpu()), nodes: 2 },
                Verdict::Ok,
                "bound there; 1 GiB of huge pages free there",
            ),
        ];
        for (place, verdict, want) in cases {
            let check = numa(&place, &machine, room);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.found.contains(want), "{check:?}");
        }
    }

    #[test]
    fn the_table_is_shown_with_what_is_chosen() {
        let speeds = vec![(Strategy::Copies, 4e9), (Strategy::Staged, 40e9)];
        let row = Measured { stream: Stream::Up, fragment_bytes: 8192, speeds };
        let said = rows(&Calibration::new(vec![row]));
        assert_eq!(said, ["DRAM to HBM, 8 KiB: copies 4.0 GB/s staged 40.0 GB/s: staged"]);
    }
}
