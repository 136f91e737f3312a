//! The object store: asked for a block that nobody has, and given one that goes again.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::runtime;

use super::Check;
use super::daemon::standing;
use super::storage::small_arena;
use crate::config::{Machine, Object, ThisMachine};
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::NamespaceDigest;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::{Bytes, CHUNK_BYTES, Time};
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, HeaderDraft};
use crate::tiers::object::{self, ObjectOptions, Target};
use crate::tiers::open::check_writable;
use crate::tiers::store::{Erasure, FrameMeta, FrameSpan, Place, StoreError, StoreOp, TierStore};

/// How long the object store may take to say that it has no such block.
const OBJECT_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn check(object: &Object, state_dir: &Path) -> Check {
    const CHECK: &str = "object";
    let target = &object.target;
    let (reached, is_new, remedy) = match target {
        Target::Dir { path, .. } => (
            object_folder(path, state_dir),
            !path.exists(),
            "free some room there, or mend object.url, or set it to off",
        ),
        Target::S3(_) => (
            try_bucket(object),
            false,
            "mend object.url, object.endpoint or the store's credentials, or set object.url to off",
        ),
    };
    match reached {
        Reached::Well if is_new => Check::ok(CHECK, format!("{target} can be made")),
        Reached::Well => Check::ok(CHECK, format!("{target} is there for us")),
        Reached::Out(said) => {
            let found = format!("{target}: {said}; until it is mended the daemon runs without");
            Check::warn(CHECK, found, remedy)
        }
        Reached::Refused(said) => Check::fail(CHECK, format!("{target}: {said}"), remedy),
    }
}

/// How far one gets with a store.
enum Reached {
    Well,
    /// The daemon starts, and the store does not what it should.
    Out(String),
    /// The daemon does not start.
    Refused(String),
}

fn object_folder(path: &Path, state_dir: &Path) -> Reached {
    // The daemon makes its state folder first.
    if path.parent() != Some(state_dir)
        && let Err(error) = object::check_parent(path)
    {
        return Reached::Refused(error.to_string());
    }
    let standing = standing(path);
    if let Err(error) = check_writable(standing) {
        return Reached::Refused(error.to_string());
    }
    match ThisMachine.disk(standing).map(|disk| disk.free_bytes) {
        Some(free_bytes) if free_bytes < CHUNK_BYTES => Reached::Out(format!(
            "its disk has {} free: little is written to it",
            Bytes(free_bytes)
        )),
        _ => Reached::Well,
    }
}

/// Opens the bucket as the daemon would, and tries it out.
fn try_bucket(object: &Object) -> Reached {
    let made = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (runtime, arena) = match (made, small_arena()) {
        (Ok(runtime), Ok(arena)) => (runtime, arena),
        (Err(error), _) | (_, Err(error)) => return Reached::Out(format!("not tried: {error}")),
    };
    let options = ObjectOptions {
        attempt_timeout: OBJECT_PATIENCE / 2,
        op_timeout: OBJECT_PATIENCE,
        // What it says is told here.
        asked_at_start: false,
        ..ObjectOptions::default()
    };
    let reached = match object::open(&object.target, options, &arena, runtime.handle()) {
        Err(error) => Reached::Refused(error.to_string()),
        Ok(store) => {
            let packs = || object::list_packs(&object.target, options, &arena, runtime.handle());
            let listed = || object.packs.map_or(Ok(()), |_| answered("list", packs()));
            try_store(&*store, &arena)
                .and_then(|()| listed())
                .map_or_else(Reached::Out, |()| Reached::Well)
        }
    };
    runtime.shutdown_background();
    reached
}

