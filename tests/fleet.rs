//! Two nodes on one object store, a folder or a bucket: they find, share and inherit each other's
//! blocks; and whatever one does, the other serves right bytes or misses.
//!
//! Each test runs in a process of its own, which has the bucket's credentials in its environment.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "travel/node.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod node;
#[path = "s3/server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod s3;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use terrace::domain::retention::{Kind, Shield, Wish};
use terrace::domain::tier::Tier;
use terrace::domain::units::Time;
use terrace::env;

use node::{Node, Spec};
use s3::{CREDENTIALS, S3Server};

const HOUR: Duration = Duration::from_hours(1);
const MINUTES: i64 = 5 * 60;
const ASK: Duration = Duration::from_secs(9);

/// Says in a process's environment what it is to do, and where.
const PART: &str = "TERRACE_FLEET_PART";
const URL: &str = "TERRACE_FLEET_URL";
const WRITER: &str = "TERRACE_FLEET_WRITER";
const PACKS: &str = "TERRACE_FLEET_PACKS";

/// A node of the fleet: little memory, no disk, all else shared.
fn spec(own: &Path, url: &str) -> Spec {
    let packs = std::env::var_os(PACKS).is_some();
    Spec { object_url: Some(url.into()), packs, ..Spec::new(own, 8, 0, 20_000) }
}

fn shielded() -> Wish {
    let shield = Some(Shield { ttl: HOUR, refresh_on_hit: false });
    Wish { shield, priority: Some((80, None)), kind: Some(Kind::System), ..Wish::default() }
}

fn forget_after(after: Duration) -> Wish {
    Wish { delete_after: Some(after), ..Wish::default() }
}

/// Runs `test` on a folder and on a bucket, with blocks as objects and with packs, in a process with
/// credentials.
fn on_both(name: &str, test: fn(&str)) {
    if std::env::var(PART).is_ok_and(|part| part == name) {
        let url = std::env::var(URL).unwrap();
        return test(&url);
    }
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path(), s3::ask_for_credentials);
    let folder = |packed: &str| format!("file://{}", root.path().join(packed).display());
    let bucket = |packed: &str| server.url(&format!("{name}/{packed}"));
    for (url, packs) in [
        (folder("single"), false),
        (folder("packed"), true),
        (bucket("single"), false),
        (bucket("packed"), true),
    ] {
        let mut process = process(name, &url);
        let said = if packs { process.env(PACKS, "yes") } else { &mut process }.output().unwrap();
        let told = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{url}: {told}");
    }
}

fn process(name: &str, url: &str) -> Command {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", name, "--nocapture"]).envs(CREDENTIALS).env(PART, name).env(URL, url);
    process
}

/// As many as memory holds: what was there before goes down.
const OTHERS: [u64; 8] = [9001, 9002, 9003, 9004, 9005, 9006, 9007, 9008];

fn pushed_down(node: &mut Node, ids: &[u64], wish: Option<Wish>) {
    node.store(ids, wish);
    node.store(&OTHERS, None);
    node.settle();
}

/// Where this process is to pack, and in a folder, packs are there.
fn assert_packed(url: &str) {
    let Some(root) = url.strip_prefix("file://").filter(|_| std::env::var_os(PACKS).is_some())
    else {
        return;
    };
    let packs = Path::new(root).join("v1/packs");
    assert!(packs.read_dir().is_ok_and(|mut found| found.next().is_some()), "nothing was packed");
}

#[test]
fn blocks_and_records_are_shared_and_inherited() {
    on_both("blocks_and_records_are_shared_and_inherited", |url| {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ids: Vec<u64> = (1..=60).collect();
        let mut one = Node::start(&spec(first.path(), url));
        pushed_down(&mut one, &ids, Some(shielded()));
        assert_packed(url);
        let mut two = Node::start(&spec(second.path(), url));
        assert_eq!(two.found(&ids, Duration::ZERO), []);
        let found = two.found(&ids, ASK);
        assert_eq!(found, [(Tier::Object, 60)]);
        assert_eq!(two.inspect(60).unwrap().record, one.inspect(60).unwrap().record);
        assert_eq!(two.load(&ids), Vec::<u32>::new(), "and the right bytes");
        // What the first one had no more room for is the second one's to go on with.
        drop(one);
        let more: Vec<u64> = (1..=70).collect();
        pushed_down(&mut two, &more, None);
        let mut third = Node::start(&spec(first.path(), url));
        third.until("all of it is found", |node| {
            node.found(&more, ASK).iter().map(|(_, blocks)| blocks).sum::<u32>() >= 62
        });
        assert_eq!(third.load(&more[..60]), Vec::<u32>::new());
    });
}

#[test]
fn a_chain_longer_than_a_round_is_found_whole_and_its_records_are_learned() {
    on_both("a_chain_longer_than_a_round_is_found_whole_and_its_records_are_learned", |url| {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ids: Vec<u64> = (1..=400).collect();
        let mut one = Node::start(&spec(first.path(), url));
        for end in (100..=400).step_by(100) {
            one.store_behind(
                ids[..end - 100].last().copied(),
                &ids[end - 100..end],
                Some(shielded()),
            );
            one.settle();
        }
        pushed_down(&mut one, &[8001], None);
        let mut two = Node::start(&spec(second.path(), url));
        assert_eq!(two.found(&ids, ASK), [(Tier::Object, 400)]);
        let last = |node: &Node| node.inspect(400).unwrap().record;
        two.until("the records are learned", |node| last(node) == last(&one));
        for part in ids.chunks(100) {
            assert_eq!(two.load(part), Vec::<u32>::new(), "and the right bytes");
        }
    });
}

