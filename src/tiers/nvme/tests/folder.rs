//! What lies in the folder at a start: ours, not ours, half there, too large, too small.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{CHUNKS, config, opened};
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::nvme::home::{SLOTS_NAME, look};
use crate::tiers::nvme::slots::Straight;
use crate::tiers::nvme::superblock::{self, Superblock};
use crate::tiers::nvme::{EngineChoice, NvmeConfig, open};
use crate::tiers::open::OpenError;
use crate::tiers::sample::{self, Sample};

const BLOCK: Sample = Sample { number: 1, payload_bytes: 64 << 10 };

/// A folder in which a former run left one block.
fn used_folder() -> tempfile::TempDir {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let (store, _) = opened(&config(dir.path(), EngineChoice::Blocking), &arena);
    sample::write(&*store, &arena, BLOCK, BLOCK.place(CHUNK_BYTES, 2)).unwrap();
    dir
}

fn keeps_its_block(config: &NvmeConfig) {
    let arena = sample::arena();
    let (store, facts) = opened(config, &arena);
    assert_eq!(facts.capacity_bytes, config.capacity_bytes);
    let place = BLOCK.place(CHUNK_BYTES, 2);
    assert_eq!(sample::scan(&*store), [(place, BLOCK.key())]);
    sample::read(&*store, &arena, BLOCK, place).unwrap();
}

fn refusal(config: &NvmeConfig) -> OpenError {
    open(config, &sample::arena()).err().expect("the folder is refused")
}

/// The folder is refused with these words, and not a byte of it changes.
fn check_refused(dir: &Path, change: impl Fn(&mut NvmeConfig), words: &[&str]) {
    let files = || {
        let names = [SLOTS_NAME, superblock::FILE_NAME].map(|name| dir.join(name));
        names.map(|path| fs::read(path).ok())
    };
    let before = files();
    let mut config = config(dir, EngineChoice::Blocking);
    change(&mut config);
    let error = refusal(&config);
    assert!(matches!(error, OpenError::Refused(_)), "{error:?}");
    let said = error.to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert_eq!(look(&config).unwrap_err().to_string(), said, "and said beforehand");
    assert!(before == files(), "something was changed: {said}");
}

fn rewrite_superblock(dir: &Path, change: impl Fn(&mut Vec<u8>)) {
    let path = dir.join(superblock::FILE_NAME);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_daemon_is_told_to_go_elsewhere() {
    let dir = used_folder();
    let config = config(dir.path(), EngineChoice::Blocking);
    let (store, _) = opened(&config, &sample::arena());
    let error = refusal(&config);
    assert!(matches!(error, OpenError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains("another folder"), "{error}");
    assert!(matches!(look(&config), Err(OpenError::InUse(_))), "and beforehand");
    drop(store);
    keeps_its_block(&config);
}

#[test]
fn who_only_looks_makes_nothing_and_holds_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("nvme");
    let config = config(&dir, EngineChoice::Blocking);
    look(&config).unwrap();
    assert!(!dir.exists());
    drop(opened(&config, &sample::arena()));
    look(&config).unwrap();
    let too_large = NvmeConfig { capacity_bytes: 1 << 45, ..config.clone() };
    assert!(matches!(look(&too_large), Err(OpenError::NoSpace { .. })));
    opened(&config, &sample::arena());
}

#[test]
fn what_is_no_folder_is_refused_and_not_waited_for() {
    let parent = tempfile::tempdir().unwrap();
    let (file, pipe) = (parent.path().join("file"), parent.path().join("pipe"));
    fs::write(&file, "").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
    for path in [&file, &pipe] {
        let config = config(path, EngineChoice::Blocking);
        let said = [refusal(&config), look(&config).unwrap_err()].map(|error| error.to_string());
        assert!(said.iter().all(|said| said.contains("a file is in the way")), "{said:?}");
    }
}

#[test]
fn a_start_that_changes_nothing_writes_no_superblock() {
    let dir = used_folder();
    let file = || fs::metadata(dir.path().join(superblock::FILE_NAME)).unwrap().ino();
    let before = file();
    keeps_its_block(&config(dir.path(), EngineChoice::Blocking));
    assert_eq!(file(), before, "a full disk would have refused another one");
}

#[test]
fn a_larger_capacity_grows_the_file_and_keeps_its_blocks() {
    let dir = used_folder();
    let grown = NvmeConfig {
        capacity_bytes: (CHUNKS + 1) * CHUNK_BYTES,
        ..config(dir.path(), EngineChoice::Blocking)
    };
    keeps_its_block(&grown);
    let arena = sample::arena();
    let (store, _) = opened(&grown, &arena);
    let place = BLOCK.place(CHUNKS * CHUNK_BYTES, 0);
    sample::write(&*store, &arena, BLOCK, place).unwrap();
}

#[test]
fn a_smaller_capacity_is_refused() {
    let dir = used_folder();
    let shrink = |config: &mut NvmeConfig| config.capacity_bytes = CHUNK_BYTES;
    check_refused(dir.path(), shrink, &["128 MiB", "64 MiB", "never shrinks", "at least"]);
    keeps_its_block(&config(dir.path(), EngineChoice::Auto));
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let remedy = "use another folder";
    let (dir, same) = (used_folder(), |_: &mut NvmeConfig| {});
    rewrite_superblock(dir.path(), |bytes| bytes[8] = 3);
    check_refused(dir.path(), same, &["format version 3", "knows 1", remedy]);
    let dir = used_folder();
    rewrite_superblock(dir.path(), |bytes| bytes[50] ^= 4);
    check_refused(dir.path(), same, &["damaged", remedy]);
    let dir = used_folder();
    rewrite_superblock(dir.path(), |bytes| bytes.truncate(20));
    check_refused(dir.path(), same, &["not a superblock", remedy]);
    let dir = used_folder();
    fs::remove_file(dir.path().join(superblock::FILE_NAME)).unwrap();
    check_refused(dir.path(), same, &["no nvme.superblock beside it", "put it back"]);
    let dir = used_folder();
    fs::remove_file(dir.path().join(SLOTS_NAME)).unwrap();
    check_refused(dir.path(), same, &["0 bytes of", "put it back"]);
    let dir = used_folder();
    let slots = fs::File::options().write(true).open(dir.path().join(SLOTS_NAME)).unwrap();
    slots.set_len(slots.metadata().unwrap().len() / 2).unwrap();
    check_refused(dir.path(), same, &["move it and nvme.superblock away"]);
}

#[test]
fn another_nodes_folder_is_refused() {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let with_id = |id: u8| NvmeConfig {
        node_id: Some([id; 16]),
        ..config(dir.path(), EngineChoice::Blocking)
    };
    let (store, facts) = opened(&with_id(0xab), &arena);
    assert_eq!(facts.node_id, [0xab; 16]);
    drop(store);
    let other = |config: &mut NvmeConfig| config.node_id = Some([0xcd; 16]);
    check_refused(dir.path(), other, &["belongs to node abab", "use another folder"]);
    // Who names no id takes the folder's.
    let (_store, facts) = opened(&config(dir.path(), EngineChoice::Blocking), &arena);
    assert_eq!(facts.node_id, [0xab; 16]);
}

#[test]
fn a_first_start_that_was_cut_short_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    Superblock::new([4; 16], 0).save(dir.path(), &Straight).unwrap();
    fs::write(dir.path().join(SLOTS_NAME), []).unwrap();
    let (_store, facts) = opened(&config(dir.path(), EngineChoice::Auto), &sample::arena());
    assert_eq!((facts.node_id, facts.capacity_bytes), ([4; 16], CHUNKS * CHUNK_BYTES));
}

