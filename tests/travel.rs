//! What a block's owners asked for travels with it: down the tiers, over a crash and a restart, and
//! to other nodes that share a store.
//!
//! Nodes run in this process, on folders of their own; those that are to crash run in a process of
//! their own, which this test starts and kills.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "travel/node.rs"]
mod node;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use terrace::domain::residency::CopyState;
use terrace::domain::retention::{Kind, RetentionRecord, Shield, Wish};
use terrace::domain::tier::Tier;
use terrace::domain::units::Time;
use terrace::env::{Clock, SystemClock};

use node::{Node, REWRITE_DELAY, Spec};

const HOUR: Duration = Duration::from_hours(1);
const NOTHING: Duration = Duration::ZERO;
const CHAIN: [u64; 6] = [1, 2, 3, 4, 5, 6];

fn shield(ttl: Duration) -> Wish {
    let shield = Some(Shield { ttl, refresh_on_hit: true });
    Wish { shield, priority: Some((80, None)), kind: Some(Kind::System), ..Wish::default() }
}

fn forget_after(after: Duration) -> Wish {
    Wish { delete_after: Some(after), ..Wish::default() }
}

fn now() -> Time {
    SystemClock::start().now()
}

/// A node that keeps nothing in memory that it can put on `NVMe`.
fn on_disk(root: &Path) -> Spec {
    Spec::new(root, 8, 100, 0)
}

/// Stores the chain and pushes it down to the disk.
fn sink(node: &mut Node, wish: Wish) {
    ready(node);
    node.store(&CHAIN, Some(wish));
    node.store(&[91, 92, 93, 94, 95, 96, 97, 98], None);
    node.until("the chain is on the disk alone", |node| {
        CHAIN.iter().all(|id| {
            let copies = node.inspect(*id).expect("it is somewhere").copies;
            copies[Tier::Nvme.index()] == CopyState::Resident
                && copies[Tier::Dram.index()] == CopyState::Absent
        })
    });
}

