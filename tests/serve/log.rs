//! The daemon's log: nobody waits for who reads it, and who reads it finds all of it.

use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionbio, write};
use rustix::process::{Pid, Signal, kill_process};
use terrace::env::{self, Stopwatch};

use super::Place;

const PATIENCE: Duration = Duration::from_secs(20);

/// A pipe with room for not one byte.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    for bytes in [4096, 1] {
        while write(&writer, &vec![b'.'; bytes]) != Err(Errno::AGAIN) {}
    }
    ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// `serve` that writes all that it says into the pipe. It is ended with this value.
struct Piped(Child);

impl Piped {
    fn start(place: &Place, writer: PipeWriter) -> Self {
        let mut serve = place.command("serve");
        serve.stdout(Stdio::from(writer.try_clone().unwrap())).stderr(Stdio::from(writer));
        let serving = Self(serve.spawn().unwrap());
        let waiting = Stopwatch::start();
        while !place.run("status").status.success() {
            assert!(waiting.elapsed() < PATIENCE, "it does not answer");
            sleep(Duration::from_millis(20));
        }
        serving
    }

    /// Asks it to end, and waits for that.
    fn stop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let waiting = Stopwatch::start();
        let ended = loop {
            if let Some(ended) = self.0.try_wait().unwrap() {
                break ended;
            }
            assert!(waiting.elapsed() < PATIENCE, "SIGTERM does not end it");
            sleep(Duration::from_millis(10));
        };
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn cli_a_log_that_nobody_reads_holds_nothing_up() {
    let place = Place::new();
    let (_unread, writer) = full_pipe();
    let mut serving = Piped::start(&place, writer);
    // What it has to say of these finds no room either.
    for _ in 0..3 {
        assert!(place.run("status").status.success());
    }
    serving.stop();
}

#[test]
fn cli_a_log_that_was_not_read_for_a_while_is_whole_to_its_last_line() {
    let place = Place::new();
    let (mut reader, writer) = full_pipe();
    let mut serving = Piped::start(&place, writer);
    let (told, read) = std::sync::mpsc::sync_channel(1);
    let reading = move || {
        let mut text = String::new();
        drop(reader.read_to_string(&mut text).map(|_| told.send(text)));
    };
    env::spawn_thread("test-reader", reading).unwrap();
    serving.stop();
    let text = read.recv_timeout(PATIENCE).unwrap();
    let lines: Vec<&str> = text.trim_start_matches('.').lines().collect();
    let at = |part: &str| lines.iter().position(|line| line.contains(part)).unwrap();
    assert!(at("is ready at") < at("asked to stop"), "{text}");
    assert!(lines.last().unwrap().contains("stopped"), "{text}");
    assert!(!text.contains("lines are missing"), "{text}");
}
