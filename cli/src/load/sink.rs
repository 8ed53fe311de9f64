//! Sends a batch to `POST /v1/batch` until every op of it is acknowledged.
//!
//! * Every attempt carries the batch's idempotency key, so that repeats take effect once.
//! * What passes (`no-leader`, `outcome-unknown`, `behind`, `overloaded`, `log-full`, no answer) is tried again, at the next
//!   address, with growing waits, for `patience`; anything else is final and told with its record's line range.
//! * Deliberately absent: order between batches ([`super::engine`]).

use super::batch::Batch;
use super::engine::Sink;
use super::source::Place;
use crate::failure::Failure;
use crate::http::{Http, HttpError};
use bytes::Bytes;
use duramen_common::{Problem, ProblemKind, SessionToken};
use futures_util::future::BoxFuture;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// First wait before a repeat; doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Serving nodes as a sink.
pub struct HttpSink {
    http: Http,
    urls: Vec<String>,
    /// Begins every idempotency key.
    load: String,
    /// How long one batch is tried.
    patience: Duration,
    /// The address that the next batch begins with: they take turns.
    turn: AtomicUsize,
}

enum Attempt {
    Acknowledged(SessionToken),
    /// Worth another try.
    Passing(Passing),
    Final(Failure),
}

/// Why a batch is not acknowledged yet.
struct Passing {
    why: String,
    /// Ops of it may be in the log all the same.
    is_unknown: bool,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<OpResult>,
}

#[derive(Deserialize)]
struct OpResult {
    timestamp: Option<SessionToken>,
    problem: Option<Problem>,
}

impl HttpSink {
    /// A sink of these addresses; `load` begins every idempotency key.
    #[must_use]
    pub fn new(urls: Vec<String>, load: String, patience: Duration) -> HttpSink {
        HttpSink { http: Http::new(Duration::from_secs(30)), urls, load, patience, turn: AtomicUsize::new(0) }
    }

    async fn attempt(&self, url: &str, batch: &Batch, idempotency_key: &HeaderValue) -> Attempt {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("idempotency-key"), idempotency_key.clone()),
        ];
        let sent = self.http.send(Method::POST, &format!("{url}/v1/batch"), &headers, batch.body.clone()).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                let is_unknown = matches!(error, HttpError::Lost { .. });
                return Attempt::Passing(Passing { why: error.to_string(), is_unknown });
            }
        };
        if answer.status != StatusCode::OK.as_u16() {
            let problem = answer.problem();
            return refused(&problem, batch.start, batch.end);
        }
        acknowledged(&answer.body, batch)
    }
}

