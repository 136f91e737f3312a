//! The tiers' settings: capacities that fit the machine, and defaults made from it.

use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::machine::{Disk, Machine};
use super::packs::packs;
use super::parse::{shown, size_text};
use super::places::Places;
use super::reader::Reader;
use super::{Dram, Hbm, HbmDevice, Note, Nvme, Object};
use crate::domain::admission::{Rule, WriteMode, WriteRules};
use crate::domain::slots::TIER_BYTES_MAX;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::hbm::DeviceChoice;
use crate::tiers::hbm::cuda::CudaConfig;
use crate::tiers::nvme::{EngineChoice, QUEUE_DEPTH_DEFAULT};
use crate::tiers::object::Target;
use crate::tiers::shm::NumaChoice;

const DRAM_DEFAULT_MAX_BYTES: u64 = 4 << 30;
const STAGING_DEFAULT_BYTES: u64 = 256 << 20;
const DISK_DEFAULT_MAX_BYTES: u64 = 16 << 30;
const S3_DEFAULT_BYTES: u64 = 1 << 40;
const OBJECT_REQUESTS_DEFAULT: usize = 64;
const PRETOUCH_THREADS_MAX: usize = 64;

/// Whole chunks, rounded down.
const fn chunks_below(bytes: u64) -> u64 {
    bytes / CHUNK_BYTES * CHUNK_BYTES
}

/// A tier hands out no more than its slots' addresses reach.
fn check_reach(reader: &Reader<'_>, name: &str, bytes: u64) -> Result<(), ConfigError> {
    if bytes <= TIER_BYTES_MAX {
        return Ok(());
    }
    let problem = "a tier holds less than 16 TiB";
    let remedy = format!("give {} or less", size_text(TIER_BYTES_MAX));
    Err(reader.wrong(name, Problem::new(problem, remedy)))
}

fn blocks_max(reader: &Reader<'_>, name: &str) -> Result<Option<u64>, ConfigError> {
    Ok(reader.count(name)?.map(|blocks| blocks as u64))
}

/// The device that the HBM tier and the engines' pools lie on.
pub(super) fn device(reader: &Reader<'_>) -> Result<HbmDevice, ConfigError> {
    let choice = reader.parsed("hbm.device", |text| {
        DeviceChoice::parse(text).ok_or_else(|| {
            Problem::new(format!("no such device `{text}`"), "choose auto, host, or cuda:0 and up")
        })
    })?;
    let bounded = |most| u32::try_from(most).expect("the table bounds the multiprocessors");
    let most = reader.count("hbm.multiprocessors_max")?.map(bounded);
    Ok(HbmDevice {
        choice: choice.unwrap_or_default(),
        multiprocessors_max: most.unwrap_or(CudaConfig::MULTIPROCESSORS_DEFAULT),
    })
}

/// The HBM tier, if there is one.
pub(super) fn hbm(reader: &Reader<'_>) -> Result<Option<Hbm>, ConfigError> {
    let capacity_bytes = reader.chunks("hbm.capacity")?.unwrap_or(0);
    check_reach(reader, "hbm.capacity", capacity_bytes)?;
    let blocks_max = blocks_max(reader, "hbm.blocks_max")?;
    Ok((capacity_bytes > 0).then_some(Hbm { capacity_bytes, blocks_max }))
}

