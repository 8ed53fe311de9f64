//! Compares one partition's digest at several nodes, asking again until they name one applied end.
//!
//! * Invariant: two digests are compared only at one applied end.
//! * A node that answers an error is asked again too: it may be catching up.

use crate::http::Http;
use duramen_common::PartitionId;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum Comparison {
    /// One applied end, one digest.
    Equal {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        applied_end: u64,
        /// The digest.
        digest: String,
    },
    /// One applied end, several digests.
    Different {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        applied_end: u64,
        /// Each node's digest.
        digests: Vec<(String, String)>,
    },
    /// No common applied end in time.
    NotComparable {
        /// Which partition.
        partition: PartitionId,
        /// What each node said last.
        answers: Vec<(String, String)>,
    },
}

#[derive(Clone, Debug, Deserialize)]
struct DigestJson {
    applied_end: u64,
    digest: String,
}

impl Comparison {
    /// Whether the nodes agree.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        matches!(self, Self::Equal { .. })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |pairs: &[(String, String)]| {
            pairs.iter().map(|(url, what)| format!("{url}: {what}")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Equal { partition, applied_end, digest } => {
                write!(f, "partition {partition}: equal at {applied_end} ({digest})")
            }
            Self::Different { partition, applied_end, digests } => {
                write!(f, "partition {partition}: DIFFERENT at {applied_end}: {}", join(digests))
            }
            Self::NotComparable { partition, answers } => {
                write!(f, "partition {partition}: no common applied end was met: {}", join(answers))
            }
        }
    }
}

/// Asks `urls` until they name one applied end or `patience` is over.
pub async fn compare(http: &Http, urls: &[&str], partition: PartitionId, patience: Duration) -> Comparison {
    let deadline = Instant::now() + patience;
    loop {
        let answers = join_all(urls.iter().map(|url| ask(http, url, partition))).await;
        if let Some(comparison) = judge(partition, urls, &answers) {
            return comparison;
        }
        if Instant::now() >= deadline {
            let told = |answer: &Result<DigestJson, String>| match answer {
                Ok(answer) => format!("applied end {}", answer.applied_end),
                Err(why) => why.clone(),
            };
            let answers = urls.iter().map(|url| (*url).to_owned()).zip(answers.iter().map(told)).collect();
            return Comparison::NotComparable { partition, answers };
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn ask(http: &Http, url: &str, partition: PartitionId) -> Result<DigestJson, String> {
    let answer =
        http.get(&format!("{url}/v1/partitions/{partition}/digest")).await.map_err(|error| error.to_string())?;
    let answer = answer.success().map_err(|problem| problem.to_string())?;
    serde_json::from_slice(&answer.body).map_err(|error| format!("not understood: {error}"))
}

/// A verdict when every node answered at one applied end.
fn judge(partition: PartitionId, urls: &[&str], answers: &[Result<DigestJson, String>]) -> Option<Comparison> {
    let answers: Vec<&DigestJson> = answers.iter().map(|answer| answer.as_ref().ok()).collect::<Option<_>>()?;
    let first = answers.first()?;
    let applied_end = first.applied_end;
    if answers.iter().any(|answer| answer.applied_end != applied_end) {
        return None;
    }
    if answers.iter().all(|answer| answer.digest == first.digest) {
        return Some(Comparison::Equal { partition, applied_end, digest: first.digest.clone() });
    }
    let digests = urls.iter().map(|url| (*url).to_owned()).zip(answers.iter().map(|answer| answer.digest.clone()));
    Some(Comparison::Different { partition, applied_end, digests: digests.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nodes at different applied ends are never called different; at one end they are when they are.
    #[test]
    fn digests_are_compared_only_at_one_applied_end() {
        let partition = PartitionId::new(0);
        let urls = ["http://a", "http://b"];
        let answer = |applied_end, digest: &str| Ok(DigestJson { applied_end, digest: digest.to_owned() });
        let judge = |answers: &[Result<DigestJson, String>]| judge(partition, &urls, answers);
        assert_eq!(judge(&[answer(1, "x"), answer(2, "y")]), None);
        assert_eq!(judge(&[answer(1, "x"), Err("behind".to_owned())]), None);
        assert!(judge(&[answer(2, "x"), answer(2, "x")]).unwrap().is_equal());
        assert!(matches!(judge(&[answer(2, "x"), answer(2, "y")]), Some(Comparison::Different { .. })));
    }
}
