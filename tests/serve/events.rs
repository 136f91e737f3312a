//! The events' sockets: what is wrong with them is known before anything is made.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::{Place, json, said};

/// What keeps a daemon with these flags from starting, by `doctor` and by `serve`, which makes no files.
fn refused(place: &Place, flags: &str, row: &str, code: i32, words: &str) {
    let doctor = place.run(&format!("doctor --json {flags}"));
    let report = json(&doctor);
    let rows = report["checks"].as_array().unwrap();
    let found = rows.iter().find(|check| check["check"] == row);
    let found = found.unwrap_or_else(|| panic!("no {row} in {report}"));
    assert_eq!(found["verdict"], "fail", "{flags}: {found}");
    assert!(found.to_string().contains(words), "{flags}: {found}");
    assert_eq!(doctor.status.code(), Some(1), "{flags}");
    let serve = Place::refused_by(place.command(&format!("serve {flags}")));
    assert_eq!(serve.status.code(), Some(code), "{flags}: {}", said(&serve));
    assert!(said(&serve).contains(words), "{flags}: {}", said(&serve));
    assert!(!place.path().join(".local/state/terrace/nvme").exists(), "{flags}: files were made");
}

#[test]
fn cli_endpoints_of_events_that_are_not_to_be_had_are_told_beforehand() {
    let place = Place::new();
    let path = |name: &str| place.path().join(name);
    fs::write(path("plain"), "").unwrap();
    let _others = UnixListener::bind(path("others")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = taken.local_addr().unwrap();
    let ipc = |name: &str| format!("ipc://{}", path(name).display());
    let zmq = |endpoint: &str| format!("--events-zmq {endpoint}");
    let events = |flags: &str, words| refused(&place, flags, "events", 1, words);
    events(&zmq(&format!("tcp://{tcp}")), "Address already in use");
    events(&zmq(&ipc("nowhere/e")), "No such file or directory");
    events(&zmq(&ipc("plain")), "is not a socket");
    events(&zmq(&ipc("others")), "is in use");
    let replay = format!("{} --events-zmq-replay tcp://{tcp}", zmq(&ipc("e")));
    events(&replay, "events.zmq_replay");

    let settings = |flags: &str, words| refused(&place, flags, "settings", 2, words);
    let socket = format!("--socket {}", path("t.sock").display());
    settings(&format!("{socket} {}", zmq(&ipc("t.sock"))), "socket has it already");
    drop(taken);
    let metrics = format!("--metrics-listen {tcp} {}", zmq(&format!("tcp://{tcp}")));
    settings(&metrics, "metrics.listen has it already");
}

#[test]
fn cli_a_socket_of_events_may_lie_where_the_daemon_makes_a_folder() {
    let place = Place::new();
    let socket = place.path().join(".local/state/terrace/events");
    let flags = format!("--events-zmq ipc://{}", socket.display());
    let doctor = place.run(&format!("doctor {flags}"));
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    let _serving = place.serve(&flags);
    assert!(socket.exists());
    let doctor = place.run(&format!("doctor {flags}"));
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
}
