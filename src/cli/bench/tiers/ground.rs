//! What is measured: memory, a device and stores as the daemon has them, in a folder that goes
//! again, and a carrier that moves blocks between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use tokio::runtime::Runtime;

use crate::cli::Failure;
use crate::cli::daemon::OwnFolder as Folder;
use crate::cli::output::print_error;
use crate::cli::serve::{self, numa::Placement};
use crate::cli::signals::Signals;
use crate::config::{Machine, ThisMachine};
use crate::domain::tier::Tier;
use crate::domain::units::{Bytes, CHUNK_BYTES};
use crate::env;
use crate::manager::shell::{Carrier, CarrierParts};
use crate::tiers::decorators::Metered;
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::nvme::{self, NvmeConfig, NvmeFacts};
use crate::tiers::object::{self, Bucket, ObjectOptions, SignedObject, Target};
use crate::tiers::shm::{Nodes, NumaChoice, NumaNode};
use crate::tiers::store::{StoreError, StoreOp, TierStore};

use super::args::{Against, Cell, TiersArgs};
use super::device::{self, Hbm, no_memory};

/// Everything that blocks are moved between.
pub struct Ground {
    pub arena: Arc<Arena>,
    pub carrier: Carrier,
    pub hbm: Hbm,
    pub nvme: Option<NvmeFacts>,
    object: Option<Arc<dyn TierStore>>,
    /// Where objects are, if not in a folder.
    bucket: Option<Bucket>,
    pub depth: usize,
    pub against: Against,
    /// Whether the object store is a folder that syncs each object.
    pub syncs_objects: bool,
    /// What is kept beside the daemon's own files, and beside its objects: the limits' files.
    beside: PathBuf,
    beside_objects: PathBuf,
    interrupted: Arc<AtomicBool>,
    // Everything above is let go before the threads and the folders it uses.
    runtime: Runtime,
    _folders: [Option<Folder>; 2],
}

impl Ground {
    /// Makes what the cells need.
    ///
    /// # Errors
    /// There is no room for it, or the machine refuses; the text says what to change.
    pub fn prepare(args: &TiersArgs, cells: &[Cell]) -> Result<Self, Failure> {
        let (choice, gpu) = device::choose(args.device)?;
        let node = Placement::of(NumaChoice::Auto, || gpu, &Nodes::of_this_machine()).node();
        let open = |arena: &_, tier_bytes| Hbm::open(choice, arena, tier_bytes);
        Self::with_device(args, cells, node, open)
    }

    /// The same on a device that `open` opens.
    pub(super) fn with_device(
        args: &TiersArgs,
        cells: &[Cell],
        node: Option<NumaNode>,
        open: impl FnOnce(&Arc<Arena>, u64) -> Result<Hbm, Failure>,
    ) -> Result<Self, Failure> {
        let uses = |tier| cells.iter().any(|cell| cell.path.far_tier() == tier);
        let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let objects = match &args.object {
            _ if !uses(Tier::Object) => None,
            None => Some((&parent, "--dir")),
            Some(Target::Dir { path, .. }) => Some((path, "--object")),
            Some(Target::S3(_)) => None,
        };
        let slots = uses(Tier::Nvme).then_some((&parent, "--dir"));
        check_folder(&parent, "--dir")?;
        let apart = objects.filter(|(there, _)| **there != parent);
        apart.map_or(Ok(()), |(there, flag)| check_folder(there, flag))?;
        check_room([slots, objects], args.set_bytes)?;
        let runtime = serve::start_runtime()
            .map_err(|error| Failure::Failed(format!("can't start the runtime: {error}")))?;
        // Before anything is made that has to go again.
        let interrupted = listen(&runtime)?;
        let folder = folder_in(&parent, "--dir")?;
        let arena =
            ArenaConfig { tier_bytes: args.set_bytes, staging_bytes: 0, pretouch_threads: cores() };
        let arena = Arc::new(Arena::on_node(arena, node).map_err(|error| no_memory(&error))?);
        // Blocks within the device go from one half to the other.
        let hbm = open(&arena, if uses(Tier::Hbm) { 2 * args.set_bytes } else { 0 })?;
        let nvme = uses(Tier::Nvme).then(|| open_nvme(args, folder.path(), &arena)).transpose()?;
        let (store, facts) = nvme.unzip();
        let beside = folder.path().to_owned();
        let own = apart.map(|(there, flag)| folder_in(there, flag)).transpose()?;
        let beside_objects = own.as_ref().unwrap_or(&folder).path().to_owned();
        let object = uses(Tier::Object)
            .then(|| open_object(args, &beside_objects, &arena, &runtime))
            .transpose()?;
        let (object, bucket) = object.map_or((None, None), |(store, bucket)| (Some(store), bucket));
        let parts = CarrierParts {
            runtime: runtime.handle().clone(),
            arena: Arc::clone(&arena),
            device: hbm.device(),
            nvme: store,
            object: object.clone(),
            node_id: env::random_bytes(),
        };
        let carrier = Carrier::new(parts)
            .map_err(|error| Failure::Failed(format!("can't start threads: {error}")))?;
        Ok(Self {
            arena,
            carrier,
            hbm,
            nvme: facts,
            object,
            bucket,
            depth: args.depth.into(),
            against: args.against,
            syncs_objects: syncs_objects(args),
            beside,
            beside_objects,
            interrupted,
            runtime,
            _folders: [Some(folder), own],
        })
    }

