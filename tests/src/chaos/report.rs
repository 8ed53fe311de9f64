//! What a run found: operations, outcomes and violations per fault and workload, as a table.

use super::faults::Fault;
use super::workloads::Kind;
use crate::checkers::history::Counts;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// When something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// In a round with this fault.
    Fault(Fault),
    /// When all rounds were over, and everything was looked at once more.
    End,
}

/// Where something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// By a workload.
    Workload(Kind),
    /// By looking at the nodes.
    Cluster,
}

/// What was found in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Operations by outcome.
    pub counts: Counts,
    /// Violations.
    pub violations: u64,
}

impl Cell {
    fn add(&mut self, other: Cell) {
        self.counts.ok += other.counts.ok;
        self.counts.failed += other.counts.failed;
        self.counts.unknown += other.counts.unknown;
        self.violations += other.violations;
    }
}

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    cells: BTreeMap<(Row, Column), Cell>,
    /// How often each fault was there.
    pub rounds: BTreeMap<Fault, u64>,
    /// Faults that were not possible, and why.
    pub skipped: BTreeMap<Fault, String>,
    /// Every violation, in words.
    pub violations: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
    /// Records in the log at the end.
    pub records: u64,
    /// What runs the same choices again.
    pub reproduce: String,
}

impl Report {
    /// Nothing found yet.
    #[must_use]
    pub fn new(reproduce: String) -> Report {
        Report { reproduce, ..Report::default() }
    }

    /// Notes a workload's operations.
    pub fn count(&mut self, row: Row, column: Column, counts: Counts) {
        self.cells.entry((row, column)).or_default().add(Cell { counts, violations: 0 });
    }

    /// Notes violations.
    pub fn object(&mut self, row: Row, column: Column, violations: impl IntoIterator<Item = String>) {
        for violation in violations {
            let number = self.rounds.values().sum::<u64>();
            self.violations.push(format!("round {number}, {row}, {column}: {violation}"));
            self.cells.entry((row, column)).or_default().violations += 1;
        }
    }

    /// What was found in one place.
    #[must_use]
    pub fn cell(&self, row: Row, column: Column) -> Cell {
        self.cells.get(&(row, column)).copied().unwrap_or_default()
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> Cell {
        let mut total = Cell::default();
        self.cells.values().for_each(|&cell| total.add(cell));
        total
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Row::Fault(fault) => fault.fmt(f),
            Row::End => f.pad("at the end"),
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Column::Workload(kind) => kind.fmt(f),
            Column::Cluster => f.pad("cluster"),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, row: &str, times: &str, column: &str, cell: Cell) -> fmt::Result {
    let Counts { ok, failed, unknown } = cell.counts;
    let operations = ok + failed + unknown;
    let violations = cell.violations;
    writeln!(f, "{row:<16} {times:>6} {column:<9} {operations:>10} {ok:>9} {failed:>8} {unknown:>8} {violations:>10}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (row, times, column, operations) = ("fault", "rounds", "workload", "operations");
        let (ok, failed, unknown, violations) = ("ok", "failed", "unknown", "violations");
        writeln!(
            f,
            "{row:<16} {times:>6} {column:<9} {operations:>10} {ok:>9} {failed:>8} {unknown:>8} {violations:>10}"
        )?;
        let mut by_column: BTreeMap<Column, Cell> = BTreeMap::new();
        let mut before = None;
        for (&(row, column), &cell) in &self.cells {
            by_column.entry(column).or_default().add(cell);
            let is_first = before.replace(row) != Some(row);
            let times = match row {
                Row::Fault(fault) if is_first => self.rounds.get(&fault).copied().unwrap_or(0).to_string(),
                Row::Fault(_) | Row::End => String::new(),
            };
            let name = if is_first { row.to_string() } else { String::new() };
            line(f, &name, &times, &column.to_string(), cell)?;
        }
        for (fault, why) in &self.skipped {
            writeln!(f, "{fault:<16} skipped: {why}")?;
        }
        for (column, cell) in by_column {
            line(f, "all faults", "", &column.to_string(), cell)?;
        }
        let rounds: u64 = self.rounds.values().sum();
        line(f, "total", &rounds.to_string(), "", self.total())?;
        let seconds = self.elapsed.as_secs();
        writeln!(f, "{} records in the log; {} min {} s; {}", self.records, seconds / 60, seconds % 60, self.reproduce)
    }
}
