//! How this node is doing: `/v1/status`, `/v1/partitions/{p}/digest`, `/healthz`, `/readyz`, `/metrics`.
//!
//! * Invariant: once the log has been reached, these answer also while it cannot be; what is not known is null.
//! * Source: DESIGN §4.

use super::Api;
use super::body::ResponseBody;
use super::errors::Failure;
use super::extract::Query;
use super::headers::{LOG_TIMESTAMP, SERVER_TIMING, token_value};
use super::metrics::HeldNow;
use super::reads::{PARAMETERS, ReadOptions, position_served};
use crate::partitions::Partitions;
use crate::view::Progress;
use bytes::Bytes;
use duramen_common::{HistoryId, NodeId, PartitionId, ProblemKind};
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// Who leads what is asked again after this long.
const LEADERS_FRESH: Duration = Duration::from_millis(200);
/// And for no longer than this.
const LEADERS_TIMEOUT: Duration = Duration::from_millis(500);
/// How often this node asks who leads although nobody wants to know: for readiness.
const LEADERS_EVERY: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Status<'a> {
    node: &'a str,
    history: String,
    partitions: Vec<PartitionStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Serialize)]
struct PartitionStatus {
    partition: PartitionId,
    leader: Option<NodeId>,
    committed_end: u64,
    applied_end: Option<u64>,
    lag: u64,
    horizon: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    catching_up: Option<CatchingUp>,
}

#[derive(Serialize)]
struct CatchingUp {
    records: u64,
    records_per_s: f64,
    remaining: u64,
}

impl From<Progress> for CatchingUp {
    fn from(progress: Progress) -> CatchingUp {
        let Progress { records, rate_per_s, remaining } = progress;
        CatchingUp { records, records_per_s: rate_per_s, remaining }
    }
}

#[derive(Serialize)]
struct Digest {
    partition: PartitionId,
    applied_end: u64,
    digest: String,
}

/// Who leads each partition, and when that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Leaders {
    asked: Instant,
    leaders: Vec<Option<NodeId>>,
    /// Since when at least one is unknown.
    unknown_since: Option<Instant>,
}

/// `GET /v1/status`
pub(crate) async fn status(api: &Api, partitions: &Partitions) -> Result<Response<ResponseBody>, Failure> {
    let leaders = leaders(api).await;
    let partition_statuses = partitions.iter().map(|view| {
        let status = view.status();
        PartitionStatus {
            partition: view.partition(),
            leader: leaders.get(usize::from(view.partition().get())).copied().flatten(),
            committed_end: status.committed_end.get(),
            applied_end: status.applied_end.map(duramen_common::Offset::get),
            lag: status.lag,
            horizon: status.horizon.get(),
            catching_up: status.catching_up.map(CatchingUp::from),
        }
    });
    let status = Status {
        node: &api.config.name,
        history: partitions.history().to_string(),
        partitions: partition_statuses.collect(),
        problems: problems(api),
    };
    let json = serde_json::to_vec(&status).expect("answers are plain JSON");
    Ok(super::of_json(api.whole(Bytes::from(json))?))
}

/// What is wrong as seen from here, a sentence each.
fn problems(api: &Api) -> Vec<String> {
    let of_log = api.log.problems().into_iter().map(|problem| problem.text);
    let of_disk = api.health.waits_for_space().then(|| DISK_FULL.to_owned());
    of_log.chain(api.name_problem.lock().clone()).chain(of_disk).collect()
}

/// A flush that takes longer is taken for one that does not end.
const FLUSH_MAX: Duration = Duration::from_secs(30);
const DISK_FULL: &str =
    "the disk of this node's index is full: reads go on, and what is new is not applied for long; free some space";

/// Asks who leads, again and again; never ends.
pub(crate) async fn watch_leaders(api: &Api) -> std::convert::Infallible {
    loop {
        leaders(api).await;
        tokio::time::sleep(LEADERS_EVERY).await;
    }
}

