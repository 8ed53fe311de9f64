//! [`Client`]: the key-value API, one method a call.
//!
//! * In: arguments. Out: a request (`request`) and a `judge` that says what its answers mean; `call` does the rest.
//! * Stateless but for its connections and the node that answered last: what a caller has seen is in [`super::Session`].
//! * Source: DESIGN §4, D6.

use super::answer::{BatchResults, Digest, Entry, Got, NodeStatus, Swap, TxnOutcome, Written};
use super::call::{Shared, Verdict, judge_json, judge_refusal, judge_with, seen, unexpected};
use super::config::{ClientConfig, ConfigError};
use super::error::{Error, Failure, FailureCause, OutcomeUnknown};
use super::http::{Answer, Wire};
use super::options::{Condition, Guard, Op, ReadOptions, ScanQuery, WatchOptions, WriteOptions};
use super::request::{Request, key_path, with_query};
use super::scan::{Page, Pager};
use super::version::Version;
use super::watch::Watch;
use bytes::Bytes;
use duramen_common::log::Effect;
use duramen_common::seams::Seams;
use duramen_common::{PartitionId, Problem, ProblemKind, SessionToken};
use hyper::header::ETAG;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::time::Instant;

/// A client of a cluster's serving nodes. Cheap to clone; clones share connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use duramen_client::kv::{Client, ClientConfig};
/// let client = Client::new(ClientConfig::new(["http://127.0.0.1:7001", "http://127.0.0.1:7002"]))?;
/// let written = client.put("microsoft", "Satya Nadella").await?;
/// let got = client.get("microsoft").await?;
/// assert_eq!(got.version(), Some(written.version));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) preferred: Arc<AtomicUsize>,
}

#[derive(Serialize)]
struct BatchBody<'a> {
    ops: &'a [Op],
}

#[derive(Serialize)]
struct TxnBody<'a> {
    #[serde(rename = "if")]
    guards: &'a [Guard],
    ops: &'a [Op],
}

#[derive(Deserialize)]
struct TxnAnswer {
    committed: bool,
    timestamp: Version,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<OpAnswer>,
}

#[derive(Deserialize)]
struct OpAnswer {
    timestamp: Option<Version>,
    problem: Option<Problem>,
}

impl Client {
    /// A client with the operating system's randomness. Connects when it is first used.
    pub fn new(config: ClientConfig) -> Result<Client, ConfigError> {
        Client::with_seams(config, Seams::system())
    }

    /// As [`Client::new`], with randomness (for idempotency keys and jitter) from `seams`.
    pub fn with_seams(config: ClientConfig, seams: Seams) -> Result<Client, ConfigError> {
        let urls = config.check()?;
        let shared = Shared { wire: Wire::new(&config), urls, config, seams };
        Ok(Client { shared: Arc::new(shared), preferred: Arc::new(AtomicUsize::new(0)) })
    }

    /// A client over the same connections that asks the base URL of this number first.
    #[must_use]
    pub fn starting_at(&self, url_number: usize) -> Client {
        Client { shared: Arc::clone(&self.shared), preferred: Arc::new(AtomicUsize::new(url_number)) }
    }

    /// A fresh idempotency key, as writes get one when they bring none.
    #[must_use]
    pub fn mint_idempotency_key(&self) -> String {
        self.shared.mint_key()
    }