pub(super) fn dram(reader: &Reader<'_>) -> Result<Dram, ConfigError> {
    let usual = (reader.machine.ram_bytes() / 8).min(DRAM_DEFAULT_MAX_BYTES);
    let capacity_bytes = reader.chunks("dram.capacity")?.unwrap_or_else(|| chunks_below(usual));
    check_reach(reader, "dram.capacity", capacity_bytes)?;
    let staging_bytes = reader.chunks("dram.staging")?.unwrap_or(STAGING_DEFAULT_BYTES);
    if staging_bytes == 0 {
        let problem = "nothing moves between the tiers without staging frames";
        let remedy = format!("give at least {}", size_text(CHUNK_BYTES));
        return Err(reader.wrong("dram.staging", Problem::new(problem, remedy)));
    }
    let cores = || reader.machine.cores().clamp(1, PRETOUCH_THREADS_MAX);
    let pretouch_threads = reader.count("dram.pretouch_threads")?.unwrap_or_else(cores);
    let blocks_max = blocks_max(reader, "dram.blocks_max")?;
    let numa = reader.parsed("dram.numa_node", |text| {
        let wrong =
            || Problem::new(format!("no such node `{text}`"), "choose auto, off, or 0 and up");
        NumaChoice::parse(text).ok_or_else(wrong)
    })?;
    let numa = numa.unwrap_or_default();
    Ok(Dram { capacity_bytes, blocks_max, staging_bytes, numa, pretouch_threads })
}

/// What the HBM tier takes of this machine's memory.
pub(super) fn hbm_in_memory(machine: &dyn Machine, device: HbmDevice, hbm: Option<Hbm>) -> u64 {
    let on_gpu = match device.choice {
        DeviceChoice::Cuda(_) => true,
        DeviceChoice::Auto => hbm.is_some() && machine.has_gpu(),
        DeviceChoice::Host => false,
    };
    hbm.filter(|_| !on_gpu).map_or(0, |hbm| hbm.capacity_bytes)
}

/// What lies in memory fits there, with a tenth left to everybody else.
pub(super) fn check_memory(
    reader: &Reader<'_>,
    device: HbmDevice,
    hbm: Option<Hbm>,
    dram: Dram,
) -> Result<(), ConfigError> {
    let hbm_bytes = hbm_in_memory(reader.machine, device, hbm);
    let parts = [
        ("hbm.capacity", hbm_bytes),
        ("dram.capacity", dram.capacity_bytes),
        ("dram.staging", dram.staging_bytes),
    ];
    let ram_bytes = reader.machine.ram_bytes();
    let usable_bytes = ram_bytes / 10 * 9;
    let wanted_bytes = parts.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
    if wanted_bytes <= usable_bytes {
        return Ok(());
    }
    let (name, largest_bytes) = parts.into_iter().max_by_key(|part| part.1).unwrap_or(parts[1]);
    let room_bytes = chunks_below(usable_bytes.saturating_sub(wanted_bytes - largest_bytes));
    let problem = format!(
        "the HBM tier on the host ({}), the DRAM tier ({}) and staging ({}) don't fit in nine \
         tenths of this machine's {} of memory",
        shown(hbm_bytes),
        shown(dram.capacity_bytes),
        shown(dram.staging_bytes),
        shown(ram_bytes)
    );
    let remedy = if room_bytes == 0 {
        "lower all three".to_owned()
    } else {
        format!("set {name} to {} or less", size_text(room_bytes))
    };
    Err(reader.wrong(name, Problem::new(problem, remedy)))
}

