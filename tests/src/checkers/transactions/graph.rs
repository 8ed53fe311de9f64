//! Dependency cycles: strongly connected components, and in each the shortest cycle of the most telling kind.
//!
//! An edge says that one transaction must come before another one, and why. A cycle of edges cannot be put in order. The
//! fewer kinds of edges a cycle needs, the more it tells, so kinds are tried in Adya's order, first without real time.
//! Source: Tarjan 1972; Adya 1999, section 4; Elle, section 6.

use super::prepare::{KeyId, Prepared, TxnId, VersionId};
use super::{Anomaly, AnomalyKind};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Why one transaction comes before another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The later one's version follows the earlier one's.
    WriteWrite { before: VersionId, after: VersionId },
    /// The later one read what the earlier one wrote.
    WriteRead { version: VersionId },
    /// The earlier one read what was there before the later one wrote; `None`: nothing was there.
    ReadWrite { key: KeyId, seen: Option<VersionId>, next: VersionId },
    /// The earlier one had ended when the later one began.
    RealTime,
}

/// `from` comes before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: TxnId,
    pub to: TxnId,
    pub reason: Reason,
}

impl Reason {
    fn is_read_write(self) -> bool {
        matches!(self, Reason::ReadWrite { .. })
    }

    fn text(self, prepared: &Prepared) -> String {
        let (value, key) = (|version| prepared.version_text(version), |key| prepared.key_text(key));
        match self {
            Reason::WriteWrite { before, after } => {
                let of = key(prepared.versions[after].key);
                format!("ww: its {} of key {of} is before the next one's {}", value(before), value(after))
            }
            Reason::WriteRead { version } => {
                let of = key(prepared.versions[version].key);
                format!("wr: its {} of key {of} was read by the next one", value(version))
            }
            Reason::ReadWrite { key: of, seen, next } => {
                let seen = seen.map_or("nothing", value);
                format!("rw: it saw {seen} last of key {}, before the next one's {}", key(of), value(next))
            }
            Reason::RealTime => "rt: it had ended when the next one began".to_owned(),
        }
    }
}

/// Which edges a cycle may have, and what it is called then.
struct Level {
    kind: AnomalyKind,
    allows: fn(Reason) -> bool,
    /// Exactly one read-write edge, besides those allowed.
    one_read_write: bool,
}

const LEVELS: [Level; 8] = [
    Level {
        kind: AnomalyKind::G0,
        allows: |reason| matches!(reason, Reason::WriteWrite { .. }),
        one_read_write: false,
    },
    Level {
        kind: AnomalyKind::G1c,
        allows: |reason| matches!(reason, Reason::WriteWrite { .. } | Reason::WriteRead { .. }),
        one_read_write: false,
    },
    Level {
        kind: AnomalyKind::GSingle,
        allows: |reason| matches!(reason, Reason::WriteWrite { .. } | Reason::WriteRead { .. }),
        one_read_write: true,
    },
    Level { kind: AnomalyKind::G2, allows: |reason| reason != Reason::RealTime, one_read_write: false },
    Level {
        kind: AnomalyKind::G0RealTime,
        allows: |reason| matches!(reason, Reason::WriteWrite { .. } | Reason::RealTime),
        one_read_write: false,
    },
    Level { kind: AnomalyKind::G1cRealTime, allows: |reason| !reason.is_read_write(), one_read_write: false },
    Level { kind: AnomalyKind::GSingleRealTime, allows: |reason| !reason.is_read_write(), one_read_write: true },
    Level { kind: AnomalyKind::G2RealTime, allows: |_| true, one_read_write: false },
];

type Graph = BTreeMap<TxnId, Vec<Edge>>;

/// The most telling cycle of every strongly connected component.
pub fn cycles(prepared: &Prepared, edges: Vec<Edge>) -> Vec<Anomaly> {
    let edges: BTreeSet<Edge> = edges.into_iter().filter(|edge| edge.from != edge.to).collect();
    let graph = graph_of(edges);
    let mut anomalies = Vec::new();
    for component in components(&graph) {
        let inside = |edge: &&Edge| component.contains(&edge.from) && component.contains(&edge.to);
        let edges: Vec<Edge> =
            component.iter().filter_map(|node| graph.get(node)).flatten().filter(inside).copied().collect();
        let found = LEVELS.iter().find_map(|level| shortest(level, &edges).map(|cycle| (level.kind, cycle)));
        let (kind, cycle) = found.expect("a component has a cycle, and the last level allows all edges");
        anomalies.push(Anomaly { kind, detail: text(&cycle, prepared) });
    }
    anomalies
}

fn graph_of(edges: impl IntoIterator<Item = Edge>) -> Graph {
    let mut graph = Graph::new();
    for edge in edges {
        graph.entry(edge.from).or_default().push(edge);
    }
    graph
}

