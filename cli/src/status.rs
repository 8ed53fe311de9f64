//! `duramen status`: what is wrong, a table of every partition at every serving node, and whether their contents agree.
//!
//! * In: `GET /v1/status` and `/v1/partitions/{p}/digest` of the given serving nodes and of those that the log nodes know;
//!   `GET /v1/cluster` of the log nodes.
//! * Invariant: digests are compared only at one applied end; where no common end was met, that is said, and not called
//!   a difference.
//! * Exit: 1 when a partition has no known leader, when digests differ or could not be compared, or when no node answers.

mod digest;
mod health;

use crate::args::{LogUrls, ServingUrls};
use crate::failure::Failure;
use crate::http::Http;
use crate::output;
use clap::Args;
use duramen_common::PartitionId;
use futures_util::future::join_all;
use health::{AskedLogNode, Health, ask_log_nodes};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a log node may take to say what it knows: one that hangs is a finding, not a reason to wait.
const LOG_NODE_TIMEOUT: Duration = Duration::from_secs(3);

/// Arguments of `duramen status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    serving: ServingUrls,
    #[command(flatten)]
    log: LogUrls,
    /// Compare what the nodes hold, partition by partition, at one applied end.
    #[arg(long)]
    digest: bool,
    /// How long to try until the nodes have one applied end (with --digest). Unit: milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    wait_ms: u64,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What a serving node says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    node: String,
    history: String,
    partitions: Vec<PartitionStatus>,
    /// What it complains about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PartitionStatus {
    partition: PartitionId,
    leader: Option<serde_json::Value>,
    committed_end: Option<u64>,
    applied_end: Option<u64>,
    lag: Option<u64>,
    horizon: Option<u64>,
}

#[derive(Serialize)]
struct Report<'a> {
    /// Partitions that nobody is known to lead.
    leaderless: &'a [u16],
    problems: &'a [String],
    nodes: Vec<NodeReport<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digests: Option<&'a [digest::Comparison]>,
}

#[derive(Serialize)]
struct NodeReport<'a> {
    url: &'a str,
    #[serde(flatten)]
    status: Option<&'a NodeStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

struct Asked {
    url: String,
    answer: Result<NodeStatus, String>,
}

/// Runs `duramen status`.
pub async fn run(args: StatusArgs) -> Result<(), Failure> {
    let http = Http::new(Duration::from_secs(10));
    let log_nodes = ask_log_nodes(&Http::new(LOG_NODE_TIMEOUT), &args.log.log_urls).await;
    let asked = ask_all(&http, args.serving.urls, &log_nodes).await;
    let alive: Vec<(&str, &NodeStatus)> =
        asked.iter().filter_map(|asked| Some((asked.url.as_str(), asked.answer.as_ref().ok()?))).collect();
    let statuses: Vec<&NodeStatus> = alive.iter().map(|(_, status)| *status).collect();
    let health = Health::of(&statuses, &log_nodes);
    let digests = match args.digest && alive.len() > 1 {
        true => Some(compare_digests(&http, &alive, Duration::from_millis(args.wait_ms)).await?),
        false => None,
    };
    if args.json {
        output::json(&report(&asked, &health, digests.as_deref()))?;
    } else {
        for line in health.sentence().iter().chain(&health.problems) {
            output::line(line)?;
        }
        print(&asked, digests.as_deref())?;
    }
    judge(&asked, alive.len(), &health, args.digest, digests.as_deref())
}

