//! What is wrong with a cluster, in words: partitions that nobody is known to lead, log nodes that do not answer, and what the
//! log nodes themselves complain about.
//!
//! * In: `/v1/status` of serving nodes, `/v1/cluster` of log nodes. Out: the first line of `duramen status`, and further ones.
//! * A partition has a leader when anybody of the same history says so: each node speaks of what it was told lately.
//! * A log node that nobody names as a member is not missed: the default addresses may be of no cluster at all.

use super::NodeStatus;
use crate::http::Http;
use futures_util::future::join_all;
use serde::Deserialize;
use std::collections::BTreeSet;

/// What a log node says about its cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct ClusterView {
    history: String,
    #[serde(default)]
    leaders: Vec<Option<u64>>,
    #[serde(default)]
    log_nodes: Vec<LogNode>,
    /// Serving nodes that registered.
    #[serde(default)]
    pub serving_nodes: Vec<ServingNode>,
    #[serde(default)]
    problems: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct LogNode {
    node: u64,
    http_addr: String,
}

/// A serving node as the log knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct ServingNode {
    /// Where it is.
    pub http_addr: String,
}

/// A log node that was asked.
pub struct AskedLogNode {
    url: String,
    answer: Result<ClusterView, String>,
}

impl AskedLogNode {
    /// What it said.
    pub fn view(&self) -> Option<&ClusterView> {
        self.answer.as_ref().ok()
    }
}

/// Asks the given log nodes, then the members that they name.
pub async fn ask_log_nodes(http: &Http, urls: &[String]) -> Vec<AskedLogNode> {
    let mut asked = join_all(urls.iter().map(|url| ask(http, url.clone()))).await;
    let named: BTreeSet<String> = asked.iter().filter_map(AskedLogNode::view).flat_map(member_urls).collect();
    let others = named.into_iter().filter(|url| !urls.contains(url));
    asked.extend(join_all(others.map(|url| ask(http, url))).await);
    asked
}

fn member_urls(view: &ClusterView) -> Vec<String> {
    view.log_nodes.iter().map(|node| format!("http://{}", node.http_addr)).collect()
}

async fn ask(http: &Http, url: String) -> AskedLogNode {
    let answer = match http.get(&format!("{url}/v1/cluster")).await {
        Ok(answer) => answer.success().map_err(|problem| problem.to_string()).and_then(|answer| {
            serde_json::from_slice(&answer.body).map_err(|error| format!("not understood: {error}"))
        }),
        Err(error) => Err(error.to_string()),
    };
    AskedLogNode { url, answer }
}

/// What is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Those without a known leader.
    pub leaderless: Vec<u16>,
    /// Further complaints, a sentence each.
    pub problems: Vec<String>,
}

impl Health {
    /// What the nodes' answers add up to.
    pub fn of(serving: &[&NodeStatus], log: &[AskedLogNode]) -> Health {
        let Some(first) = serving.first() else { return Health { problems: problems(None, log), ..Health::default() } };
        let views = || log.iter().filter_map(AskedLogNode::view).filter(|view| view.history == first.history);
        let is_led = |place: usize| {
            let serving = serving.iter().filter(|status| status.history == first.history);
            let mut at_serving = serving.filter_map(|status| status.partitions.get(place)?.leader.as_ref());
            at_serving.any(|leader| !leader.is_null())
                || views().any(|view| view.leaders.get(place).copied().flatten().is_some())
        };
        let partitions = u16::try_from(first.partitions.len()).unwrap_or(u16::MAX);
        let leaderless = (0..partitions).filter(|&number| !is_led(usize::from(number))).collect();
        let mut problems = problems(Some(&first.history), log);
        for status in serving {
            problems.extend(status.problems.iter().map(|problem| format!("serving node {}: {problem}", status.node)));
        }
        Health { partitions, leaderless, problems }
    }