#[test]
fn capacities_that_cannot_be_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    for capacity_bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES + 4096, u64::MAX] {
        let place = dir.path().join("new");
        let error = refusal(&NvmeConfig::new(&place, capacity_bytes));
        assert!(matches!(error, OpenError::Config(_)), "{error:?}");
        assert!(error.to_string().contains("multiple of 64 MiB"), "{error}");
        assert!(!place.exists());
    }
}

#[test]
fn a_disk_that_is_too_small_says_by_how_much_and_keeps_what_was_there() {
    let dir = used_folder();
    let huge = NvmeConfig::new(dir.path(), 60 << 40);
    let error = refusal(&huge);
    assert!(matches!(error, OpenError::NoSpace { .. }), "{error:?}");
    assert!(error.to_string().contains("free some room"), "{error}");
    keeps_its_block(&config(dir.path(), EngineChoice::Auto));
}

#[test]
fn a_first_start_without_room_can_be_tried_again_with_less() {
    let dir = tempfile::tempdir().unwrap();
    refusal(&NvmeConfig::new(dir.path(), 60 << 40));
    opened(&config(dir.path(), EngineChoice::Auto), &sample::arena());
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    // sysfs takes no new folders, not even from root.
    for path in [file.clone(), file.join("below"), PathBuf::from("/sys/kernel/terrace")] {
        let error = refusal(&NvmeConfig::new(&path, CHUNK_BYTES));
        assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains(path.to_str().unwrap()), "{said}");
        assert!(said.contains("choose another folder"), "{said}");
    }
    assert_eq!(fs::read(file).unwrap(), b"mine");
}

#[test]
fn odd_files_in_the_slot_files_place_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.path().join(SLOTS_NAME)).unwrap();
    check_refused(dir.path(), |_| {}, &["not a plain file", "move it away"]);
    assert_eq!(fs::read(elsewhere).unwrap(), b"mine");
}

#[test]
fn memory_is_no_disk_and_said_so() {
    let memory = Path::new("/dev/shm");
    let on_tmpfs = rustix::fs::statfs(memory).is_ok_and(|fs| fs.f_type == libc::TMPFS_MAGIC);
    let dir = if on_tmpfs { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let arena = sample::arena();
    let (store, facts) = opened(&config(dir.path(), EngineChoice::Auto), &arena);
    assert!(!(on_tmpfs && facts.direct), "{facts}");
    sample::write(&*store, &arena, BLOCK, BLOCK.place(0, 0)).unwrap();
    sample::read(&*store, &arena, BLOCK, BLOCK.place(0, 0)).unwrap();
}

#[test]
fn settings_out_of_range_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let base = || config(dir.path(), EngineChoice::Auto);
    let cases = [
        (NvmeConfig { queue_depth: 0, ..base() }, "queue depth"),
        (NvmeConfig { queue_depth: 5000, ..base() }, "4096"),
        (NvmeConfig { io_bytes: 0, ..base() }, "IOs of 0 bytes"),
        (NvmeConfig { io_bytes: 5000, ..base() }, "4 KiB pages"),
        (NvmeConfig { ops_max: 0, ..base() }, "operations at once"),
    ];
    for (config, words) in cases {
        let said = refusal(&config).to_string();
        assert!(said.contains(words), "{said}");
    }
    assert!("fast".parse::<EngineChoice>().unwrap_err().contains("auto, uring or blocking"));
}
