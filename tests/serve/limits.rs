//! `doctor` under limits that a daemon does not start with: it says so, and which.

use std::process::{Command, Output};

use serde_json::Value;

use super::{Place, json, said};

/// The command under these limits of the shell.
fn limited(place: &Place, limits: &str, line: &str) -> Command {
    let plain = place.command(line);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit {limits} && exec \"$0\" \"$@\""));
    command.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TERRACE_NVME_ENABLED", "false");
    command
}

fn check(doctor: &Output, name: &str) -> Value {
    let report = json(doctor);
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap().clone()
}

#[test]
fn cli_doctor_names_the_limit_that_keeps_serve_from_starting() {
    for (limits, row) in [("-n 12", "descriptors"), ("-f 0", "file size")] {
        let place = Place::new();
        let doctor = limited(&place, limits, "doctor --json").output().unwrap();
        assert_eq!(doctor.status.code(), Some(1), "{limits}: {}", json(&doctor));
        let found = check(&doctor, row);
        assert_eq!(found["verdict"], "fail", "{limits}: {found}");
        let remedy = found["remedy"].as_str().unwrap();
        assert!(remedy.contains("ulimit"), "{remedy}");
        let serve = Place::refused_by(limited(&place, limits, "serve"));
        assert_eq!(serve.status.code(), Some(1), "{limits}: {}", said(&serve));
    }
}

#[test]
fn cli_doctor_blames_no_disk_and_no_huge_pages_for_a_limit_of_files() {
    let place = Place::new();
    let doctor = limited(&place, "-f 0", "doctor --json").output().unwrap();
    let said = json(&doctor).to_string();
    assert!(!said.contains("nr_hugepages") && !said.contains("nvme.enabled"), "{said}");
    assert!(check(&doctor, "io_uring")["remedy"].as_str().unwrap().contains("ulimit -f"), "{said}");
}

#[test]
fn cli_as_many_descriptors_as_doctor_wants_are_enough_to_start() {
    let place = Place::new();
    let with_nvme = |line: &str| {
        let mut command = limited(&place, "-n 22", line);
        command.env("TERRACE_NVME_ENABLED", "true");
        command
    };
    let doctor = with_nvme("doctor --json").output().unwrap();
    assert!(doctor.status.success(), "{}", json(&doctor));
    assert_eq!(check(&doctor, "descriptors")["verdict"], "warn", "none are left for clients");
    let serving = place.start(with_nvme("serve --json"));
    assert!(serving.capacity("nvme").is_some());
}
