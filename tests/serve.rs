//! `serve`, `status` and `doctor` as an operator uses them: the ready line, settings from all three
//! places, the metrics endpoint, signals.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "serve/events.rs"]
mod events;
#[path = "serve/limits.rs"]
mod limits;
#[path = "serve/log.rs"]
mod log;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;
use terrace::env::Stopwatch;

/// A folder for everything, and commands that know no other.
struct Place {
    folder: TempDir,
}

/// Settings that make a daemon small, as an operator would put them into the environment.
const SMALL: [(&str, &str); 4] = [
    ("TERRACE_DRAM_CAPACITY", "64MiB"),
    ("TERRACE_DRAM_STAGING", "64MiB"),
    ("TERRACE_NVME_CAPACITY", "64MiB"),
    ("TERRACE_OBJECT_CAPACITY", "64MiB"),
];

const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_terrace"));
        command.args(line.split_whitespace());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("TERRACE_") || name.starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.path()).envs(SMALL).envs(CREDENTIALS);
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// What `serve` says that does not start; one that does is ended.
    fn refused(&self) -> Output {
        Self::refused_by(self.command("serve"))
    }

    fn refused_by(mut serve: Command) -> Output {
        let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
        let waiting = Stopwatch::start();
        while child.try_wait().unwrap().is_none() {
            if waiting.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
            }
            sleep(Duration::from_millis(10));
        }
        child.wait_with_output().unwrap()
    }

    /// Starts `serve` with these flags and waits for the line that says it is ready.
    fn serve(&self, flags: &str) -> Serving {
        self.start(self.command(&format!("serve --json {flags}")))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap()
    }

    /// What a daemon has logged once that has these words: they come after what is done.
    fn logged(&self, words: &str) -> String {
        let waiting = Stopwatch::start();
        loop {
            let log = self.log();
            if log.contains(words) {
                return log;
            }
            assert!(waiting.elapsed() < Duration::from_secs(20), "never said: {words}\n{log}");
            sleep(Duration::from_millis(10));
        }
    }

    fn start(&self, mut command: Command) -> Serving {
        let log = fs::File::create(self.path().join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut serving = Serving { child, ready: Value::Null };
        assert!(!line.is_empty(), "it ended: {}", self.log());
        serving.ready = serde_json::from_str(&line).unwrap();
        serving
    }
}

/// A daemon that is ready; it ends with this value.
struct Serving {
    child: Child,
    ready: Value,
}

impl Serving {
    fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap()
    }

    /// The capacity of a tier that the ready line names.
    fn capacity(&self, tier: &str) -> Option<u64> {
        let tiers = self.ready["tiers"].as_array().unwrap();
        let found = tiers.iter().find(|found| found["tier"] == tier)?;
        found["capacity_bytes"].as_u64()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn cli_serve_says_what_it_has_and_status_agrees() {
    let place = Place::new();
    let serving = place.serve("--hbm-capacity 64MiB");
    let state_dir = place.path().join(".local/state/terrace");
    let socket = state_dir.join("terrace.sock");
    assert_eq!(serving.ready["ready"], true);
    assert_eq!(serving.ready["socket"], socket.to_str().unwrap());
    assert_eq!(serving.ready["state_dir"], state_dir.to_str().unwrap());
    for tier in ["hbm", "dram", "nvme", "object"] {
        assert_eq!(serving.capacity(tier), Some(64 << 20), "{tier}");
    }

    let output = place.run("status --json");
    assert!(output.status.success(), "{}", said(&output));
    let status = json(&output);
    assert_eq!(status["pid"], serving.ready["pid"]);
    assert_eq!(status["node_id"], serving.ready["node_id"]);
    assert_eq!(status["tiers"].as_array().unwrap().len(), 4);
    assert_eq!(status["corrupt_copies"], 0);
    let text = String::from_utf8(place.run("status").stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with("nvme") && line.contains("64 MiB")), "{text}");

    let known = json(&place.run("sessions --json"));
    assert_eq!((&known["sessions_total"], &known["sessions"]), (&0.into(), &Value::Array(vec![])));
    let text = String::from_utf8(place.run("sessions").stdout).unwrap();
    assert!(text.ends_with("0 of 0 sessions\n"), "{text}");
    let gone = place.run(&format!("inspect {} --json", "ab".repeat(16)));
    assert_eq!(gone.status.code(), Some(1));
    let error = json(&gone)["error"].to_string();
    assert!(error.contains("no block with key abab"), "{error}");
}

#[test]
fn cli_serve_stops_in_order_on_either_signal() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut serving = place.serve("");
        let socket = serving.ready["socket"].as_str().unwrap().to_owned();
        assert!(Path::new(&socket).exists());
        assert!(serving.signal(signal).success(), "{signal:?}");
        assert!(!Path::new(&socket).exists(), "{signal:?} left the socket");
    }
    let output = place.run("status --json");
    assert_eq!(output.status.code(), Some(1));
    assert!(json(&output)["error"].as_str().unwrap().contains("terrace serve"), "{output:?}");
}

