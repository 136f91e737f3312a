//! Both sockets over loopback, with a peer that knows nothing of the code under test: it sends the
//! bytes that libzmq sends, and reads frames by itself.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::domain::block::{HashTail, Key};
use crate::domain::directory::Change;
use crate::domain::namespace::{NamespaceDigest, example};
use crate::domain::tier::{Tier, TierSet};
use crate::domain::units::Time;
use crate::manager::NamespaceEntry;
use crate::sockets::full;

const PATIENCE: Duration = Duration::from_secs(5);

struct World {
    journal: Arc<Journal>,
    publisher: Option<Publisher>,
    folder: tempfile::TempDir,
    runtime: Runtime,
}

impl World {
    fn start(changes_max: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = |name| Endpoint::Ipc(folder.path().join(name));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let journal = Arc::new(Journal::new(1, changes_max));
        let config = PublisherConfig {
            publish: endpoint("pub"),
            replay: Some(endpoint("replay")),
            topic: "kv@n@{model}".into(),
        };
        let publisher = Publisher::start(&config, Arc::clone(&journal), runtime.handle()).unwrap();
        Self { journal, publisher: Some(publisher), folder, runtime }
    }

    fn append(&self, n: u64) {
        let change = Change {
            key: Key([1; 16]),
            namespace: 0,
            position: 0,
            tail: HashTail(n),
            parent_tail: HashTail::UNKNOWN,
            tokens: bytes::Bytes::new(),
            before: TierSet::EMPTY,
            after: TierSet::EMPTY.with(Tier::Dram),
        };
        let (digest, namespace) = (NamespaceDigest([1; 32]), Some(example()));
        let entry = Arc::new(NamespaceEntry { digest, payload_bytes: 4096, namespace });
        self.journal.append(Time { micros: 1 }, entry, vec![change]);
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A second publisher, at this path.
    fn start_another(&self, path: &Path) -> Result<Publisher, StartError> {
        let config = PublisherConfig {
            publish: Endpoint::Ipc(path.to_owned()),
            replay: None,
            topic: String::new(),
        };
        Publisher::start(&config, Arc::clone(&self.journal), self.runtime.handle())
    }
}

/// A peer at the other end.
struct Peer(UnixStream);

impl Peer {
    fn connect(path: &Path, kind: &str) -> Self {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL".to_vec();
        hello.resize(64, 0);
        let body = [&b"\x05READY\x0bSocket-Type\0\0\0"[..], &[u8::try_from(kind.len()).unwrap()]];
        let body = [body.concat(), kind.as_bytes().to_vec()].concat();
        hello.extend([4, u8::try_from(body.len()).unwrap()]);
        hello.extend(body);
        stream.write_all(&hello).unwrap();
        let mut answer = [0; 64];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer[10..17], b"\x03\0NULL\0");
        let mut peer = Self(stream);
        assert_eq!(peer.frame().0, 4, "READY is a command");
        peer
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut flags = [0];
        self.0.read_exact(&mut flags).unwrap();
        let mut size = [0; 8];
        let from = if flags[0] & 2 != 0 { 0 } else { 7 };
        self.0.read_exact(&mut size[from..]).unwrap();
        let mut body = vec![0; usize::try_from(u64::from_be_bytes(size)).unwrap()];
        self.0.read_exact(&mut body).unwrap();
        (flags[0], body)
    }

    fn message(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.frame();
            frames.push(body);
            if flags & 1 == 0 {
                return frames;
            }
        }
    }

    /// The number of the next message, which must be of this topic.
    fn sequence(&mut self) -> u64 {
        let frames = self.message();
        let [topic, number, payload] = frames.try_into().unwrap();
        assert!(topic.starts_with(b"kv@n@") && payload.len() > 20);
        u64::from_be_bytes(number.try_into().unwrap())
    }
}

/// Appends until the subscriber has heard the first, since nobody tells when it is heard.
fn first_heard(world: &World, peer: &mut Peer) -> u64 {
    peer.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for n in 1..100 {
        world.append(n);
        let mut first = [0];
        // The byte is left where it is, if one has come.
        if rustix::net::recv(&peer.0, &mut first, rustix::net::RecvFlags::PEEK).is_ok() {
            peer.0.set_read_timeout(Some(PATIENCE)).unwrap();
            return peer.sequence();
        }
    }
    panic!("a subscriber hears nothing");
}

