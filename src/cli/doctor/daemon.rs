//! The daemon's places: the state folder, the socket, and whether a daemon is there already.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::super::{Failure, PATIENCE, ask};
use super::Check;
use crate::cli::serve::state_dir;
use crate::client::{self, DaemonStatus};
use crate::config::Places;
use crate::domain::tier::Tier;
use crate::events::{PublisherConfig, look_at_endpoints};
use crate::service::{BindError, look_at_socket};
use crate::sockets::PlaceError;
use crate::tiers::open::{OpenError, check_writable};

/// Whether a daemon runs in these places.
pub(super) fn runs(places: &Places) -> bool {
    let looked = look_at_socket(&places.socket);
    matches!(looked, Err(BindError::Place(PlaceError::InUse(path))) if path == places.socket)
}

pub(super) fn checks(places: &Places, runs: bool) -> Vec<Check> {
    let mut checks = vec![state_folder(&places.state_dir, runs)];
    if runs {
        match ask(client::daemon_status(&places.socket, PATIENCE)) {
            Ok(status) => {
                checks.push(answering(places));
                checks.extend(outages(&status));
            }
            Err(Failure::Usage(error) | Failure::Failed(error)) => {
                checks.push(silent(&places.socket, &error));
            }
        }
    } else {
        checks.push(free(&places.socket));
    }
    checks
}

/// Something listens there and answers nothing.
fn silent(path: &Path, error: &str) -> Check {
    let found = format!("what listens at {} doesn't answer: {error}", path.display());
    Check::fail("socket", found, "look at its log, and start the daemon again if it hangs")
}

/// The tiers that the running daemon does without for now, whatever their places look like from here.
fn outages(status: &DaemonStatus) -> impl Iterator<Item = Check> {
    Tier::ALL.into_iter().filter_map(|tier| {
        let outage = status.tiers[tier.index()].outage.as_ref()?;
        let remedy = "mend what it names: the daemon takes the tier back by itself";
        Some(Check::warn("tiers", format!("{tier} is {outage}"), remedy))
    })
}

/// The metrics endpoint's address.
pub(super) fn metrics(address: SocketAddr) -> Check {
    const CHECK: &str = "metrics";
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(CHECK, format!("{address} is free")),
        Err(error) => {
            let found = format!("nobody can listen on {address}: {error}");
            Check::fail(CHECK, found, "set metrics.listen to a free address of this machine")
        }
    }
}

/// Where changes of residency are published.
pub(super) fn events(publisher: &PublisherConfig, places: &Places) -> Check {
    const CHECK: &str = "events";
    match look_at_endpoints(publisher, &places.folders()) {
        Ok(()) => Check::ok(CHECK, format!("{} is free", publisher.publish)),
        Err(error) => {
            Check::fail(CHECK, error.to_string(), "name a free endpoint of this machine there")
        }
    }
}

/// The folder if it is there, else the nearest above it: where it would be made.
pub(super) fn standing(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"))
}

fn state_folder(path: &Path, runs: bool) -> Check {
    const CHECK: &str = "state folder";
    let standing = standing(path);
    if check_writable(standing).is_err() {
        return Check::fail(
            CHECK,
            format!("{} is not a folder that this user can write to", standing.display()),
            "give this user the folder, or set state_dir to one of its own",
        );
    }
    let what = match state_dir::look(path) {
        Ok(()) if standing == path => "is there",
        Ok(()) => "can be made",
        Err(OpenError::InUse(_)) if runs => "is the running daemon's",
        Err(error) => {
            let found = format!("{} can't be used", path.display());
            return Check::fail(CHECK, found, error.to_string());
        }
    };
    Check::ok(CHECK, format!("{} {what}", path.display()))
}

/// A daemon answers there: the one of this state folder, or another.
fn answering(places: &Places) -> Check {
    let path = places.socket.display();
    if state_dir::look(&places.state_dir).is_ok() {
        let found = format!("a daemon of another state folder answers at {path}");
        return Check::fail("socket", found, "stop that one, or set socket to another path");
    }
    Check::ok("socket", format!("a daemon answers at {path}"))
}

