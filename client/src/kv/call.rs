//! One call: attempts at one node after another until there is a certain answer or the deadline passes.
//!
//! ```text
//! request ──► attempt ──► judge ─┬─ Done / Refused ──────────────► result
//!    ▲                           └─ Again{effect} ─► rest, next node ─┐
//!    └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! * Invariant: `unknown` is set by any attempt of a write without a certain answer, and never taken back; from then on
//!   only an answer about the same idempotency key ([`Verdict::Done`], 412) is a result.
//! * Deliberately absent: what single calls' answers mean (their `judge` closures say).
//! * Source: DESIGN D14.

use super::config::{ClientConfig, WRITE_DEADLINE_MAX};
use super::error::{Error, Failure, FailureCause, OutcomeUnknown};
use super::http::{Answer, Wire};
use super::request::{LOG_TIMESTAMP, Request};
use super::retry::{Rotation, retry_after, share};
use super::version::Version;
use duramen_common::log::Effect;
use duramen_common::seams::Seams;
use duramen_common::{Problem, ProblemKind, SessionToken};
use hyper::header::{ETAG, RETRY_AFTER};
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

/// What an answer means for its call.
pub(super) enum Verdict<T> {
    /// The result.
    Done(T),
    /// A certain refusal: asking again would not help.
    Refused(Error),
    /// Not the end: ask again, here or elsewhere. `effect` is what this attempt may have done.
    Again { effect: Effect, cause: FailureCause },
    /// Not an answer of the contract: nobody knows what was done, and asking again would not help.
    Strange(FailureCause),
}

/// What clones of a client share.
pub(super) struct Shared {
    pub wire: Wire,
    pub urls: Vec<String>,
    pub config: ClientConfig,
    pub seams: Seams,
}

impl Shared {
    /// A fresh idempotency key.
    pub(super) fn mint_key(&self) -> String {
        format!("{:032x}", self.seams.entropy.bits())
    }

    /// The nodes of one call, beginning with the preferred one.
    pub(super) fn rotation(&self, preferred: &AtomicUsize, now: Instant) -> Rotation {
        let first = preferred.load(Ordering::Relaxed);
        Rotation::new(self.urls.len(), first, now, self.config.backoff, self.config.backoff_max)
    }

    /// Makes the call; `judge` says what an answer means.
    pub(super) async fn call<T>(
        &self,
        preferred: &AtomicUsize,
        request: &Request,
        mut judge: impl FnMut(Answer) -> Verdict<T>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let mut deadline = request.deadline.unwrap_or(self.config.deadline);
        if request.writing.is_some() {
            deadline = deadline.min(WRITE_DEADLINE_MAX);
        }
        let until = begun + deadline;
        let mut rotation = self.rotation(preferred, begun);
        let mut ending = Ending { attempts: 0, unknown: false, last: None };
        while ending.attempts < self.config.attempts_max {
            let (node, when) = rotation.next();
            if when >= until {
                break;
            }
            tokio::time::sleep_until(when).await;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let url = &self.urls[node];
            let share = share(left, rotation.fresh());
            ending.attempts += 1;
            let mut asked = None;
            let verdict = match self.wire.attempt(url, request, share).await {
                Ok(answer) => {
                    asked = retry_after(answer.header(&RETRY_AFTER));
                    judge(answer)
                }
                Err(cause @ FailureCause::Unexpected(_)) => Verdict::Strange(cause),
                Err(cause) => Verdict::Again { effect: effect_of(&cause), cause },
            };
            match verdict {
                Verdict::Done(result) => {
                    preferred.store(node, Ordering::Relaxed);
                    return Ok(result);
                }
                Verdict::Refused(error) => {
                    if ending.settles(&error) {
                        return Err(error);
                    }
                    let cause = error
                        .problem()
                        .cloned()
                        .map_or_else(|| FailureCause::Unexpected(error.to_string()), FailureCause::Problem);
                    ending.last = Some(Box::new(Failure { url: url.clone(), cause }));
                    break;
                }
                Verdict::Strange(cause) => {
                    ending.unknown |= request.writing.is_some();
                    ending.last = Some(Box::new(Failure { url: url.clone(), cause }));
                    break;
                }
                Verdict::Again { effect, cause } => {
                    tracing::debug!(%url, %cause, "attempt {} without a result", ending.attempts);
                    ending.unknown |= request.writing.is_some() && effect == Effect::Unknown;
                    ending.last = Some(Box::new(Failure { url: url.clone(), cause }));
                    rotation.failed(node, Instant::now(), asked, self.seams.entropy.bits());
                }
            }
        }
        Err(ending.error(request, begun))
    }
}