#[test]
fn cli_serve_takes_settings_from_all_three_places() {
    let place = Place::new();
    let folder = place.path().join(".config/terrace");
    fs::create_dir_all(&folder).unwrap();
    // The environment has 64 MiB for all of them.
    let file = "hbm.capacity = \"128MiB\"\ndram.capacity = \"128MiB\"\nobject.url = \"off\"\n";
    fs::write(folder.join("config.toml"), file).unwrap();
    let serving = place.serve("--nvme-capacity 192MiB");
    assert_eq!(serving.capacity("hbm"), Some(128 << 20), "the file");
    assert_eq!(serving.capacity("dram"), Some(64 << 20), "the environment before the file");
    assert_eq!(serving.capacity("nvme"), Some(192 << 20), "the flag before the environment");
    assert_eq!(serving.capacity("object"), None);
}

#[test]
fn cli_serve_refuses_names_that_are_no_settings() {
    let place = Place::new();
    let output = place.command("serve").env("TERRACE_DRAM_CAPCITY", "1GiB").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("did you mean `TERRACE_DRAM_CAPACITY`"), "{}", said(&output));
    let file = place.path().join("t.toml");
    fs::write(&file, "[nvme]\ncapacty = \"1GiB\"\n").unwrap();
    let output = place.run(&format!("serve --config {}", file.display()));
    assert_eq!(output.status.code(), Some(2));
    let expected = format!("{}:2", file.display());
    assert!(said(&output).contains(&expected), "{}", said(&output));
    assert!(said(&output).contains("did you mean `nvme.capacity`"), "{}", said(&output));
}

/// The metrics, or what came of them within a while.
fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn cli_connections_for_metrics_take_few_descriptors_and_little_of_the_log() {
    let place = Place::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let serving = place.serve(&format!("--metrics-listen {address}"));
    let mut silent: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(scrape(address).contains("terrace_lookups_total 0"));
    // All but the last few have made way for others.
    for stream in &mut silent[..40 - 16] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed");
    }
    drop(silent);

    let pid = Pid::from_child(&serving.child);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let may_have =
        |current| prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let before = may_have(Some(3));
    let _waits = TcpStream::connect(address).unwrap();
    place.logged("metrics endpoint can't take");
    may_have(before.current);
    assert!(scrape(address).contains("terrace_lookups_total 0"));
    let lines = place.log().lines().count();
    assert!(lines < 50, "{lines} lines");
}

#[test]
fn cli_metrics_are_served_where_asked_and_nowhere_else() {
    let place = Place::new();
    // The port is free again when the listener goes; the daemon takes it a moment later.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let line = format!("--metrics-listen {address}");
    let output = place.run(&format!("serve {line}"));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("metrics.listen"), "{}", said(&output));
    drop(taken);

    let serving = place.serve(&line);
    assert_eq!(serving.ready["metrics"], address.to_string());
    let page = scrape(address);
    for line in [
        "# TYPE terrace_tier_capacity_bytes gauge",
        "terrace_tier_capacity_bytes{tier=\"nvme\"} 67108864",
        "terrace_corrupt_copies_total 0",
        "terrace_link_bytes_total{link=\"nvme_read\",class=\"prefetch\"} 0",
        "terrace_link_bytes_per_second{link=\"device_up\"} 0",
        "terrace_lift_wasted_bytes_total 0",
    ] {
        assert!(page.lines().any(|found| found == line), "no `{line}` in\n{page}");
    }
    drop(serving);
    let quiet = place.serve("");
    assert_eq!(quiet.ready["metrics"], Value::Null);
    assert!(TcpStream::connect(address).is_err(), "off is off");
}

#[test]
fn cli_a_read_only_state_folder_is_refused_with_the_remedy() {
    // A file system that takes no files from anybody, root included.
    let place = Place::new();
    let stores = "--nvme-enabled false --object-url off";
    let output = place.run(&format!("serve --state-dir /proc/terrace {stores}"));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("can't make the state folder"), "{}", said(&output));

    let mut doctor = place.command("doctor --json");
    doctor.env("TERRACE_STATE_DIR", "/proc/terrace").env("TERRACE_OBJECT_URL", "off");
    let output = doctor.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = json(&output);
    assert_eq!(report["verdict"], "fail");
    let checks = report["checks"].as_array().unwrap();
    for check in checks.iter().filter(|check| check["verdict"] == "fail") {
        assert!(!check["remedy"].as_str().unwrap().is_empty(), "{check}");
    }
}