async fn leaders(api: &Api) -> Vec<Option<NodeId>> {
    let known = api.leaders.lock().clone();
    let unknown_since = known.as_ref().and_then(|known| known.unknown_since);
    if let Some(known) = known.filter(|known| known.asked.elapsed() < LEADERS_FRESH) {
        return known.leaders;
    }
    let asked = Instant::now();
    let leaders = match tokio::time::timeout(LEADERS_TIMEOUT, api.log.cluster(LEADERS_TIMEOUT)).await {
        Ok(Ok(cluster)) => cluster.leaders,
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    let count = api.served().map_or(0, |partitions| usize::from(partitions.count()));
    api.metrics.leaderless.set(count.saturating_sub(leaders.iter().flatten().count()) as i64);
    let are_known = !leaders.is_empty() && leaders.iter().all(Option::is_some);
    let unknown_since = (!are_known).then(|| unknown_since.unwrap_or(asked));
    *api.leaders.lock() = Some(Leaders { asked, leaders: leaders.clone(), unknown_since });
    leaders
}

/// Refuses once a partition has had no known leader for too long.
fn check_led(api: &Api) -> Result<(), Failure> {
    let Some(known) = api.leaders.lock().clone() else { return Ok(()) };
    let Some(since) = known.unknown_since.filter(|since| since.elapsed() >= api.config.ready_without_leader) else {
        return Ok(());
    };
    let count = api.served().map_or(0, Partitions::count);
    let is_led = |number: u16| known.leaders.get(usize::from(number)).copied().flatten().is_some();
    let leaderless: Vec<u16> = (0..count).filter(|&number| !is_led(number)).collect();
    let seconds = since.elapsed().as_secs();
    let detail = format!(
        "{} of {count} partitions have had no known leader for {seconds} s: writes and linearizable reads fail; session and \
         stale reads are answered",
        leaderless.len()
    );
    Err(Failure::new(ProblemKind::NoLeader, detail).with("partitions", leaderless))
}

/// `GET /v1/partitions/{p}/digest`: of what is here, or with a token at least of that position.
pub(crate) async fn digest(
    api: &Api,
    partitions: &Partitions,
    parts: &Parts,
    raw_partition: &str,
) -> Result<Response<ResponseBody>, Failure> {
    let view = raw_partition.parse().ok().and_then(|partition| partitions.get(partition)).ok_or_else(|| {
        Failure::new(ProblemKind::NotFound, format!("this cluster has partitions 0 to {}", partitions.count() - 1))
    })?;
    let query = Query::parse(parts.uri.query(), &PARAMETERS)?;
    let options = ReadOptions::parse(api, partitions, &parts.headers, &query, None)?;
    let is_asked = options.token.is_some() || query.one("consistency")?.is_some();
    let wanted = if is_asked { options.wait_for(view).await? } else { duramen_common::Offset::ZERO };
    let timing = options.server_timing();
    let view = view.clone();
    let computing = api.digests.acquire().await;
    let computing_view = view.clone();
    let computed = api.seams.threads.run(move || computing_view.digest()).await;
    drop(computing);
    let partition = view.partition();
    let read = computed.map_err(|_| Failure::starting("the digest was cut off: this node is stopping"))?;
    let read = read.map_err(|error| Failure::of_read(&error))?;
    ReadOptions::check_read(&view, wanted, read.applied_end)?;
    let history: HistoryId = partitions.history();
    let digest = read.value.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut response = super::json(&Digest { partition, applied_end: read.applied_end.get(), digest });
    let position = position_served(history, partition, read.applied_end);
    response.headers_mut().insert(LOG_TIMESTAMP, token_value(&position));
    response.headers_mut().insert(SERVER_TIMING, timing);
    Ok(response)
}

/// `GET /healthz`: this process answers.
pub(crate) fn healthz() -> Response<ResponseBody> {
    text("ok\n")
}

/// `GET /readyz`: this node has caught up once since it started, every partition has a leader, it is not stopping, and a full
/// disk does not keep it from applying.
pub(crate) fn readyz(api: &Api) -> Result<Response<ResponseBody>, Failure> {
    let partitions = api.partitions()?;
    if *api.stopping.borrow() {
        return Err(Failure::starting("this node is stopping: ask another node"));
    }
    let lag: u64 = partitions.iter().map(|view| view.status().lag).sum();
    if partitions.is_ready() {
        // The lag that is known may be none: who applies nothing does not ask for more either.
        if api.health.waits_for_space() && partitions.iter().any(|view| view.memory_is_full()) {
            return Err(Failure::starting(DISK_FULL).with("lag", lag));
        }
        let flushing = api.health.flushing_for();
        if flushing >= FLUSH_MAX {
            let detail = format!("the index has not taken a write for {} s: restart this node", flushing.as_secs());
            return Err(Failure::starting(detail).with("lag", lag));
        }
        check_led(api)?;
        return Ok(text("ready\n"));
    }
    Err(Failure::starting("this node is catching up with the log").with("lag", lag))
}

/// `GET /metrics`
pub(crate) fn metrics(api: &Api) -> Result<Response<ResponseBody>, Failure> {
    api.metrics.set_problems(&api.log.problems(), api.name_problem.lock().is_some());
    let held = HeldNow {
        feeds: api.open_feeds(),
        answer_bytes: api.answers.held_bytes(),
        feed_bytes: api.feeding.budget().held_bytes(),
    };
    let text = api.metrics.to_text(api.served(), held, &api.health);
    let mut response = Response::new(api.whole(Bytes::from(text))?);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    Ok(response)
}

fn text(text: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