pub(super) fn nvme(
    reader: &Reader<'_>,
    places: &Places,
    notes: &mut Vec<Note>,
) -> Result<Option<Nvme>, ConfigError> {
    let path = reader.path("nvme.path")?.unwrap_or_else(|| places.state_dir.join("nvme"));
    let engine = match reader.choice("nvme.engine")? {
        Some("uring") => EngineChoice::Uring,
        Some("blocking") => EngineChoice::Blocking,
        _ => EngineChoice::Auto,
    };
    let asked = reader.count("nvme.queue_depth")?;
    let tuned = asked.is_none();
    let queue_depth = asked.map_or(QUEUE_DEPTH_DEFAULT, |depth| {
        u32::try_from(depth).expect("the table bounds the queue depth")
    });
    let given_bytes = reader.chunks("nvme.capacity")?;
    if !reader.boolean("nvme.enabled")?.unwrap_or(true) {
        return Ok(None);
    }
    let writes = nvme_writes(reader)?;
    let more_paths = reader.paths("nvme.more_paths")?;
    let all = || std::iter::once(&path).chain(&more_paths);
    let usual = |path: &PathBuf| {
        let held_bytes = chunks_below(reader.machine.slot_files_bytes(path));
        let Some(disk) = reader.machine.disk(path).filter(|_| held_bytes == 0) else {
            return held_bytes;
        };
        let sharing = all().filter(|other| is_on(reader, other, disk)).count() as u64;
        chunks_below(usual_disk_bytes(disk.free_bytes) / sharing)
    };
    let folders = 1 + more_paths.len() as u64;
    let (least_bytes, fullest) =
        all().map(|path| (usual(path), path)).min_by_key(|(bytes, _)| *bytes).unwrap_or((0, &path));
    let capacity_bytes = given_bytes.unwrap_or(folders * least_bytes);
    if capacity_bytes == 0 {
        if given_bytes.is_none() {
            notes.push(left_out(reader, "NVMe", fullest, "nvme.capacity"));
        }
        return Ok(None);
    }
    check_reach(reader, "nvme.capacity", capacity_bytes)?;
    check_stripes(reader, (&path, &more_paths), capacity_bytes)?;
    let blocks_max = blocks_max(reader, "nvme.blocks_max")?;
    Ok(Some(Nvme {
        path,
        more_paths,
        capacity_bytes,
        blocks_max,
        engine,
        queue_depth,
        tuned,
        writes,
    }))
}

/// Each folder has an equal part, which fits on its disk.
fn check_stripes(
    reader: &Reader<'_>,
    (path, more_paths): (&PathBuf, &[PathBuf]),
    capacity_bytes: u64,
) -> Result<(), ConfigError> {
    let mut all = vec![("nvme.path", path)];
    for more in more_paths {
        if all.iter().any(|(_, path)| *path == more) {
            let problem = Problem::new(
                format!("{} is named twice", more.display()),
                "name each disk's folder once",
            );
            return Err(reader.wrong("nvme.more_paths", problem));
        }
        all.push(("nvme.more_paths", more));
    }
    let folders = all.len() as u64;
    let part_bytes = capacity_bytes / folders;
    if !capacity_bytes.is_multiple_of(folders * CHUNK_BYTES) {
        let (problem, step) =
            (format!("no equal parts for {folders} folders"), folders * CHUNK_BYTES);
        let remedy = format!("give a multiple of {}", size_text(step));
        return Err(reader.wrong("nvme.capacity", Problem::new(problem, remedy)));
    }
    for (name, path) in &all {
        let Some(disk) = reader.machine.disk(path) else { continue };
        // Folders on one disk share what is free there.
        let sharing = all.iter().map(|(_, path)| *path).filter(|other| is_on(reader, other, disk));
        let held = sharing.clone().map(|path| chunks_below(reader.machine.slot_files_bytes(path)));
        let room_bytes = disk.free_bytes.saturating_add(held.sum());
        let sharing: Vec<_> = sharing.map(|path| path.display().to_string()).collect();
        let sharing_folders = sharing.len() as u64;
        if part_bytes.saturating_mul(sharing_folders) > room_bytes {
            let most_bytes = chunks_below(room_bytes / sharing_folders).saturating_mul(folders);
            let place = (*name, sharing.join(" and "));
            return Err(too_large(reader, "nvme.capacity", place, room_bytes, most_bytes));
        }
    }
    Ok(())
}

/// Whether the folder lies on that disk, or would.
fn is_on(reader: &Reader<'_>, folder: &Path, disk: Disk) -> bool {
    reader.machine.disk(folder).is_some_and(|own| own.device == disk.device)
}

/// What is written to NVMe, and how much.
fn nvme_writes(reader: &Reader<'_>) -> Result<WriteRules, ConfigError> {
    let mode = match reader.choice("nvme.write_mode")? {
        Some("through") => WriteMode::Through,
        _ => WriteMode::Demote,
    };
    let percent = reader.count("nvme.admit_percent")?.unwrap_or(Rule::PERCENT.into());
    let percent = u8::try_from(percent).expect("the table bounds the percentage");
    let name = reader.choice("nvme.admission")?.unwrap_or(Rule::default().name());
    Ok(WriteRules {
        mode,
        rule: Rule::named(name, percent).expect("the table lists the rules"),
        bytes_per_s: reader.size("nvme.write_bytes_per_s")?.unwrap_or(0),
        bytes_per_day: reader.size("nvme.write_bytes_per_day")?.unwrap_or(0),
    })
}