#[test]
fn cli_a_bucket_that_is_away_at_the_start_is_said_to_be_out() {
    let place = Place::new();
    // Port 1 of this machine: refused at once.
    let away = "--object-url s3://kv-blocks?endpoint=http://127.0.0.1:1";
    let _serving = place.serve(away);
    let waiting = Stopwatch::start();
    let status = || String::from_utf8(place.run("status").stdout).unwrap();
    while !status().contains("OUT for reads and writes") {
        assert!(waiting.elapsed() < Duration::from_secs(20), "{}", status());
        sleep(Duration::from_millis(50));
    }
    let log = place.logged("the object store is out");
    assert!(log.contains("refused"), "{log}");
    let told: serde_json::Value =
        serde_json::from_slice(&place.run("status --json").stdout).unwrap();
    let object = told["tiers"].as_array().unwrap().last().unwrap();
    assert!(object["outage"].as_str().unwrap().starts_with("OUT for"), "{told}");
    let doctor = String::from_utf8(place.run("doctor").stdout).unwrap();
    assert!(doctor.contains("object is OUT for"), "{doctor}");
}

#[test]
fn cli_status_of_a_daemon_that_is_stopped_names_it() {
    let place = Place::new();
    let serving = place.serve("");
    let pid = Pid::from_child(&serving.child);
    kill_process(pid, Signal::STOP).unwrap();
    let output = place.run("status");
    kill_process(pid, Signal::CONT).unwrap();
    let said = said(&output);
    // By the call's own time, or by that of all that is asked: whichever is over first.
    assert!(said.contains("the daemon at") && said.contains("terrace.sock"), "{said}");
    assert!(said.contains("stopped, overloaded or stuck"), "{said}");
}

/// The kernel ends whoever writes a longer file than it may, unless that is ignored.
#[test]
fn a_limit_of_how_long_files_may_be_is_told() {
    let place = Place::new();
    for (blocks, what) in [("1", "no memory for terrace-dram"), ("300000", "slots")] {
        let serve = place.command("serve");
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", "ulimit -f $0; exec \"$1\" serve", blocks]).arg(serve.get_program());
        limited.env_clear().envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = limited.env("TERRACE_NVME_CAPACITY", "1GiB").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = said(&output);
        assert!(
            said.contains(what) && said.contains("raise") && said.contains("ulimit -f"),
            "{said}"
        );
    }
}

#[test]
fn cli_doctor_finds_what_serve_would_refuse() {
    let place = Place::new();
    let state_dir = place.path().join(".local/state/terrace");
    let agree = |words: &str| {
        let doctor = place.run("doctor");
        let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let serve = place.refused();
        assert_eq!((doctor.status.code(), serve.status.code()), (Some(1), Some(1)), "{found}");
        assert!(found.contains(words) && said(&serve).contains(words), "{found}{}", said(&serve));
    };
    let stopped = place.serve("").signal(Signal::TERM);
    assert!(stopped.success());
    assert!(place.run("doctor").status.success());
    let spoiled = |name: &str, words: &str| {
        let path = state_dir.join(name);
        let before = fs::read(&path).ok();
        fs::write(&path, "junk").unwrap();
        agree(words);
        assert_eq!(fs::read(&path).unwrap(), b"junk", "nothing was changed");
        match before {
            Some(before) => fs::write(&path, before).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    };
    spoiled("nvme/nvme.superblock", "is not a superblock of Terrace; nothing was changed");
    spoiled("version", "is of another version (junk); nothing was changed");
    spoiled("terrace.sock", "exists and is not a socket: remove it");
    let _serving = place.serve("");
    let second = place.run(&format!("doctor --socket {}/other.sock", place.path().display()));
    let found = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(found.contains("another daemon uses the state folder"), "{found}");
    assert!(found.contains("is in use by another daemon"), "{found}");
}

#[test]
fn cli_doctor_finds_the_daemon_and_leaves_it_alone() {
    let place = Place::new();
    let before = json(&place.run("doctor --json"));
    assert!(!place.path().join(".local").exists(), "doctor made folders");
    let serving = place.serve("");
    let output = place.run("doctor --json");
    assert!(output.status.success(), "{}", said(&output));
    let after = json(&output);
    let socket = |report: &Value| {
        let checks = report["checks"].as_array().unwrap().clone();
        let found = checks.iter().find(|check| check["check"] == "socket").unwrap().clone();
        found["found"].as_str().unwrap().to_owned()
    };
    assert!(socket(&before).contains("no daemon runs"), "{before}");
    assert!(socket(&after).contains("a daemon answers"), "{after}");
    assert_eq!(json(&place.run("status --json"))["pid"], serving.ready["pid"]);
    let other = format!("doctor --json --state-dir {}/other", place.path().display());
    assert!(socket(&json(&place.run(&other))).contains("other/terrace.sock can be made"));
}
