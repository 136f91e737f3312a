//! Every setting there is, in one table: its name, what it takes, its default and its meaning.
//!
//! The file's keys, the environment's names, the flags and `docs/config.md` all come from here; no
//! setting exists outside it.

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes with a binary unit: `64MiB`, `4GiB`; `0` needs none.
    Size,
    /// A time with its unit: `250ms`, `30s`, `5m`, `1h`.
    Duration,
    /// A whole number between the two, both included.
    Count { min: u64, max: u64 },
    /// `true` or `false`.
    Bool,
    /// One of the words.
    Choice(&'static [&'static str]),
    /// An absolute path, or one from `~/`.
    Path,
    /// Text whose form the setting's meaning gives.
    Text,
}

impl Kind {
    /// What to write, as a placeholder in the help and the documentation.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Size => "SIZE",
            Self::Duration => "TIME",
            Self::Count { .. } => "N",
            Self::Bool => "BOOL",
            Self::Choice(_) => "WORD",
            Self::Path => "PATH",
            Self::Text => "TEXT",
        }
    }
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// `table.key`, as the file spells it.
    pub name: &'static str,
    pub kind: Kind,
    /// The value that stands when nothing is said, in words where it depends on the machine.
    pub default: &'static str,
    pub about: &'static str,
}

impl Key {
    /// `TERRACE_TABLE_KEY`.
    #[must_use]
    pub fn env(&self) -> String {
        format!("TERRACE_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// `table-key`, to be written with two dashes before it.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }
}

/// The key of this name. A name that the code itself asks for is always there.
#[must_use]
pub fn index_of(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

const BLOCKS_MAX_ABOUT: &str = "At most so many blocks, however small they are.";

/// Every setting, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key(
        "socket",
        Kind::Path,
        "`terrace.sock` in `$XDG_RUNTIME_DIR`, or in `state_dir` where there is none",
        "The UNIX socket that engines and commands talk to. A second one, for passing \
         descriptors, stands beside it with `.fd` appended.",
    ),
    key(
        "state_dir",
        Kind::Path,
        "`$XDG_STATE_HOME/terrace`, or `~/.local/state/terrace`",
        "The folder for everything that outlives the daemon. One daemon at a time uses it.",
    ),
    key(
        "hbm.device",
        Kind::Text,
        "auto",
        "Where the HBM tier and the engines' pools lie: `cuda:N` is a GPU, as CUDA counts them (as \
         `nvidia-smi -L` does, if CUDA_DEVICE_ORDER is PCI_BUS_ID and all are visible); `host` is \
         shared memory of this machine; `auto` is the first GPU, and the host where it can't be used.",
    ),
    key(
        "hbm.multiprocessors_max",
        count(0, 1024),
        "8",
        "The most multiprocessors that a copy kernel holds, so that an engine's decoding is not \
         disturbed: one kernel runs at a time on each GPU in each direction over PCIe, and two within \
         its memory, which hold four times as many each, the shorter for it. 0: no kernels, the copy \
         engines do it all.",
    ),
    key(
        "hbm.capacity",
        Kind::Size,
        "0",
        "Bytes of the HBM tier, in whole 64 MiB chunks; 0: no such tier.",
    ),
    key("hbm.blocks_max", count(1, 1 << 40), "no limit", BLOCKS_MAX_ABOUT),
    key(
        "dram.capacity",
        Kind::Size,
        "an eighth of the memory, at most 4GiB",
        "Bytes of the DRAM tier, in whole 64 MiB chunks; 0: no such tier. All of it is taken and \
         touched at the start.",
    ),
    key("dram.blocks_max", count(1, 1 << 40), "no limit", BLOCKS_MAX_ABOUT),
    key(
        "dram.staging",
        Kind::Size,
        "256MiB",
        "Bytes for frames on their way between the tiers, in whole 64 MiB chunks, beside the \
         DRAM tier.",
    ),
    key(
        "dram.numa_node",
        Kind::Text,
        "auto",
        "The NUMA node that the DRAM lies on, as far as there is room: `auto` is the one that the \
         GPU is attached to, where there are several; a number names one; `off` leaves it to the \
         kernel.",
    ),
    key(
        "dram.pretouch_threads",
        count(0, 64),
        "one a core",
        "Threads that touch the DRAM at the start; 0: pages come when first written, which is \
         slow.",
    ),
    key("nvme.enabled", Kind::Bool, "true", "Whether there is an NVMe tier."),
    key(
        "nvme.path",
        Kind::Path,
        "`nvme` in `state_dir`",
        "The folder of the NVMe tier's file. Put it on a local SSD.",
    ),
    key(
        "nvme.more_paths",
        Kind::Text,
        "none",
        "Folders on further disks, with commas between them: slots are dealt out over all of them in \
         turn, and `nvme.capacity` is that of all, in equal parts of whole chunks. Folders on one disk share \
         its room. The list never changes while blocks are there.",
    ),
    key(
        "nvme.capacity",
        Kind::Size,
        "what the folder holds already, else a twentieth of the free disk, at most 16GiB",
        "Bytes of the NVMe tier, in whole 64 MiB chunks, less than 16 TiB, preallocated. It may grow \
         from one start to the next, never shrink.",
    ),
    key("nvme.blocks_max", count(1, 1 << 40), "no limit", BLOCKS_MAX_ABOUT),
    key(
        "nvme.engine",
        Kind::Choice(&["auto", "uring", "blocking"]),
        "auto",
        "How the disk is driven. `auto` takes io_uring, and blocking threads where the kernel or \
         the container refuses it.",
    ),
    key(
        "nvme.queue_depth",
        count(1, 4096),
        "tuned at the start where there is something to read, else 32",
        "Reads and writes that the disk works on at once; with io_uring writes are half of them at \
         most. Tuning takes a third of a second, and sets the length of an IO as well; `terrace \
         doctor` shows what it comes to.",
    ),
    key(
        "nvme.write_mode",
        Kind::Choice(&["demote", "through"]),
        "demote",
        "When blocks are written to NVMe: `demote` when memory needs their room, `through` as soon as \
         they are in memory.",
    ),
    key(
        "nvme.admission",
        Kind::Choice(&["returning", "read", "all"]),
        "returning",
        "What is worth writing to NVMe. `returning`: chains like it have come back often enough; \
         `read`: it was read since it was stored; `all`. What a session still reaches, and what is \
         shielded or of raised priority, is written by every rule.",
    ),
    key(
        "nvme.admit_percent",
        count(0, 100),
        "10",
        "Of a hundred chains so many must come back for `returning` to write what is like them.",
    ),
    key(
        "nvme.write_bytes_per_s",
        Kind::Size,
        "0",
        "So many bytes a second are written to NVMe, ten seconds' worth at once; 0: no limit. What is \
         over it goes to the object tier, or is dropped; durable stores are written all the same.",
    ),
    key(
        "nvme.write_bytes_per_day",
        Kind::Size,
        "0",
        "The same for a day: the bucket holds one, and starts with an hour's share. A drive of 3.84 TB \
         that is rated for one write of itself a day takes 3576GiB.",
    ),
    key(
        "object.url",
        Kind::Text,
        "`file://` and `object` in `state_dir`",
        "Where the object tier lies: `file:///folder`, `s3://bucket/prefix`, or `off`. Nodes that \
         name the same place share what is there: lookups that ask for it find what other nodes, \
         and this one before a restart, have left.",
    ),
    key(
        "object.capacity",
        Kind::Size,
        "a twentieth of the free disk, at most 16GiB, for `file://`; 1TiB for `s3://`",
        "Bytes of the object tier that this node keeps track of, 64 MiB to 16 TiB. It erases what it \
         wrote itself and has no room for, also in earlier runs (`docs/object.md`); what other nodes \
         wrote counts from when a lookup finds it, and is forgotten here, not erased.",
    ),
    key("object.blocks_max", count(1, 1 << 40), "no limit", BLOCKS_MAX_ABOUT),
    key(
        "object.requests_max",
        count(1, 1024),
        "64",
        "Requests to it under way at once. Up to 256 for headers and lists come on top.",
    ),
    key(
        "object.endpoint",
        Kind::Text,
        "the provider's own",
        "URL of an S3-compatible server, for `s3://` only: `http://127.0.0.1:9000`.",
    ),
    key(
        "object.region",
        Kind::Text,
        "the standard chain's, else us-east-1",
        "Region of the bucket, for `s3://` only.",
    ),
    key(
        "object.path_style",
        Kind::Bool,
        "true where there is an endpoint, else false",
        "Whether the bucket stands in the path instead of the host name, for `s3://` only.",
    ),
    key(
        "object.lifecycle_tags",
        Kind::Bool,
        "false",
        "Whether objects with a promise to forget carry the tag `terrace-days`, for lifecycle rules \
         of the bucket (`docs/object.md`); for `s3://` only, needs s3:PutObjectTagging.",
    ),
    key(
        "object.pack_below",
        Kind::Size,
        "0",
        "Blocks whose frames are shorter than this are packed into objects of 8 MiB or more \
         (`docs/packs.md`); 0: each block is an object. All nodes that share a store say the same: \
         who does not pack does not find what is packed. At most 8MiB.",
    ),
    key(
        "object.pack_linger",
        Kind::Duration,
        "20ms",
        "How long a block waits for others to fill its pack, from 0ms to 1s.",
    ),
    key(
        "object.pack_freshness",
        Kind::Duration,
        "1s",
        "How old what a node knows of others' packs may be when a block is looked for, from 0ms to \
         60s: a request to list them costs money.",
    ),
    key(
        "object.pack_blocks_known",
        count(1_000, 100_000_000),
        "1000000",
        "Packed blocks that a node knows the places of, about 300 bytes of memory each. What it \
         writes beyond that is not packed; what others packed beyond it is not found.",
    ),
    key(
        "leases.ttl",
        Kind::Duration,
        "30s",
        "How long a lookup holds the blocks it found, from 100ms to 1h.",
    ),
    key(
        "leases.max",
        count(1, 1 << 20),
        "65536",
        "Leases at once; a lookup beyond it is told to come back.",
    ),
    key(
        "retention.policy",
        Kind::Choice(&["value", "lru", "s3fifo"]),
        "value",
        "What decides which blocks go when room is needed. `value` learns how soon chains are \
         asked for again, `lru` drops the one used longest ago, `s3fifo` keeps newcomers apart.",
    ),
    key(
        "retention.namespace_shield_percent",
        count(0, 100),
        "50",
        "How much of each tier the shields of one namespace may hold, in hundredths; 0: no shields. \
         What is over the shares of all tiers is answered as clipped.",
    ),
    key(
        "retention.tenant_shield_percent",
        count(0, 100),
        "75",
        "The same for all namespaces of one tenant (one `tenant_salt`) together; at least \
         `retention.namespace_shield_percent`, whose default is no more than this.",
    ),
    key(
        "sessions.idle_timeout",
        Kind::Duration,
        "4h",
        "How long a session may be silent before it is forgotten, from 1s to 168h; its blocks live \
         on by themselves.",
    ),
    key(
        "sessions.max",
        count(1, 1 << 20),
        "65536",
        "Sessions that are known at once; for one beyond it the one silent for longest is \
         forgotten.",
    ),
    key(
        "prefetch.lifts_max",
        count(0, 1 << 16),
        "1024",
        "Lifts under way or held at once, whoever asked for them; 0: nothing is lifted ahead of \
         need. One beyond it is refused.",
    ),
    key(
        "prefetch.tier_percent",
        count(1, 100),
        "60",
        "How much of each tier lifts may hold, in hundredths. What of a lift is over it is answered \
         as clipped.",
    ),
    key(
        "events.history",
        count(0, 1 << 24),
        "65536",
        "Changes of residency that are kept for those who follow them, some 100 bytes and a block's \
         tokens each; whoever is further behind has lost some. 0: none are told, and `Events` is \
         refused.",
    ),
    key(
        "events.zmq",
        Kind::Text,
        "off",
        "Where changes of residency are published over ZeroMQ in vLLM's format, for routers: \
         `tcp://127.0.0.1:5557`, `ipc:///folder/socket`, or `off`.",
    ),
    key(
        "events.zmq_replay",
        Kind::Text,
        "off",
        "Where subscribers of `events.zmq` ask for messages that they missed, of those that \
         `events.history` keeps; another endpoint, or `off`.",
    ),
    key(
        "events.topic",
        Kind::Text,
        "empty",
        "The topic that is published; `{model}` stands for the model of the blocks. Routers of \
         llm-d want `kv@ADDRESS@{model}`, with the address of the engine's pod.",
    ),
    key(
        "events.allow_remote",
        Kind::Bool,
        "false",
        "Whether `events.zmq` and `events.zmq_replay` may be addresses that other machines reach. \
         Neither asks for a password, and whoever listens learns which prefixes are cached here.",
    ),
    key("clients.max", count(1, 4096), "256", "Engines and commands connected at once."),
    key(
        "ops.per_client_max",
        count(1, 256),
        "256",
        "Stores and loads under way for one client; one beyond it is told to come back.",
    ),
    key(
        "ops.store_timeout",
        Kind::Duration,
        "30s",
        "How long a block waits for its other shards, and a store for its engine, from 100ms to 1h.",
    ),
    key(
        "metrics.listen",
        Kind::Text,
        "off",
        "Where the Prometheus endpoint listens, `127.0.0.1:9464` say, or `off`.",
    ),
    key(
        "metrics.allow_remote",
        Kind::Bool,
        "false",
        "Whether `metrics.listen` may be an address that other machines reach. The endpoint asks \
         for no password.",
    ),
    key(
        "log.level",
        Kind::Text,
        "info",
        "What is logged to stderr: `error`, `warn`, `info`, `debug`, `trace` or `off`, then \
         exceptions by module: `info,tiers::nvme=debug`.",
    ),
    key("log.format", Kind::Choice(&["text", "json"]), "text", "How a line of the log looks."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_spelling_is_one_keys_own() {
        let spellings = [
            KEYS.iter().map(|key| key.name.to_owned()).collect::<BTreeSet<_>>(),
            KEYS.iter().map(Key::env).collect(),
            KEYS.iter().map(Key::flag).collect(),
        ];
        for spelled in spellings {
            assert_eq!(spelled.len(), KEYS.len(), "{spelled:?}");
        }
    }
}
