//! Starts the Prometheus endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::runtime;

use super::names::{Kind, METRICS, Metric, Unit};
use super::scrape;
use crate::env;

/// How often what was measured is added up, asked for or not: until then each measurement is kept.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Upper bounds of the histograms' buckets, in seconds: a read from memory to a slow object store.
const SECONDS_BUCKETS: [f64; 14] = [
    0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
];

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address can't be listened on: choose another, or stop what holds it.
    #[error(
        "the metrics endpoint can't listen on {address}: {said}; set metrics.listen to a free \
         address or to off"
    )]
    Listen { address: SocketAddr, said: String },
    /// This process records its metrics elsewhere already.
    #[error(
        "the metrics of this process go elsewhere already: start the daemon in its own process"
    )]
    Taken,
}

/// Listens on `address` and records every metric of the table from now on.
///
/// # Errors
/// See [`MetricsError`].
pub fn start_metrics(address: SocketAddr, runtime: &runtime::Handle) -> Result<(), MetricsError> {
    let _inside = runtime.enter();
    let listener = scrape::listen(address)
        .map_err(|error| MetricsError::Listen { address, said: error.to_string() })?;
    let recorder = builder().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Taken)?;
    describe();
    env::spawn_task_on(runtime, keep_up(handle.clone()));
    env::spawn_task_on(runtime, scrape::answer_all(listener, handle));
    Ok(())
}

async fn keep_up(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        handle.run_upkeep();
    }
}

fn builder() -> PrometheusBuilder {
    METRICS.iter().filter(|metric| metric.kind == Kind::Histogram).fold(
        PrometheusBuilder::new(),
        |builder, metric| {
            let name = Matcher::Full(metric.name.to_owned());
            builder
                .set_buckets_for_metric(name, &SECONDS_BUCKETS)
                .expect("there are buckets for a histogram")
        },
    )
}

fn describe() {
    for Metric { name, kind, unit, about, .. } in METRICS {
        let unit = match unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Bytes => metrics::Unit::Bytes,
            Unit::Seconds => metrics::Unit::Seconds,
            // The closest that the library has.
            Unit::BytesPerSecond => metrics::Unit::CountPerSecond,
        };
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, unit, *about),
            Kind::Gauge => metrics::describe_gauge!(*name, unit, *about),
            Kind::Histogram => metrics::describe_histogram!(*name, unit, *about),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::publish;
    use super::*;
    use crate::domain::tier::{Tier, TierSet};
    use crate::manager::api::{Status, TierStatus};

    #[test]
    fn a_status_is_published_under_the_tables_names_only() {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            let mut status = Status { lookups: 7, policy: "lru", ..Status::default() };
            status.tiers[Tier::Dram.index()] = TierStatus {
                present: true,
                used_bytes: 4096,
                hit_blocks: 3,
                ..TierStatus::default()
            };
            status.lru_decides = TierSet::EMPTY.with(Tier::Dram);
            publish(&status);
        });
        let page = handle.render();
        for line in [
            "terrace_lookups_total 7",
            "terrace_tier_used_bytes{tier=\"dram\"} 4096",
            "terrace_tier_hit_blocks_total{tier=\"dram\"} 3",
            "terrace_tier_lru_decides{tier=\"dram\"} 1",
            "terrace_leases 0",
        ] {
            assert!(page.lines().any(|found| found == line), "no `{line}` in\n{page}");
        }
        assert!(!page.contains("tier=\"hbm\""), "an absent tier is shown:\n{page}");
        for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            assert!(METRICS.iter().any(|metric| metric.name == &line[..end]), "{line}");
        }
    }
}