/// Why a tier whose size nobody gave is left out, and what to do.
fn left_out(reader: &Reader<'_>, tier: &str, path: &Path, name: &str) -> Note {
    let place = path.display();
    let Some(disk) = reader.machine.disk(path) else {
        let found = format!("no {tier} tier, for nothing is known of the disk of {place}");
        return Note { found, remedy: format!("set {name}") };
    };
    let (free, least) = (shown(disk.free_bytes), shown(CHUNK_BYTES));
    let found = format!(
        "no {tier} tier, for the disk of {place} has {free} free, and the default, a twentieth for all \
         folders there, is less than {least}"
    );
    Note { found, remedy: format!("free some room, or set {name}") }
}

fn usual_disk_bytes(free_bytes: u64) -> u64 {
    chunks_below((free_bytes / 20).min(DISK_DEFAULT_MAX_BYTES))
}

/// A capacity fits on its disk.
fn check_disk(
    reader: &Reader<'_>,
    name: &str,
    place: &str,
    path: &Path,
    capacity_bytes: u64,
    room_bytes: u64,
) -> Result<(), ConfigError> {
    if capacity_bytes <= room_bytes {
        return Ok(());
    }
    let place = (place, path.display().to_string());
    Err(too_large(reader, name, place, room_bytes, chunks_below(room_bytes)))
}

/// The disk of some folders has no room for what is asked, but for `most_bytes` of it.
fn too_large(
    reader: &Reader<'_>,
    name: &str,
    (place, folders): (&str, String),
    room_bytes: u64,
    most_bytes: u64,
) -> ConfigError {
    let problem = format!("the disk of {folders} has room for {}", shown(room_bytes));
    let remedy = if most_bytes == 0 {
        format!("free some room, or set {place} to a folder on a larger disk")
    } else {
        let most = size_text(most_bytes);
        format!("set {name} to {most} or less, or {place} to a folder on a larger disk")
    };
    reader.wrong(name, Problem::new(problem, remedy))
}

pub(super) fn object(
    reader: &Reader<'_>,
    places: &Places,
    notes: &mut Vec<Note>,
) -> Result<Option<Object>, ConfigError> {
    let requests_max = reader.count("object.requests_max")?.unwrap_or(OBJECT_REQUESTS_DEFAULT);
    let lifecycle_tags = reader.boolean("object.lifecycle_tags")?.unwrap_or(false);
    let packs = packs(reader)?;
    let given_bytes = reader.size("object.capacity")?;
    let blocks_max = blocks_max(reader, "object.blocks_max")?;
    let Some(target) = target(reader, places)? else { return Ok(None) };
    notes.extend(idle(reader, &target));
    if given_bytes.is_some_and(|bytes| bytes < CHUNK_BYTES) {
        let problem = format!("smaller than {}", shown(CHUNK_BYTES));
        let remedy = format!(
            "give at least {}, or set object.url to off for no object tier",
            size_text(CHUNK_BYTES)
        );
        return Err(reader.wrong("object.capacity", Problem::new(problem, remedy)));
    }
    check_reach(reader, "object.capacity", given_bytes.unwrap_or(0))?;
    let object = |target, capacity_bytes| Object {
        target,
        capacity_bytes,
        blocks_max,
        requests_max,
        lifecycle_tags,
        packs,
    };
    let capacity_bytes = match (&target, given_bytes) {
        (Target::S3(_), given) => given.unwrap_or(S3_DEFAULT_BYTES),
        (Target::Dir { path, .. }, given) => {
            let disk = reader.machine.disk(path);
            if reader.text("object.url").is_some() && disk.is_some_and(|disk| disk.total_bytes == 0)
            {
                let problem = format!("{} lies on a file system without room", path.display());
                let remedy = "name a folder on a disk, or write off for no object tier";
                return Err(reader.wrong("object.url", Problem::new(problem, remedy)));
            }
            let usual = || disk.map_or(0, |disk| usual_disk_bytes(disk.free_bytes));
            let wanted = given.unwrap_or_else(usual);
            if wanted == 0 {
                notes.push(left_out(reader, "object", path, "object.capacity"));
                return Ok(None);
            }
            // What is there already counts as ours, so only the whole disk bounds a given size.
            if let Some(disk) = disk {
                let total_bytes = disk.total_bytes;
                check_disk(reader, "object.capacity", "object.url", path, wanted, total_bytes)?;
            }
            wanted
        }
    };
    Ok(Some(object(target, capacity_bytes)))
}

