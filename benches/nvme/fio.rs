//! fio's `io_uring`, with what the tier's ring has too: registered buffers and files.

use std::path::Path;
use std::process::Command;

use super::{DEPTH, FRAME_BYTES, Way};

pub fn is_there() -> bool {
    Command::new("fio").arg("--version").output().is_ok_and(|end| end.status.success())
}

/// Bytes a second, after a ramp that does not count.
pub fn run(path: &Path, way: Way, (ramp_seconds, seconds): (u64, u64)) -> f64 {
    let (rw, field) = match way {
        Way::Write => ("write", "write"),
        Way::Read => ("read", "read"),
    };
    let end = Command::new("fio")
        // Its buffers lie in huge pages too: without, its figures are anything up to these.
        .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        .args([
            "--name=bench",
            "--ioengine=io_uring",
            "--direct=1",
            "--fixedbufs",
            "--registerfiles",
        ])
        .args([
            "--time_based",
            "--output-format=json",
            "--refill_buffers=0",
            "--allow_file_create=0",
        ])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--size={}", way.span_bytes()))
        .arg(format!("--bs={FRAME_BYTES}"))
        .arg(format!("--iodepth={DEPTH}"))
        .arg(format!("--ramp_time={ramp_seconds}"))
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--rw={rw}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&end.stdout);
    assert!(end.status.success(), "fio: {said}{}", String::from_utf8_lossy(&end.stderr));
    let report: serde_json::Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
    report["jobs"][0][field]["bw_bytes"].as_f64().expect("fio says how fast it was")
}
