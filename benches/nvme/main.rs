//! The NVMe tier beside what the device gives: a raw loop past the page cache in this process, fio's
//! `io_uring` if fio is there, the tier's two engines, and the whole daemon.
//!
//!     scripts/bench-nvme                                   installs fio, then the same
//!     cargo bench --bench nvme -- --dir FOLDER --seconds 60 --turns 2 --only raw,fio,ring,daemon
//!     cargo bench --bench nvme -- --dir FOLDER --recover 1000000
//!
//! All move frames of 1 MiB at one depth through files in one folder, in turns: each turn runs every
//! contender, and the ratios are taken turn by turn. Absolute speeds are the machine's.
//!
//! Each contender runs for a while before it counts: disks that are rented are held to a rate by a
//! bucket of bytes, which is full again after a moment's rest, as while fio starts.
#![allow(clippy::unwrap_used, reason = "a bench is a test")]

mod daemon;
mod fio;
mod raw;
mod recover;
mod tier;

use std::path::PathBuf;
use std::time::Duration;

use terrace::tiers::nvme::EngineChoice;

const MIB: u64 = 1 << 20;

/// Bytes of one frame, and of the file that each contender has: more than any cache on the way holds.
const FRAME_BYTES: u64 = MIB;
const FILE_BYTES: u64 = 4096 * MIB;

/// Frames under way at once.
const DEPTH: u32 = 16;

/// The project's bar, in hundredths of the raw loop and of fio.
const BAR: f64 = 0.95;

/// What is moved, and how long one contender has in a turn.
#[derive(Clone)]
struct Plan {
    dir: PathBuf,
    seconds: u64,
    /// How long each runs before it counts.
    ramp_seconds: u64,
    turns: usize,
    /// Leave the others out; all when empty. The raw loop always runs: it is what all are held to.
    only: Vec<String>,
    /// Measure this instead: so many slots after a kill.
    recover_slots: Option<u64>,
}

impl Plan {
    fn from_args() -> Self {
        let mut plan = Self {
            dir: std::env::temp_dir(),
            seconds: 3,
            ramp_seconds: 1,
            turns: 3,
            only: Vec::new(),
            recover_slots: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--dir" => plan.dir = value().into(),
                "--seconds" => plan.seconds = value().parse().expect("whole seconds"),
                "--ramp" => plan.ramp_seconds = value().parse().expect("whole seconds"),
                "--only" => plan.only = value().split(',').map(str::to_owned).collect(),
                "--turns" => plan.turns = value().parse().expect("a number of turns"),
                "--recover" => plan.recover_slots = Some(value().parse().expect("slots")),
                "--bench" => {}
                other => {
                    panic!(
                        "unknown argument {other}: use --dir, --seconds, --ramp, --turns, --only, \
                         --recover"
                    )
                }
            }
        }
        assert!(plan.dir.is_dir(), "{} is no folder", plan.dir.display());
        plan.dir = plan.dir.canonicalize().expect("a folder has a path from the root");
        assert!(plan.seconds > 0 && plan.turns > 0, "no time, no figures");
        let is_known = |name: &String| NAMES.contains(&name.as_str());
        assert!(plan.only.iter().all(is_known), "--only takes some of {NAMES:?}");
        plan
    }

    fn runs(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// The contenders beside the raw loop.
const NAMES: [&str; 5] = ["raw", "fio", "ring", "block", "daemon"];

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Write,
    Read,
}

impl Way {
    /// How far each contender goes through its file before it begins again: what the daemon reads
    /// must be on its disk still, beside what its disk has from before.
    const fn span_bytes(self) -> u64 {
        match self {
            Self::Write => FILE_BYTES,
            Self::Read => FILE_BYTES / 2,
        }
    }
}

fn main() {
    let plan = Plan::from_args();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(slots) = plan.recover_slots {
        return runtime.block_on(recover::measure(&plan.dir, slots));
    }
    println!(
        "frames of 1 MiB, {DEPTH} under way, {} turns of {} s a contender after {} s, in {}",
        plan.turns,
        plan.seconds,
        plan.ramp_seconds,
        plan.dir.display()
    );
    let mut contenders = Contenders::prepare(&plan, &runtime);
    for way in [Way::Write, Way::Read] {
        let turns = 0..plan.turns;
        let rows: Vec<Rates> = turns.map(|turn| contenders.turn(turn, way, &runtime)).collect();
        report(way, &rows);
    }
}