/// Says that settings of a bucket count for nothing, where there is none.
fn idle(reader: &Reader<'_>, target: &Target) -> Option<Note> {
    let of_buckets =
        ["object.endpoint", "object.region", "object.path_style", "object.lifecycle_tags"];
    let given: Vec<_> = of_buckets.into_iter().filter(|key| reader.text(key).is_some()).collect();
    if matches!(target, Target::S3(_)) || given.is_empty() {
        return None;
    }
    let found = format!("nothing comes of {}: objects go to {target}", given.join(", "));
    Some(Note { found, remedy: "set object.url to a bucket, or take that out".into() })
}

/// Both tiers fit together where they share a disk; defaults always do.
pub(super) fn check_shared_disk(
    reader: &Reader<'_>,
    nvme: Option<&Nvme>,
    object: Option<&Object>,
) -> Result<(), ConfigError> {
    let (Some(nvme), Some(object)) = (nvme, object) else { return Ok(()) };
    let Target::Dir { path: folder, .. } = &object.target else { return Ok(()) };
    let Some(disk) = reader.machine.disk(folder) else { return Ok(()) };
    let folders = || std::iter::once(&nvme.path).chain(&nvme.more_paths);
    let sharing = folders().filter(|path| is_on(reader, path, disk)).count() as u64;
    let nvme_bytes = nvme.capacity_bytes / folders().count() as u64 * sharing;
    let both_bytes = nvme_bytes.saturating_add(object.capacity_bytes);
    if sharing == 0 || both_bytes <= disk.total_bytes {
        return Ok(());
    }
    let problem = format!(
        "the NVMe tier ({}) and the object tier ({}) share a disk of {}",
        shown(nvme_bytes),
        shown(object.capacity_bytes),
        shown(disk.total_bytes)
    );
    let remedy = "lower one of them, or put nvme.path or object.url on another disk";
    Err(reader.wrong("object.capacity", Problem::new(problem, remedy)))
}

/// The object store, its URL read by the store itself; keys of their own add to what it says.
fn target(reader: &Reader<'_>, places: &Places) -> Result<Option<Target>, ConfigError> {
    let path_style = reader.boolean("object.path_style")?;
    let text = |name| reader.text(name).map(str::to_owned);
    let url = match reader.text("object.url") {
        None => {
            let path = places.state_dir.join("object");
            return Ok(Some(Target::Dir { path, fsync: false }));
        }
        Some("off") => return Ok(None),
        Some(url) => url,
    };
    let mut target = url.parse::<Target>().map_err(|wrong| {
        reader.wrong(
            "object.url",
            Problem::new(wrong, "mend the URL, or write off for no object tier"),
        )
    })?;
    if let Target::S3(bucket) = &mut target {
        if let Some(endpoint) = text("object.endpoint") {
            bucket.set_endpoint(endpoint).map_err(|wrong| {
                let remedy = "give the server's address, without a path";
                reader.wrong("object.endpoint", Problem::new(wrong, remedy))
            })?;
        }
        bucket.region = text("object.region").or(bucket.region.take());
        bucket.path_style = path_style.or(bucket.path_style);
    }
    Ok(Some(target))
}