/// What the process that is to be killed does before.
fn live(part: &str, root: &Path) {
    let mut node = Node::start(&on_disk(root));
    match part {
        "sink" => sink(&mut node, shield(HOUR)),
        "repin" => {
            sink(&mut node, shield(HOUR));
            node.retain(&CHAIN, Wish { priority: Some((90, None)), ..shield(10 * HOUR) });
            // Nothing outside tells when a header has been written.
            std::thread::sleep(REWRITE_DELAY + Duration::from_secs(2));
        }
        "promise" => sink(&mut node, forget_after(Duration::from_secs(4))),
        "promise later" => {
            sink(&mut node, Wish::default());
            node.retain(&CHAIN[2..], forget_after(Duration::from_secs(4)));
            std::thread::sleep(Duration::from_secs(1));
        }
        _ => panic!("no part `{part}`"),
    }
    println!("LIVED");
    // Whoever started this kills it; without them it ends soon.
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn the_process_that_is_killed() {
    let [part, root] = ["TERRACE_TRAVEL_PART", "TERRACE_TRAVEL_ROOT"].map(std::env::var_os);
    if let (Some(part), Some(root)) = (part, root) {
        live(part.to_str().unwrap(), Path::new(&root));
    }
}

/// Runs a part in a process of its own and kills that as soon as it is done.
fn crash_after(part: &str, root: &Path) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .envs([("TERRACE_TRAVEL_PART", part.as_ref()), ("TERRACE_TRAVEL_ROOT", root.as_os_str())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(process.stdout.take().unwrap()).lines();
    let lived = said.map_while(Result::ok).any(|line| line.ends_with("LIVED"));
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(lived, "the part `{part}` failed");
}

/// Waits until the disk was read: only then can more than memory holds be taken in.
fn ready(node: &mut Node) {
    let mut first = 1000;
    node.until("the disk was read", |node| {
        first += 10;
        let ids: Vec<u64> = (first..first + 8).collect();
        // Until the disk takes what memory has no room for, some of it is dropped.
        node.offer(None, &ids, None).0.unwrap();
        node.settle();
        node.status().tiers[Tier::Nvme.index()].bytes_in > 0
    });
}

/// Starts the node again.
fn restart(root: &Path) -> Node {
    let mut node = Node::start(&on_disk(root));
    ready(&mut node);
    node
}

fn record(node: &Node, id: u64) -> RetentionRecord {
    node.inspect(id).unwrap_or_else(|| panic!("block {id} is not here")).record
}

#[test]
fn a_record_comes_back_after_a_crash_with_what_is_left_of_its_time() {
    let root = tempfile::tempdir().unwrap();
    let start = now();
    crash_after("sink", root.path());
    let node = restart(root.path());
    assert_eq!(node.count(&CHAIN), 6);
    for id in CHAIN {
        let found = record(&node, id);
        assert_eq!((found.priority, found.kind), (80, Kind::System));
        assert_eq!(found.refresh_on_hit_ms, 3_600_000);
        assert!(found.shield_until >= start + HOUR, "a hit renewed it: {found:?}");
    }
}

#[test]
fn what_was_asked_for_after_a_block_had_sunk_comes_back_too() {
    let root = tempfile::tempdir().unwrap();
    let start = now();
    crash_after("repin", root.path());
    let mut node = restart(root.path());
    for id in CHAIN {
        let found = record(&node, id);
        assert_eq!(found.priority, 90, "block {id}");
        let left = found.shield_until.since(start);
        assert!((10 * HOUR..11 * HOUR).contains(&left), "block {id}: {left:?}");
    }
    assert!(node.load(&CHAIN).is_empty(), "and the right bytes");
}

#[test]
fn what_falls_due_while_the_daemon_is_down_is_not_found_again() {
    for (part, left) in [("promise", 0), ("promise later", 2)] {
        let root = tempfile::tempdir().unwrap();
        crash_after(part, root.path());
        std::thread::sleep(Duration::from_secs(4));
        let node = restart(root.path());
        assert_eq!(node.count(&CHAIN), left, "{part}");
        for id in &CHAIN[left as usize..] {
            assert!(node.inspect(*id).is_none(), "{part}: block {id}");
        }
        // Nor by a daemon after that one: its frame is erased.
        drop(node);
        assert_eq!(restart(root.path()).count(&CHAIN), left, "{part}");
    }
}

fn objects(root: &Path) -> usize {
    let folders = fs::read_dir(root.join("object/v1")).unwrap().flatten();
    let folders = folders.filter(|entry| entry.file_name() != "unfinished");
    folders.map(|entry| fs::read_dir(entry.path()).unwrap().count()).sum()
}

#[test]
fn a_promise_to_forget_is_kept_in_every_tier_at_its_time() {
    let root = tempfile::tempdir().unwrap();
    let spec = Spec::new(root.path(), 2, 2, 50);
    let mut node = Node::start(&spec);
    ready(&mut node);
    let start = now();
    for end in [2, 4, 6] {
        node.store(&CHAIN[..end], Some(forget_after(Duration::from_secs(3))));
        node.settle();
    }
    let tiers: Vec<Tier> = node.found(&CHAIN, NOTHING).iter().map(|(tier, _)| *tier).collect();
    assert_eq!(tiers.len(), 3, "each tier holds a part: {tiers:?}");
    let (before, due) = (objects(root.path()), start + Duration::from_secs(3));
    assert!(before >= 2);
    // Served until its time and not after.
    loop {
        let count = node.count(&CHAIN);
        let after = now();
        assert!(count == 6 || after >= due, "{count} blocks are left too early");
        if after >= due + Duration::from_millis(300) {
            assert_eq!(count, 0, "served late");
            break;
        }
    }
    assert_eq!(node.load(&CHAIN).len(), 6);
    node.until("nothing of it is left", |node| CHAIN.iter().all(|id| node.inspect(*id).is_none()));
    let others = |node: &Node| node.status().tiers[Tier::Object.index()].blocks;
    node.until("its objects are erased", |node| objects(root.path()) as u64 == others(node));
    drop(node);
    let node = Node::start(&spec);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(node.found(&CHAIN, Duration::from_secs(5)), []);
}

#[test]
fn a_second_node_finds_what_the_first_one_left_and_what_was_asked_for_it() {
    let (root, first, second) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shared = root.path().join("object");
    let ids: Vec<u64> = (1..=100).collect();
    let spec = Spec { object_dir: shared.clone(), ..Spec::new(first.path(), 4, 0, 500) };
    let mut one = Node::start(&spec);
    one.store(&ids, Some(shield(HOUR)));
    one.store(&[201, 202, 203, 204], None);
    one.settle();
    one.retain(&ids[..1], Wish { priority: Some((95, None)), ..Wish::default() });
    let promise = forget_after(2 * HOUR);
    one.retain(&ids[..2], promise);
    std::thread::sleep(REWRITE_DELAY + Duration::from_secs(1));

    // Smaller than the chain: it has to let go of others' objects.
    let spec = Spec { object_dir: shared, ..Spec::new(second.path(), 4, 0, 150) };
    let mut two = Node::start(&spec);
    assert_eq!(two.found(&ids, NOTHING), []);
    assert_eq!(two.found(&ids, Duration::from_secs(20)), [(Tier::Object, 100)]);
    for id in [1, 2, 3, 100] {
        let [there, here] = [&one, &two].map(|node| record(node, id));
        assert_eq!((here.priority, here.kind), (there.priority, Kind::System));
        assert_eq!(here.delete_after, there.delete_after);
        // Its hit renewed the shield here, where a budget of half of 154 blocks let it in at all.
        if id < 70 {
            assert!(here.shield_until >= there.shield_until);
        } else {
            assert_eq!(here.shield_until, Time::ZERO);
        }
    }
    assert_eq!(two.load(&ids[..50]), Vec::<u32>::new(), "and the right bytes");

    let before = objects(root.path());
    let others: Vec<u64> = (301..=400).collect();
    two.store(&others, None);
    two.settle();
    assert!(two.found(&ids, NOTHING).iter().map(|(_, blocks)| blocks).sum::<u32>() < 100);
    let after = objects(root.path());
    assert!(after >= before, "{before} objects became {after}: it erased some of the first node's");
    assert_eq!(one.load(&ids[50..]), Vec::<u32>::new());
}

/// Without a disk: whatever is in memory is lost, and the folder is all that is left.
#[test]
fn what_a_run_left_in_the_object_folder_counts_in_the_next_one_and_is_found_again() {
    for packs in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let spec = Spec { packs, ..Spec::new(root.path(), 4, 0, 40) };
        let (kept, promised): (Vec<u64>, Vec<u64>) = ((1..=6).collect(), (11..=14).collect());
        let mut node = Node::start(&spec);
        node.store(&kept, Some(shield(HOUR)));
        let start = now();
        node.store(&promised, Some(forget_after(Duration::from_secs(6))));
        node.store(&[91, 92, 93, 94], None);
        node.settle();
        let blocks = |node: &Node| node.status().tiers[Tier::Object.index()].blocks;
        assert_eq!(blocks(&node), 10, "packs: {packs}");
        drop(node);

        let mut node = Node::start(&spec);
        node.until("what was left is found", |node| blocks(node) == 10);
        assert_eq!(node.found(&kept, NOTHING), [(Tier::Object, 6)]);
        assert_eq!(record(&node, 6).kind, Kind::System);
        assert_eq!(node.load(&kept), Vec::<u32>::new(), "and the right bytes");
        // Nobody asks for what was promised to be forgotten.
        node.until("the promise is kept", |node| blocks(node) == 6);
        assert!(now() >= start + Duration::from_secs(6), "not before its time");
        for run in 1..=3 {
            for chain in 0..3 {
                let first = 1000 * run + 100 * chain;
                node.store(&(first..first + 20).collect::<Vec<_>>(), None);
                node.settle();
            }
            drop(node);
            node = Node::start(&spec);
            node.until("what was left is found", |node| blocks(node) > 0);
            node.until("only what the tier may hold stays", |node| blocks(node) <= 40);
            if !packs {
                node.until("the folder holds no more", |_| objects(root.path()) <= 40);
            }
        }
    }
}

#[test]
fn a_node_that_stored_what_was_there_already_does_not_erase_it() {
    let (root, first, second) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = |own: &Path, object: u64| {
        let object_dir = root.path().join("object");
        Node::start(&Spec { object_dir, ..Spec::new(own, 2, 0, object) })
    };
    let (mut one, mut two) = (node(first.path(), 100), node(second.path(), 8));
    for node in [&mut one, &mut two] {
        node.store(&CHAIN, None);
        node.store(&[91, 92], None);
        node.settle();
    }
    assert_eq!(objects(root.path()), 6, "both wrote the same");
    // The second node has no room for more without letting go of what it believes to have written.
    for first in [200, 300] {
        two.store(&(first..first + 6).collect::<Vec<_>>(), None);
        two.settle();
    }
    assert_eq!(two.count(&CHAIN), 0);
    assert_eq!(one.load(&CHAIN), Vec::<u32>::new());
}