impl Sink for HttpSink {
    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<SessionToken, Failure>> {
        Box::pin(async move {
            let key = HeaderValue::from_str(&format!("{}-{}-{:016x}", self.load, batch.start.byte, batch.content))
                .map_err(|_| Failure::failed("the load's name in its state file is no header text"))?;
            let deadline = Instant::now() + self.patience;
            let mut wait = WAIT_MIN;
            let mut was_unknown = false;
            loop {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let url = self.urls.get(turn % self.urls.len().max(1)).map_or("", String::as_str);
                match self.attempt(url, batch, &key).await {
                    Attempt::Acknowledged(token) => return Ok(token),
                    // An earlier attempt may have been handled all the same.
                    Attempt::Final(failure) if was_unknown => {
                        return Err(Failure::UnknownLoad { what: failure.to_string() });
                    }
                    Attempt::Final(failure) => return Err(failure),
                    Attempt::Passing(Passing { why, is_unknown }) => {
                        was_unknown |= is_unknown;
                        if Instant::now() + wait >= deadline {
                            let what = format!("given up after {} s ({why})", self.patience.as_secs());
                            return Err(match was_unknown {
                                true => Failure::UnknownLoad { what },
                                false => Failure::failed(what),
                            });
                        }
                        tracing::info!("batch at byte {}: {why}; trying again", batch.start.byte);
                    }
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        })
    }
}

fn refused(problem: &Problem, start: Place, end: Place) -> Attempt {
    // 5xx and 429 pass even where the body is no problem document: something stood between us and the node.
    if problem.kind.is_passing() || problem.status >= 500 || problem.status == 429 {
        // What answers without saying that it is the node may have stood between us and it, too.
        let is_unknown = problem.kind == ProblemKind::OutcomeUnknown || !problem.kind.is_passing();
        return Attempt::Passing(Passing { why: problem.to_string(), is_unknown });
    }
    Attempt::Final(Failure::failed(format!("lines {} to {}: {problem}", start.line + 1, end.line)))
}

/// Reads the answer of a batch: a token over all its ops, or what stands in the way.
fn acknowledged(body: &Bytes, batch: &Batch) -> Attempt {
    let answer: BatchAnswer = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) => {
            return Attempt::Final(Failure::failed(format!("the server's answer is not understood: {error}")));
        }
    };
    if answer.results.len() as u64 != batch.records {
        let (told, sent) = (answer.results.len(), batch.records);
        return Attempt::Final(Failure::failed(format!("the server answered {told} of {sent} ops")));
    }
    let mut token: Option<SessionToken> = None;
    let mut passing: Option<Passing> = None;
    for result in answer.results {
        match (result.timestamp, result.problem) {
            (_, Some(problem)) => match refused(&problem, batch.start, batch.end) {
                Attempt::Passing(Passing { why, is_unknown }) => {
                    let was_unknown = passing.is_some_and(|passing| passing.is_unknown);
                    passing = Some(Passing { why, is_unknown: is_unknown || was_unknown });
                }
                decided => return decided,
            },
            (Some(timestamp), None) => match &mut token {
                None => token = Some(timestamp),
                Some(seen) => {
                    if let Err(other) = seen.merge(&timestamp) {
                        return Attempt::Final(Failure::failed(other.to_string()));
                    }
                }
            },
            (None, None) => {
                return Attempt::Final(Failure::failed(
                    "the server's answer has an op with neither timestamp nor problem",
                ));
            }
        }
    }
    match (passing, token) {
        (Some(passing), _) => Attempt::Passing(passing),
        (None, Some(token)) => Attempt::Acknowledged(token),
        (None, None) => Attempt::Final(Failure::failed("the server's answer is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: u64) -> Batch {
        Batch {
            start: Place { byte: 0, line: 10, ..Place::default() },
            end: Place { byte: 9, line: 12, ..Place::default() },
            records,
            body: Bytes::new(),
            content: 0,
            key_hashes: Vec::new(),
        }
    }

    #[test]
    fn a_batch_counts_only_when_every_op_of_it_does() {
        let judge = |body: &'static str, records| acknowledged(&Bytes::from_static(body.as_bytes()), &batch(records));
        let good = r#"{"results":[{"status":204,"timestamp":"c7f3a1.0:1"},{"status":204,"timestamp":"c7f3a1.3:4"}]}"#;
        match judge(good, 2) {
            Attempt::Acknowledged(token) => assert_eq!(token.to_string(), "c7f3a1.0:1_3:4"),
            _ => panic!("not taken"),
        }
        let partly = r#"{"results":[{"status":204,"timestamp":"c7f3a1.0:1"},
            {"status":503,"problem":{"type":"no-leader","status":503,"detail":"try again"}}]}"#;
        assert!(matches!(judge(partly, 2), Attempt::Passing(Passing { is_unknown: false, .. })));
        let unknown = r#"{"results":[
            {"status":503,"problem":{"type":"outcome-unknown","status":503,"detail":"no answer"}},
            {"status":503,"problem":{"type":"no-leader","status":503,"detail":"try again"}}]}"#;
        assert!(matches!(judge(unknown, 2), Attempt::Passing(Passing { is_unknown: true, .. })));
        let refused = r#"{"results":[{"status":413,"problem":{"type":"too-large","status":413,"detail":"value"}}]}"#;
        match judge(refused, 1) {
            Attempt::Final(failure) => assert!(failure.to_string().contains("lines 11 to 12"), "{failure}"),
            _ => panic!("not final"),
        }
        assert!(matches!(judge(good, 3), Attempt::Final(_)));
        assert!(matches!(judge("{}", 1), Attempt::Final(_)));
    }
}