/// One contender's figure of a turn; nothing if it does not run.
type Rate = fn(&Rates) -> Option<f64>;

/// Bytes a second of each in one turn.
#[derive(Default)]
struct Rates {
    raw: f64,
    fio: Option<f64>,
    ring: Option<f64>,
    block: Option<f64>,
    daemon: Option<f64>,
}

struct Contenders {
    plan: Plan,
    raw: raw::Raw,
    ring: Option<tier::Tier>,
    block: Option<tier::Tier>,
    daemon: Option<daemon::Served>,
    has_fio: bool,
}

impl Contenders {
    fn prepare(plan: &Plan, runtime: &tokio::runtime::Runtime) -> Self {
        let has_fio = plan.runs("fio") && fio::is_there();
        if plan.runs("fio") && !has_fio {
            println!("fio is not installed: scripts/bench-nvme installs it");
        }
        let tier = |name, engine| plan.runs(name).then(|| tier::Tier::prepare(&plan.dir, engine));
        let daemon = || runtime.block_on(daemon::Served::prepare(&plan.dir));
        Self {
            raw: raw::Raw::prepare(&plan.dir),
            ring: tier("ring", EngineChoice::Uring),
            block: tier("block", EngineChoice::Blocking),
            daemon: plan.runs("daemon").then(daemon),
            has_fio,
            plan: plan.clone(),
        }
    }

    /// Runs all of them, every other turn in the opposite order: none always finds the disk as the same
    /// one left it.
    fn turn(&mut self, turn: usize, way: Way, runtime: &tokio::runtime::Runtime) -> Rates {
        let mut order = NAMES;
        if turn % 2 == 1 {
            order.reverse();
        }
        let mut rates = Rates::default();
        for name in order {
            self.run(name, way, runtime, &mut rates);
        }
        rates
    }

    /// Runs one, if it takes part.
    fn run(&mut self, name: &str, way: Way, runtime: &tokio::runtime::Runtime, rates: &mut Rates) {
        let Self { plan, raw, ring, block, daemon, has_fio } = self;
        let tier = |tier: &tier::Tier| counted(plan, |time| tier.run(way, time));
        match name {
            "raw" => rates.raw = counted(plan, |time| raw.run(way, time)),
            "fio" => {
                let times = (plan.ramp_seconds, plan.seconds);
                rates.fio = has_fio.then(|| fio::run(raw.path(), way, times));
            }
            "ring" => rates.ring = ring.as_ref().map(tier),
            "block" => rates.block = block.as_ref().map(tier),
            _ => {
                rates.daemon = daemon
                    .as_mut()
                    .map(|served| counted(plan, |time| runtime.block_on(served.run(way, time))));
            }
        }
    }
}

/// Runs once for nothing and then, without a pause, for the figure.
fn counted(plan: &Plan, mut run: impl FnMut(Duration) -> f64) -> f64 {
    if plan.ramp_seconds > 0 {
        run(Duration::from_secs(plan.ramp_seconds));
    }
    run(Duration::from_secs(plan.seconds))
}

fn report(way: Way, turns: &[Rates]) {
    let figures = |rate: Rate| turns.iter().map(rate).collect::<Option<Vec<f64>>>();
    let way = format!("{way:?}").to_lowercase();
    println!("\n{way:<6} {:>10} {:>10} {:>10}", "GB/s", "of raw", "of fio");
    let ratio = |rate: Rate, limit: Rate| {
        let ratios = turns.iter().map(|turn| Some(rate(turn)? / limit(turn)?));
        ratios.collect::<Option<_>>().map_or("-".to_owned(), |ratios| {
            let ratio = median(ratios);
            format!("{:.0}%{}", 100.0 * ratio, if ratio < BAR { " *" } else { "" })
        })
    };
    let raw: Rate = |turn| Some(turn.raw);
    let fio: Rate = |turn| turn.fio;
    let rows: [(&str, Rate); 5] = [
        ("raw", raw),
        ("fio", fio),
        ("ring", |turn| turn.ring),
        ("block", |turn| turn.block),
        ("daemon", |turn| turn.daemon),
    ];
    for (name, rate) in rows {
        let Some(figures) = figures(rate) else { continue };
        let gbps = median(figures) / 1e9;
        println!("{name:<6} {gbps:>10.2} {:>10} {:>10}", ratio(rate, raw), ratio(rate, fio));
    }
    println!("* below the bar of {:.0}%", 100.0 * BAR);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64()
}