/// What a call that has no result yet knows.
struct Ending {
    attempts: u32,
    unknown: bool,
    last: Option<Box<Failure>>,
}

impl Ending {
    /// Whether a refusal is the call's result: always when nothing is in doubt; else only the log's own verdict on this
    /// idempotency key.
    fn settles(&self, error: &Error) -> bool {
        !self.unknown || matches!(error, Error::VersionMismatch { .. })
    }

    fn error(self, request: &Request, begun: Instant) -> Error {
        let waited_ms = begun.elapsed().as_millis() as u64;
        let Ending { attempts, unknown, last } = self;
        let last = last.unwrap_or_else(|| {
            let cause = FailureCause::NotSent("the deadline had passed".to_owned());
            Box::new(Failure { url: request.target.clone(), cause })
        });
        match &request.writing {
            Some(writing) if unknown => Error::OutcomeUnknown(OutcomeUnknown {
                idempotency_key: writing.idempotency_key.clone(),
                condition: writing.condition,
                attempts,
                waited_ms,
                last,
            }),
            _ => match last.cause {
                FailureCause::Unexpected(_) => Error::Unexpected(last),
                _ => Error::Unavailable { attempts, waited_ms, last },
            },
        }
    }
}

/// What an attempt that met this may have done.
const fn effect_of(cause: &FailureCause) -> Effect {
    match cause {
        FailureCause::NotSent(_) => Effect::None,
        FailureCause::Problem(problem) => match problem.kind {
            ProblemKind::OutcomeUnknown => Effect::Unknown,
            _ => Effect::None,
        },
        FailureCause::Lost(_) | FailureCause::TimedOut(_) | FailureCause::Unexpected(_) => Effect::Unknown,
    }
}

/// What an answer without success means, whatever the call.
pub(super) fn judge_refusal<T>(answer: &Answer) -> Verdict<T> {
    let problem = match serde_json::from_slice::<Problem>(&answer.body) {
        Ok(problem) if problem.status == answer.status.as_u16() => problem,
        _ => {
            let cause = unexpected(answer, "no problem of the contract");
            // A server error may pass (a proxy in between, a node going down); anything else is the wrong server.
            if answer.status.is_server_error() {
                return Verdict::Again { effect: Effect::Unknown, cause };
            }
            return Verdict::Strange(cause);
        }
    };
    match problem.kind {
        ProblemKind::VersionMismatch => Verdict::Refused(Error::VersionMismatch {
            current: answer.header(&ETAG).and_then(Version::from_etag),
            seen: seen(answer).ok(),
        }),
        ProblemKind::Overloaded | ProblemKind::Behind | ProblemKind::NoLeader | ProblemKind::OutcomeUnknown => {
            let cause = FailureCause::Problem(problem);
            Verdict::Again { effect: effect_of(&cause), cause }
        }
        _ => Verdict::Refused(Error::Refused(problem)),
    }
}

/// The token of an answer's `Log-Timestamp`.
pub(super) fn seen(answer: &Answer) -> Result<SessionToken, FailureCause> {
    let token = answer.header(&LOG_TIMESTAMP).and_then(|text| text.parse().ok());
    token.ok_or_else(|| unexpected(answer, "no Log-Timestamp"))
}

/// An answer that is not of the contract.
pub(super) fn unexpected(answer: &Answer, what: &str) -> FailureCause {
    let start = answer.body.get(..answer.body.len().min(200)).unwrap_or_default();
    FailureCause::Unexpected(format!("{what}: {} {}", answer.status, String::from_utf8_lossy(start)))
}

/// A refusal, or a result as `read` takes it from the answer.
pub(super) fn judge_with<T>(answer: &Answer, read: impl FnOnce(&Answer) -> Result<T, FailureCause>) -> Verdict<T> {
    if !answer.status.is_success() {
        return judge_refusal(answer);
    }
    match read(answer) {
        Ok(result) => Verdict::Done(result),
        Err(cause) => Verdict::Strange(cause),
    }
}

/// As [`judge_with`], for answers that are JSON.
pub(super) fn judge_json<T: DeserializeOwned>(answer: &Answer) -> Verdict<T> {
    judge_with(answer, |answer| {
        serde_json::from_slice(&answer.body).map_err(|error| unexpected(answer, &error.to_string()))
    })
}