/// Reads a block that nobody has: the store answers that it is missing, if it answers us at all.
/// Then writes one that is nobody's, and erases it. Gives what is wrong with it.
fn try_store(store: &dyn TierStore, arena: &Arena) -> Result<(), String> {
    let (key, place) = (Key(env::random_bytes()), Place { offset: 0, slot_bytes: 8192 });
    let frame = FrameSpan { offset: 0, bytes: 8192 };
    match ask(store, "read", StoreOp::Read { key, place, frame }) {
        Ok(()) | Err(StoreError::Corrupt(_)) => return Err(object::NO_STORE.to_owned()),
        ended => answered("read", ended)?,
    }
    // SAFETY: nothing is under way, and the arena is only this check's.
    frame::seal(unsafe { arena.bytes_mut(frame) }, nobodys(key));
    answered("write", ask(store, "write", StoreOp::Write { key, place, frame }))?;
    answered("erase", ask(store, "erase", StoreOp::Erase { key, place, why: Erasure::Unusable }))
}

/// Runs one operation.
fn ask(store: &dyn TierStore, verb: &str, op: StoreOp) -> Result<(), StoreError> {
    let (tell, told) = sync_channel(1);
    store.submit(op, Box::new(move |ended| drop(tell.send(ended))));
    told.recv_timeout(OBJECT_PATIENCE * 2).unwrap_or_else(|_| {
        let what = format!("{verb}: no answer within {} s", OBJECT_PATIENCE.as_secs() * 2);
        Err(StoreError::Io { what, source: ErrorKind::TimedOut.into() })
    })
}

fn answered(verb: &str, ended: Result<(), StoreError>) -> Result<(), String> {
    match ended {
        Ok(()) | Err(StoreError::Missing(_)) => Ok(()),
        Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Err(format!("it lets nobody {verb}: grant {}", permissions(verb)))
        }
        Err(error) => Err(format!("can't {verb}: {error}")),
    }
}

/// What S3 wants to be granted. Without a list's right it denies what is only not there.
fn permissions(verb: &str) -> &'static str {
    match verb {
        "read" => "s3:GetObject on the objects and s3:ListBucket on the bucket",
        "write" => "s3:PutObject on the objects",
        "list" => "s3:ListBucket on the bucket, or set object.pack_below to 0",
        _ => "s3:DeleteObject on the objects",
    }
}

