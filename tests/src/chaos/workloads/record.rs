//! What clients asked and were told: a history that many of them write, and the one place where an answer is judged.
//!
//! * An answer means Ok (it says so), Failed (nothing happened: refused before anything was appended), or Unknown. A
//!   timeout is unknown; so is a connection that broke off. Nothing is retried here.
//! * An answer that the API does not have is an objection: a violation by itself.

use crate::checkers::history::{Counts, History, Outcome};
use crate::harness::{Answer, HttpError};
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// A history in the making.
pub struct Record<C, R> {
    history: Mutex<History<C, R>>,
    objections: Mutex<Vec<String>>,
    began: Instant,
}

impl<C, R> Default for Record<C, R> {
    fn default() -> Record<C, R> {
        Record { history: Mutex::default(), objections: Mutex::default(), began: Instant::now() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C, R> Record<C, R> {
    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Notes that a client asks, lets it ask, notes how that ended.
    pub async fn note(&self, process: u64, call: C, asking: impl Future<Output = Outcome<R>>) -> Outcome<R>
    where
        R: Clone,
    {
        let operation = lock(&self.history).invoke(process, self.now_us(), call);
        let outcome = asking.await;
        lock(&self.history).complete(operation, self.now_us(), outcome.clone());
        outcome
    }

    /// Notes something that may not be.
    pub fn object(&self, what: String) {
        lock(&self.objections).push(what);
    }

    /// What may not be, so far.
    pub fn objections(&self) -> Vec<String> {
        lock(&self.objections).clone()
    }

    /// How many operations ended how; those under way count as unknown.
    pub fn counts(&self) -> Counts {
        lock(&self.history).counts()
    }

    /// Every operation, a line each.
    pub fn story(&self) -> String
    where
        C: Debug,
        R: Debug,
    {
        let history = lock(&self.history);
        history.operations().iter().map(|operation| format!("{operation}\n")).collect()
    }

    /// Looks at the history.
    pub fn with_history<T>(&self, look: impl FnOnce(&History<C, R>) -> T) -> T {
        look(&lock(&self.history))
    }

    /// What an answer allows to conclude: one of the `expected` statuses is read by `read`.
    pub fn judge(
        &self,
        asked: Asked,
        expected: &[u16],
        answer: Result<Answer, HttpError>,
        read: impl FnOnce(&Answer) -> R,
    ) -> Outcome<R> {
        match sort(asked, expected, answer) {
            Ok(outcome) => match outcome {
                Outcome::Ok(answer) => Outcome::Ok(read(&answer)),
                Outcome::Failed => Outcome::Failed,
                Outcome::Unknown => Outcome::Unknown,
            },
            Err(objection) => {
                self.object(objection);
                Outcome::Unknown
            }
        }
    }
}

/// What was asked, since different refusals belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To change something.
    Write,
    /// To show something.
    Read,
}

/// Ok, Failed or Unknown; `Err` is an answer that may not be.
fn sort(asked: Asked, expected: &[u16], answer: Result<Answer, HttpError>) -> Result<Outcome<Answer>, String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(HttpError::NotSent { .. }) => return Ok(Outcome::Failed),
        Err(HttpError::Lost { .. }) => return Ok(Outcome::Unknown),
    };
    if expected.contains(&answer.status) {
        return Ok(Outcome::Ok(answer));
    }
    match (asked, answer.status, answer.problem().as_str()) {
        (_, 503, "no-leader") | (_, 429, "overloaded") => Ok(Outcome::Failed),
        (Asked::Read, 503, "behind") | (Asked::Write, 507, "log-full") => Ok(Outcome::Failed),
        (Asked::Write, 503, "outcome-unknown") => Ok(Outcome::Unknown),
        _ => Err(format!("this answer may not be: {answer}")),
    }
}