#[test]
fn what_one_node_forgets_another_misses_and_never_gets_wrong() {
    on_both("what_one_node_forgets_another_misses_and_never_gets_wrong", |url| {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ids: Vec<u64> = (1..=40).collect();
        let mut one = Node::start(&spec(first.path(), url));
        pushed_down(&mut one, &ids, None);
        let mut two = Node::start(&spec(second.path(), url));
        assert_eq!(two.found(&ids, ASK), [(Tier::Object, 40)]);
        one.retain(&ids[20..], forget_after(Duration::from_millis(1)));
        // `load` compares every byte of what came.
        let mut failed = Vec::new();
        for _ in 0..10 {
            failed = two.load(&ids);
            std::thread::sleep(Duration::from_millis(50));
        }
        one.until("it is forgotten", |node| node.inspect(21).is_none());
        assert!(failed.iter().all(|index| *index >= 20), "{failed:?}");
        drop(two);
        let two = Node::start(&spec(second.path(), url));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(two.found(&ids, ASK), [(Tier::Object, 20)]);
    });
}

#[test]
fn who_stores_a_promised_block_anew_without_a_word_undoes_no_promise() {
    on_both("who_stores_a_promised_block_anew_without_a_word_undoes_no_promise", |url| {
        let own = [(); 4].map(|()| tempfile::tempdir().unwrap());
        let ids: Vec<u64> = (1..=20).collect();
        let mut one = Node::start(&spec(own[0].path(), url));
        pushed_down(&mut one, &ids, None);
        assert_packed(url);
        one.retain(&ids, forget_after(Duration::from_mins(10)));
        // What is still to be written into headers is written before it ends.
        drop(one);
        // It asks nobody what is there.
        let mut two = Node::start(&spec(own[1].path(), url));
        pushed_down(&mut two, &ids, None);
        two.until("it has heard of the promises", |node| {
            let record = |id| node.inspect(id).map(|block| block.record.delete_after);
            ids.iter().all(|id| record(*id).is_some_and(|at| at > Time::ZERO))
        });
        let in_time = Node::start(&spec(own[2].path(), url));
        assert_eq!(in_time.found(&ids, ASK), [(Tier::Object, 20)]);
        let late = Node::start(&Spec { skew_s: 3 * MINUTES, ..spec(own[3].path(), url) });
        assert_eq!(late.found(&ids, ASK), []);
    });
}

#[test]
fn clocks_that_differ_by_minutes_cost_misses_at_worst() {
    on_both("clocks_that_differ_by_minutes_cost_misses_at_worst", |url| {
        let ids: Vec<u64> = (1..=30).collect();
        let promise = forget_after(Duration::from_mins(10));
        for (round, skew_s) in (1_u64..).zip([-MINUTES, MINUTES, 3 * MINUTES]) {
            let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let ids: Vec<u64> = ids.iter().map(|id| round * 100 + id).collect();
            let mut one = Node::start(&spec(first.path(), url));
            pushed_down(&mut one, &ids, Some(promise));
            let mut two = Node::start(&Spec { skew_s, ..spec(second.path(), url) });
            let found: u32 = two.found(&ids, ASK).iter().map(|(_, blocks)| blocks).sum();
            // By its clock the promise of ten minutes is due in fifteen, in five, or long past.
            assert_eq!(found, if skew_s > 10 * 60 { 0 } else { 30 }, "{skew_s} s ahead");
            let failed = two.load(&ids);
            assert!(failed.is_empty() || found == 0, "{failed:?}");
        }
    });
}

#[test]
fn a_writer_that_dies_leaves_whole_blocks_and_nothing_else() {
    const NAME: &str = "a_writer_that_dies_leaves_whole_blocks_and_nothing_else";
    on_both(NAME, |url| {
        if let Ok(from) = std::env::var(WRITER) {
            return write_without_end(url, from.parse().unwrap());
        }
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut two = Node::start(&spec(second.path(), url));
        for (from, pause_ms) in [(1, 0), (201, 15), (401, 40)] {
            let ids = written_without_end(from);
            let mut writer = process(NAME, url);
            let writer = writer.env(WRITER, from.to_string()).stdout(Stdio::piped());
            let mut writer = writer.spawn().unwrap();
            let said = BufReader::new(writer.stdout.take().unwrap()).lines();
            let wrote = said.map_while(Result::ok).any(|line| line.ends_with("WRITING"));
            std::thread::sleep(Duration::from_millis(pause_ms));
            writer.kill().unwrap();
            writer.wait().unwrap();
            assert!(wrote);
            // `load` compares every byte of what came.
            let found: u32 = two.found(&ids, ASK).iter().map(|(_, blocks)| blocks).sum();
            let found = usize::try_from(found).unwrap();
            assert_eq!(two.load(&ids[..found]), Vec::<u32>::new(), "{found} were found");
        }
        // And the next writer finishes what that one began.
        let ids = written_without_end(401);
        let mut one = Node::start(&spec(first.path(), url));
        pushed_down(&mut one, &ids, None);
        assert_eq!(one.load(&ids), Vec::<u32>::new());
    });
}

fn written_without_end(from: u64) -> Vec<u64> {
    (from..from + 100).collect()
}

/// What the process that is to be killed does.
fn write_without_end(url: &str, from: u64) {
    let own = tempfile::tempdir().unwrap();
    let mut node = Node::start(&spec(own.path(), url));
    println!("WRITING");
    node.store(&written_without_end(from), None);
    // Whoever started this kills it; without them it ends soon.
    std::thread::sleep(Duration::from_secs(20));
}
