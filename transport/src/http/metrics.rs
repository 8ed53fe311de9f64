//! What an HTTP listener counts, for a node's `/metrics`.

use super::HttpStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::Arc;

/// Shows a listener's numbers in the registry that it is given to.
#[derive(Debug)]
pub struct HttpCollector(pub Arc<HttpStats>);

impl Collector for HttpCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.counts();
        let gauges = [
            ("http_connections", "Open HTTP connections", counts.open),
            ("http_body_bytes", "Bytes of request bodies held", counts.body_bytes),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counters = [
            ("http_connections_accepted", "HTTP connections accepted", counts.accepted),
            ("http_connections_evicted", "Idle HTTP connections closed for new callers", counts.evicted),
            ("http_connections_timed_out", "HTTP connections closed because too little came", counts.timed_out),
            ("http_connections_not_read", "HTTP connections closed because answers were not taken", counts.not_read),
            ("http_accept_failures", "Times that the system gave no HTTP connection", counts.accept_failures),
        ];
        for (name, help, value) in counters {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}
