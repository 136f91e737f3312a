//! The disk: the NVMe tier's folders are looked at, and a small tier of its own is tried and goes again.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::daemon::standing;
use super::{Check, object};
use crate::cli::daemon::{DaemonError, OwnFolder};
use crate::config::{Config, Machine, Nvme, Places, ThisMachine};
use crate::domain::units::{Bytes, CHUNK_BYTES};
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::nvme::{self, Engine, NvmeConfig, NvmeFacts, Survey};
use crate::tiers::open::OpenError;

pub(super) fn checks(places: &Places, config: Option<&Config>, runs: bool) -> Vec<Check> {
    let usual = places.state_dir.join("nvme");
    let path = config.and_then(|c| c.nvme.as_ref()).map_or(&usual, |nvme| &nvme.path);
    let more_paths = config.and_then(|c| c.nvme.as_ref()).map_or(&[][..], |nvme| &nvme.more_paths);
    let mut checks = vec![free_disk(path)];
    for (at, more) in more_paths.iter().enumerate() {
        let mut before = std::iter::once(path).chain(&more_paths[..at]);
        let shares_with = before.find(|before| is_one_disk(before, more));
        checks.push(shares_with.map_or_else(|| further_disk(more), |path| shared_disk(path, more)));
    }
    checks
        .extend(config.and_then(|config| config.nvme.as_ref()).map(|nvme| nvme_folder(nvme, runs)));
    match trial_tier(standing(path)) {
        Ok((facts, survey)) => {
            checks.extend([io_uring(&facts), direct_io(&facts), disk_speed(&survey)]);
        }
        Err(error) => checks.push(not_tried(&error)),
    }
    match config.map(|config| &config.object) {
        Some(Some(object)) => checks.push(object::check(object, &places.state_dir)),
        Some(None) => checks.push(Check::ok("object", "switched off")),
        None => (),
    }
    checks
}

/// Would the tier's folders be taken as they are?
fn nvme_folder(nvme: &Nvme, runs: bool) -> Check {
    const CHECK: &str = "nvme folder";
    let config = NvmeConfig::new(&nvme.path, nvme.capacity_bytes);
    let what = match nvme::look_striped(&config, &nvme.more_paths) {
        Ok(()) if nvme.path.exists() => "is ours to use",
        Ok(()) => "can be made",
        Err(OpenError::InUse(_)) if runs => "is the running daemon's",
        Err(error) => {
            let all = std::iter::once(&nvme.path).chain(&nvme.more_paths);
            let all: Vec<_> = all.map(|path| path.display().to_string()).collect();
            let found = format!("{} can't be used", all.join(", "));
            return Check::fail(CHECK, found, error.to_string());
        }
    };
    Check::ok(CHECK, format!("{} {what}", nvme.path.display()))
}

const TOO_LONG: &str =
    "raise `ulimit -f`, or LimitFSIZE in the service's unit, and ask doctor again";

/// One that slots are striped over: is there room, and can we write?
fn further_disk(path: &Path) -> Check {
    match trial_tier(standing(path)) {
        Err(error) if is_too_long(&error) => {
            Check::fail("disk", format!("{}: {error}", path.display()), TOO_LONG)
        }
        Err(error) if !is_full(&error) => {
            let remedy = "mount its disk, or mend nvme.more_paths";
            Check::fail("disk", format!("{}: {error}", path.display()), remedy)
        }
        _ => free_disk(path),
    }
}

/// Without room for a trial: the tier's own files may have taken it, and whether they can be used stands
/// elsewhere.
fn not_tried(error: &OpenError) -> Check {
    let found = format!("not tried: {error}");
    if is_full(error) {
        return Check::warn(
            "io_uring",
            found,
            "free 64 MiB for as long as doctor tries the disk out",
        );
    }
    if is_too_long(error) {
        return Check::fail(
            "io_uring",
            "not tried: no file may be as long as that takes",
            TOO_LONG,
        );
    }
    Check::fail(
        "io_uring",
        found,
        "set nvme.path to a folder where this user can write 64 MiB, or nvme.enabled to false",
    )
}

