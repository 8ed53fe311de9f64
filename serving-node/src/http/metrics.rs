//! What this node counts, as OpenMetrics text.
//!
//! * Requests by route and status, their duration by route, connections and feeds, waiting readers, the overlay, and
//!   per partition: applied end,
//!   committed end, lag, horizon, persisted end; wipes of the index by cause, and how far its check at start is.
//! * Invariant: label values come from fixed sets, never from requests.

use super::router::Route;
use crate::index::{IndexHealth, WipeCause};
use crate::partitions::Partitions;
use duramen_common::Offset;
use duramen_common::log::LogProblem;
use duramen_transport::http::{HttpCollector, HttpStats};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    partition: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabels {
    problem: &'static str,
}

type PartitionGauge = Family<PartitionLabels, Gauge>;

/// What callers hold here at one moment.
pub(crate) struct HeldNow {
    /// Open feeds.
    pub(crate) feeds: usize,
    /// Of the budget of answers. Unit: bytes.
    pub(crate) answer_bytes: usize,
    /// Of the budget of feeds. Unit: bytes.
    pub(crate) feed_bytes: usize,
}

/// The counters. One per node.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Vec<Histogram>,
    /// Partitions that nobody is known to lead.
    pub(crate) leaderless: Gauge,
    problems: Family<ProblemLabels, Gauge>,
    feeds: Gauge,
    answer_bytes: Gauge,
    feed_bytes: Gauge,
    readers_waiting: Gauge,
    overlay_bytes: Gauge,
    applied_end: PartitionGauge,
    committed_end: PartitionGauge,
    lag: PartitionGauge,
    horizon: PartitionGauge,
    persisted_end: PartitionGauge,
    index_wipes: Family<CauseLabels, Counter>,
    index_checked: Gauge,
    index_expected: Gauge,
    index_waits: Gauge,
    index_scrubs: Counter,
    index_scrubbed: Counter,
    /// Counted by the process, shown here.
    lines_dropped_so_far: Arc<AtomicU64>,
    lines_dropped: Counter,
}

impl Metrics {
    pub(crate) fn new(listener: Arc<HttpStats>, lines_dropped_so_far: Arc<AtomicU64>) -> Metrics {
        let mut registry = Registry::with_prefix("duramen");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("http_requests", "Requests answered, by route and status", requests.clone());
        // 100 µs to 26 s: a durable write takes about a millisecond, a wait up to 30 s.
        let by_route = Family::<RouteLabels, Histogram>::new_with_constructor(|| {
            Histogram::new((0..10).map(|step| 0.0001 * 4f64.powi(step)))
        });
        let durations = Route::NAMES.iter().map(|route| by_route.get_or_create_owned(&RouteLabels { route })).collect();
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's head to its answer's head, by route",
            Unit::Seconds,
            by_route,
        );
        let mut metrics = Metrics {
            registry,
            requests,
            durations,
            leaderless: Gauge::default(),
            problems: Family::default(),
            feeds: Gauge::default(),
            answer_bytes: Gauge::default(),
            feed_bytes: Gauge::default(),
            readers_waiting: Gauge::default(),
            overlay_bytes: Gauge::default(),
            applied_end: Family::default(),
            committed_end: Family::default(),
            lag: Family::default(),
            horizon: Family::default(),
            persisted_end: Family::default(),
            index_wipes: Family::default(),
            index_checked: Gauge::default(),
            index_expected: Gauge::default(),
            index_waits: Gauge::default(),
            index_scrubs: Counter::default(),
            index_scrubbed: Counter::default(),
            lines_dropped_so_far,
            lines_dropped: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register_collector(Box::new(HttpCollector(listener)));
        let leaderless = "Partitions that no log node is known to lead";
        registry.register("leaderless_partitions", leaderless, metrics.leaderless.clone());
        let problems = "What is wrong now as seen from this node: see problems of /v1/status";
        registry.register("problems", problems, metrics.problems.clone());
        registry.register("http_feeds", "Open feeds", metrics.feeds.clone());
        let held = "Bytes that answers hold until their callers take them, without small ones and feeds";
        registry.register("answer_bytes_held", held, metrics.answer_bytes.clone());
        let held = "Bytes of events that feeds hold until their callers take them";
        registry.register("feed_bytes_held", held, metrics.feed_bytes.clone());
        registry.register("readers_waiting", "Readers parked until an end is applied", metrics.readers_waiting.clone());
        let overlay = "Bytes that are applied and not in the index yet";
        registry.register("overlay_bytes", overlay, metrics.overlay_bytes.clone());
        registry.register("applied_end", "First offset not applied here", metrics.applied_end.clone());
        registry.register("committed_end", "Last committed end heard of", metrics.committed_end.clone());
        registry.register("lag", "Records committed and not applied here", metrics.lag.clone());
        registry.register("horizon", "Below it, tombstones may be gone from the log", metrics.horizon.clone());
        registry.register("persisted_end", "A restart replays from here", metrics.persisted_end.clone());
        let wipes = "Wipes of a partition in the index, or of all of it, by cause";
        registry.register("index_wipes", wipes, metrics.index_wipes.clone());
        let checked = "Entries of the index that the check at start has read";
        registry.register("index_check_entries", checked, metrics.index_checked.clone());
        let expected = "Entries of the index that the check at start expects";
        registry.register("index_check_entries_expected", expected, metrics.index_expected.clone());
        let waits = "1 while the index's disk is full: see problems of /v1/status";
        registry.register("index_waits_for_space", waits, metrics.index_waits.clone());
        registry.register("index_scrubs", "Scrubs of the whole index that found it good", metrics.index_scrubs.clone());
        registry.register("index_scrub_entries", "Entries that scrubs found good", metrics.index_scrubbed.clone());
        let dropped = "Log lines of the process that stderr did not take";
        registry.register("log_lines_dropped", dropped, metrics.lines_dropped.clone());
        metrics
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, route: Route, status: u16, took: Duration) {
        let labels = RequestLabels { route: route.name(), status: u32::from(status) };
        self.requests.get_or_create(&labels).inc();
        if let Some(durations) = self.durations.get(route as usize) {
            durations.observe(took.as_secs_f64());
        }
    }

