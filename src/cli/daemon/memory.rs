//! How much memory a process holds, by what stands behind it.

use std::{fs, io};

/// Resident memory in bytes, from `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResidentMemory {
    /// What the process allocated: heap and stacks.
    pub anonymous_bytes: u64,
    /// Mapped files: the binary and its libraries.
    pub file_bytes: u64,
    /// Shared memory: the arena, the host's HBM tier, and engines' pools.
    pub shared_bytes: u64,
}

impl ResidentMemory {
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        fs::read_to_string(format!("/proc/{pid}/status")).map(|text| Self::parse(&text))
    }

    /// What the daemon itself takes, beside the blocks it keeps.
    #[must_use]
    pub const fn own_bytes(self) -> u64 {
        self.anonymous_bytes + self.file_bytes
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024)
        };
        Self {
            anonymous_bytes: field("RssAnon:").unwrap_or(0),
            file_bytes: field("RssFile:").unwrap_or(0),
            shared_bytes: field("RssShmem:").unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let text = "VmRSS:\t 7 kB\nRssAnon:\t    1 kB\nRssFile:\t 2 kB\nRssShmem:\t     4 kB\n";
        let memory = ResidentMemory::parse(text);
        assert_eq!((memory.own_bytes(), memory.shared_bytes), (3 << 10, 4 << 10));
        let own = ResidentMemory::of(std::process::id()).unwrap();
        assert!(own.anonymous_bytes > 0 && own.file_bytes > 0);
    }
}
