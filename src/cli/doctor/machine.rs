//! The machine itself: processor, memory, kernel.

use std::io;

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::config::{Config, Machine, ThisMachine};
use crate::domain::units::Bytes;
use crate::tiers::shm::{self, MemoryRoom};
use crate::{env, events, observe};

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
            file_size(getrlimit(Resource::Fsize).current, &longest_file(config, arena_bytes), runs),
            descriptors(env::descriptors_max(), &Descriptors::of(config), runs),
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

fn huge_pages(room: MemoryRoom, arena_bytes: u64, are_made: io::Result<bool>) -> Check {
    const CHECK: &str = "huge pages";
    if room.huge_free_bytes >= arena_bytes {
        return Check::ok(CHECK, format!("{} reserved and free", Bytes(room.huge_free_bytes)));
    }
    match are_made {
        Ok(true) => return Check::ok(CHECK, "made of free memory at the start"),
        Ok(false) => (),
        Err(error) => {
            let remedy = "mend what else is found here, and ask doctor again";
            return Check::warn(CHECK, format!("not tried: {error}"), remedy);
        }
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

/// The longest file that the daemon makes, and what it is: shared memory counts as one.
fn longest_file(config: &Config, arena_bytes: u64) -> (u64, &'static str) {
    let slots_bytes = config
        .nvme
        .as_ref()
        .map_or(0, |nvme| nvme.capacity_bytes.div_ceil(nvme.more_paths.len() as u64 + 1));
    let files = [
        (arena_bytes, "the arena"),
        (config.hbm_in_memory(&ThisMachine), "the HBM tier on the host"),
        (slots_bytes, "the NVMe tier's slot file"),
    ];
    files.into_iter().max_by_key(|(bytes, _)| *bytes).expect("there are some")
}

fn file_size(limit_bytes: Option<u64>, longest: &(u64, &str), runs: bool) -> Check {
    const CHECK: &str = "file size";
    let (bytes, what) = *longest;
    match limit_bytes {
        None => Check::ok(CHECK, "no limit"),
        Some(limit) if limit >= bytes => Check::ok(CHECK, Bytes(limit).to_string()),
        Some(limit) => stopper(
            runs,
            CHECK,
            format!("{}, and {what} counts as a file of {}", Bytes(limit), Bytes(bytes)),
            "raise `ulimit -f`, or LimitFSIZE in the service's unit",
        ),
    }
}

/// What keeps a daemon from starting with this shell's limits; one that runs has its own.
fn stopper(runs: bool, check: &'static str, found: String, remedy: &str) -> Check {
    if runs { Check::warn(check, found, remedy) } else { Check::fail(check, found, remedy) }
}

/// How many files the daemon has open.
#[derive(Clone, Copy)]
struct Descriptors {
    /// Once it is ready.
    ready: u64,
    /// More of its own while it works.
    busy: u64,
    /// More for its clients: two for a client's connections and one for each of its pools, of which most
    /// have one a rank.
    clients: u64,
}

impl Descriptors {
    /// Without NVMe and with nobody to talk to: streams, runtime, arena, sockets, locks and metrics, as
    /// `/proc/PID/fd` shows them.
    const READY: u64 = 18;

    /// The disk's ring and what wakes it.
    const RING: u64 = 2;

    /// A folder and the slot file in it.
    const FOLDER: u64 = 2;

    fn of(config: &Config) -> Self {
        let folders = config.nvme.as_ref().map(|nvme| 1 + nvme.more_paths.len() as u64);
        let nvme = folders.map_or(0, |folders| Self::RING + Self::FOLDER * folders);
        let publisher = config.events.publisher.as_ref();
        let events = publisher.map_or(0, |p| 1 + u64::from(p.replay.is_some()));
        let requests = config.object.as_ref().map_or(0, |object| object.requests_max);
        let scrapes = config.metrics.map_or(0, |_| observe::CONNECTIONS_MAX);
        Self {
            // A socket for events has a lock beside it.
            ready: Self::READY + nvme + 2 * events,
            busy: (requests + scrapes) as u64 + events * events::CONNECTIONS_MAX as u64,
            clients: 4 * config.clients_max as u64,
        }
    }
}

fn descriptors(most: Option<u64>, wanted: &Descriptors, runs: bool) -> Check {
    const CHECK: &str = "descriptors";
    let Descriptors { ready, busy, clients } = *wanted;
    match most {
        None => Check::ok(CHECK, "no limit"),
        Some(most) if most < ready => stopper(
            runs,
            CHECK,
            format!("{most} may be open, and the daemon has {ready} before anybody comes"),
            "raise `ulimit -Hn`, or LimitNOFILE in the service's unit",
        ),
        Some(most) if most < ready + busy + clients => Check::warn(
            CHECK,
            format!(
                "{most} may be open; the daemon itself has {ready} and while it works {busy} more, and \
                 clients.max clients may have {clients}"
            ),
            "raise `ulimit -Hn`, or LimitNOFILE in the service's unit, or lower clients.max",
        ),
        Some(most) => Check::ok(CHECK, format!("{most} may be open")),
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
        check(huge_pages(room, 1 << 30, Ok(false)), Verdict::Ok);
        check(huge_pages(room, 2 << 30, Ok(true)), Verdict::Ok);
        check(huge_pages(room, 2 << 30, Ok(false)), Verdict::Warn);
        let none = huge_pages(room, 2 << 30, Ok(false));
        assert!(none.remedy.unwrap().contains("vm.nr_hugepages=1024"));
        let untried = huge_pages(room, 2 << 30, Err(io::ErrorKind::FileTooLarge.into()));
        assert!(!untried.remedy.as_ref().unwrap().contains("nr_hugepages"), "{untried:?}");
        check(untried, Verdict::Warn);
        check(locked_memory(None, 1 << 30), Verdict::Ok);
        check(locked_memory(Some(1 << 30), 1 << 30), Verdict::Ok);
        check(locked_memory(Some(8 << 20), 1 << 30), Verdict::Warn);
        let files = Descriptors { ready: 24, busy: 80, clients: 1024 };
        check(descriptors(None, &files, false), Verdict::Ok);
        check(descriptors(Some(1128), &files, false), Verdict::Ok);
        check(descriptors(Some(1127), &files, false), Verdict::Warn);
        check(descriptors(Some(23), &files, false), Verdict::Fail);
        check(descriptors(Some(23), &files, true), Verdict::Warn);
        check(file_size(None, &(1 << 30, "it"), false), Verdict::Ok);
        check(file_size(Some(1 << 30), &(1 << 30, "it"), false), Verdict::Ok);
        check(file_size(Some(0), &(1 << 30, "it"), false), Verdict::Fail);
        check(file_size(Some(0), &(1 << 30, "it"), true), Verdict::Warn);
        check(kernel("6.8.0-31-generic"), Verdict::Ok);
        check(kernel("5.4.0-1"), Verdict::Warn);
        check(kernel("4.18.0"), Verdict::Warn);
        check(kernel("custom"), Verdict::Ok);
    }
}