/// A frame of zeros that belongs to no namespace.
fn nobodys(key: Key) -> HeaderDraft {
    let record = RetentionRecord::default();
    let tail = HashTail::UNKNOWN;
    let meta = FrameMeta { key, tail, parent: None, position: 0, created_at: Time::ZERO, record };
    let namespace = NamespaceDigest(env::random_bytes());
    HeaderDraft { namespace, meta, payload_bytes: 4096, node_id: env::random_bytes() }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{Shutdown, TcpListener};

    use super::super::Verdict;
    use super::*;
    use crate::tiers::object::Bucket;

    fn object_store_at(object: &Object) -> Check {
        super::check(object, Path::new("/nowhere"))
    }

    fn bucket_at(port: u16) -> Bucket {
        Bucket {
            name: "kv-blocks".into(),
            prefix: String::new(),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: Some("us-east-1".into()),
            path_style: None,
        }
    }

    fn only(target: Target) -> Object {
        let (capacity_bytes, blocks_max) = (CHUNK_BYTES, None);
        let (lifecycle_tags, packs) = (false, None);
        Object { target, capacity_bytes, blocks_max, requests_max: 1, lifecycle_tags, packs }
    }

    /// A bucket whose server answers each method with this status and code.
    fn bucket_that_says(answers: fn(&str) -> (u16, &'static str)) -> Check {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Ends with the test's process.
        env::spawn_thread("bucket", move || {
            for mut socket in listener.incoming().flatten() {
                let mut head = vec![0; 16 << 10];
                let bytes = socket.read(&mut head).unwrap_or(0);
                let method = String::from_utf8_lossy(&head[..bytes]);
                let (status, code) = answers(method.split(' ').next().unwrap_or_default());
                let body = match code {
                    "" => String::new(),
                    code => format!("<Error><Code>{code}</Code></Error>"),
                };
                let answer = format!(
                    "HTTP/1.1 {status} Canned\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(answer.as_bytes());
                // The rest of a body is taken, so that the answer is not lost with it.
                let _ = socket.shutdown(Shutdown::Write);
                let _ = io::copy(&mut socket, &mut io::sink());
            }
        })
        .unwrap();
        object_store_at(&only(Target::S3(bucket_at(port))))
    }

    #[test]
    fn what_is_wrong_with_a_bucket_is_found_beforehand() {
        // Environments are a process's own, so the test runs itself again with credentials.
        const NAME: &str = "what_is_wrong_with_a_bucket_is_found_beforehand";
        if std::env::var("AWS_ACCESS_KEY_ID").as_deref() != Ok("key") {
            let said = std::process::Command::new(std::env::current_exe().unwrap())
                .args([NAME, "--nocapture"])
                .envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")])
                .output()
                .unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            return;
        }
        // Port 1 of this machine: refused at once.
        let found = object_store_at(&only(Target::S3(bucket_at(1))));
        assert_eq!(found.verdict, Verdict::Warn, "the daemon starts without it: {found:?}");
        assert!(found.found.contains("Connection refused"), "{found:?}");
        let check = |answers: fn(&str) -> (u16, &'static str), words: &str| {
            let found = bucket_that_says(answers);
            assert_eq!(found.verdict, Verdict::Warn);
            assert!(found.found.contains(words), "{found:?}");
        };
        check(|_| (404, "NoSuchBucket"), "make the bucket");
        check(|_| (200, ""), "no S3 store answers like this");
        check(|_| (403, "SignatureDoesNotMatch"), "check the secret key");
        check(|_| (403, "AccessDenied"), "s3:ListBucket");
        check(
            |method| if method == "GET" { (404, "NoSuchKey") } else { (403, "AccessDenied") },
            "s3:PutObject",
        );
        check(|_| (404, ""), "no S3 store answers like this");
        check(|_| (301, ""), "another region");
        let good = bucket_that_says(|method| match method {
            "GET" => (404, "NoSuchKey"),
            _ => (200, ""),
        });
        assert_eq!(good.verdict, Verdict::Ok, "{good:?}");
    }

    #[test]
    fn a_store_behind_tls_needs_an_authority_that_is_known() {
        // As above: in a process whose authorities are in a file that is not there.
        const NAME: &str = "a_store_behind_tls_needs_an_authority_that_is_known";
        const NOWHERE: &str = "/nowhere/authorities.pem";
        if std::env::var("SSL_CERT_FILE").as_deref() != Ok(NOWHERE) {
            let said = std::process::Command::new(std::env::current_exe().unwrap())
                .args([NAME, "--nocapture"])
                .env("SSL_CERT_FILE", NOWHERE)
                .env_remove("SSL_CERT_DIR")
                .output()
                .unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            return;
        }
        let bucket = Bucket { endpoint: Some("https://127.0.0.1:1".into()), ..bucket_at(1) };
        let found = object_store_at(&only(Target::S3(bucket)));
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.found.contains("have SSL_CERT_FILE name"), "{found:?}");
    }

    #[test]
    fn a_folder_that_nothing_is_mounted_above_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Target::Dir { path: folder.path().join(name), fsync: false };
        let verdict = |name| object_store_at(&only(at(name)));
        assert_eq!(verdict("new").verdict, Verdict::Ok);
        let missing = verdict("share/terrace");
        assert_eq!(missing.verdict, Verdict::Fail);
        assert!(missing.found.contains("mount its file system"), "{missing:?}");
        // The daemon makes its state folder itself.
        let own = |name| super::check(&only(at(name)), &folder.path().join("state")).verdict;
        assert_eq!(own("state/object"), Verdict::Ok);
        assert_eq!(own("state/a/object"), Verdict::Fail);
    }
}
