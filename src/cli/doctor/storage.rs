//! The disk and the object store: a small NVMe tier of its own is tried and goes again, and the
//! object store is asked for a block that nobody has, and given one that goes again.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::runtime;

use super::Check;
use super::daemon::{is_writable, standing};
use crate::config::{Config, Machine, Object, Places, ThisMachine};
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::NamespaceDigest;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::{Bytes, CHUNK_BYTES, Time};
use crate::env;
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::frame::{self, HeaderDraft};
use crate::tiers::nvme::{self, Engine, NvmeConfig, NvmeFacts, Survey};
use crate::tiers::object::{self, ObjectOptions, Target};
use crate::tiers::store::{Erasure, FrameMeta, FrameSpan, Place, StoreError, StoreOp, TierStore};

/// How long the object store may take to say that it has no such block.
const OBJECT_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn checks(places: &Places, config: Option<&Config>) -> Vec<Check> {
    let usual = places.state_dir.join("nvme");
    let path = config.and_then(|c| c.nvme.as_ref()).map_or(&usual, |nvme| &nvme.path);
    let more_paths = config.and_then(|c| c.nvme.as_ref()).map_or(&[][..], |nvme| &nvme.more_paths);
    let mut checks = vec![free_disk(path)];
    for (at, more) in more_paths.iter().enumerate() {
        let mut before = std::iter::once(path).chain(&more_paths[..at]);
        let shares_with = before.find(|before| is_one_disk(before, more));
        checks.push(shares_with.map_or_else(|| further_disk(more), |path| shared_disk(path, more)));
    }
    match trial_tier(standing(path)) {
        Ok((facts, survey)) => {
            checks.extend([io_uring(&facts), direct_io(&facts), disk_speed(&survey)]);
        }
        Err(said) => checks.push(Check::fail(
            "io_uring",
            format!("not tried: {said}"),
            "set nvme.path to a folder where this user can write 64 MiB, or nvme.enabled to false",
        )),
    }
    match config.map(|config| &config.object) {
        Some(Some(object)) => checks.push(object_store(object)),
        Some(None) => checks.push(Check::ok("object", "switched off")),
        None => (),
    }
    checks
}

/// One that slots are striped over: is there room, and can we write?
fn further_disk(path: &Path) -> Check {
    match trial_tier(standing(path)) {
        Ok(_) => free_disk(path),
        Err(said) => {
            let remedy = "mount its disk, or mend nvme.more_paths";
            Check::fail("disk", format!("{}: {said}", path.display()), remedy)
        }
    }
}

fn is_one_disk(one: &Path, other: &Path) -> bool {
    let device = |path| ThisMachine.disk(path).map(|disk| disk.device);
    device(one).is_some() && device(one) == device(other)
}

/// Its room was counted with the other folder's.
fn shared_disk(path: &Path, more: &Path) -> Check {
    let found = format!("{} is on the disk of {}", more.display(), path.display());
    Check::warn("disk", found, "put it on a disk of its own, or take it out of nvme.more_paths")
}

fn free_disk(path: &Path) -> Check {
    let Some(disk) = ThisMachine.disk(path) else {
        let remedy = "set nvme.path to a folder on a local disk";
        return Check::fail("disk", format!("no file system at {}", path.display()), remedy);
    };
    let found = format!(
        "{} of {} free for {}",
        Bytes(disk.free_bytes),
        Bytes(disk.total_bytes),
        path.display()
    );
    if disk.free_bytes < CHUNK_BYTES {
        return Check::warn("disk", found, "free some room, or set nvme.path to another disk");
    }
    Check::ok("disk", found)
}

/// A folder that goes with everything in it.
struct Trial(PathBuf);

