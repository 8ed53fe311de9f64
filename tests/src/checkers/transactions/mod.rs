//! Strict serializability of transactions over lists (append, read) and registers (write, read), by dependency cycles.
//!
//! * `prepare` numbers transactions and versions; `lists` and `registers` infer the order of each key's versions and what
//!   is wrong without any order; `graph` finds cycles of write-write, write-read, read-write and real-time edges.
//! * In: every value written to a key is written once. Out: anomalies by the names of Adya and Elle, each with its
//!   operations; a cycle with the reason for each edge.
//! * An unknown transaction counts as possibly committed once somebody read what it wrote, else it is left out: it may
//!   never have happened.
//! * Invariant: a valid history is never called wrong. What can be missed: see `registers`, and appends that no read shows
//!   have no known order among themselves.
//! * Source: Adya 1999; Kingsbury and Alvaro 2020, "Elle: Inferring Isolation Anomalies from Experimental Observations".

mod graph;
mod lists;
mod prepare;
mod real_time;
mod registers;
#[cfg(test)]
mod tests;

use super::{History, Verdict};
use std::fmt;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MicroOp<K, V> {
    /// What is there.
    Read(K),
    /// Append to the list, or the register's value from now on.
    Write(K, V),
}

/// Transactions over lists: the result holds what each read saw, in the order of the reads.
pub type ListHistory<K, V> = History<Vec<MicroOp<K, V>>, Vec<Vec<V>>>;
/// Transactions over registers, the same.
pub type RegisterTxnHistory<K, V> = History<Vec<MicroOp<K, V>>, Vec<Option<V>>>;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnomalyKind {
    /// A transaction does not see its own writes, or sees a key change under it.
    Internal,
    /// A read of a write that failed (G1a).
    AbortedRead,
    /// A read of a write that its own transaction overwrote or appended to (G1b).
    IntermediateRead,
    /// A read of what nobody wrote.
    UnwrittenRead,
    /// An element twice in one list.
    Duplicate,
    /// Two reads of one list of which neither is a prefix of the other, or a transaction's appends in another order than
    /// its own.
    IncompatibleOrder,
    /// An acknowledged append that a later read does not show.
    LostAppend,
    /// Two transactions read the same version of a key, and both wrote the key.
    LostUpdate,
    /// What is known of a register's versions contradicts itself.
    CyclicVersions,
    /// A cycle of write-write edges.
    G0,
    /// A cycle of write-write and write-read edges.
    G1c,
    /// A cycle with exactly one read-write edge.
    GSingle,
    /// A cycle with several read-write edges (write skew).
    G2,
    /// A cycle as `G0` that needs the real-time order.
    G0RealTime,
    /// A cycle as `G1c` that needs the real-time order.
    G1cRealTime,
    /// A cycle as `GSingle` that needs the real-time order.
    GSingleRealTime,
    /// A cycle as `G2` that needs the real-time order.
    G2RealTime,
}

/// Something wrong, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// What it is called.
    pub kind: AnomalyKind,
    /// The operations, and why they cannot all be right.
    pub detail: String,
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnomalyKind::Internal => "internal inconsistency",
            AnomalyKind::AbortedRead => "aborted read (G1a)",
            AnomalyKind::IntermediateRead => "intermediate read (G1b)",
            AnomalyKind::UnwrittenRead => "read of what nobody wrote",
            AnomalyKind::Duplicate => "duplicate element",
            AnomalyKind::IncompatibleOrder => "incompatible order",
            AnomalyKind::LostAppend => "lost append",
            AnomalyKind::LostUpdate => "lost update",
            AnomalyKind::CyclicVersions => "cyclic versions",
            AnomalyKind::G0 => "G0 (write cycle)",
            AnomalyKind::G1c => "G1c (circular information flow)",
            AnomalyKind::GSingle => "G-single (read skew)",
            AnomalyKind::G2 => "G2 (write skew)",
            AnomalyKind::G0RealTime => "G0-realtime",
            AnomalyKind::G1cRealTime => "G1c-realtime",
            AnomalyKind::GSingleRealTime => "G-single-realtime",
            AnomalyKind::G2RealTime => "G2-realtime",
        })
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// Whether transactions over lists are strictly serializable.
pub fn check_lists<K, V>(history: &ListHistory<K, V>) -> Verdict<Anomaly>
where
    K: Ord + Clone + fmt::Debug,
    V: Ord + Clone + fmt::Debug,
{
    match prepare::Prepared::of(history, |seen, version_of| seen.iter().map(version_of).collect()) {
        Ok(prepared) => verdict(lists::analyse(&prepared), &prepared),
        Err(reason) => Verdict::Undecided { reason },
    }
}

/// Whether transactions over registers are strictly serializable, as far as can be told (see `registers`).
pub fn check_registers<K, V>(history: &RegisterTxnHistory<K, V>) -> Verdict<Anomaly>
where
    K: Ord + Clone + fmt::Debug,
    V: Ord + Clone + fmt::Debug,
{
    match prepare::Prepared::of(history, |seen, version_of| seen.iter().map(version_of).collect()) {
        Ok(prepared) => verdict(registers::analyse(&prepared), &prepared),
        Err(reason) => Verdict::Undecided { reason },
    }
}

/// What an analysis found: anomalies that need no cycle, and the dependencies.
struct Found {
    anomalies: Vec<Anomaly>,
    edges: Vec<graph::Edge>,
}

fn verdict(mut found: Found, prepared: &prepare::Prepared) -> Verdict<Anomaly> {
    found.edges.extend(prepared.real_time_edges());
    found.anomalies.extend(graph::cycles(prepared, found.edges));
    found.anomalies.sort_by_key(|anomaly| anomaly.kind);
    Verdict::of(found.anomalies)
}
