//! `duramen log tail` and `duramen log append`: the log itself, over the log nodes' HTTP.
//!
//! * `tail` prints committed records, as text or as the NDJSON that the node gives.
//! * `append` adds one opaque event; nothing in the key-value layer sees it.
//! * Deliberately absent: updates with guards, which the key-value commands write.

use crate::args::LogUrls;
use crate::failure::Failure;
use crate::http::{Answer, Http, HttpError};
use crate::output;
use bytes::Bytes;
use clap::{Args, Subcommand};
use duramen_common::seams::Seams;
use duramen_common::{Blob, Offset, PartitionId, ProblemKind, RequestId, SessionToken};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use std::io::Read as _;
use std::time::Duration;

/// How long a fetch parks at the log node. Unit: seconds.
const PARK_S: u64 = 10;
/// Records of one fetch.
const PAGE_RECORDS: u64 = 500;
/// Records shown without `--from`.
const TAIL_RECORDS: u64 = 10;

/// Arguments of `duramen log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Print the records of a partition.
    Tail(TailArgs),
    /// Append one opaque event to a partition.
    Append(AppendArgs),
}

#[derive(Debug, Args)]
struct TailArgs {
    /// The partition's number.
    partition: PartitionId,
    /// The first offset to print. Default: the last ten records.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Go on as records come, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    /// Print each record as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: LogUrls,
}

#[derive(Debug, Args)]
struct AppendArgs {
    /// The partition's number.
    partition: PartitionId,
    /// The event's bytes; - reads them from stdin.
    #[arg(default_value = "-")]
    event: String,
    /// Makes a repeat of the same append harmless; made up when not given.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: LogUrls,
}

/// Runs `duramen log …`.
pub async fn run(args: LogArgs) -> Result<(), Failure> {
    match args.command {
        LogCommand::Tail(args) => tail(args).await,
        LogCommand::Append(args) => append(args).await,
    }
}