fn is_full(error: &OpenError) -> bool {
    match error {
        OpenError::NoSpace { .. } => true,
        OpenError::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
        OpenError::Config(_) | OpenError::InUse(_) | OpenError::Refused(_) => false,
    }
}

/// Another folder, or none, would not help.
fn is_too_long(error: &OpenError) -> bool {
    matches!(error, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge)
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

pub(super) fn small_arena() -> io::Result<Arc<Arena>> {
    let config = ArenaConfig { tier_bytes: 0, staging_bytes: 64 << 10, pretouch_threads: 0 };
    Arena::new(config).map(Arc::new)
}

/// What an NVMe tier in this folder turns out to be.
fn trial_tier(folder: &Path) -> Result<(NvmeFacts, io::Result<Survey>), OpenError> {
    let trial = OwnFolder::make(folder).map_err(DaemonError::into_cause);
    let trial = trial.map_err(OpenError::io("write to the folder", folder))?;
    let config = NvmeConfig::new(trial.path().join("nvme"), CHUNK_BYTES);
    let arena = small_arena().map_err(OpenError::io("have memory to try out", folder))?;
    let (_store, facts) = nvme::open(&config, &arena)?;
    Ok((facts, nvme::try_out(trial.path())))
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

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::domain::admission::WriteRules;

    #[test]
    fn a_trial_tier_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (facts, _) = trial_tier(folder.path()).unwrap();
        assert_eq!(facts.capacity_bytes, CHUNK_BYTES);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
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
    fn a_disk_that_the_tier_itself_has_filled_is_a_warning() {
        let what = String::from("the slot file");
        let full = OpenError::NoSpace { what, needed_bytes: CHUNK_BYTES, free_bytes: 0 };
        assert_eq!(not_tried(&full).verdict, Verdict::Warn);
        let denied =
            OpenError::io("write to", Path::new("/x"))(io::ErrorKind::PermissionDenied.into());
        assert_eq!(not_tried(&denied).verdict, Verdict::Fail);
        let limited =
            OpenError::io("write to", Path::new("/x"))(io::ErrorKind::FileTooLarge.into());
        let remedy = not_tried(&limited).remedy.unwrap();
        assert!(remedy.contains("ulimit -f") && !remedy.contains("nvme"), "{remedy}");
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

    #[test]
    fn folders_of_the_tier_that_are_not_to_be_had_are_told_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nvme");
        let nvme = Nvme {
            path: path.clone(),
            more_paths: Vec::new(),
            capacity_bytes: 2 * CHUNK_BYTES,
            blocks_max: None,
            engine: nvme::EngineChoice::Auto,
            queue_depth: 32,
            tuned: false,
            writes: WriteRules::default(),
        };
        assert!(nvme_folder(&nvme, false).found.contains("can be made"));
        let config = NvmeConfig::new(&path, nvme.capacity_bytes);
        let held = nvme::open(&config, &small_arena().unwrap()).unwrap();
        assert_eq!(nvme_folder(&nvme, false).verdict, Verdict::Fail);
        assert!(nvme_folder(&nvme, true).found.contains("the running daemon's"));
        drop(held);
        assert!(nvme_folder(&nvme, false).found.contains("is ours"));
        let less = Nvme { capacity_bytes: CHUNK_BYTES, ..nvme.clone() };
        assert!(nvme_folder(&less, false).remedy.unwrap().contains("never shrinks"));
        std::fs::write(path.join("nvme.superblock"), "junk").unwrap();
        let refused = nvme_folder(&nvme, true);
        assert_eq!(refused.verdict, Verdict::Fail);
        assert!(refused.remedy.unwrap().contains("is not a superblock of Terrace"));
    }
}
