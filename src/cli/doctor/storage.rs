//! The disk and the object store: a small NVMe tier of its own is tried and goes again, and the
//! object store is asked for a block that nobody has.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::runtime;

use super::Check;
use super::daemon::{is_writable, standing};
use crate::config::{Config, Machine, Object, Places, ThisMachine};
use crate::domain::block::Key;
use crate::domain::units::{Bytes, CHUNK_BYTES};
use crate::env;
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::nvme::{self, Engine, NvmeConfig, NvmeFacts, Survey};
use crate::tiers::object::{self, ObjectOptions, Target};
use crate::tiers::store::{FrameSpan, Place, StoreError, StoreOp};

/// How long the object store may take to say that it has no such block.
const OBJECT_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn checks(places: &Places, config: Option<&Config>) -> Vec<Check> {
    let usual = places.state_dir.join("nvme");
    let path = config.and_then(|c| c.nvme.as_ref()).map_or(&usual, |nvme| &nvme.path);
    let mut checks = vec![free_disk(path)];
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
        Target::S3(_) => ask_for_nothing(object),
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
fn ask_for_nothing(object: &Object) -> Result<(), String> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let options = ObjectOptions {
        attempt_timeout: OBJECT_PATIENCE / 2,
        op_timeout: OBJECT_PATIENCE,
        ..ObjectOptions::default()
    };
    let store = object::open(&object.target, options, &small_arena()?, runtime.handle())
        .map_err(|error| error.to_string())?;
    let (tell, told) = sync_channel(1);
    let nowhere = StoreOp::Read {
        key: Key(env::random_bytes()),
        place: Place { offset: 0, slot_bytes: 8192 },
        frame: FrameSpan { offset: 0, bytes: 8192 },
    };
    store.submit(nowhere, Box::new(move |ended| drop(tell.send(ended))));
    let ended = told.recv_timeout(OBJECT_PATIENCE * 2);
    runtime.shutdown_background();
    match ended {
        Ok(Ok(()) | Err(StoreError::Missing(_))) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", OBJECT_PATIENCE.as_secs() * 2)),
    }
}

#[cfg(test)]
mod tests {
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
        let bucket = Bucket {
            name: "kv-blocks".into(),
            prefix: String::new(),
            // Port 1 of this machine: refused at once.
            endpoint: Some("http://127.0.0.1:1".into()),
            region: Some("us-east-1".into()),
            path_style: true,
        };
        let target = Target::S3(bucket);
        let object =
            Object { target, capacity_bytes: CHUNK_BYTES, blocks_max: None, requests_max: 1 };
        let found = object_store(&object);
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.found.contains("kv-blocks"), "{found:?}");
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
