//! How many descriptors this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many it may have at most; nothing where that is not limited.
#[must_use]
pub fn descriptors_max() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Lets this process have as many as it may. The limit that shells and systemd begin with is low for the sake
/// of programs that use `select`, of which this is none.
pub fn raise_descriptors() {
    let maximum = descriptors_max();
    // Where that is refused, it has what it had.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