    /// A path beside the daemon's files, on the same disk.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.beside.join(name)
    }

    /// A path beside the daemon's objects, where these are in a folder.
    #[must_use]
    pub fn beside_objects(&self, name: &str) -> PathBuf {
        self.beside_objects.join(name)
    }

    /// So many objects of the bucket, for a client that knows HTTP only; nothing where objects are in
    /// a folder.
    ///
    /// # Errors
    /// There are no credentials, with what to set.
    pub fn sign(&self, objects: usize) -> Result<Option<Vec<SignedObject>>, Failure> {
        let Some(bucket) = &self.bucket else { return Ok(None) };
        let names: Vec<_> = (0..objects).map(|number| format!("bare/{number}")).collect();
        let signed = object::sign(bucket, &names, self.runtime.handle());
        signed.map(Some).map_err(Failure::failed)
    }

    /// How measuring ended; where objects of a bucket could not be taken away, with where they are left.
    ///
    /// # Errors
    /// Either failed.
    pub fn with_left<T>(
        &self,
        measured: Result<T, Failure>,
        cleared: Result<(), Failure>,
    ) -> Result<T, Failure> {
        let Err(uncleared) = cleared else { return measured };
        let why = measured.err().unwrap_or(uncleared);
        let (Some(bucket), Failure::Failed(why)) = (&self.bucket, &why) else { return Err(why) };
        let left = format!("; objects are left below {}", Target::S3(bucket.clone()));
        // Both the limit's and the daemon's may be.
        let why = why.split(&left).next().unwrap_or_default();
        Err(Failure::Failed(format!("{why}{left}: take them away")))
    }

    /// # Errors
    /// Somebody wants the run to end.
    pub fn go_on(&self) -> Result<(), Failure> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Failure::Failed("interrupted: what was made was removed".into()));
        }
        Ok(())
    }

    /// Takes objects away, so that they can be written again.
    ///
    /// # Errors
    /// The store refused.
    pub fn erase_objects(&self, ops: impl Iterator<Item = StoreOp>) -> Result<(), Failure> {
        let store = self.object.as_ref().expect("only paths to objects erase them");
        let (tell, told) = sync_channel(ERASES_QUEUED);
        let mut waiting = 0;
        let hear = || match told.recv() {
            Ok(Ok(()) | Err(StoreError::Missing(_))) => Ok(()),
            Ok(Err(error)) => Err(Failure::Failed(format!("can't take an object away: {error}"))),
            Err(_) => unreachable!("an end is told once, and the sender lives here"),
        };
        for op in ops {
            let tell = tell.clone();
            // There is room: no more are under way than the channel holds.
            store.submit(op, Box::new(move |ended| drop(tell.try_send(ended))));
            waiting += 1;
            if waiting == ERASES_QUEUED {
                hear()?;
                waiting -= 1;
            }
        }
        (0..waiting).try_for_each(|_| hear())
    }
}

