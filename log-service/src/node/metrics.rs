//! What a log node counts, for Prometheus. Given a registry; never global.

use super::problems::{ProblemSort, Trouble};
use duramen_common::protocol::{AppendAnswer, LogRefusal};
use duramen_common::{NodeId, PartitionId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabel {
    partition: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    partition: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabel {
    problem: &'static str,
}

/// All counters of a node.
#[derive(Clone)]
pub struct NodeMetrics {
    appends: Family<PartitionLabel, Counter>,
    refused: Family<RefusalLabel, Counter>,
    records: Family<PartitionLabel, Counter>,
    batches: Family<PartitionLabel, Counter>,
    bytes: Family<PartitionLabel, Counter>,
    batch_records: Family<PartitionLabel, Histogram>,
    leader_changes: Family<PartitionLabel, Counter>,
    leader: Family<PartitionLabel, Gauge>,
    problems: Family<ProblemLabel, Gauge>,
    committed_end: Family<PartitionLabel, Gauge>,
    waiting_for_space: Gauge,
}

impl NodeMetrics {
    /// Counters, known to the registry; one of them is counted by the process.
    pub fn new(registry: &mut Registry, log_lines_dropped: &Arc<AtomicU64>) -> NodeMetrics {
        let metrics = NodeMetrics {
            appends: Family::default(),
            refused: Family::default(),
            records: Family::default(),
            batches: Family::default(),
            bytes: Family::default(),
            batch_records: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1.0, 4.0, 9))),
            leader_changes: Family::default(),
            leader: Family::default(),
            problems: Family::default(),
            committed_end: Family::default(),
            waiting_for_space: Gauge::default(),
        };
        registry.register("duramen_log_appends", "Appends acknowledged", metrics.appends.clone());
        registry.register("duramen_log_appends_refused", "Appends not acknowledged", metrics.refused.clone());
        registry.register("duramen_log_records", "Records proposed", metrics.records.clone());
        registry.register("duramen_log_batches", "Batches proposed", metrics.batches.clone());
        registry.register("duramen_log_bytes", "Bytes of batches proposed", metrics.bytes.clone());
        registry.register("duramen_log_batch_records", "Records in a batch", metrics.batch_records.clone());
        registry.register("duramen_log_leader_changes", "Changes of leader seen", metrics.leader_changes.clone());
        let leader = "Number of the node that leads, confirmed lately; 0 while that is unknown";
        registry.register("duramen_log_leader", leader, metrics.leader.clone());
        let problems = "What is wrong between this log node and the others now: see problems of /v1/cluster";
        registry.register("duramen_log_problems", problems, metrics.problems.clone());
        registry.register(
            "duramen_log_committed_end",
            "First offset not committed here",
            metrics.committed_end.clone(),
        );
        registry.register(
            "duramen_log_partitions_waiting_for_space",
            "Partitions that cannot write at all because even the reserve of the disk is used up",
            metrics.waiting_for_space.clone(),
        );
        registry.register_collector(Box::new(LogLinesDropped(Arc::clone(log_lines_dropped))));
        metrics
    }

    /// Notes how many partitions wait for space.
    pub fn set_waiting_for_space(&self, partitions: usize) {
        self.waiting_for_space.set(i64::try_from(partitions).unwrap_or(i64::MAX));
    }

    /// Notes the problems that there are now.
    pub(super) fn count_problems(&self, found: &[Trouble]) {
        for sort in ProblemSort::ALL {
            let count = found.iter().filter(|trouble| trouble.sort == sort).count();
            let label = ProblemLabel { problem: sort.name() };
            self.problems.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Notes who leads a partition now.
    pub(super) fn set_leader(&self, partition: PartitionId, leader: Option<NodeId>) {
        let label = PartitionLabel { partition: partition.to_string() };
        let number = leader.map_or(0, |leader| i64::try_from(leader.get()).unwrap_or(i64::MAX));
        self.leader.get_or_create(&label).set(number);
    }

    /// The counters of one partition.
    pub fn partition(&self, partition: PartitionId) -> PartitionMetrics {
        let label = PartitionLabel { partition: partition.to_string() };
        PartitionMetrics {
            appends: self.appends.get_or_create(&label).clone(),
            records: self.records.get_or_create(&label).clone(),
            batches: self.batches.get_or_create(&label).clone(),
            bytes: self.bytes.get_or_create(&label).clone(),
            batch_records: self.batch_records.get_or_create(&label).clone(),
            leader_changes: self.leader_changes.get_or_create(&label).clone(),
            committed_end: self.committed_end.get_or_create(&label).clone(),
            refused: self.refused.clone(),
            label: label.partition,
        }
    }
}

/// Publishes what the process counts.
#[derive(Debug)]
struct LogLinesDropped(Arc<AtomicU64>);

impl Collector for LogLinesDropped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = ConstCounter::new(self.0.load(Ordering::Relaxed));
        let about = "Log lines of the process that stderr did not take";
        let metric = encoder.encode_descriptor("duramen_log_lines_dropped", about, None, count.metric_type())?;
        count.encode(metric)
    }
}

/// Counters of one partition.
#[derive(Clone)]
pub struct PartitionMetrics {
    appends: Counter,
    records: Counter,
    batches: Counter,
    bytes: Counter,
    batch_records: Histogram,
    leader_changes: Counter,
    committed_end: Gauge,
    refused: Family<RefusalLabel, Counter>,
    label: String,
}

impl PartitionMetrics {
    /// Counts an append by its outcome.
    pub fn count_append(&self, result: &Result<AppendAnswer, LogRefusal>) {
        match result {
            Ok(_) => {
                self.appends.inc();
            }
            Err(refusal) => {
                let label = RefusalLabel { partition: self.label.clone(), reason: reason_of(refusal) };
                self.refused.get_or_create(&label).inc();
            }
        }
    }

    /// Counts a batch that is proposed.
    pub fn count_batch(&self, records: u32, bytes: u32) {
        self.batches.inc();
        self.records.inc_by(u64::from(records));
        self.bytes.inc_by(u64::from(bytes));
        self.batch_records.observe(f64::from(records));
    }

    /// Counts a change of leader.
    pub fn count_leader_change(&self) {
        self.leader_changes.inc();
    }

    /// Notes the committed end.
    pub fn set_committed_end(&self, committed_end: u64) {
        self.committed_end.set(i64::try_from(committed_end).unwrap_or(i64::MAX));
    }
}

fn reason_of(refusal: &LogRefusal) -> &'static str {
    match refusal {
        LogRefusal::NotLeader { .. } => "not-leader",
        LogRefusal::UnknownPartition { .. } => "unknown-partition",
        LogRefusal::LogFull { .. } => "log-full",
        LogRefusal::Overloaded => "overloaded",
        LogRefusal::Invalid { .. } => "invalid",
        LogRefusal::TooLarge { .. } => "too-large",
        LogRefusal::TooLate => "too-late",
        LogRefusal::OutcomeUnknown { .. } => "outcome-unknown",
        LogRefusal::Compacted { .. } => "compacted",
        LogRefusal::OtherLog { .. } => "other-log",
        LogRefusal::NameTaken { .. } => "name-taken",
        LogRefusal::Unavailable { .. } => "unavailable",
    }
}
