//! Configurations as an operator writes them, and what comes out.

use std::collections::BTreeMap;
use std::path::Path;

use insta::assert_snapshot;

use super::*;
use crate::domain::admission::{Rule, WriteMode};
use crate::tiers::object::Bucket;

/// A machine of 24 GiB of memory and 80 GiB of free disk.
struct Fake {
    ram_bytes: u64,
    free_bytes: u64,
    slot_files_bytes: u64,
}

const FAKE: Fake = Fake { ram_bytes: 24 << 30, free_bytes: 80 << 30, slot_files_bytes: 0 };

impl Machine for Fake {
    fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    fn cores(&self) -> usize {
        2
    }

    fn disk(&self, path: &Path) -> Option<Disk> {
        let device = u64::from(path.starts_with("/mnt"));
        if path.starts_with("/proc") {
            return Some(Disk { device: 9, total_bytes: 0, free_bytes: 0 });
        }
        Some(Disk { device, total_bytes: 100 << 30, free_bytes: self.free_bytes })
    }

    fn slot_files_bytes(&self, _folder: &Path) -> u64 {
        self.slot_files_bytes
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.starts_with("/run/user")
    }

    fn has_gpu(&self) -> bool {
        false
    }
}

fn sources(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    let base = [("HOME", "/h/me"), ("PATH", "/bin"), ("XDG_RUNTIME_DIR", "/run/user/1")];
    let env: BTreeMap<&str, &str> = base.iter().chain(env).copied().collect();
    Sources {
        file: (!file.is_empty()).then(|| ("terrace.toml".to_owned(), file.to_owned())),
        env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        flags: flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
    }
}

fn load(file: &str) -> Config {
    Config::load(&sources(file, &[], &[]), &FAKE).unwrap()
}

#[test]
fn nothing_given_gives_modest_sizes() {
    let config = load("");
    assert_eq!(config.places.socket, Path::new("/run/user/1/terrace.sock"));
    assert_eq!(config.places.state_dir, Path::new("/h/me/.local/state/terrace"));
    assert_eq!(config.hbm, None);
    assert_eq!(config.dram.capacity_bytes, 3 << 30);
    assert_eq!(config.dram.pretouch_threads, 2);
    let nvme = config.nvme.unwrap();
    assert_eq!((nvme.capacity_bytes, nvme.engine), (4 << 30, EngineChoice::Auto));
    assert_eq!(nvme.path, Path::new("/h/me/.local/state/terrace/nvme"));
    let object = config.object.unwrap();
    assert_eq!(
        object.target,
        Target::Dir { path: "/h/me/.local/state/terrace/object".into(), fsync: false }
    );
    assert_eq!(config.metrics, None);
    assert_eq!(config.log.levels, [(String::new(), Level::Info)]);
    assert!(config.notes.is_empty());
}

#[test]
fn a_small_machine_has_fewer_tiers_and_is_told() {
    let small = Fake { ram_bytes: 512 << 20, free_bytes: 100 << 20, slot_files_bytes: 0 };
    let config = Config::load(&sources("", &[], &[]), &small).unwrap();
    assert_eq!(config.dram.capacity_bytes, 64 << 20);
    assert_eq!((config.nvme, config.object), (None, None));
    let notes: Vec<_> = config.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("100 MiB free") && notes[0].ends_with("set nvme.capacity"),
        "{notes:?}"
    );
    assert!(notes[1].ends_with("set object.capacity"), "{notes:?}");
}

