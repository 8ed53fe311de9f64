//! `GET` of a log node: committed records as lines, the tail, the cluster.
//!
//! * Records come from this node's own replica, as far as it has published them; the tail comes from the leader.
//! * Source: DESIGN §4 "Log node".

use super::answer::{Refused, json};
use super::append::{LOG_TIMESTAMP, PartitionPath, parse_partition, running};
use super::records::{Place, write_lines};
use super::{Api, forward};
use crate::node::partition::Partition;
use crate::node::problems::problems;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use duramen_common::batch::RecordBatch;
use duramen_common::budget::{Exhausted, Room};
use duramen_common::protocol::{FetchRequest, LogRefusal};
use duramen_common::{Offset, Problem, ProblemKind, SessionToken, Timestamp};
use std::time::Duration;
use tokio::time::Instant;

/// What the query of a page may say.
pub(super) const PARAMETERS: [&str; 3] = ["from", "limit", "wait"];
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;
const WAIT_SECONDS_MAX: u64 = 30;
const BYTES_A_FETCH: u32 = 1024 * 1024;
/// A page ends with the record that brings it to this size, whatever its limit. Unit: bytes.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
const TAIL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a page waits for room while others hold everything.
const ROOM_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, PartialEq, Eq)]
struct Page {
    from: Offset,
    limit: usize,
    wait_ms: u64,
}

/// Committed records from an offset on, a line each.
pub(super) async fn records(
    State(api): State<Api>,
    partition: PartitionPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let running = running(&api)?;
    let partition = parse_partition(partition)?;
    let here = running.partition(partition)?;
    let page = parse_page(query.as_deref().unwrap_or_default())?;
    let place = Place {
        history: running.cluster.history,
        partition,
        partitions: running.cluster.partitions,
        value_bytes_max: api.shared.config.value_bytes_max,
    };
    if page.wait_ms > 0 {
        // Parked without holding anything; what comes is read again below.
        let request = FetchRequest { partition, from: page.from, bytes_max: 1, wait_ms: page.wait_ms, last: None };
        let _ = here.fetch(&request).await?;
    }
    let mut room = Room::default();
    let lines = loop {
        let lines = {
            let _turn = api.pages.acquire().await;
            read_lines(here, &page, place).await?
        };
        if room.try_cover(&api.answers, lines.len()) {
            break lines;
        }
        // What was read is let go while others hold everything.
        let needed = lines.len().max(PAGE_BYTES);
        drop(lines);
        room.cover(&api.answers, needed, Instant::now() + ROOM_WAIT).await.map_err(|error| exhausted(&error))?;
    };
    let body = Body::from(room.keep(Bytes::from(lines)));
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], body).into_response())
}

fn exhausted(error: &Exhausted) -> Refused {
    Problem::new(ProblemKind::Overloaded, error.to_string()).with("limit", error.limit).into()
}

/// The lines of a page: what is there now.
async fn read_lines(here: &Partition, page: &Page, place: Place) -> Result<Vec<u8>, Refused> {
    let mut lines = Vec::new();
    let mut left = page.limit;
    let mut next = page.from;
    while left > 0 && lines.len() < PAGE_BYTES {
        let request =
            FetchRequest { partition: place.partition, from: next, bytes_max: BYTES_A_FETCH, wait_ms: 0, last: None };
        let (answer, batches) = here.fetch(&request).await?;
        if batches.is_empty() {
            break;
        }
        for bytes in batches {
            let batch =
                RecordBatch::parse(bytes).map_err(|error| LogRefusal::Unavailable { reason: error.to_string() })?;
            let (written, end) = write_lines(&batch, next, (left, PAGE_BYTES), place, &mut lines);
            left -= written;
            next = end;
            if left == 0 || lines.len() >= PAGE_BYTES {
                break;
            }
        }
        if answer.next_offset >= answer.committed_end {
            break;
        }
    }
    lines.shrink_to_fit();
    Ok(lines)
}

fn parse_page(query: &str) -> Result<Page, Refused> {
    let mut page = Page { from: Offset::ZERO, limit: LIMIT_DEFAULT, wait_ms: 0 };
    let mut names = Vec::with_capacity(PARAMETERS.len());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if names.contains(&name) {
            let detail = format!("the parameter {name} stands more than once");
            return Err(Problem::new(ProblemKind::BadRequest, detail).into());
        }
        names.push(name);
        let number = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse::<u64>().ok()).flatten();
        match (name, number) {
            ("from", Some(offset)) => page.from = Offset::new(offset),
            ("limit", Some(limit)) if (1..=LIMIT_MAX as u64).contains(&limit) => page.limit = limit as usize,
            ("wait", Some(seconds)) if seconds <= WAIT_SECONDS_MAX => page.wait_ms = seconds * 1_000,
            _ => {
                let detail = format!(
                    "?{pair}: from takes an offset, limit 1 to {LIMIT_MAX}, wait 0 to {WAIT_SECONDS_MAX} seconds"
                );
                return Err(Problem::new(ProblemKind::BadRequest, detail).into());
            }
        }
    }
    Ok(page)
}

/// The end that the leader confirms.
pub(super) async fn tail(State(api): State<Api>, partition: PartitionPath) -> Result<Response, Refused> {
    let running = running(&api)?;
    let partition = parse_partition(partition)?;
    let here = running.partition(partition)?;
    let committed_end = forward::tail(&api.shared, here, TAIL_TIMEOUT).await?.committed_end;
    let mut token = SessionToken::new(running.cluster.history);
    if let Some(offset) = committed_end.previous() {
        token.see(Timestamp { partition, offset });
    }
    let body = serde_json::json!({
        "partition": partition.get(), "committed_end": committed_end.get(), "timestamp": token
    });
    let mut response = json(StatusCode::OK, &body);
    if let Ok(value) = HeaderValue::from_str(&token.to_string()) {
        response.headers_mut().insert(LOG_TIMESTAMP, value);
    }
    Ok(response)
}

/// The cluster as this node knows it.
pub(super) async fn cluster(State(api): State<Api>) -> Result<Response, Refused> {
    let info = api.shared.cluster_info()?;
    let found = api.shared.running().map(|running| problems(&api.shared, &running)).unwrap_or_default();
    let log_nodes: Vec<_> = info
        .log_nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "node": node.node, "store": node.store.to_string(), "rpc_addr": node.rpc_addr, "http_addr": node.http_addr
            })
        })
        .collect();
    let body = serde_json::json!({
        "history": info.history.to_string(),
        "partitions": info.partitions,
        "dedup_window": info.dedup_window,
        "log_nodes": log_nodes,
        "serving_nodes": info.serving_nodes,
        "leaders": info.leaders,
        "problems": found.iter().map(|trouble| &trouble.text).collect::<Vec<_>>(),
    });
    Ok(json(StatusCode::OK, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_within_its_limits() {
        let page = |query| parse_page(query).ok();
        let usual = Page { from: Offset::ZERO, limit: 100, wait_ms: 0 };
        assert_eq!(page(""), Some(usual));
        assert_eq!(page("from=7&limit=1000&wait=2"), Some(Page { from: Offset::new(7), limit: 1000, wait_ms: 2_000 }));
        for query in
            ["limit=0", "limit=1001", "limit=", "limit=-1", "from=x", "wait=31", "surprise=1", "from", "from=1&from=2"]
        {
            assert_eq!(page(query), None, "{query}");
        }
    }
}
