//! Terrace keeps an LLM engine's KV cache blocks across four tiers: HBM, DRAM, NVMe and object.
//!
//! The modules stand in reading order, and imports point up this list only: `domain` knows nothing
//! of what follows it, and nobody but `cli` and the binary may import `config`, `service` or `cli`.
//! `tests/tidy.rs` enforces these walls. Start with `ARCHITECTURE.md`.

pub mod domain;
pub mod env;
pub mod tiers;

pub mod movement;

pub mod manager;

pub mod sockets;

pub mod events;

pub mod hints;

pub mod wire;

pub mod service;

pub mod client;

pub mod workload;

pub mod sim;

pub mod observe;

pub mod config;

pub mod cli;