#[test]
fn settings_of_a_bucket_without_one_are_told() {
    let notes = |url: &str| {
        let file = format!("[object]\n{url}\nendpoint = \"http://127.0.0.1:9000\"\n");
        load(&file).notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let said = notes("");
    assert!(said.len() == 1 && said[0].contains("nothing comes of object.endpoint"), "{said:?}");
    assert_eq!(notes("url = \"s3://bucket\""), Vec::<String>::new());
}

#[test]
fn a_slot_file_from_before_keeps_its_size() {
    // The disk has filled since: a twentieth of what is free is now less than the file.
    let full = Fake { free_bytes: 1 << 30, slot_files_bytes: 4 << 30, ..FAKE };
    let config = Config::load(&sources("", &[], &[]), &full).unwrap();
    assert_eq!(config.nvme.unwrap().capacity_bytes, 4 << 30);
    // It may grow into what is free beside it, and no further.
    let grown = |size| {
        let sources = sources("", &[], &[("nvme.capacity", size)]);
        Config::load(&sources, &full).map(|config| config.nvme.unwrap().capacity_bytes)
    };
    assert_eq!(grown("5GiB"), Ok(5 << 30));
    assert!(grown("6GiB").is_err());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "[dram]\ncapacity = \"1GiB\"\n[leases]\nttl = \"5s\"\nmax = 7\n";
    let env = [
        ("TERRACE_DRAM_CAPACITY", "2GiB"),
        ("TERRACE_LEASES_TTL", "6s"),
        // Whoever runs the tests may have exported it.
        ("TERRACE_BIN", "terrace"),
    ];
    let given = sources(file, &env, &[("dram.capacity", "3GiB")]);
    let config = Config::load(&given, &FAKE).unwrap();
    assert_eq!(config.dram.capacity_bytes, 3 << 30);
    assert_eq!((config.lease_ttl, config.leases_max), (Duration::from_secs(6), 7));
}

#[test]
fn a_whole_file_is_read() {
    let config = load(
        r#"
        socket = "/run/terrace/t.sock"
        state_dir = "~/kv"
        hbm = { device = "cuda:1", capacity = "128MiB", multiprocessors_max = 4 }
        dram.capacity = 0
        [nvme]
        path = "/mnt/ssd/kv"
        capacity = "32GiB"
        engine = "blocking"
        queue_depth = 32
        [object]
        url = "s3://kv-cache/team/a/"
        endpoint = "http://127.0.0.1:9000"
        region = "eu-west-1"
        pack_below = "256KiB"
        pack_linger = "50ms"
        [metrics]
        listen = "[::1]:9464"
        [log]
        level = "warn,tiers::nvme=debug,manager=trace"
        format = "json"
        "#,
    );
    assert_eq!(config.places.state_dir, Path::new("/h/me/kv"));
    let device = HbmDevice { choice: DeviceChoice::Cuda(1), multiprocessors_max: 4 };
    assert_eq!(config.device, device);
    assert_eq!(config.hbm, Some(Hbm { capacity_bytes: 128 << 20, blocks_max: None }));
    assert_eq!(config.dram.capacity_bytes, 0);
    let nvme = config.nvme.unwrap();
    assert_eq!((nvme.engine, nvme.queue_depth), (EngineChoice::Blocking, 32));
    let object = config.object.unwrap();
    assert_eq!(object.capacity_bytes, 1 << 40);
    let packs = object.packs.unwrap();
    assert_eq!((packs.below_bytes, packs.linger), (256 << 10, Duration::from_millis(50)));
    let expected = Bucket {
        name: "kv-cache".into(),
        prefix: "team/a".into(),
        endpoint: Some("http://127.0.0.1:9000".into()),
        region: Some("eu-west-1".into()),
        path_style: None,
    };
    assert_eq!(object.target, Target::S3(expected));
    assert_eq!(config.metrics, Some("[::1]:9464".parse().unwrap()));
    let levels = [("", Level::Warn), ("manager", Level::Trace), ("tiers::nvme", Level::Debug)];
    let levels = levels.map(|(module, level)| (module.to_owned(), level));
    assert_eq!(config.log, Log { levels: levels.to_vec(), json: true });
}

#[test]
fn one_share_of_shields_is_enough_to_say() {
    let shares = |file: &str| {
        let Shields { namespace_percent, tenant_percent } = load(file).shields;
        (namespace_percent, tenant_percent)
    };
    assert_eq!(shares(""), (50, 75));
    assert_eq!(shares("retention.namespace_shield_percent = 90\n"), (90, 90));
    assert_eq!(shares("retention.tenant_shield_percent = 20\n"), (20, 20));
    assert_eq!(shares("retention.namespace_shield_percent = 0\n"), (0, 75));
    let sessions = load("[sessions]\nidle_timeout = \"10m\"\nmax = 9\n").sessions;
    assert_eq!((sessions.idle_timeout, sessions.sessions_max), (Duration::from_mins(10), 9));
}

#[test]
fn lifts_are_bounded_or_switched_off() {
    let lifts = |file: &str| {
        let Prefetch { lifts_max, tier_percent } = load(file).prefetch;
        (lifts_max, tier_percent)
    };
    assert_eq!(lifts(""), (1024, 60));
    assert_eq!(lifts("prefetch.lifts_max = 0\n"), (0, 60));
    assert_eq!(lifts("[prefetch]\nlifts_max = 9\ntier_percent = 100\n"), (9, 100));
    let env = [("TERRACE_PREFETCH_LIFTS_MAX", "3"), ("TERRACE_PREFETCH_TIER_PERCENT", "4")];
    let given = sources("", &env, &[("prefetch.tier_percent", "5")]);
    let given = Config::load(&given, &FAKE).unwrap().prefetch;
    assert_eq!(given, Prefetch { lifts_max: 3, tier_percent: 5 });
}

#[test]
fn slots_are_striped_over_the_folders_that_are_named() {
    let more = "nvme.more_paths = \"/mnt/b, ~/c\"\n";
    let nvme = load(&format!("nvme.capacity = \"384MiB\"\n{more}")).nvme.unwrap();
    assert_eq!(nvme.more_paths, [Path::new("/mnt/b"), Path::new("/h/me/c")]);
    let said = |file: &str| Config::load(&sources(file, &[], &[]), &FAKE).unwrap_err().to_string();
    let uneven = said(&format!("nvme.capacity = \"256MiB\"\n{more}"));
    assert!(uneven.contains("nvme.capacity") && uneven.contains("192MiB"), "{uneven}");
    let twice = said("nvme.path = \"/mnt/b\"\nnvme.more_paths = \"/mnt/b\"\n");
    assert!(twice.contains("named twice"), "{twice}");
    let none = load("nvme.more_paths = \"none\"\n").nvme.unwrap().more_paths;
    assert!(none.is_empty(), "what is shown as the default may be given: {none:?}");
}

#[test]
fn folders_on_one_disk_share_its_room() {
    let bytes = |file: &str| {
        let given = sources(file, &[], &[("object.url", "off")]);
        Config::load(&given, &FAKE).map(|config| config.nvme.unwrap().capacity_bytes >> 30)
    };
    let more = |capacity: &str, path: &str, more: &str| {
        bytes(&format!("nvme = {{ {capacity} path = \"{path}\", more_paths = \"{more}\" }}\n"))
    };
    assert_eq!(more("", "/mnt/a", "/other"), Ok(8), "a twentieth of each");
    assert_eq!(more("", "/mnt/a", "/mnt/b"), Ok(4), "a twentieth of both");
    assert_eq!(more("capacity = \"160GiB\",", "/mnt/a", "/other"), Ok(160));
    assert_eq!(more("capacity = \"80GiB\",", "/mnt/a", "/mnt/b"), Ok(80));
    assert!(more("capacity = \"82GiB\",", "/mnt/a", "/mnt/b").is_err());
    // Of three parts of 30 GiB two lie on one disk.
    assert_eq!(more("capacity = \"90GiB\",", "/mnt/a", "/mnt/b, /other"), Ok(90));
    assert!(more("capacity = \"150GiB\",", "/mnt/a", "/mnt/b, /other").is_err());
}

#[test]
fn what_nvme_is_written_is_bounded_by_rule_and_budget() {
    let writes = |file: &str| load(file).nvme.unwrap().writes;
    assert_eq!(writes(""), WriteRules::default());
    let read = writes("nvme.admission = \"read\"\nnvme.write_bytes_per_s = \"44MiB\"\n");
    assert_eq!((read.rule, read.bytes_per_s, read.bytes_per_day), (Rule::Read, 44 << 20, 0));
    let through =
        "[nvme]\nwrite_mode = \"through\"\nadmit_percent = 30\nwrite_bytes_per_day = \"3TiB\"\n";
    let rule = Rule::Returning { percent: 30 };
    let mode = WriteMode::Through;
    let expected = WriteRules { mode, rule, bytes_per_s: 0, bytes_per_day: 3 << 40 };
    assert_eq!(writes(through), expected);
    let bad = sources("nvme.admit_percent = 101\n", &[], &[]);
    let said = Config::load(&bad, &FAKE).unwrap_err().to_string();
    assert!(said.contains("nvme.admit_percent"), "{said}");
}

#[test]
fn tiers_are_switched_off() {
    let config = load("object.url = \"off\"\nnvme.enabled = false\nnvme.capacity = \"1GiB\"\n");
    assert_eq!((config.nvme, config.object), (None, None));
    assert!(config.notes.is_empty(), "what was asked for needs no note");
}

#[test]
fn places_are_found_with_whatever_else_is_wrong() {
    let given = sources("dram.capacity = \"900TiB\"\n", &[], &[("socket", "/s/t.sock")]);
    assert_eq!(Places::load(&given, &FAKE).unwrap().socket, Path::new("/s/t.sock"));
    assert!(Config::load(&given, &FAKE).is_err());
}

#[test]
fn without_a_runtime_folder_the_socket_lies_with_the_state() {
    let given = sources("", &[("XDG_RUNTIME_DIR", "/gone"), ("XDG_STATE_HOME", "/st")], &[]);
    let places = Places::load(&given, &FAKE).unwrap();
    assert_eq!(places.socket, Path::new("/st/terrace/terrace.sock"));
}

/// Files with one thing wrong in each.
const WRONG_FILES: &[&str] = &[
    "\n[dram]\ncapcity = \"1GiB\"\n",
    "[drum]\ncapacity = \"1GiB\"\n",
    "colour = 3\n",
    "[dram\n",
    "[dram]\ncapacity = [\"1GiB\"]\n",
    "dram.capacity = \"10%\"\n",
    "dram.capacity = 4096\n",
    "dram.capacity = \"32MiB\"\n",
    "dram.capacity = \"100MiB\"\n",
    "dram.capacity = \"1TiB\"\n",
    "dram.staging = 0\n",
    "dram.numa_node = \"near\"\n",
    "hbm = { capacity = \"20GiB\" }\n",
    "hbm.device = \"cuda\"\n",
    "hbm.multiprocessors_max = 1025\n",
    "nvme.capacity = \"81GiB\"\n",
    "nvme.capacity = \"16TiB\"\n",
    "nvme = { path = \"/mnt/a\", more_paths = \"/mnt/b\", capacity = \"82GiB\" }\n",
    "nvme.path = \"here\"\n",
    "nvme = \"/mnt/a\"\n",
    "nvme.engine = \"spdk\"\n",
    "nvme.queue_depth = 0\n",
    "nvme.enabled = 1\n",
    "object.url = \"http://x\"\n",
    "object.url = \"s3:///x\"\n",
    "object.url = \"file://x\"\n",
    "object.url = \"file:///proc/x\"\n",
    "[object]\nurl = \"file:///proc/x\"\ncapacity = \"1GiB\"\n",
    "object.capacity = \"1MiB\"\n",
    "[object]\nurl = \"s3://bucket\"\ncapacity = \"100TiB\"\n",
    "object.pack_below = \"64MiB\"\n",
    "object.pack_below = \"8KiB\"\n",
    "object.pack_blocks_known = 5000\n",
    "object.pack_linger = \"2s\"\n",
    "[object]\nurl = \"s3://b\"\nendpoint = \"minio\"\n",
    "nvme.capacity = \"60GiB\"\nobject.capacity = \"60GiB\"\n",
    "leases.ttl = \"2h\"\n",
    "leases.max = 0x1000\n",
    "retention.namespace_shield_percent = 101\n",
    "retention.tenant_shield_percent = \"50%\"\n",
    "[retention]\nnamespace_shield_percent = 60\ntenant_shield_percent = 40\n",
    "sessions.idle_timeout = \"14400000\"\n",
    "sessions.idle_timeout = \"100ms\"\n",
    "sessions.max = 0\n",
    "events.history = \"all\"\n",
    "events.zmq = \"tcp://localhost:5557\"\n",
    "events.zmq = \"tcp://0.0.0.0:5557\"\n",
    "events.zmq = \"127.0.0.1:5557\"\n",
    "events.zmq_replay = \"tcp://127.0.0.1:5558\"\n",
    "[events]\nzmq = \"ipc:///tmp/e\"\nzmq_replay = \"ipc:///tmp/e\"\n",
    "socket = \"/run/t\"\nevents.zmq = \"ipc:///run/t\"\n",
    "socket = \"/run/t\"\nevents.zmq = \"ipc:///run/t.fd\"\n",
    "metrics.listen = \"127.0.0.1:9464\"\nevents.zmq = \"tcp://127.0.0.1:9464\"\n",
    "[events]\nzmq = \"ipc:///tmp/e\"\nhistory = 0\n",
    "prefetch.lifts_max = 70000\n",
    "prefetch.lifts_max = \"all\"\n",
    "prefetch.tier_percent = 0\n",
    "[prefetch]\ntier_percent = \"25%\"\n",
    "[prefetch]\nlift_max = 3\n",
    "metrics.listen = \"0.0.0.0:9464\"\n",
    "metrics.listen = \"9464\"\n",
    "log.level = \"loud\"\n",
    "log.level = \"info,teirs=debug\"\n",
];

#[test]
fn errors_name_the_key_the_value_and_the_remedy() {
    let said = WRONG_FILES.iter().map(|file| {
        let error = Config::load(&sources(file, &[], &[]), &FAKE).unwrap_err();
        format!("{}\n{error}\n", file.trim())
    });
    assert_snapshot!(said.collect::<Vec<_>>().join("\n"));
}

#[test]
fn errors_name_the_variable_and_the_flag() {
    let error = |env: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        Config::load(&sources("", env, flags), &FAKE).unwrap_err().to_string()
    };
    let said = [
        error(&[("TERRACE_DRAM_CAPCITY", "1GiB")], &[]),
        error(&[("TERRACE_DRAM_CAPACITY", "x")], &[]),
        error(&[("TERRACE_QQQQQQQQQQQQQQQQQ", "x")], &[]),
        error(&[], &[("leases.max", "0")]),
        error(&[("HOME", ""), ("XDG_RUNTIME_DIR", "")], &[]),
    ];
    assert_snapshot!(said.join("\n\n"));
}