    /// The sentence that comes first; `None` while every partition has a leader.
    pub fn sentence(&self) -> Option<String> {
        if self.leaderless.is_empty() {
            return None;
        }
        let (count, all) = (self.leaderless.len(), self.partitions);
        let numbers: Vec<String> = self.leaderless.iter().map(ToString::to_string).collect();
        let have = if count == 1 { "has" } else { "have" };
        Some(format!(
            "{count} of {all} partitions {have} no leader ({}): writes and linearizable reads of their keys fail",
            numbers.join(", ")
        ))
    }
}

fn problems(history: Option<&str>, log: &[AskedLogNode]) -> Vec<String> {
    let named: BTreeSet<(u64, String)> = log
        .iter()
        .filter_map(AskedLogNode::view)
        .flat_map(|view| view.log_nodes.iter().map(|node| (node.node, format!("http://{}", node.http_addr))))
        .collect();
    let mut found = Vec::new();
    for AskedLogNode { url, answer } in log {
        let member = named.iter().find(|(_, named)| named == url).map(|(node, _)| *node);
        let name = member.map_or_else(|| url.clone(), |node| format!("log node {node}"));
        match (answer, history) {
            (Err(why), _) if member.is_some() => found.push(format!("{name} does not answer at {url}: {why}")),
            (Err(_), _) => {}
            (Ok(view), Some(history)) if view.history != history => {
                found.push(format!(
                    "{url} is a log node of history {}, the serving nodes are of {history}",
                    view.history
                ));
            }
            (Ok(view), _) => found.extend(view.problems.iter().map(|problem| format!("{name}: {problem}"))),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(leaders: &[Option<u64>]) -> NodeStatus {
        let partition = |(number, leader): (usize, &Option<u64>)| serde_json::json!({"partition": number, "leader": leader, "committed_end": 1, "applied_end": 1, "lag": 0, "horizon": 0});
        let partitions: Vec<_> = leaders.iter().enumerate().map(partition).collect();
        serde_json::from_value(serde_json::json!({"node": "a", "history": "c7f3a1", "partitions": partitions})).unwrap()
    }

    fn log_node(number: u64, leaders: &[Option<u64>], history: &str) -> AskedLogNode {
        let answer = serde_json::from_value(serde_json::json!({
            "history": history, "leaders": leaders, "problems": [format!("{number} complains")],
            "log_nodes": [{"node": 1, "http_addr": "n1"}, {"node": 2, "http_addr": "n2"}]
        }));
        AskedLogNode { url: format!("http://n{number}"), answer: Ok(answer.unwrap()) }
    }

    /// Goal: a leader counts when anybody of this history knows one, and what nobody knows is said first.
    #[test]
    fn partitions_that_nobody_is_known_to_lead_are_counted_and_named() {
        let status = serving(&[Some(1), None, None]);
        let own = log_node(1, &[None, None, Some(2)], "c7f3a1");
        let foreign = log_node(2, &[Some(1), Some(1), Some(1)], "000001");
        let health = Health::of(&[&status], &[own, foreign]);
        assert_eq!((health.partitions, &health.leaderless[..]), (3, &[1][..]));
        let sentence = health.sentence().unwrap();
        assert!(sentence.starts_with("1 of 3 partitions has no leader (1):"), "{sentence}");
        assert_eq!(Health::of(&[&serving(&[Some(1)])], &[]).sentence(), None);
        let all = Health::of(&[&serving(&[None, None])], &[]).sentence().unwrap();
        assert!(all.starts_with("2 of 2 partitions have no leader (0, 1):"), "{all}");
    }

    #[test]
    fn members_that_do_not_answer_are_named_and_strangers_are_not_missed() {
        let dead = |url: &str| AskedLogNode { url: url.to_owned(), answer: Err("connection refused".to_owned()) };
        let log = [log_node(1, &[Some(1)], "c7f3a1"), dead("http://n2"), dead("http://127.0.0.1:7101")];
        let health = Health::of(&[&serving(&[Some(1)])], &log);
        assert_eq!(
            health.problems,
            ["log node 1: 1 complains", "log node 2 does not answer at http://n2: connection refused"]
        );
    }
}