/// Asks the given nodes and those that registered with the log; an address that is known both ways is asked once.
async fn ask_all(http: &Http, mut urls: Vec<String>, log_nodes: &[AskedLogNode]) -> Vec<Asked> {
    if let Some(cluster) = log_nodes.iter().find_map(AskedLogNode::view) {
        for node in &cluster.serving_nodes {
            let url = format!("http://{}", node.http_addr);
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    let ask = |url: String| async move {
        let answer = match http.get(&format!("{url}/v1/status")).await {
            Ok(answer) => answer.success().map_err(|problem| problem.to_string()).and_then(|answer| {
                serde_json::from_slice(&answer.body).map_err(|error| format!("not understood: {error}"))
            }),
            Err(error) => Err(error.to_string()),
        };
        Asked { url, answer }
    };
    join_all(urls.into_iter().map(ask)).await
}

async fn compare_digests(
    http: &Http,
    alive: &[(&str, &NodeStatus)],
    patience: Duration,
) -> Result<Vec<digest::Comparison>, Failure> {
    let Some((_, first)) = alive.first() else { return Ok(Vec::new()) };
    if let Some((url, other)) = alive.iter().find(|(_, status)| status.history != first.history) {
        let (ours, theirs) = (&first.history, &other.history);
        return Err(Failure::failed(format!("{url} serves history {theirs}, not {ours}: that is another cluster")));
    }
    let urls: Vec<&str> = alive.iter().map(|(url, _)| *url).collect();
    let compare = |status: &PartitionStatus| digest::compare(http, &urls, status.partition, patience);
    Ok(join_all(first.partitions.iter().map(compare)).await)
}

fn report<'a>(asked: &'a [Asked], health: &'a Health, digests: Option<&'a [digest::Comparison]>) -> Report<'a> {
    let node = |asked: &'a Asked| NodeReport {
        url: &asked.url,
        status: asked.answer.as_ref().ok(),
        error: asked.answer.as_ref().err().map(String::as_str),
    };
    let nodes = asked.iter().map(node).collect();
    Report { leaderless: &health.leaderless, problems: &health.problems, nodes, digests }
}

fn print(asked: &[Asked], digests: Option<&[digest::Comparison]>) -> Result<(), Failure> {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let mut rows = Vec::new();
    for Asked { url, answer } in asked {
        match answer {
            Err(why) => output::line(&format!("{url}: {why}"))?,
            Ok(status) => rows.extend(status.partitions.iter().map(|partition| {
                let leader = match &partition.leader {
                    None | Some(serde_json::Value::Null) => "-".to_owned(),
                    Some(serde_json::Value::String(name)) => name.clone(),
                    Some(other) => other.to_string(),
                };
                vec![
                    status.node.clone(),
                    partition.partition.to_string(),
                    leader,
                    number(partition.committed_end),
                    number(partition.applied_end),
                    number(partition.lag),
                ]
            })),
        }
    }
    if let Some(Asked { answer: Ok(status), .. }) = asked.iter().find(|asked| asked.answer.is_ok()) {
        output::line(&format!("history {}", status.history))?;
        let header = ["node", "partition", "leader", "committed_end", "applied_end", "lag"];
        output::bytes(output::table(&header, &rows).as_bytes())?;
    }
    for comparison in digests.unwrap_or_default() {
        output::line(&comparison.to_string())?;
    }
    Ok(())
}

fn judge(
    asked: &[Asked],
    alive: usize,
    health: &Health,
    wants_digest: bool,
    digests: Option<&[digest::Comparison]>,
) -> Result<(), Failure> {
    if alive == 0 {
        let first = asked.iter().find_map(|asked| asked.answer.as_ref().err()).cloned().unwrap_or_default();
        return Err(Failure::failed(format!("no serving node answers: {first}")));
    }
    if let Some(sentence) = health.sentence() {
        return Err(Failure::failed(format!("{sentence}; start log nodes until a majority of them reach each other")));
    }
    if !wants_digest {
        return Ok(());
    }
    let Some(digests) = digests else {
        return Err(Failure::failed("only one serving node answers: there is nothing to compare its digests with"));
    };
    match digests.iter().find(|comparison| !comparison.is_equal()) {
        Some(comparison) => Err(Failure::failed(comparison.to_string())),
        None => Ok(()),
    }
}
