//! What memory this machine can give, from the kernel's own text files.
//!
//! Never fails: a figure that can't be read is not known, and nothing is refused for it. Control groups
//! are those of version 2.

use std::fs;
use std::path::Path;

/// Where control groups are shown; in a container its own is this one.
const GROUPS: &str = "/sys/fs/cgroup";

/// What an arena may ask for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRoom {
    /// What can be had without swapping, within the limits of the control groups that it is in.
    pub available_bytes: Option<u64>,
    /// Reserved huge pages that nobody uses.
    pub huge_free_bytes: u64,
    pub huge_page_bytes: u64,
}

impl MemoryRoom {
    #[must_use]
    pub fn of_this_machine() -> Self {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let room = Self::from_meminfo(&read(Path::new("/proc/meminfo")));
        let groups = read(Path::new("/proc/self/cgroup"));
        let in_groups = room_in_groups(Path::new(GROUPS), group_path(&groups));
        Self {
            available_bytes: [room.available_bytes, in_groups].into_iter().flatten().min(),
            ..room
        }
    }

    fn from_meminfo(text: &str) -> Self {
        let number = |name| field(text, name).unwrap_or(0);
        let huge_page_bytes = number("Hugepagesize:") << 10;
        let free_pages = number("HugePages_Free:").saturating_sub(number("HugePages_Rsvd:"));
        Self {
            available_bytes: field(text, "MemAvailable:").map(|kib| kib << 10),
            huge_free_bytes: free_pages * huge_page_bytes,
            huge_page_bytes,
        }
    }
}

/// The number behind `name` in a text of `name number unit` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()?.parse().ok())?)
}

/// The process's folder under [`GROUPS`].
fn group_path(text: &str) -> &str {
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    path.trim_start_matches('/')
}

/// What the tightest of a group and those around it may still take. A folder that is not there is passed
/// over: a container may be told a path of the machine's, of which it sees the root alone.
fn room_in_groups(root: &Path, group: &str) -> Option<u64> {
    let of = |folder: &Path| {
        let limit = fs::read_to_string(folder.join("memory.max")).ok()?;
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        room_in_group(&limit, &stat)
    };
    let folder = root.join(group);
    folder.ancestors().take_while(|outer| outer.starts_with(root)).filter_map(of).min()
}

/// What a control group may still take: its limit less what can't be reclaimed.
fn room_in_group(limit: &str, stat: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let held = ["anon", "shmem", "kernel"].iter().filter_map(|name| field(stat, name)).sum();
    Some(limit.saturating_sub(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n\
        HugePages_Total:      10\nHugePages_Free:        8\nHugePages_Rsvd:        3\n\
        Hugepagesize:       2048 kB\n";

    #[test]
    fn meminfo_is_read() {
        let room = MemoryRoom::from_meminfo(MEMINFO);
        assert_eq!(room.available_bytes, Some(20_000_000 << 10));
        assert_eq!(room.huge_free_bytes, 5 * (2 << 20));
        assert_eq!(MemoryRoom::from_meminfo("nonsense\n\n:").available_bytes, None);
    }

    #[test]
    fn a_group_limits() {
        let stat = "anon 100\nfile 5000\nkernel 20\nshmem 30\n";
        assert_eq!(room_in_group("1000\n", stat), Some(850));
        assert_eq!(room_in_group("max\n", stat), None);
        assert_eq!(room_in_group("10\n", stat), Some(0));
        assert_eq!(group_path("1:cpu:/a\n0::/system.slice/x\n"), "system.slice/x");
    }

    #[test]
    fn the_groups_around_it_limit_too() {
        let groups = tempfile::tempdir().unwrap();
        let group = |path: &str, limit: &str, stat: &str| {
            let folder = groups.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("memory.max"), limit).unwrap();
            fs::write(folder.join("memory.stat"), stat).unwrap();
        };
        let room = |path: &str| room_in_groups(groups.path(), path);
        assert_eq!(room("slice/unit"), None, "nothing is known");
        group("slice/unit", "max\n", "anon 100\n");
        group("slice", "1000\n", "anon 300\n");
        assert_eq!(room("slice/unit"), Some(700), "the slice's");
        group("slice/unit", "500\n", "anon 100\n");
        assert_eq!(room("slice/unit"), Some(400), "its own");
        group("", "600\n", "anon 350\n");
        assert_eq!(room("slice/unit"), Some(250), "the container's");
        assert_eq!(room("kubepods/of/the/machine"), Some(250), "of what is seen here");
    }

    #[test]
    fn this_machine_has_some() {
        assert!(MemoryRoom::of_this_machine().available_bytes > Some(1 << 20));
    }
}