    /// Reads a key, linearizably.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Got, Error> {
        self.get_with(key, &ReadOptions::default()).await
    }

    /// Reads a key.
    pub async fn get_with(&self, key: impl AsRef<[u8]>, options: &ReadOptions) -> Result<Got, Error> {
        let request = Request::read_with(key_path(key.as_ref())?, options)?;
        self.call(&request, judge_get).await
    }

    /// Sets a key.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Written, Error> {
        self.put_with(key, value, &WriteOptions::default()).await
    }

    /// Sets a key.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let path = key_path(key.as_ref())?;
        let request = Request::write(Method::PUT, path, value.into(), options, || self.shared.mint_key())?;
        self.call(&request, |answer| judge_with(&answer, written)).await
    }

    /// Removes a key; one that is absent too.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.delete_with(key, &WriteOptions::default()).await
    }

    /// Removes a key; one that is absent too, unless a condition says otherwise.
    pub async fn delete_with(&self, key: impl AsRef<[u8]>, options: &WriteOptions) -> Result<Written, Error> {
        let path = key_path(key.as_ref())?;
        let request = Request::write(Method::DELETE, path, Bytes::new(), options, || self.shared.mint_key())?;
        self.call(&request, |answer| judge_with(&answer, written)).await
    }

    /// Sets a key that is at version `expected` (`None`: absent), or answers [`Error::VersionMismatch`].
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<Version>,
        value: impl Into<Bytes>,
    ) -> Result<Written, Error> {
        let condition = expected.map_or(Condition::Absent, Condition::Version);
        self.put_with(key, value, &WriteOptions::when(condition)).await
    }

    /// Sets a key whose value is `expected` (`None`: absent): a linearizable read, then a write guarded by the version
    /// that was read; again when another write came between. `options` carries the deadline for it all.
    pub async fn compare_and_set_value(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        value: impl Into<Bytes>,
        options: &ReadOptions,
    ) -> Result<Swap, Error> {
        let (key, value) = (key.as_ref(), value.into());
        let until = Instant::now() + options.deadline.unwrap_or(self.shared.config.deadline);
        let mut read = ReadOptions { consistency: ReadOptions::linearizable().consistency, ..options.clone() };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            read.deadline = Some(left);
            let got = self.get_with(key, &read).await?;
            if got.value().map(|value| &value[..]) != expected {
                return Ok(Swap::Differs(got));
            }
            let condition = got.version().map_or(Condition::Absent, Condition::Version);
            let left = until.saturating_duration_since(Instant::now());
            // A mismatch is certain, so the next round may be under a new id; an unknown outcome ends the call, after
            // the call itself retried it under the same id and condition.
            match self.put_with(key, value.clone(), &WriteOptions::when(condition).within(left)).await {
                Ok(written) => return Ok(Swap::Swapped(written)),
                Err(Error::VersionMismatch { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes many keys, each op atomic by itself; those of one partition take effect in order.
    pub async fn batch(&self, ops: &[Op]) -> Result<BatchResults, Error> {
        self.batch_with(ops, &WriteOptions::default()).await
    }

    /// Writes many keys. While some ops have no certain result, the whole batch is sent again under the same key, and
    /// what took effect before is only confirmed.
    pub async fn batch_with(&self, ops: &[Op], options: &WriteOptions) -> Result<BatchResults, Error> {
        let body = BatchBody { ops };
        let mint = || self.shared.mint_key();
        let request = Request::write_json("/v1/batch", &body, ops.len(), options, mint)?;
        let mut progress = BatchProgress::new(ops.len());
        let ended = self
            .call(&request, |answer| match judge_json::<BatchAnswer>(&answer) {
                Verdict::Done(batch) => progress.judge(batch, &answer),
                Verdict::Refused(error) => Verdict::Refused(error),
                Verdict::Again { effect, cause } => Verdict::Again { effect, cause },
                Verdict::Strange(cause) => Verdict::Strange(cause),
            })
            .await;
        match ended {
            Err(error) if !progress.answered => Err(error),
            ended => Ok(progress.results(ended.err(), &request)),
        }
    }

    /// Writes keys of one partition, all or nothing, if all guards hold.
    pub async fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<TxnOutcome, Error> {
        self.txn_with(guards, ops, &WriteOptions::default()).await
    }

    /// Writes keys of one partition, all or nothing, if all guards hold.
    pub async fn txn_with(&self, guards: &[Guard], ops: &[Op], options: &WriteOptions) -> Result<TxnOutcome, Error> {
        let count = guards.len().max(ops.len());
        let mint = || self.shared.mint_key();
        let request = Request::write_json("/v1/txn", &TxnBody { guards, ops }, count, options, mint)?;
        let answer: TxnAnswer = self.call(&request, |answer| judge_json(&answer)).await?;
        Ok(TxnOutcome { committed: answer.committed, version: answer.timestamp })
    }

    /// Reads keys in order, page by page; linearizable is so per partition only.
    #[must_use]
    pub fn scan(&self, query: ScanQuery) -> Pager {
        Pager::new(self.clone(), query)
    }

    /// Reads one page; `cursor` is that of the page before.
    pub async fn scan_page(&self, query: &ScanQuery, cursor: Option<&str>) -> Result<Page, Error> {
        let limit = query.limit.map(|limit| limit.to_string()).unwrap_or_default();
        let parameters = [
            ("prefix", &query.prefix[..]),
            ("start", &query.start[..]),
            ("end", &query.end[..]),
            ("limit", limit.as_bytes()),
            ("cursor", cursor.unwrap_or_default().as_bytes()),
        ];
        let request = Request::read_with(with_query("/v1/kv", &parameters), &query.read)?;
        self.call(&request, |answer| judge_json(&answer)).await
    }

    /// Follows changes: each once, none left out.
    pub async fn watch(&self, options: WatchOptions) -> Result<Watch, Error> {
        let from = match options.from {
            Some(token) => token,
            None => self.now().await?,
        };
        Ok(Watch::new(self.clone(), options.prefix, from))
    }

    /// A token beyond every write acknowledged before this call.
    pub async fn now(&self) -> Result<SessionToken, Error> {
        let query = ScanQuery { limit: Some(1), read: ReadOptions::linearizable(), ..ScanQuery::default() };
        Ok(self.scan_page(&query, None).await?.seen)
    }

    /// The view of the serving node that is asked.
    pub async fn status(&self) -> Result<NodeStatus, Error> {
        self.call(&Request::read("/v1/status".to_owned()), |answer| judge_json(&answer)).await
    }

    /// A hash of a partition's live data at the serving node that is asked.
    pub async fn digest(&self, partition: PartitionId) -> Result<Digest, Error> {
        let request = Request::read(format!("/v1/partitions/{partition}/digest"));
        self.call(&request, |answer| judge_json(&answer)).await
    }

    async fn call<T>(&self, request: &Request, judge: impl FnMut(Answer) -> Verdict<T>) -> Result<T, Error> {
        self.shared.call(&self.preferred, request, judge).await
    }
}

fn judge_get(answer: Answer) -> Verdict<Got> {
    if answer.status == StatusCode::NOT_FOUND {
        // Without a position it is the path that was not found.
        return match seen(&answer) {
            Ok(seen) => Verdict::Done(Got { entry: None, seen }),
            Err(_) => judge_refusal(&answer),
        };
    }
    judge_with(&answer, |answer| {
        let version = answer.header(&ETAG).and_then(Version::from_etag).ok_or_else(|| unexpected(answer, "no ETag"))?;
        Ok(Got { entry: Some(Entry { value: answer.body.clone(), version }), seen: seen(answer)? })
    })
}

fn written(answer: &Answer) -> Result<Written, FailureCause> {
    let token = seen(answer)?;
    let timestamp = token.single().ok_or_else(|| unexpected(answer, "a write has one timestamp"))?;
    Ok(Written { version: Version { history: token.history(), timestamp } })
}

/// What is known of each op of a batch, over all attempts.
struct BatchProgress {
    ops: Vec<OpProgress>,
    answered: bool,
}

#[derive(Clone)]
enum OpProgress {
    Open { unknown: bool, last: Option<Problem> },
    Ended(Result<Written, Error>),
}

impl BatchProgress {
    fn new(count: usize) -> BatchProgress {
        BatchProgress { ops: vec![OpProgress::Open { unknown: false, last: None }; count], answered: false }
    }

    /// Takes one answer in. Doubts are kept per op, so that one op's is not every op's.
    fn judge(&mut self, batch: BatchAnswer, answer: &Answer) -> Verdict<()> {
        if batch.results.len() != self.ops.len() {
            return Verdict::Strange(unexpected(answer, "not one result a op"));
        }
        self.answered = true;
        let mut cause = None;
        for (op, result) in self.ops.iter_mut().zip(batch.results) {
            let OpProgress::Open { unknown, .. } = op else { continue };
            match (result.timestamp, result.problem) {
                (Some(version), None) => *op = OpProgress::Ended(Ok(Written { version })),
                (_, Some(problem)) => {
                    let unknown = *unknown || problem.kind == ProblemKind::OutcomeUnknown;
                    let may_pass = problem.kind.is_passing() && problem.kind != ProblemKind::LogFull;
                    if !may_pass && !unknown {
                        *op = OpProgress::Ended(Err(Error::Refused(problem)));
                        continue;
                    }
                    cause = Some(FailureCause::Problem(problem.clone()));
                    *op = OpProgress::Open { unknown, last: Some(problem) };
                }
                (None, None) => return Verdict::Strange(unexpected(answer, "a result without timestamp or problem")),
            }
        }
        cause.map_or(Verdict::Done(()), |cause| Verdict::Again { effect: Effect::None, cause })
    }

    /// Each op's result, when the call as a whole ended with `error`, if it did.
    fn results(self, error: Option<Error>, request: &Request) -> BatchResults {
        let results = self.ops.into_iter().map(|op| match op {
            OpProgress::Ended(result) => result,
            OpProgress::Open { unknown, last } => {
                let error = error.as_ref().expect("a batch's call ends well only when every op has ended");
                Err(open_op_error(error, unknown, last, request))
            }
        });
        BatchResults { results: results.collect() }
    }
}

/// The error of an op that is still open at the end of its batch's call. An attempt that was lost as a whole leaves every
/// open op in doubt; else each op has its own doubt.
fn open_op_error(call: &Error, unknown: bool, last: Option<Problem>, request: &Request) -> Error {
    let (Error::Unavailable { attempts, waited_ms, last: failure }, Some(writing)) = (call, &request.writing) else {
        return call.clone();
    };
    let (attempts, waited_ms) = (*attempts, *waited_ms);
    let cause = last.map_or_else(|| failure.cause.clone(), FailureCause::Problem);
    let last = Box::new(Failure { url: failure.url.clone(), cause });
    if unknown {
        let idempotency_key = writing.idempotency_key.clone();
        Error::OutcomeUnknown(OutcomeUnknown { idempotency_key, condition: None, attempts, waited_ms, last })
    } else {
        Error::Unavailable { attempts, waited_ms, last }
    }
}