/// Erases under way at once.
const ERASES_QUEUED: usize = 64;

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A flag that signals raise, so that the folder is removed whatever happens.
fn listen(runtime: &Runtime) -> Result<Arc<AtomicBool>, Failure> {
    let raised = Arc::new(AtomicBool::new(false));
    let _inside = runtime.enter();
    let mut signals = Signals::catch()
        .map_err(|error| Failure::Failed(format!("can't listen for signals: {error}")))?;
    let raise = Arc::clone(&raised);
    env::spawn_task_on(runtime.handle(), async move {
        signals.next().await;
        raise.store(true, Ordering::Relaxed);
        signals.again().await;
        print_error("interrupted again: what was made stays where it is", false);
        std::process::exit(130);
    });
    Ok(raised)
}

fn check_folder(folder: &Path, flag: &str) -> Result<(), Failure> {
    if folder.is_dir() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{flag} {}: there is no such folder; name one on the disk to measure",
        folder.display()
    )))
}

/// Says before anything is made that a disk is too small: a file system that is full in the
/// middle of a run harms others too. Takes the folders of the slots and of the objects.
fn check_room(uses: [Option<(&PathBuf, &str)>; 2], set_bytes: u64) -> Result<(), Failure> {
    let device_of = |folder: &Path| ThisMachine.disk(folder).map(|disk| disk.device);
    for (folder, flag) in uses.into_iter().flatten() {
        let Some(disk) = ThisMachine.disk(folder) else { continue };
        let here = |(other, _): &(&PathBuf, &str)| device_of(other) == Some(disk.device);
        let sharing = uses.into_iter().flatten().filter(here).count() as u64;
        // The daemon's own, the limit's beside it, and as much again to leave some room.
        let needed_bytes = set_bytes * 2 * sharing + CHUNK_BYTES;
        if disk.free_bytes < needed_bytes {
            return Err(Failure::Usage(format!(
                "{} has {} free and {} are needed: free some room, name another folder with {flag}, \
                 or measure with a smaller --set",
                folder.display(),
                Bytes(disk.free_bytes),
                Bytes(needed_bytes)
            )));
        }
    }
    Ok(())
}

fn folder_in(parent: &Path, flag: &str) -> Result<Folder, Failure> {
    Folder::make(parent).map_err(|error| {
        Failure::Usage(format!(
            "can't make a folder in {}: {}; name one that this user can write to with {flag}",
            parent.display(),
            error.into_cause()
        ))
    })
}

type Store = Arc<dyn TierStore>;

fn open_nvme(
    args: &TiersArgs,
    folder: &Path,
    arena: &Arc<Arena>,
) -> Result<(Store, NvmeFacts), Failure> {
    let config = NvmeConfig::new(folder.join("nvme"), args.set_bytes);
    let (store, facts) = nvme::open(&config, arena).map_err(Failure::failed)?;
    Ok((Arc::new(Metered::new(store)), facts))
}

fn open_object(
    args: &TiersArgs,
    folder: &Path,
    arena: &Arc<Arena>,
    runtime: &Runtime,
) -> Result<(Store, Option<Bucket>), Failure> {
    let bucket = match &args.object {
        Some(Target::S3(bucket)) => Some(part_of(bucket)?),
        _ => None,
    };
    let fsync = syncs_objects(args);
    let in_folder = || Target::Dir { path: folder.join("object"), fsync };
    let target = bucket.clone().map_or_else(in_folder, Target::S3);
    let options = ObjectOptions { concurrency: args.depth.into(), ..ObjectOptions::default() };
    let store = object::open(&target, options, arena, runtime.handle()).map_err(Failure::failed)?;
    Ok((Arc::new(Metered::new(store)), bucket))
}

fn syncs_objects(args: &TiersArgs) -> bool {
    matches!(&args.object, Some(Target::Dir { fsync: true, .. }))
}

/// A part of the bucket that nobody else uses. What is written there goes again.
fn part_of(bucket: &Bucket) -> Result<Bucket, Failure> {
    let plain = bucket.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    if !plain {
        let said = "--object s3://…: the bare HTTP client beside it speaks no TLS: name a server \
                    with ?endpoint=http://host:port";
        return Err(Failure::Usage(said.into()));
    }
    let own = format!("terrace-bench-{:016x}", u64::from_le_bytes(env::random_bytes()));
    let prefix = if bucket.prefix.is_empty() { own } else { format!("{}/{own}", bucket.prefix) };
    Ok(Bucket { prefix, ..bucket.clone() })
}