/// Nobody listens there: can a daemon?
fn free(path: &Path) -> Check {
    if let Err(error) = look_at_socket(path) {
        let found = format!("{} can't be made", path.display());
        return Check::fail("socket", found, error.to_string());
    }
    let folder = standing(path.parent().unwrap_or(path));
    if check_writable(folder).is_err() {
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
        assert!(state_folder(&inside, false).found.contains("can be made"));
        assert!(state_folder(folder.path(), false).found.contains("is there"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(state_folder(&file.join("state"), false).verdict, Verdict::Fail);
        assert_eq!(free(&file.join("t.sock")).verdict, Verdict::Fail);
        let in_the_way = free(&file);
        assert_eq!(in_the_way.verdict, Verdict::Fail);
        assert!(in_the_way.remedy.unwrap().contains("is not a socket: remove it"));
    }

    #[test]
    fn a_state_folder_that_is_not_to_be_had_is_told_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let held = state_dir::StateDir::open(path).unwrap();
        assert_eq!(state_folder(path, false).verdict, Verdict::Fail);
        assert!(state_folder(path, true).found.contains("the running daemon's"));
        let places = Places { socket: path.join("t.sock"), state_dir: path.to_owned() };
        assert_eq!(answering(&places).verdict, Verdict::Ok);
        drop(held);
        assert_eq!(answering(&places).verdict, Verdict::Fail, "it is another's");
        std::fs::write(path.join("version"), "terrace state 99").unwrap();
        let refused = state_folder(path, true);
        assert_eq!(refused.verdict, Verdict::Fail);
        assert!(refused.remedy.unwrap().contains("another version"));
    }

    #[test]
    fn a_tier_that_the_running_daemon_does_without_is_told() {
        let mut status = DaemonStatus::default();
        assert_eq!(outages(&status).count(), 0);
        status.tiers[Tier::Object.index()].outage =
            Some("OUT for writes since 3 s: refused".into());
        let found: Vec<_> = outages(&status).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].verdict, Verdict::Warn);
        assert!(found[0].found.contains("object is OUT for writes"), "{found:?}");
    }

    #[test]
    fn a_daemon_that_answers_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.sock");
        let places = Places { socket: path.clone(), state_dir: folder.path().to_owned() };
        assert!(!runs(&places));
        assert!(checks(&places, false)[1].found.contains("no daemon runs"));
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(runs(&places));
        let hung = &checks(&places, true)[1];
        assert_eq!(hung.verdict, Verdict::Fail);
        assert!(hung.found.contains("doesn't answer"), "{hung:?}");
    }

    #[test]
    fn endpoints_of_events_are_judged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let places = Places { socket: path.join("a/t.sock"), state_dir: path.join("b/state") };
        let check = |endpoint: &str, verdict| {
            let publish = endpoint.parse().unwrap();
            let found =
                events(&PublisherConfig { publish, replay: None, topic: String::new() }, &places);
            assert_eq!(found.verdict, verdict, "{found:?}");
        };
        let ipc = |name: &str| format!("ipc://{}/{name}", path.display());
        check(&ipc("e"), Verdict::Ok);
        std::fs::write(path.join("e"), "").unwrap();
        check(&ipc("e"), Verdict::Fail);
        check(&ipc("nowhere/e"), Verdict::Fail);
        for made in ["a/e", "b/e", "b/state/e"] {
            check(&ipc(made), Verdict::Ok);
        }
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = format!("tcp://{}", taken.local_addr().unwrap());
        check(&tcp, Verdict::Fail);
        drop(taken);
        check(&tcp, Verdict::Ok);
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 1, "nothing is made");
    }

    #[test]
    fn an_address_of_metrics_that_is_taken_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(metrics(address).verdict, Verdict::Fail);
        drop(taken);
        assert_eq!(metrics(address).verdict, Verdict::Ok);
    }
}
