//! Health: log nodes that do not answer this client, and those that turned out to be of another history.
//!
//! * In: the outcome of each call. Out: log lines, at most one per node and minute; sentences for whoever asks.
//! * A call that succeeds costs one look at a flag while nothing is wrong.
//! * Invariant: at most as many nodes are remembered as the client calls.

use super::directory::{Directory, OtherHistory};
use duramen_common::NodeId;
use duramen_common::log::LogProblem;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A node that has not answered for this long is a problem.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);
/// How often a problem that lasts is logged again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Ill {
    Silent { since: Instant, reason: String },
    Foreign(OtherHistory),
}

#[derive(Debug)]
struct Node {
    ill: Ill,
    said: Option<Instant>,
}

/// The nodes that something is wrong with.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Whether there are any, so that a success need not look.
    any: AtomicBool,
    nodes: Mutex<BTreeMap<String, Node>>,
}

impl Health {
    /// The node answered as one of ours.
    pub(super) fn well(&self, addr: &str) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut nodes = self.nodes.lock();
        nodes.remove(addr);
        self.any.store(!nodes.is_empty(), Ordering::Relaxed);
    }

    /// A call to the node failed.
    pub(super) fn failed(&self, addr: &str, reason: &str) {
        let now = Instant::now();
        let since = match self.nodes.lock().get(addr) {
            Some(Node { ill: Ill::Silent { since, .. }, .. }) => *since,
            // That it is of another history says more than that it is silent now.
            Some(Node { ill: Ill::Foreign(_), .. }) => return,
            None => now,
        };
        let ill = Ill::Silent { since, reason: reason.to_owned() };
        self.note(addr, ill, now.duration_since(since) >= UNREACHABLE_AFTER, now);
    }

    /// The node is of another history.
    pub(super) fn foreign(&self, addr: &str, other: OtherHistory) {
        self.note(addr, Ill::Foreign(other), true, Instant::now());
    }

    fn note(&self, addr: &str, ill: Ill, is_said: bool, now: Instant) {
        let mut nodes = self.nodes.lock();
        let said = nodes.get(addr).and_then(|node| node.said);
        let node = nodes.entry(addr.to_owned()).insert_entry(Node { ill, said }).into_mut();
        if is_said && node.said.is_none_or(|at| now.duration_since(at) >= SAY_AGAIN) {
            node.said = Some(now);
            match &node.ill {
                Ill::Foreign(_) => tracing::error!("{}", sentence(addr, None, &node.ill, now)),
                Ill::Silent { .. } => tracing::warn!("{}", sentence(addr, None, &node.ill, now)),
            }
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// What is wrong now.
    pub(super) fn problems(&self, directory: &Directory) -> Vec<LogProblem> {
        let now = Instant::now();
        let nodes = self.nodes.lock();
        let lasts = |ill: &Ill| match ill {
            Ill::Foreign(_) => true,
            Ill::Silent { since, .. } => now.duration_since(*since) >= UNREACHABLE_AFTER,
        };
        nodes
            .iter()
            .filter(|(_, node)| lasts(&node.ill))
            .map(|(addr, node)| LogProblem {
                is_foreign: matches!(node.ill, Ill::Foreign(_)),
                text: sentence(addr, directory.node_at(addr).map(NodeId::get), &node.ill, now),
            })
            .collect()
    }
}

fn sentence(addr: &str, node: Option<u64>, ill: &Ill, now: Instant) -> String {
    let name = node.map_or_else(|| format!("the log node at {addr}"), |node| format!("log node {node} at {addr}"));
    match ill {
        Ill::Foreign(OtherHistory { ours, theirs }) => format!(
            "{name} is of history {theirs}, this process of {ours}: it is not used; make --log-nodes name the nodes of one \
             cluster"
        ),
        Ill::Silent { since, reason } => {
            format!("{name} has not answered this process for {} s: {reason}", now.duration_since(*since).as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_client::HistoryPin;
    use duramen_common::HistoryId;

    #[tokio::test(start_paused = true)]
    async fn a_node_is_a_problem_once_it_is_silent_for_a_while_or_at_once_when_foreign() {
        let (health, directory) = (Health::default(), Directory::new(&[], HistoryPin::default()));
        health.failed("a:1", "connection refused");
        assert_eq!(health.problems(&directory), []);
        tokio::time::advance(UNREACHABLE_AFTER).await;
        health.failed("a:1", "connection refused");
        let found = health.problems(&directory);
        assert!(
            found[0].text.contains("a:1") && found[0].text.contains("refused") && !found[0].is_foreign,
            "{found:?}"
        );
        health.well("a:1");
        assert_eq!(health.problems(&directory), []);
        let other = OtherHistory { ours: HistoryId::from_bits(1), theirs: HistoryId::from_bits(2) };
        health.foreign("b:1", other);
        health.failed("b:1", "connection refused");
        let found = health.problems(&directory);
        assert!(
            found[0].is_foreign && found[0].text.contains("000001") && found[0].text.contains("000002"),
            "{found:?}"
        );
    }
}
