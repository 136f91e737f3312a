//! The bounds of the service, in one place.

use std::time::Duration;

use crate::wire::POOL_TIMEOUT;

/// What the service accepts. The manager has bounds of its own behind these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Living clients, and connections of each of the two sockets.
    pub clients_max: usize,
    pub connections_max: usize,
    /// Calls being answered, over all clients; open Completions streams are not counted.
    pub calls_in_flight_max: usize,
    /// Calls being answered on one connection.
    pub calls_per_connection_max: u32,
    /// Bytes of one request message.
    pub message_bytes_max: usize,
    /// Blocks of one Lookup, and of one Store or Load.
    pub lookup_blocks_max: u32,
    pub transfer_blocks_max: u32,
    /// Open Events streams, over all readers.
    pub event_streams_max: usize,
    /// Of one client: its pools, and descriptors sent but not registered yet.
    pub pools_max: usize,
    pub pending_fds_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients_max: 256,
            connections_max: 512,
            calls_in_flight_max: 1024,
            calls_per_connection_max: 128,
            message_bytes_max: 8 << 20,
            lookup_blocks_max: 65_536,
            transfer_blocks_max: 16_384,
            event_streams_max: 16,
            pools_max: 16,
            pending_fds_max: 16,
        }
    }
}

/// The service's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A client that said Hello and does not attach within this time is dropped.
    pub attach_timeout: Duration,
    /// Every call is answered within this time, or its own deadline if that is nearer.
    pub call_timeout: Duration,
    /// The same of the calls that register a pool and give it back.
    pub pool_timeout: Duration,
    /// A load without a nearer deadline ends within this time.
    pub load_timeout_max: Duration,
    /// How long a stopping service waits for the calls it is answering.
    pub drain_timeout: Duration,
    /// How long the manager's leases hold; told to clients, enforced by the manager.
    pub lease_ttl: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            attach_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            pool_timeout: POOL_TIMEOUT,
            load_timeout_max: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(3),
            lease_ttl: Duration::from_secs(30),
        }
    }
}

/// A client that does not take an answer of the descriptor socket within this time is dropped.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
