//! Writers that write while things break; `checkers::acknowledged` judges what they were told.
//!
//! * Every write has a key of its own and a value that nobody else writes.
//! * Unknown outcomes are sometimes retried under the same idempotency key, at any node: still one write.

use super::http::{Http, HttpError, kv, path_of};
use super::rng::Rng;
use crate::checkers::acknowledged::{self, Ledger, Shown, Told};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Running writers.
pub struct Writers {
    tasks: JoinSet<Ledger>,
    stop: Arc<AtomicBool>,
    /// Counted up with each acknowledgement.
    pub acknowledged: Arc<AtomicU64>,
}

impl Writers {
    /// Starts `count` writers, spread over the nodes.
    #[must_use]
    pub fn start(count: usize, nodes: &[Http]) -> Writers {
        Writers::start_named("w", count, nodes)
    }

    /// The same, with keys that start with `prefix`, for writers that come after others.
    #[must_use]
    pub fn start_named(prefix: &str, count: usize, nodes: &[Http]) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for writer in 0..count {
            let (nodes, stop, acknowledged) = (nodes.to_vec(), Arc::clone(&stop), Arc::clone(&acknowledged));
            let prefix = prefix.to_owned();
            tasks.spawn(async move {
                let mut rng = Rng::of_run(writer as u64);
                let mut told = HashMap::new();
                for number in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("{prefix}{writer}/{number}");
                    let value = format!("{key}={:x}", rng.bits());
                    let outcome = write(&nodes, writer, &key, &value, &mut rng).await;
                    if matches!(outcome, Told::Acknowledged(_)) {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    told.insert(key, (value, outcome));
                }
                told
            });
        }
        Writers { tasks, stop, acknowledged }
    }

    /// Acknowledgements so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes have been acknowledged from now on.
    pub async fn wait_for_more(&self, more: u64, limit: Duration) {
        let wanted = self.count() + more;
        super::wait::until(&format!("{more} more acknowledged writes"), limit, || async {
            let count = self.count();
            if count >= wanted { Ok(()) } else { Err(format!("{} missing", wanted - count)) }
        })
        .await;
    }

    /// Lets every writer finish its write and gives what they were told.
    pub async fn finish(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = HashMap::new();
        while let Some(writer) = self.tasks.join_next().await {
            told.extend(writer.expect("a writer panicked"));
        }
        told
    }
}

/// One write. Half of the unknown outcomes are made sure of, under the same idempotency key, at any node.
async fn write(nodes: &[Http], writer: usize, key: &str, value: &str, rng: &mut Rng) -> Told {
    let insists = rng.below(2) == 1;
    let idempotency_key = format!("{key}#{:x}", rng.bits());
    let attempt = async |number: usize| {
        let http = &nodes[(writer + number) % nodes.len()];
        let call = http.put(kv(key), value.to_owned()).header("idempotency-key", &idempotency_key).wait(2);
        judge(call.send().await)
    };
    let first = attempt(0).await;
    if matches!(first, Told::Refused(_)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if !insists || !matches!(first, Told::Unknown(_)) {
        return first;
    }
    for number in 1..20 {
        // A refusal of a repeat says nothing of the first attempt.
        if let Told::Acknowledged(version) = attempt(number).await {
            return Told::Acknowledged(version);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first
}

/// What an answer to a write allows to conclude.
#[must_use]
pub fn judge(answer: Result<super::http::Answer, HttpError>) -> Told {
    match answer {
        Ok(answer) if answer.status == 204 => Told::Acknowledged(answer.version().to_string()),
        Ok(answer) => match (answer.status, answer.problem().as_str()) {
            (503, "outcome-unknown") => Told::Unknown(answer.to_string()),
            (503, "no-leader") | (429, "overloaded") | (507, "log-full") => Told::Refused(answer.to_string()),
            _ => panic!("a write may not be answered like this: {answer}"),
        },
        Err(error @ HttpError::NotSent { .. }) => Told::Refused(error.to_string()),
        Err(error @ HttpError::Lost { .. }) => Told::Unknown(error.to_string()),
    }
}

/// Every live key under a prefix with value and version, by linearizable scans page by page.
pub async fn everything(http: &Http, prefix: &str) -> Shown {
    let mut found = HashMap::new();
    let mut cursor = String::new();
    loop {
        let page = http.get(format!("/v1/kv?prefix={prefix}&limit=1000{cursor}")).expect(200).await.json();
        for item in page["items"].as_array().expect("items is a list") {
            let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
            let before = found.insert(text("key"), (text("value"), text("version")));
            assert!(before.is_none(), "a scan gave {} twice", text("key"));
        }
        match &page["cursor"] {
            Value::String(next) => cursor = format!("&cursor={}", path_of(next.as_bytes())),
            _ => return found,
        }
    }
}

/// Holds what was told against what is found at a node. Panics with the lies.
pub fn check(told: &Ledger, found: &Shown, node: &str) {
    acknowledged::check(told, found).require(node);
}
