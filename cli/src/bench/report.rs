//! What a measurement came to, for people and for programs.

use super::BenchArgs;
use super::tally::{OpKind, Tally};
use super::workload::Workload;
use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    workload: Workload,
    pub ops: u64,
    ops_per_second: f64,
    seconds: f64,
    latency_us: Latency,
    /// By kind of request, where there is more than one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    by_kind: BTreeMap<&'static str, Kind>,
    errors: BTreeMap<String, u64>,
    settings: Settings,
    machine: Machine,
    /// CPU time that the generator itself took. Unit: microseconds.
    generator_cpu_us_per_op: f64,
}

#[derive(Debug, Serialize)]
struct Kind {
    ops: u64,
    latency_us: Latency,
}

/// Unit: microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Settings {
    clients: u16,
    value_bytes: u32,
    keys: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    gets_percent: Option<u8>,
    warmup_seconds: u32,
    threads: u8,
    targets: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    model: String,
}

impl Report {
    pub(super) fn new(args: &BenchArgs, tally: &Tally, measured: Duration) -> Report {
        let all = tally.all();
        let ops = all.len();
        let kinds = OpKind::ALL.iter().filter(|kind| !tally.latencies(**kind).is_empty());
        let mut by_kind: BTreeMap<_, _> = kinds
            .map(|&kind| {
                let latencies = tally.latencies(kind);
                (kind.name(), Kind { ops: latencies.len(), latency_us: Latency::of(latencies) })
            })
            .collect();
        if by_kind.len() < 2 {
            by_kind.clear();
        }
        let targets = if args.workload == Workload::Append { &args.log_addrs } else { &args.serving.urls };
        Report {
            workload: args.workload,
            ops,
            ops_per_second: rounded(ops as f64 / measured.as_secs_f64().max(0.001)),
            seconds: rounded(measured.as_secs_f64()),
            latency_us: Latency::of(&all),
            by_kind,
            errors: tally.errors.iter().map(|(reason, &count)| (reason.to_string(), count)).collect(),
            settings: Settings {
                clients: args.clients,
                value_bytes: args.value_size,
                keys: args.keys,
                gets_percent: (args.workload == Workload::Mixed).then_some(args.gets_percent),
                warmup_seconds: args.warmup,
                threads: args.threads,
                targets: targets.clone(),
            },
            machine: Machine::this(),
            generator_cpu_us_per_op: rounded(tally.cpu.as_secs_f64() * 1e6 / ops.max(1) as f64),
        }
    }

    pub(super) fn most_common_error(&self) -> Option<&str> {
        self.errors.iter().max_by_key(|(_, count)| **count).map(|(reason, _)| reason.as_str())
    }

    /// Several lines.
    pub(super) fn for_people(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, rest: String| {
            let _ = writeln!(text, "{name:<9} {rest}");
        };
        let workload = serde_json::to_value(self.workload).unwrap_or_default();
        let ops = HumanCount(self.ops_per_second as u64);
        let name = workload.as_str().unwrap_or_default();
        line(name, format!("{ops} ops/s ({} in {} s)", HumanCount(self.ops), self.seconds));
        line("latency", self.latency_us.for_people());
        for (kind, of_kind) in &self.by_kind {
            line(kind, format!("{}; {}", HumanCount(of_kind.ops), of_kind.latency_us.for_people()));
        }
        let errors: Vec<String> =
            self.errors.iter().map(|(reason, count)| format!("{} × {reason}", HumanCount(*count))).collect();
        line("errors", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") });
        let Settings { clients, value_bytes, keys, targets, .. } = &self.settings;
        line(
            "settings",
            format!(
                "{clients} clients, values of {value_bytes} bytes, {} keys, {}",
                HumanCount(u64::from(*keys)),
                targets.join(" ")
            ),
        );
        let Machine { cores, model } = &self.machine;
        let cpu = self.generator_cpu_us_per_op;
        line("machine", format!("{cores} cores, {model}; the generator took {cpu} µs of CPU an operation"));
        text
    }
}

impl Latency {
    fn of(latencies: &Histogram<u64>) -> Latency {
        let us = |ns: u64| rounded(ns as f64 / 1000.0);
        Latency {
            mean: rounded(latencies.mean() / 1000.0),
            p50: us(latencies.value_at_quantile(0.5)),
            p90: us(latencies.value_at_quantile(0.9)),
            p99: us(latencies.value_at_quantile(0.99)),
            p99_9: us(latencies.value_at_quantile(0.999)),
            max: us(latencies.max()),
        }
    }

    fn for_people(&self) -> String {
        let Latency { p50, p90, p99, p99_9, max, .. } = self;
        [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p99_9), ("max", max)]
            .map(
                |(name, &us)| {
                    if us < 1000.0 { format!("{name} {us:.0} µs") } else { format!("{name} {:.2} ms", us / 1000.0) }
                },
            )
            .join("  ")
    }
}

impl Machine {
    fn this() -> Machine {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = line.and_then(|line| line.split_once(": ")).map_or("unknown model", |(_, model)| model);
        Machine { cores, model: model.trim().to_owned() }
    }
}

/// With one digit behind the point.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
