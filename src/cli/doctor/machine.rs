//! The machine itself: processor, memory, kernel.

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::config::{Config, Machine, ThisMachine};
use crate::domain::units::Bytes;
use crate::tiers::shm::{self, MemoryRoom};

/// The first kernel whose `io_uring` has all that the NVMe tier uses.
const KERNEL_MIN: (u32, u32) = (5, 6);

pub(super) fn checks(config: Option<&Config>) -> Vec<Check> {
    let room = MemoryRoom::of_this_machine();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut checks = vec![cpu(has_fast_checksums()), kernel(&release)];
    if let Some(config) = config {
        let arena_bytes = config.dram.capacity_bytes + config.dram.staging_bytes;
        checks.extend([
            memory(ThisMachine.ram_bytes(), room.available_bytes, arena_bytes),
            huge_pages(room, arena_bytes, shm::makes_huge_pages()),
            locked_memory(getrlimit(Resource::Memlock).current, arena_bytes),
        ]);
    }
    checks
}

#[cfg(target_arch = "x86_64")]
fn has_fast_checksums() -> bool {
    std::arch::is_x86_feature_detected!("pclmulqdq")
        && std::arch::is_x86_feature_detected!("sse4.1")
}

#[cfg(target_arch = "aarch64")]
fn has_fast_checksums() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_fast_checksums() -> bool {
    false
}

fn cpu(fast_checksums: bool) -> Check {
    let cores = ThisMachine.cores();
    if fast_checksums {
        return Check::ok("cpu", format!("{cores} cores, checksums in hardware"));
    }
    Check::warn(
        "cpu",
        format!("{cores} cores, checksums in software"),
        "checksums cost a large part of a core here; prefer a processor with carry-less \
         multiplication (any since 2013), or have the hypervisor show it",
    )
}

fn memory(total_bytes: u64, available_bytes: Option<u64>, arena_bytes: u64) -> Check {
    let available = available_bytes.unwrap_or(total_bytes);
    let found = format!(
        "{} in all, {} to be had, {} for the DRAM tier and staging",
        Bytes(total_bytes),
        Bytes(available),
        Bytes(arena_bytes)
    );
    if arena_bytes <= available {
        return Check::ok("memory", found);
    }
    let remedy = "free some memory, or lower dram.capacity: all of it is taken at the start";
    Check::fail("memory", found, remedy)
}

fn huge_pages(room: MemoryRoom, arena_bytes: u64, are_made: bool) -> Check {
    const CHECK: &str = "huge pages";
    if room.huge_free_bytes >= arena_bytes {
        return Check::ok(CHECK, format!("{} reserved and free", Bytes(room.huge_free_bytes)));
    }
    if are_made {
        return Check::ok(CHECK, "made of free memory at the start");
    }
    let wanted_pages = arena_bytes.div_ceil(room.huge_page_bytes.max(1 << 20));
    Check::warn(
        CHECK,
        format!(
            "{} reserved and free, too few for the arena, and none are made of free memory",
            Bytes(room.huge_free_bytes)
        ),
        format!(
            "reserve them for faster disks, copies and starts: sysctl vm.nr_hugepages=\
             {wanted_pages} (as root, best at boot); Linux 6.1 makes them by itself while memory is \
             not cut up"
        ),
    )
}

fn locked_memory(limit_bytes: Option<u64>, arena_bytes: u64) -> Check {
    const CHECK: &str = "locked memory";
    match limit_bytes {
        None => Check::ok(CHECK, "no limit"),
        Some(limit) if limit >= arena_bytes => Check::ok(CHECK, Bytes(limit).to_string()),
        Some(limit) => Check::warn(
            CHECK,
            format!("{}, less than the arena", Bytes(limit)),
            "the ring can't keep the arena's pages, which costs some CPU on every IO: raise \
             `ulimit -l`, or LimitMEMLOCK=infinity in the service's unit",
        ),
    }
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    match version {
        Some(version) if version < KERNEL_MIN => Check::warn(
            "kernel",
            release,
            "io_uring needs Linux 5.6: until then blocking threads drive the disk",
        ),
        _ => Check::ok("kernel", release),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn figures_are_judged() {
        let check = |found: Check, verdict| {
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert_eq!(found.remedy.is_none(), verdict == Verdict::Ok, "{found:?}");
        };
        check(cpu(true), Verdict::Ok);
        check(cpu(false), Verdict::Warn);
        check(memory(8 << 30, Some(4 << 30), 1 << 30), Verdict::Ok);
        check(memory(8 << 30, Some(4 << 30), 5 << 30), Verdict::Fail);
        check(memory(8 << 30, None, 5 << 30), Verdict::Ok);
        let room = MemoryRoom {
            available_bytes: None,
            huge_free_bytes: 1 << 30,
            huge_page_bytes: 2 << 20,
        };
        check(huge_pages(room, 1 << 30, false), Verdict::Ok);
        check(huge_pages(room, 2 << 30, true), Verdict::Ok);
        check(huge_pages(room, 2 << 30, false), Verdict::Warn);
        assert!(huge_pages(room, 2 << 30, false).remedy.unwrap().contains("vm.nr_hugepages=1024"));
        check(locked_memory(None, 1 << 30), Verdict::Ok);
        check(locked_memory(Some(1 << 30), 1 << 30), Verdict::Ok);
        check(locked_memory(Some(8 << 20), 1 << 30), Verdict::Warn);
        check(kernel("6.8.0-31-generic"), Verdict::Ok);
        check(kernel("5.4.0-1"), Verdict::Warn);
        check(kernel("4.18.0"), Verdict::Warn);
        check(kernel("custom"), Verdict::Ok);
    }
}