#[test]
fn a_variable_of_kubernetes_is_named_as_such() {
    for name in ["TERRACE_PORT", "TERRACE_PORT_9464_TCP_ADDR", "TERRACE_SERVICE_HOST"] {
        let env = [(name, "tcp://10.0.0.7:9464")];
        let said = Config::load(&sources("", &env, &[]), &FAKE).unwrap_err().to_string();
        assert!(said.contains(name) && said.contains("enableServiceLinks: false"), "{said}");
        assert!(!said.contains("did you mean"), "{said}");
    }
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone.toml");
    let endless = Sources::gather(Some(Path::new("/dev/zero")), Vec::new()).unwrap_err();
    assert!(endless.to_string().contains("longer than 1 MiB"), "{endless}");
    let said = Sources::gather(Some(&gone), Vec::new()).unwrap_err().to_string();
    assert!(said.contains("gone.toml") && said.contains("--config"), "{said}");
}

proptest::proptest! {
    #[test]
    fn prop_no_file_makes_it_panic(file in ".*") {
        let _ = Config::load(&sources(&file, &[], &[]), &FAKE);
    }

    #[test]
    fn prop_no_value_makes_it_panic(index in 0..KEYS.len(), text in ".*") {
        let given = sources("", &[], &[(KEYS[index].name, text.as_str())]);
        let _ = Config::load(&given, &FAKE);
    }
}
