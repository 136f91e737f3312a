//! Who lends a pool, and whether it lives: what its GPU had still to compute ends with it.

use std::{fs, io};

/// A process, by its number here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lender(pub u32);

impl Lender {
    /// Whether the process lives, and can be seen from here as far as that can be told. One that ends lets go
    /// of its memory before it closes anything: its sockets, and its GPU.
    ///
    /// Source: Linux, `do_exit` of `kernel/exit.c`; proc(5), `/proc/PID/statm`, which begins with the
    /// pages that are mapped.
    pub(super) fn lives(self) -> bool {
        match fs::read_to_string(format!("/proc/{}/statm", self.0)) {
            Ok(pages) => !pages.starts_with("0 "),
            // Anything else, no descriptor that is left say, tells nothing of that process.
            Err(error) => {
                error.kind() != io::ErrorKind::NotFound && error.raw_os_error() != Some(libc::ESRCH)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_lives_until_it_has_let_go_of_its_memory() {
        assert!(Lender(std::process::id()).lives());
        let mut cat = Command::new("cat");
        let mut child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        assert!(Lender(child.id()).lives());
        child.kill().unwrap();
        // It closes this end when it has ended; nobody has asked for its exit code yet.
        let mut said = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        assert!(!Lender(child.id()).lives(), "its files are closed");
        child.wait().unwrap();
        assert!(!Lender(child.id()).lives(), "it is gone");
    }
}