fn text(cycle: &[Edge], prepared: &Prepared) -> String {
    let mut text = format!("a cycle of {} transactions", cycle.len());
    for edge in cycle {
        let reason = edge.reason.text(prepared);
        text += &format!("\n    {}\n      before T{}, {reason}", prepared.txn_text(edge.from), edge.to);
    }
    text
}

/// From how many transactions of a component a shortest cycle is looked for.
const STARTS_MAX: usize = 300;

fn shortest(level: &Level, edges: &[Edge]) -> Option<Vec<Edge>> {
    let graph = graph_of(edges.iter().filter(|edge| (level.allows)(edge.reason)).copied());
    if level.one_read_write {
        let closing = edges.iter().filter(|edge| edge.reason.is_read_write());
        let cycles = closing.filter_map(|&edge| {
            let mut path = path(&graph, edge.to, edge.from)?;
            path.insert(0, edge);
            Some(path)
        });
        // Not all: a component of a thousand transactions has a short cycle among the first ones too.
        return cycles.take(STARTS_MAX).min_by_key(Vec::len);
    }
    let mut best: Option<Vec<Edge>> = None;
    for component in components(&graph) {
        let inside = |edge: &Edge| component.contains(&edge.from) && component.contains(&edge.to);
        let graph = graph_of(graph.values().flatten().copied().filter(inside));
        let cycles = component.iter().take(STARTS_MAX).filter_map(|&start| path(&graph, start, start));
        best = best.into_iter().chain(cycles).min_by_key(Vec::len);
    }
    best
}

/// A shortest path; from a transaction to itself, a shortest cycle.
fn path(graph: &Graph, from: TxnId, to: TxnId) -> Option<Vec<Edge>> {
    let mut reached: BTreeMap<TxnId, Edge> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for &edge in graph.get(&node).into_iter().flatten() {
            if edge.to == to {
                let mut path = vec![edge];
                let mut at = edge.from;
                while at != from {
                    path.push(reached[&at]);
                    at = reached[&at].from;
                }
                path.reverse();
                return Some(path);
            }
            if edge.to != from && !reached.contains_key(&edge.to) {
                reached.insert(edge.to, edge);
                queue.push_back(edge.to);
            }
        }
    }
    None
}

/// A cycle among pairs (one before another), shortest from where it is found.
pub fn cycle_among(pairs: impl IntoIterator<Item = (usize, usize)>) -> Option<Vec<usize>> {
    let graph = graph_of(pairs.into_iter().map(|(from, to)| Edge { from, to, reason: Reason::RealTime }));
    let start = *components(&graph).first()?.first()?;
    Some(path(&graph, start, start)?.iter().map(|edge| edge.from).collect())
}

/// A node while Tarjan's algorithm runs.
#[derive(Clone, Copy, Default)]
struct Mark {
    index: usize,
    low: usize,
    on_stack: bool,
}

/// Strongly connected components of more than one node. (Tarjan, with a stack of its own: histories are long.)
fn components(graph: &Graph) -> Vec<BTreeSet<TxnId>> {
    const NO_EDGES: &[Edge] = &[];
    let edges = |node: TxnId| graph.get(&node).map_or(NO_EDGES, Vec::as_slice);
    let mut marks: BTreeMap<TxnId, Mark> = BTreeMap::new();
    let mut stack = Vec::new();
    let mut components = Vec::new();
    for &root in graph.keys() {
        if marks.contains_key(&root) {
            continue;
        }
        // A node with the number of its edges that have been followed.
        let mut calls = vec![(root, 0)];
        while let Some((node, followed)) = calls.pop() {
            if followed == 0 {
                let index = marks.len();
                marks.insert(node, Mark { index, low: index, on_stack: true });
                stack.push(node);
            } else {
                let low = marks[&edges(node)[followed - 1].to];
                lower(&mut marks, node, low);
            }
            match edges(node).get(followed) {
                Some(edge) => {
                    calls.push((node, followed + 1));
                    if !marks.contains_key(&edge.to) {
                        calls.push((edge.to, 0));
                    }
                }
                None if marks[&node].low == marks[&node].index => {
                    let start = stack.iter().position(|&other| other == node).expect("a root is on the stack");
                    let component: BTreeSet<TxnId> = stack.drain(start..).collect();
                    for member in &component {
                        marks.entry(*member).and_modify(|mark| mark.on_stack = false);
                    }
                    if component.len() > 1 {
                        components.push(component);
                    }
                }
                None => {}
            }
        }
    }
    components
}

/// What a node learns from one that it points to: a member of the same component reaches no further up than this.
fn lower(marks: &mut BTreeMap<TxnId, Mark>, node: TxnId, other: Mark) {
    if other.on_stack {
        marks.entry(node).and_modify(|mark| mark.low = mark.low.min(other.low));
    }
}
