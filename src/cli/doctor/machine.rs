//! The machine itself: processor, memory, kernel.

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::config::{Config, Machine, ThisMachine};
use crate::domain::units::Bytes;
use crate::env;
use crate::tiers::shm::{self, MemoryRoom};

/// The first kernel whose `io_uring` has all that the NVMe tier uses.
const KERNEL_MIN: (u32, u32) = (5, 6);

pub(super) fn checks(config: Option<&Config>, runs: bool) -> Vec<Check> {
    let room = MemoryRoom::of_this_machine();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut checks = vec![cpu(has_fast_checksums()), kernel(&release)];
    if let Some(config) = config {
        let arena_bytes = config.dram.capacity_bytes + config.dram.staging_bytes;
        checks.extend([
            memory(ThisMachine.ram_bytes(), room, wanted(config, arena_bytes), runs),
            huge_pages(room, arena_bytes, shm::makes_huge_pages()),
            locked_memory(getrlimit(Resource::Memlock).current, arena_bytes),
            descriptors(env::descriptors_max(), config.clients_max),
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

/// Memory that the daemon takes at the start: the arena, and HBM where that is on the host.
#[derive(Clone, Copy)]
struct Wanted {
    arena_bytes: u64,
    hbm_bytes: u64,
}

fn wanted(config: &Config, arena_bytes: u64) -> Wanted {
    Wanted { arena_bytes, hbm_bytes: config.hbm_in_memory(&ThisMachine) }
}

impl Wanted {
    fn bytes(self) -> u64 {
        self.arena_bytes.saturating_add(self.hbm_bytes)
    }

    /// What no reserved huge pages are there for, which are no part of what is available.
    fn plain_bytes(self, huge_free_bytes: u64) -> u64 {
        let (mut huge, mut plain) = (huge_free_bytes, 0_u64);
        for bytes in [self.arena_bytes, self.hbm_bytes] {
            match huge.checked_sub(bytes) {
                Some(left) => huge = left,
                None => plain = plain.saturating_add(bytes),
            }
        }
        plain
    }
}

fn memory(total_bytes: u64, room: MemoryRoom, wanted: Wanted, runs: bool) -> Check {
    const CHECK: &str = "memory";
    let total = Bytes(total_bytes);
    let for_what = if wanted.hbm_bytes > 0 {
        "the DRAM tier, staging and the HBM tier on the host"
    } else {
        "the DRAM tier and staging"
    };
    let needs = format!("{} for {for_what}", Bytes(wanted.bytes()));
    if runs {
        return Check::ok(CHECK, format!("{total} in all; the running daemon has {needs}"));
    }
    let available = room.available_bytes.unwrap_or(total_bytes);
    let found = format!("{total} in all, {} to be had, {needs}", Bytes(available));
    if wanted.plain_bytes(room.huge_free_bytes) <= available {
        return Check::ok(CHECK, found);
    }
    let remedy = if wanted.hbm_bytes > 0 {
        "free some memory, or lower dram.capacity or hbm.capacity: all of it is taken at the start"
    } else {
        "free some memory, or lower dram.capacity: all of it is taken at the start"
    };
    Check::fail(CHECK, found, remedy)
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

/// Two for a client's connections and one for each of its pools, of which most have one a rank.
fn descriptors(most: Option<u64>, clients_max: usize) -> Check {
    const CHECK: &str = "descriptors";
    let wanted = 4 * clients_max as u64;
    match most {
        None => Check::ok(CHECK, "no limit"),
        Some(most) if most >= wanted => Check::ok(CHECK, format!("{most} may be open")),
        Some(most) => Check::warn(
            CHECK,
            format!("{most} may be open, and {clients_max} clients may have {wanted}"),
            "raise `ulimit -Hn`, or LimitNOFILE in the service's unit, or lower clients.max",
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
        let of = |available_bytes, arena_bytes, hbm_bytes, runs| {
            let huge_free_bytes = 2 << 30;
            let room = MemoryRoom { available_bytes, huge_free_bytes, huge_page_bytes: 2 << 20 };
            memory(16 << 30, room, Wanted { arena_bytes, hbm_bytes }, runs)
        };
        check(of(Some(4 << 30), 3 << 30, 0, false), Verdict::Ok);
        check(of(Some(4 << 30), 5 << 30, 0, false), Verdict::Fail);
        check(of(Some(4 << 30), 3 << 30, 3 << 30, false), Verdict::Fail);
        check(of(Some(4 << 30), 2 << 30, 3 << 30, false), Verdict::Ok);
        check(of(Some(1 << 30), 3 << 30, 0, true), Verdict::Ok);
        check(of(None, 5 << 30, 0, false), Verdict::Ok);
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
        check(descriptors(None, 256), Verdict::Ok);
        check(descriptors(Some(1024), 256), Verdict::Ok);
        check(descriptors(Some(1023), 256), Verdict::Warn);
        check(kernel("6.8.0-31-generic"), Verdict::Ok);
        check(kernel("5.4.0-1"), Verdict::Warn);
        check(kernel("4.18.0"), Verdict::Warn);
        check(kernel("custom"), Verdict::Ok);
    }
}
