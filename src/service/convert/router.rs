//! All gRPC services of the socket: Terrace, health, and reflection in both versions in use.

use std::sync::Arc;

use tonic::server::NamedService;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::service::backend::Backend;
use crate::service::calls::Calls;
use crate::wire;
use crate::wire::pb::terrace_server::TerraceServer;

use super::Edge;

/// Flow control windows: a whole Lookup of the longest chains fits without waiting.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Calls that a client gave up before the daemon had seen them, from which number on its connection
/// ends, and its session with it. Those that come while the daemon's process stands still are found at
/// once; h2's own bound of 20 is meant for strangers.
const PENDING_RESETS_MAX: usize = 1 << 16;

/// What the health service answers.
pub(in crate::service) struct Health {
    reporter: HealthReporter,
    service: &'static str,
}

impl Health {
    /// From here on Terrace is not serving.
    pub(in crate::service) async fn stopping(&self) {
        for service in ["", self.service] {
            self.reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

pub(in crate::service) async fn router<B: Backend>(calls: &Arc<Calls<B>>) -> (Health, Router) {
    let limits = &calls.config.limits;
    let terrace = TerraceServer::new(Edge(Arc::clone(calls)))
        .max_decoding_message_size(limits.message_bytes_max);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    reporter.set_serving::<TerraceServer<Edge<B>>>().await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = "the descriptor sets were made by this build";
    let router = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.calls_per_connection_max)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .add_service(terrace)
        .add_service(health_service)
        .add_service(described().build_v1().expect(broken))
        .add_service(described().build_v1alpha().expect(broken));
    let service = <TerraceServer<Edge<B>> as NamedService>::NAME;
    (Health { reporter, service }, router)
}