    /// Notes what is wrong with the log's nodes and with this node's name.
    pub(crate) fn set_problems(&self, of_log: &[LogProblem], is_name_taken: bool) {
        let foreign = of_log.iter().filter(|problem| problem.is_foreign).count();
        let counts = [
            ("other-history", foreign),
            ("unreachable", of_log.len() - foreign),
            ("name-taken", usize::from(is_name_taken)),
        ];
        for (problem, count) in counts {
            self.problems.get_or_create(&ProblemLabels { problem }).set(count as i64);
        }
    }

    /// What the index says of itself, now.
    fn show_index(&self, health: &IndexHealth) {
        for cause in WipeCause::ALL {
            let counter = self.index_wipes.get_or_create(&CauseLabels { cause: cause.name() });
            counter.inner().store(health.wipes(cause), Ordering::Relaxed);
        }
        let (checked, expected) = health.check.entries();
        let (scrubs, scrubbed) = health.scrubbed();
        self.index_scrubs.inner().store(scrubs, Ordering::Relaxed);
        self.index_scrubbed.inner().store(scrubbed, Ordering::Relaxed);
        self.index_waits.set(i64::from(health.waits_for_space()));
        self.index_checked.set(i64::try_from(checked).unwrap_or(i64::MAX));
        self.index_expected.set(i64::try_from(expected).unwrap_or(i64::MAX));
    }

    /// Everything, now.
    pub(crate) fn to_text(&self, partitions: Option<&Partitions>, held: HeldNow, health: &IndexHealth) -> String {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.show_index(health);
        self.feeds.set(held.feeds as i64);
        self.answer_bytes.set(held.answer_bytes as i64);
        self.feed_bytes.set(held.feed_bytes as i64);
        self.lines_dropped.inner().store(self.lines_dropped_so_far.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Some(any) = partitions.and_then(|partitions| partitions.iter().next()) {
            self.readers_waiting.set(any.readers_waiting() as i64);
            self.overlay_bytes.set(any.overlay_bytes() as i64);
        }
        for view in partitions.into_iter().flat_map(Partitions::iter) {
            let status = view.status();
            let labels = PartitionLabels { partition: u32::from(view.partition().get()) };
            let applied_end = status.applied_end.unwrap_or(Offset::ZERO);
            self.applied_end.get_or_create(&labels).set(count(applied_end.get()));
            self.committed_end.get_or_create(&labels).set(count(status.committed_end.get()));
            self.lag.get_or_create(&labels).set(count(status.lag));
            self.horizon.get_or_create(&labels).set(count(status.horizon.get()));
            self.persisted_end.get_or_create(&labels).set(count(status.persisted_end.get()));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}
