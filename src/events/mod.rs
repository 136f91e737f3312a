//! Residency for routers that speak vLLM's KV events: the journal, published over ZeroMQ.
//!
//! A thin layer: each subscriber's connection reads the manager's journal at its own pace, so a slow
//! one holds up neither the manager nor another. Keeps no history of its own and decides nothing.

mod endpoint;

mod pack;

mod vllm;

mod zmtp;

mod listen;

mod publish;

mod replay;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime;

use crate::manager::shell::Journal;

pub use endpoint::Endpoint;
pub use listen::CONNECTIONS_MAX;
use listen::Listener;
use vllm::Feed;

/// Where and how events are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherConfig {
    /// Where the PUB socket listens.
    pub publish: Endpoint,
    /// Where the ROUTER socket listens that sends again what was missed, if it does.
    pub replay: Option<Endpoint>,
    /// The first frame of every message; `{model}` stands for the model of the blocks it tells of.
    pub topic: String,
}

impl PublisherConfig {
    /// Each socket's key and where it listens.
    pub fn sockets(&self) -> impl Iterator<Item = (&'static str, &Endpoint)> {
        let replay = self.replay.as_ref().map(|endpoint| ("events.zmq_replay", endpoint));
        [("events.zmq", &self.publish)].into_iter().chain(replay)
    }
}

/// Why events can't be published.
#[derive(Debug, thiserror::Error)]
#[error("can't listen at {endpoint} for events: {source}; see {key}")]
pub struct StartError {
    endpoint: Endpoint,
    key: &'static str,
    source: io::Error,
}

/// Whether [`Publisher::start`] would find room for its sockets, once the folders of `made` are there. Changes
/// nothing.
///
/// # Errors
/// What it would say, as far as that is known without making anything.
pub fn look_at_endpoints(config: &PublisherConfig, made: &[&Path]) -> Result<(), StartError> {
    config.sockets().try_for_each(|(key, endpoint)| {
        let failed = |source| StartError { endpoint: endpoint.clone(), key, source };
        listen::look(endpoint, made).map_err(failed)
    })
}

/// Both sockets, listening. They go, with all their connections, when this is dropped.
pub struct Publisher {
    _publish: Listener,
    _replay: Option<Listener>,
}

impl Publisher {
    /// Listens, and serves every connection in a task of its own.
    ///
    /// # Errors
    /// An endpoint is taken, or can't be had.
    pub fn start(
        config: &PublisherConfig,
        journal: Arc<Journal>,
        runtime: &runtime::Handle,
    ) -> Result<Self, StartError> {
        let feed = Arc::new(Feed::new(journal, config.topic.clone()));
        let _inside = runtime.enter();
        let failed = |endpoint: &Endpoint, key| {
            let endpoint = endpoint.clone();
            move |source| StartError { endpoint, key, source }
        };
        let publishing = Arc::clone(&feed);
        let publish = Listener::start(&config.publish, move |stream| {
            publish::serve(stream, Arc::clone(&publishing))
        })
        .map_err(failed(&config.publish, "events.zmq"))?;
        let replay = config.replay.as_ref().map(|endpoint| {
            let replaying = Arc::clone(&feed);
            Listener::start(endpoint, move |stream| replay::serve(stream, Arc::clone(&replaying)))
                .map_err(failed(endpoint, "events.zmq_replay"))
        });
        Ok(Self { _publish: publish, _replay: replay.transpose()? })
    }
}
