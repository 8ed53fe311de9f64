//! Summary: a run in a few lines, as Maelstrom's results are read. Pure.
//!
//! * Availability is the share of operations that ended well; reads in the end do not count.
//! * "No such key" and "another value" are answers too, which `lin-kv` judges; as Maelstrom counts they are failures.
//! * Latencies are those of operations that were answered well.

use super::nemesis::Deeds;
use super::record::{Ending, Record};
use super::router::Traffic;
use super::settings::Settings;
use crate::checkers::Verdict;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was run.
    pub settings: Settings,
    /// All operations while there were faults.
    pub total: Counted,
    /// The same by type.
    pub by_kind: BTreeMap<String, Counted>,
    /// Answers with error codes, by code.
    pub codes: BTreeMap<i64, u64>,
    /// What the nemesis did.
    pub deeds: Deeds,
    /// What went between nodes.
    pub traffic: Traffic,
    /// Whether it was right.
    pub verdict: Verdict<String>,
    /// Where the operations were written down, because it was not.
    pub history_path: Option<PathBuf>,
}

/// Operations of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many ended how.
    pub endings: BTreeMap<Ending, u64>,
    /// How long those took that were answered well, in order. Unit: microseconds.
    pub took_us: Vec<u64>,
}

impl Counted {
    fn add(&mut self, record: &Record) {
        *self.endings.entry(record.ending()).or_default() += 1;
        if record.ending() == Ending::Ok {
            self.took_us.extend(record.took_us());
        }
    }

    /// How many ended so.
    #[must_use]
    pub fn count(&self, ending: Ending) -> u64 {
        self.endings.get(&ending).copied().unwrap_or_default()
    }

    /// How many there were.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.endings.values().sum()
    }

    /// The share that was answered well.
    #[must_use]
    pub fn availability(&self) -> f64 {
        self.count(Ending::Ok) as f64 / self.all().max(1) as f64
    }

    /// So many of a hundred took no longer. Unit: milliseconds.
    fn percentile_ms(&self, of_hundred: usize) -> f64 {
        let place = self.took_us.len().saturating_sub(1) * of_hundred / 100;
        self.took_us.get(place).map_or(0.0, |&took_us| took_us as f64 / 1_000.0)
    }
}

/// Codes of answers that say what is there.
const TELLING_CODES: [i64; 2] = [20, 22];

impl Summary {
    /// The share of operations that were answered with what was asked for, or with what is there instead.
    #[must_use]
    pub fn answered(&self) -> f64 {
        let telling: u64 = TELLING_CODES.iter().filter_map(|code| self.codes.get(code)).sum();
        (self.total.count(Ending::Ok) + telling) as f64 / self.total.all().max(1) as f64
    }

    /// Counts operations.
    #[must_use]
    pub fn of(
        settings: &Settings,
        records: &[Record],
        deeds: Deeds,
        traffic: Traffic,
        verdict: Verdict<String>,
    ) -> Summary {
        let mut summary = Summary {
            settings: settings.clone(),
            total: Counted::default(),
            by_kind: BTreeMap::new(),
            codes: BTreeMap::new(),
            deeds,
            traffic,
            verdict,
            history_path: None,
        };
        for record in records.iter().filter(|record| record.final_round.is_none()) {
            summary.total.add(record);
            summary.by_kind.entry(record.kind().to_owned()).or_default().add(record);
            if let Some(code) = record.code() {
                *summary.codes.entry(code).or_default() += 1;
            }
        }
        summary.total.took_us.sort_unstable();
        summary.by_kind.values_mut().for_each(|counted| counted.took_us.sort_unstable());
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { workload, nodes, time_limit, latency, latency_shape, loss, seed, .. } = &self.settings;
        let faults: Vec<&str> = self.settings.faults.iter().map(|fault| fault.name()).collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(",") };
        writeln!(
            f,
            "{workload}: {nodes} nodes, {} s, nemesis {faults}, latency {} ms {latency_shape}, loss {loss}, seed {seed}",
            time_limit.as_secs_f64(),
            latency.as_secs_f64() * 1_000.0
        )?;
        writeln!(f, "  {:<24}{:>8}{:>8}{:>8}{:>8}{:>10}{:>10}", "", "ops", "ok", "fail", "info", "p50 ms", "p99 ms")?;
        for (kind, counted) in
            self.by_kind.iter().map(|(kind, counted)| (kind.as_str(), counted)).chain([("all", &self.total)])
        {
            writeln!(
                f,
                "  {kind:<24}{:>8}{:>8}{:>8}{:>8}{:>10.1}{:>10.1}",
                counted.all(),
                counted.count(Ending::Ok),
                counted.count(Ending::Fail),
                counted.count(Ending::Info),
                counted.percentile_ms(50),
                counted.percentile_ms(99)
            )?;
        }
        let codes: Vec<String> = self.codes.iter().map(|(code, count)| format!("{code}: {count}")).collect();
        let (available, answered) = (self.total.availability() * 100.0, self.answered() * 100.0);
        writeln!(f, "  availability {available:.1} %, answered {answered:.1} %, error codes {{{}}}", codes.join(", "))?;
        let partitions: Vec<String> =
            self.deeds.partitions.iter().map(|(shape, count)| format!("{count} {shape}")).collect();
        let Traffic { sent, lost, cut, unheard } = self.traffic;
        writeln!(f, "  partitions: {{{}}}, kills: {}", partitions.join(", "), self.deeds.kills)?;
        writeln!(f, "  between nodes: {sent} messages, {lost} lost, {cut} cut off, {unheard} to dead nodes")?;
        if let Some(path) = &self.history_path {
            writeln!(f, "  history: {}", path.display())?;
        }
        write!(f, "  verdict: {}", self.verdict)
    }
}