async fn tail(args: TailArgs) -> Result<(), Failure> {
    let nodes = LogNodes::new(args.log.log_urls);
    let partition = args.partition;
    let end = nodes.committed_end(partition).await?;
    let mut from = args.from.map_or(end.minus_saturating(TAIL_RECORDS), Offset::new);
    while args.follow || from < end {
        let wait_s = if args.follow { PARK_S } else { 0 };
        let path = format!("/v1/log/{partition}?from={from}&limit={PAGE_RECORDS}&wait={wait_s}");
        let answer = nodes.get(&path).await?;
        let next = print_page(&answer.body, args.json)?;
        match next {
            Some(next) => from = next,
            // Nothing before the end that was promised: compaction dropped the rest, or the end moved to another node.
            None if !args.follow => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// Prints NDJSON records; gives the offset behind the last one.
fn print_page(body: &[u8], json: bool) -> Result<Option<Offset>, Failure> {
    let mut next = None;
    for line in body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let record: LoggedRecord = serde_json::from_slice(line)
            .map_err(|error| Failure::failed(format!("the log node's answer is not understood: {error}")))?;
        let timestamp = record.timestamp.single().ok_or_else(|| Failure::failed("a record without a position came"))?;
        next = Some(timestamp.offset.next());
        if json {
            output::bytes(line)?;
            output::bytes(b"\n")?;
        } else {
            output::line(&format!("{timestamp}  {}", record.readable()))?;
        }
    }
    Ok(next)
}

#[derive(Deserialize)]
struct LoggedRecord {
    timestamp: SessionToken,
    event: Option<Blob>,
    key: Option<Blob>,
    #[serde(default)]
    guards: Vec<serde_json::Value>,
    #[serde(default)]
    updates: Vec<LoggedUpdate>,
}

#[derive(Deserialize)]
struct LoggedUpdate {
    key: Blob,
    value: Option<Blob>,
}

impl LoggedRecord {
    fn readable(&self) -> String {
        let text = |blob: &Blob| output::readable(&blob.0);
        let mut parts = Vec::new();
        if !self.guards.is_empty() {
            parts.push(format!("if {}", self.guards.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")));
        }
        if let Some(event) = &self.event {
            let key = self.key.as_ref().map(|key| format!("[{}] ", text(key))).unwrap_or_default();
            parts.push(format!("event {key}{}", text(event)));
        }
        parts.extend(self.updates.iter().map(|update| match &update.value {
            Some(value) => format!("put {} = {}", text(&update.key), text(value)),
            None => format!("delete {}", text(&update.key)),
        }));
        parts.join("; ")
    }
}

async fn append(args: AppendArgs) -> Result<(), Failure> {
    let event = if args.event == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::failed(format!("cannot read the event from stdin: {error}")))?;
        Bytes::from(bytes)
    } else {
        Bytes::from(args.event)
    };
    let idempotency_key =
        args.idempotency_key.unwrap_or_else(|| RequestId::from_bits(Seams::system().entropy.bits()).to_string());
    let header = HeaderValue::from_str(&idempotency_key)
        .map_err(|_| Failure::usage("--idempotency-key takes printable ASCII"))?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static("idempotency-key"), header),
    ];
    let path = format!("/v1/log/{}", args.partition);
    let unknown = |what: String| Failure::UnknownOutcome { what, idempotency_key: idempotency_key.clone() };
    let nodes = LogNodes::new(args.log.log_urls);
    let answer = nodes.send(Method::POST, &path, &headers, event).await.map_err(|error| match error {
        HttpError::NotSent { .. } => Failure::failed(error.to_string()),
        HttpError::Lost { .. } => unknown(error.to_string()),
    })?;
    let answer = answer.success().map_err(|problem| match problem.kind {
        ProblemKind::OutcomeUnknown => unknown(problem.detail),
        _ => Failure::from_problem(&problem),
    })?;
    if args.json {
        return output::line(String::from_utf8_lossy(&answer.body).trim_end());
    }
    match answer.headers.get("log-timestamp").and_then(|value| value.to_str().ok()) {
        Some(timestamp) => output::line(timestamp),
        None => output::line(String::from_utf8_lossy(&answer.body).trim_end()),
    }
}

/// Log nodes' HTTP addresses, tried in turn.
pub struct LogNodes {
    http: Http,
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct TailJson {
    committed_end: u64,
}

impl LogNodes {
    /// These addresses.
    #[must_use]
    pub fn new(urls: Vec<String>) -> LogNodes {
        LogNodes { http: Http::new(Duration::from_secs(PARK_S + 20)), urls }
    }

    /// Sends to the first node that can be reached. A request that was perhaps handled is not sent to another.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let mut last = HttpError::NotSent { url: String::new(), reason: "no address is given".to_owned() };
        for url in &self.urls {
            match self.http.send(method.clone(), &format!("{url}{path}"), headers, body.clone()).await {
                Err(error @ HttpError::NotSent { .. }) => last = error,
                answered => return answered,
            }
        }
        Err(last)
    }

    /// Reads from the first node that answers well; else what the last one said.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let mut last = Failure::failed("no log node's address is given");
        for url in &self.urls {
            match self.http.get(&format!("{url}{path}")).await {
                Ok(answer) => match answer.success() {
                    Ok(answer) => return Ok(answer),
                    Err(problem) if problem.status >= 500 => last = Failure::from_problem(&problem),
                    Err(problem) => return Err(Failure::from_problem(&problem)),
                },
                Err(error) => last = Failure::failed(error.to_string()),
            }
        }
        Err(last)
    }

    async fn committed_end(&self, partition: PartitionId) -> Result<Offset, Failure> {
        let answer = self.get(&format!("/v1/log/{partition}/tail")).await?;
        let tail: TailJson = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::failed(format!("the log node's answer is not understood: {error}")))?;
        Ok(Offset::new(tail.committed_end))
    }
}
