//! The line that says that the daemon is ready: where it listens and what it holds.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::Node;
use crate::cli::output;
use crate::config::Config;
use crate::domain::tier::Tier;
use crate::domain::units::Bytes;
use crate::env;

/// What a ready daemon says of itself, once. Fields are printed in this order.
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    ready: bool,
    version: &'static str,
    pid: u32,
    socket: PathBuf,
    state_dir: PathBuf,
    node_id: String,
    metrics: Option<String>,
    /// The tiers that are present, fastest first.
    tiers: Vec<ReadyTier>,
}

#[derive(Debug, Serialize)]
struct ReadyTier {
    tier: &'static str,
    capacity_bytes: u64,
    how: Option<String>,
}

impl Ready {
    pub(super) fn of(config: &Config, node: &Node) -> Self {
        let capacities = [
            config.hbm.map(|hbm| hbm.capacity_bytes),
            Some(config.dram.capacity_bytes).filter(|bytes| *bytes > 0),
            config.nvme.as_ref().map(|nvme| nvme.capacity_bytes),
            config.object.as_ref().map(|object| object.capacity_bytes),
        ];
        let tiers = Tier::ALL.into_iter().zip(capacities).filter_map(|(tier, capacity)| {
            let how = node.facts.get(tier.name()).cloned();
            Some(ReadyTier { tier: tier.name(), capacity_bytes: capacity?, how })
        });
        Self {
            ready: true,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            socket: config.places.socket.clone(),
            state_dir: config.places.state_dir.clone(),
            node_id: node.name(),
            metrics: config.metrics.map(|address| address.to_string()),
            tiers: tiers.collect(),
        }
    }

    /// On a thread of its own: the daemon serves whether or not anybody reads this. The log has it too.
    ///
    /// # Errors
    /// The machine refused the thread.
    pub(super) fn print(self, json: bool) -> io::Result<()> {
        let print = move || drop(output::show(json, &self, || format!("{self}\n")));
        env::spawn_thread("terrace-ready", print).map(drop)
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "terrace {} is ready at {}:", self.version, self.socket.display())?;
        if self.tiers.is_empty() {
            return write!(f, " no tiers, so nothing is kept");
        }
        for (at, tier) in self.tiers.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma} {} {}", tier.tier, Bytes(tier.capacity_bytes))?;
        }
        Ok(())
    }
}