impl Trial {
    fn make(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!(".terrace-doctor-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // What can't be removed is empty or lies where the user can see it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn small_arena() -> Result<Arc<Arena>, String> {
    let config = ArenaConfig { tier_bytes: 0, staging_bytes: 64 << 10, pretouch_threads: 0 };
    Arena::new(config).map(Arc::new).map_err(|error| error.to_string())
}

/// What an NVMe tier in this folder turns out to be.
fn trial_tier(folder: &Path) -> Result<(NvmeFacts, io::Result<Survey>), String> {
    let trial = Trial::make(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let config = NvmeConfig::new(trial.0.join("nvme"), CHUNK_BYTES);
    let (_store, facts) =
        nvme::open(&config, &small_arena()?).map_err(|error| error.to_string())?;
    Ok((facts, nvme::try_out(&trial.0)))
}

fn io_uring(facts: &NvmeFacts) -> Check {
    match facts.engine {
        Engine::Uring => Check::ok("io_uring", "available"),
        Engine::Blocking => Check::warn(
            "io_uring",
            format!("refused: {}", facts.why),
            "blocking threads drive the disk instead, with more CPU: allow io_uring in the \
             container's seccomp profile and set the sysctl kernel.io_uring_disabled to 0",
        ),
    }
}

/// Below this, models compute short prefixes as quickly as they are read.
const SLOW_BYTES_PER_S: u64 = 500 << 20;

fn disk_speed(survey: &io::Result<Survey>) -> Check {
    const CHECK: &str = "disk speed";
    match survey {
        Ok(survey) if survey.bytes_per_s < SLOW_BYTES_PER_S => Check::warn(
            CHECK,
            format!("reads {survey}"),
            "put nvme.path on a local SSD: blocks on a slow disk are often quicker computed anew",
        ),
        Ok(survey) => Check::ok(CHECK, format!("reads {survey}")),
        Err(error) => Check::warn(
            CHECK,
            format!("not tried: {error}"),
            "free 64 MiB, or set nvme.path to a folder on a local ext4 or xfs disk",
        ),
    }
}

fn direct_io(facts: &NvmeFacts) -> Check {
    const CHECK: &str = "direct io";
    match (facts.direct, facts.preallocated) {
        (true, true) => Check::ok(CHECK, "available, with room that is promised"),
        (true, false) => Check::warn(
            CHECK,
            "available, but the file system promises no room",
            "set nvme.path to a folder on ext4 or xfs, or keep the disk from filling up",
        ),
        (false, _) => Check::warn(
            CHECK,
            "refused by the file system: reads and writes go through the page cache",
            "set nvme.path to a folder on a local ext4 or xfs disk",
        ),
    }
}

fn object_store(object: &Object) -> Check {
    const CHECK: &str = "object";
    let reached = match &object.target {
        Target::Dir { path, .. } if is_writable(standing(path)) => Ok(()),
        Target::Dir { path, .. } => {
            Err(format!("{} is not a folder that this user can write to", standing(path).display()))
        }
        Target::S3(_) => try_bucket(object),
    };
    match reached {
        Ok(()) => Check::ok(CHECK, format!("{} is there for us", object.target)),
        Err(said) => Check::fail(
            CHECK,
            format!("{}: {said}", object.target),
            "mend object.url or the store's credentials, or set object.url to off",
        ),
    }
}

/// Reads a block that nobody has: the store answers that it is missing, if it answers us at all.
/// Then writes one that is nobody's, and erases it.
fn try_bucket(object: &Object) -> Result<(), String> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let options = ObjectOptions {
        attempt_timeout: OBJECT_PATIENCE / 2,
        op_timeout: OBJECT_PATIENCE,
        ..ObjectOptions::default()
    };
    let arena = small_arena()?;
    let store = object::open(&object.target, options, &arena, runtime.handle())
        .map_err(|error| error.to_string())?;
    let (key, place) = (Key(env::random_bytes()), Place { offset: 0, slot_bytes: 8192 });
    let frame = FrameSpan { offset: 0, bytes: 8192 };
    let tried = (|| {
        ask(&*store, "read", StoreOp::Read { key, place, frame })?;
        // SAFETY: nothing is under way, and the arena is only this check's.
        frame::seal(unsafe { arena.bytes_mut(frame) }, nobodys(key));
        ask(&*store, "write", StoreOp::Write { key, place, frame })?;
        ask(&*store, "erase", StoreOp::Erase { key, place, why: Erasure::Unusable })?;
        let packs = || object::list_packs(&object.target, options, &arena, runtime.handle());
        object.packs.map_or(Ok(()), |_| answered("list", packs()))
    })();
    runtime.shutdown_background();
    tried
}

/// Runs one operation, whose block may be missing.
fn ask(store: &dyn TierStore, verb: &str, op: StoreOp) -> Result<(), String> {
    let (tell, told) = sync_channel(1);
    store.submit(op, Box::new(move |ended| drop(tell.send(ended))));
    match told.recv_timeout(OBJECT_PATIENCE * 2) {
        Ok(ended) => answered(verb, ended),
        Err(_) => Err(format!("no answer within {} s", OBJECT_PATIENCE.as_secs() * 2)),
    }
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
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};

    use super::super::Verdict;
    use super::*;
    use crate::tiers::object::Bucket;

    #[test]
    fn a_trial_tier_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (facts, _) = trial_tier(folder.path()).unwrap();
        assert_eq!(facts.capacity_bytes, CHUNK_BYTES);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_store_that_nobody_serves_is_told() {
        // Port 1 of this machine: refused at once.
        let found = object_store(&only(Target::S3(bucket_at(1))));
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.found.contains("kv-blocks"), "{found:?}");
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
        object_store(&only(Target::S3(bucket_at(port))))
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
        let check = |answers: fn(&str) -> (u16, &'static str), words: &str| {
            let found = bucket_that_says(answers);
            assert_eq!(found.verdict, Verdict::Fail);
            assert!(found.found.contains(words), "{found:?}");
        };
        check(|_| (404, "NoSuchBucket"), "make the bucket");
        check(|_| (403, "SignatureDoesNotMatch"), "check the secret key");
        check(|_| (403, "AccessDenied"), "s3:ListBucket");
        check(
            |method| if method == "GET" { (404, "NoSuchKey") } else { (403, "AccessDenied") },
            "s3:PutObject",
        );
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
        let found = object_store(&only(Target::S3(bucket)));
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.found.contains("have SSL_CERT_FILE name"), "{found:?}");
    }

    #[test]
    fn folders_on_one_disk_are_told_apart_from_further_disks() {
        let folder = tempfile::tempdir().unwrap();
        let more = folder.path().join("more");
        assert!(is_one_disk(folder.path(), &more), "also before it is made");
        assert!(!is_one_disk(folder.path(), Path::new("/proc")));
        let check = shared_disk(folder.path(), &more);
        assert!(check.verdict == Verdict::Warn && check.found.contains("is on the disk of"));
    }

    #[test]
    fn what_the_disk_lacks_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let (facts, _) = trial_tier(folder.path()).unwrap();
        let blocking = NvmeFacts { engine: Engine::Blocking, ..facts.clone() };
        assert_eq!(io_uring(&blocking).verdict, Verdict::Warn);
        let cached = NvmeFacts { direct: false, ..facts.clone() };
        assert_eq!(direct_io(&cached).verdict, Verdict::Warn);
        let unpromised = NvmeFacts { direct: true, preallocated: false, ..facts };
        assert_eq!(direct_io(&unpromised).verdict, Verdict::Warn);
    }
}