#[test]
fn a_subscriber_hears_what_comes_in_order_and_only_its_topics() {
    let world = World::start(1000);
    let mut peer = Peer::connect(&world.path("pub"), "SUB");
    let mut other = Peer::connect(&world.path("pub"), "SUB");
    other.send(b"\0\x06\x01other");
    peer.send(b"\0\x04\x01kv@");
    let first = first_heard(&world, &mut peer);
    world.append(500);
    let newest = world.journal.next_sequence();
    for sequence in first + 1..=newest {
        assert_eq!(peer.sequence(), sequence);
    }
    other.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(other.0.read(&mut [0]).is_err(), "no topic of its was published");
}

#[test]
fn a_slow_subscriber_loses_messages_and_sees_it_by_the_numbers() {
    let world = World::start(8);
    let mut peer = Peer::connect(&world.path("pub"), "SUB");
    peer.send(b"\0\x01\x01");
    let first = first_heard(&world, &mut peer);
    // Far more than the socket holds while nobody reads.
    for n in 0..20_000 {
        world.append(n + 1);
    }
    let (newest, mut last, mut gaps) = (world.journal.next_sequence(), first, 0);
    while last < newest {
        let sequence = peer.sequence();
        assert!(sequence > last, "{sequence} after {last}");
        gaps += u64::from(sequence != last + 1);
        last = sequence;
    }
    assert!(gaps > 0, "nothing was lost: the test proves nothing");
}

#[test]
fn what_was_missed_is_sent_again_and_ends() {
    let world = World::start(3);
    for n in 1..=5 {
        world.append(n);
    }
    let mut peer = Peer::connect(&world.path("replay"), "REQ");
    for (from, wanted) in [(4, vec![4, 5]), (0, vec![3, 4, 5]), (6, vec![]), (u64::MAX, vec![])] {
        peer.send(&[&b"\x01\0\0\x08"[..], &u64::to_be_bytes(from)].concat());
        let mut found = Vec::new();
        loop {
            let [empty, topic, number, payload] = peer.message().try_into().unwrap();
            let number = i64::from_be_bytes(number.try_into().unwrap());
            assert!(empty.is_empty());
            if number == -1 {
                assert!(topic.is_empty() && payload.is_empty());
                break;
            }
            found.push(number);
        }
        assert_eq!(found, wanted, "from {from}");
    }
    // A request that is none ends the connection.
    peer.send(b"\x01\0\0\x01x");
    assert_eq!(peer.0.read(&mut [0]).unwrap(), 0);
}

#[test]
fn heartbeats_are_answered_at_both_sockets() {
    let world = World::start(8);
    for (name, kind) in [("pub", "SUB"), ("pub", "XSUB"), ("replay", "DEALER")] {
        let mut peer = Peer::connect(&world.path(name), kind);
        for context in [&b""[..], b"abcd"] {
            let size = u8::try_from(7 + context.len()).unwrap();
            peer.send(&[&[4, size], &b"\x04PING\0\x96"[..], context].concat());
            assert_eq!(peer.frame(), (4, [b"\x04PONG", context].concat()), "{kind}");
        }
    }
    // Between messages as well.
    let mut peer = Peer::connect(&world.path("pub"), "SUB");
    peer.send(b"\0\x01\x01");
    let first = first_heard(&world, &mut peer);
    for sequence in first + 1..=world.journal.next_sequence() {
        assert_eq!(peer.sequence(), sequence);
    }
    peer.send(b"\x04\x07\x04PING\0\x96");
    assert_eq!(peer.frame(), (4, b"\x04PONG".to_vec()));
}

#[test]
fn the_sockets_are_their_owners_and_go_with_the_publisher() {
    let mut world = World::start(8);
    let path = world.path("pub");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let said = world.start_another(&path).err().expect("somebody listens there").to_string();
    assert!(said.contains("events.zmq") && said.contains("ipc://"), "{said}");
    let mut peer = Peer::connect(&path, "SUB");
    // Somebody took the other place meanwhile: theirs stays.
    let replay = world.path("replay");
    std::fs::remove_file(&replay).unwrap();
    let _theirs = UnixListener::bind(&replay).unwrap();
    drop(world.publisher.take());
    assert_eq!(peer.0.read(&mut [0]).unwrap(), 0, "connections end");
    assert!(!path.exists() && replay.exists());
    // What a dead daemon left is no obstacle.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(world.start_another(&path).is_ok());
}

#[test]
fn a_place_is_refused_at_once_where_a_process_hangs() {
    let world = World::start(8);
    let path = world.path("hangs");
    let _hangs = full(&path);
    let said = world.start_another(&path).err().expect("it is in use").to_string();
    assert!(said.contains("is in use") && said.contains("events.zmq"), "{said}");
}
