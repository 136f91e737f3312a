//! The daemon's places: the state folder, the socket, and whether a daemon is there already.

use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Access, access};

use super::Check;
use crate::config::Places;

pub(super) fn checks(places: &Places) -> Vec<Check> {
    vec![state_folder(&places.state_dir), socket(&places.socket)]
}

/// The folder if it is there, else the nearest above it: where it would be made.
pub(super) fn standing(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"))
}

/// Whether this user may make files there: mode, owner and read-only mounts all count.
pub(super) fn is_writable(folder: &Path) -> bool {
    folder.is_dir() && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

fn state_folder(path: &Path) -> Check {
    let standing = standing(path);
    if !is_writable(standing) {
        return Check::fail(
            "state folder",
            format!("{} is not a folder that this user can write to", standing.display()),
            "give this user the folder, or set state_dir to one of its own",
        );
    }
    let what = if standing == path { "is there" } else { "can be made" };
    Check::ok("state folder", format!("{} {what}", path.display()))
}

fn socket(path: &Path) -> Check {
    if UnixStream::connect(path).is_ok() {
        return Check::ok("socket", format!("a daemon answers at {}", path.display()));
    }
    let folder = standing(path.parent().unwrap_or(path));
    if !is_writable(folder) {
        return Check::fail(
            "socket",
            format!("{} is not a folder that this user can write to", folder.display()),
            "set socket to a path in a folder of this user's own",
        );
    }
    Check::ok("socket", format!("no daemon runs; {} can be made", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::Verdict;
    use super::*;

    #[test]
    fn places_are_judged() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("a/b/state");
        assert!(state_folder(&inside).found.contains("can be made"));
        assert!(state_folder(folder.path()).found.contains("is there"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(state_folder(&file.join("state")).verdict, Verdict::Fail);
        assert_eq!(socket(&file.join("t.sock")).verdict, Verdict::Fail);
    }

    #[test]
    fn a_daemon_that_answers_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.sock");
        assert!(socket(&path).found.contains("no daemon runs"));
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(socket(&path).found.contains("a daemon answers"));
    }
}
