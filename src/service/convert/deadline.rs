//! How long a call may take: its own `grpc-timeout`, inside the service's bounds.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::service::limits::Times;

/// The answer leaves this much before the deadline, so that the client hears why rather than
/// seeing the transport give up.
const MARGIN_MAX: Duration = Duration::from_millis(5);

/// How long answering may take, where the service allows `timeout`.
pub(super) fn call_bound(metadata: &MetadataMap, timeout: Duration) -> Duration {
    match grpc_timeout(metadata) {
        Some(deadline) => {
            let margin = MARGIN_MAX.min(deadline / 10);
            timeout.min(deadline.saturating_sub(margin))
        }
        None => timeout,
    }
}

/// How long the load that a call starts may take.
pub(super) fn load_timeout(metadata: &MetadataMap, times: &Times) -> Duration {
    grpc_timeout(metadata).map_or(times.load_timeout_max, |own| own.min(times.load_timeout_max))
}

/// The `grpc-timeout` header: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). An unreadable one counts as
/// none: the service's own bound applies.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected_ms: Option<u64>) {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", header.parse().unwrap());
        assert_eq!(grpc_timeout(&metadata), expected_ms.map(Duration::from_millis), "`{header}`");
    }

    #[test]
    fn timeouts_are_read_as_the_specification_says() {
        check("1H", Some(3_600_000));
        check("2M", Some(120_000));
        check("99999999S", Some(99_999_999_000));
        check("15m", Some(15));
        check("3000u", Some(3));
        check("4000000n", Some(4));
        for unreadable in ["", "5", "m", "-5m", "5x", "100000000S", "+5m", "5 m"] {
            check(unreadable, None);
        }
    }

    #[test]
    fn the_nearer_bound_wins() {
        let times = Times::default();
        let mut metadata = MetadataMap::new();
        assert_eq!(load_timeout(&metadata, &times), times.load_timeout_max);
        assert_eq!(call_bound(&metadata, times.call_timeout), times.call_timeout);
        metadata.insert("grpc-timeout", "100m".parse().unwrap());
        assert_eq!(load_timeout(&metadata, &times), Duration::from_millis(100));
        assert_eq!(call_bound(&metadata, times.call_timeout), Duration::from_millis(95));
        metadata.insert("grpc-timeout", "9H".parse().unwrap());
        assert_eq!(load_timeout(&metadata, &times), times.load_timeout_max);
        assert_eq!(call_bound(&metadata, times.call_timeout), times.call_timeout);
    }
}
