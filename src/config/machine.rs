//! What the machine offers, as far as defaults and limits depend on it.
//!
//! Asks only; makes and changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::tiers::hbm::cuda;

/// The file system that a folder is on, or would be if it were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Tells file systems apart.
    pub device: u64,
    pub total_bytes: u64,
    /// What this user may still take.
    pub free_bytes: u64,
}

/// What the configuration asks the machine.
pub trait Machine {
    /// Memory that this process may use: the machine's, or its control group's limit if lower.
    fn ram_bytes(&self) -> u64;

    fn cores(&self) -> usize;

    /// The disk below `path`, or below its nearest folder that there is.
    fn disk(&self, path: &Path) -> Option<Disk>;

    /// Bytes of slot files in the folder: what an NVMe tier there holds from before.
    fn slot_files_bytes(&self, folder: &Path) -> u64;

    fn is_dir(&self, path: &Path) -> bool;

    /// Whether a GPU can be used here.
    fn has_gpu(&self) -> bool;
}

/// The machine this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn ram_bytes(&self) -> u64 {
        let info = rustix::system::sysinfo();
        let total = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
        group_limit_bytes().map_or(total, |limit| limit.min(total))
    }

    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn disk(&self, path: &Path) -> Option<Disk> {
        let folder = path.ancestors().find(|folder| folder.is_dir())?;
        let found = rustix::fs::statvfs(folder).ok()?;
        Some(Disk {
            device: fs::metadata(folder).ok()?.dev(),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    fn slot_files_bytes(&self, folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "slots"))
            .filter_map(|entry| entry.metadata().ok())
            .map(|found| found.len())
            .sum()
    }

    fn has_gpu(&self) -> bool {
        cuda::gpus().is_ok_and(|gpus| !gpus.is_empty())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

/// The limit of the control group, if there is one (version 2).
fn group_limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    // The limit of any group above holds too.
    folder
        .ancestors()
        .take_while(|folder| folder.starts_with("/sys/fs/cgroup"))
        .filter_map(|folder| {
            fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok()
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_answers() {
        let machine = ThisMachine;
        assert!(machine.ram_bytes() > 1 << 20);
        assert!(machine.cores() >= 1);
        let disk = machine.disk(Path::new("/no/such/folder")).unwrap();
        assert!(disk.total_bytes >= disk.free_bytes && disk.total_bytes > 0);
    }

    #[test]
    fn slot_files_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ThisMachine.slot_files_bytes(&folder.path().join("none")), 0);
        fs::write(folder.path().join("a.slots"), [0; 10]).unwrap();
        fs::write(folder.path().join("a.other"), [0; 10]).unwrap();
        assert_eq!(ThisMachine.slot_files_bytes(folder.path()), 10);
    }
}
