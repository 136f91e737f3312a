//! The NVMe tier beside what the device gives: a raw loop past the page cache in this process, fio's
//! `io_uring` if fio is there, the tier's two engines, and the whole daemon.
//!
//!     scripts/bench-nvme                                   installs fio, then the same
//!     cargo bench --bench nvme -- --dir FOLDER --seconds 60
//!     cargo bench --bench nvme -- --dir FOLDER --recover 1000000
//!
//! All move frames of 1 MiB at one depth through files in one folder, in turns: each turn runs every
//! contender, and the ratios are taken turn by turn. Absolute speeds are the machine's.
#![allow(clippy::unwrap_used, reason = "a bench is a test")]

mod daemon;
mod fio;
mod raw;
mod recover;
mod tier;

use std::path::PathBuf;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Bytes of one frame, and of the file that they go through: more than any cache on the way holds.
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
    turns: usize,
    /// Measure this instead: so many slots after a kill.
    recover_slots: Option<u64>,
}

impl Plan {
    fn from_args() -> Self {
        let mut plan =
            Self { dir: std::env::temp_dir(), seconds: 3, turns: 3, recover_slots: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--dir" => plan.dir = value().into(),
                "--seconds" => plan.seconds = value().parse().expect("whole seconds"),
                "--turns" => plan.turns = value().parse().expect("a number of turns"),
                "--recover" => plan.recover_slots = Some(value().parse().expect("slots")),
                "--bench" => {}
                other => {
                    panic!("unknown argument {other}: use --dir, --seconds, --turns, --recover")
                }
            }
        }
        assert!(plan.dir.is_dir(), "{} is no folder", plan.dir.display());
        assert!(plan.seconds > 0 && plan.turns > 0, "no time, no figures");
        plan
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Write,
    Read,
}

fn main() {
    let plan = Plan::from_args();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(slots) = plan.recover_slots {
        return runtime.block_on(recover::measure(&plan.dir, slots));
    }
    println!(
        "frames of 1 MiB, {DEPTH} under way, {} turns of {} s a contender, in {}",
        plan.turns,
        plan.seconds,
        plan.dir.display()
    );
    let mut contenders = Contenders::prepare(&plan, &runtime);
    for way in [Way::Write, Way::Read] {
        let rows: Vec<Rates> = (0..plan.turns).map(|_| contenders.turn(way, &runtime)).collect();
        report(way, &rows);
    }
}

/// One contender's figure of a turn.
type Rate = fn(&Rates) -> f64;

/// Bytes a second of each in one turn.
struct Rates {
    raw: f64,
    fio: Option<f64>,
    ring: f64,
    blocking: f64,
    daemon: f64,
}

struct Contenders {
    plan: Plan,
    raw: raw::Raw,
    ring: tier::Tier,
    blocking: tier::Tier,
    daemon: daemon::Served,
    has_fio: bool,
}

impl Contenders {
    fn prepare(plan: &Plan, runtime: &tokio::runtime::Runtime) -> Self {
        let has_fio = fio::is_there();
        if !has_fio {
            println!("fio is not installed: scripts/bench-nvme installs it");
        }
        Self {
            raw: raw::Raw::prepare(&plan.dir),
            ring: tier::Tier::prepare(&plan.dir, terrace::tiers::nvme::EngineChoice::Uring),
            blocking: tier::Tier::prepare(&plan.dir, terrace::tiers::nvme::EngineChoice::Blocking),
            daemon: runtime.block_on(daemon::Served::prepare(&plan.dir)),
            has_fio,
            plan: plan.clone(),
        }
    }

    fn turn(&mut self, way: Way, runtime: &tokio::runtime::Runtime) -> Rates {
        let time = self.plan.time();
        Rates {
            raw: self.raw.run(way, time),
            ring: self.ring.run(way, time),
            daemon: runtime.block_on(self.daemon.run(way, time)),
            fio: self.has_fio.then(|| fio::run(self.raw.path(), way, self.plan.seconds)),
            blocking: self.blocking.run(way, time),
        }
    }
}

fn report(way: Way, turns: &[Rates]) {
    let gbps = |rate: Rate| median(turns.iter().map(rate).collect()) / 1e9;
    let way = format!("{way:?}").to_lowercase();
    println!("\n{way:<6} {:>10} {:>10} {:>10}", "GB/s", "of raw", "of fio");
    let ratio = |rate: Rate, limit: fn(&Rates) -> Option<f64>| {
        let ratios =
            turns.iter().map(|turn| Some(rate(turn) / limit(turn)?)).collect::<Option<_>>();
        ratios.map_or("-".to_owned(), |ratios| {
            let ratio = median(ratios);
            format!("{:.0}%{}", 100.0 * ratio, if ratio < BAR { " *" } else { "" })
        })
    };
    let raw: fn(&Rates) -> Option<f64> = |turn| Some(turn.raw);
    let fio: fn(&Rates) -> Option<f64> = |turn| turn.fio;
    let rows: [(&str, Rate); 4] = [
        ("raw", |turn| turn.raw),
        ("ring", |turn| turn.ring),
        ("block", |turn| turn.blocking),
        ("daemon", |turn| turn.daemon),
    ];
    if turns.iter().all(|turn| turn.fio.is_some()) {
        println!("{:<6} {:>10.2}", "fio", gbps(|turn| turn.fio.unwrap_or(0.0)));
    }
    for (name, rate) in rows {
        println!(
            "{name:<6} {:>10.2} {:>10} {:>10}",
            gbps(rate),
            ratio(rate, raw),
            ratio(rate, fio)
        );
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
