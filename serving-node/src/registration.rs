//! Registration: this node's name, told to the log at the start and again every few seconds, so that it stays its own.
//!
//! * Out: problems while another node has the name; the end of this node when it never got the name.
//! * A node that restarts at another address may find its name taken by its former life for some seconds: it waits.
//! * A node that has had its name goes on serving when another one takes it, and says so: its reads are right.

use duramen_common::log::{ClusterError, Log};
use duramen_common::protocol::ServingNodeInfo;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Before another attempt after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often a name is told again; log nodes keep it for three times as long.
const REPEAT_EVERY: Duration = Duration::from_secs(2);
/// How long a node that has never had its name waits for it.
const NAME_PATIENCE: Duration = Duration::from_secs(10);
/// How often a problem that lasts is logged again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Why this node does not have its name; `None` while it has, or does not know.
pub(crate) type NameProblem = Mutex<Option<String>>;

/// Registers again and again. Returns, with a sentence, when the name never became this node's.
pub(crate) async fn stay_registered(log: &dyn Log, info: &ServingNodeInfo, problem: &NameProblem) -> String {
    let mut was_registered = false;
    let mut refused_since: Option<Instant> = None;
    let mut said: Option<Instant> = None;
    loop {
        match log.register(info.clone(), TIMEOUT).await {
            Ok(()) => {
                was_registered = true;
                refused_since = None;
                *problem.lock() = None;
                sleep(REPEAT_EVERY).await;
            }
            Err(error @ ClusterError::NameTaken { .. }) => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                let sentence = format!("{error} (this one is at {})", info.http_addr);
                if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                    said = Some(Instant::now());
                    tracing::error!("{sentence}");
                }
                if !was_registered && since.elapsed() >= NAME_PATIENCE {
                    return sentence;
                }
                *problem.lock() = Some(sentence);
                sleep(REPEAT_EVERY).await;
            }
            Err(error) => {
                tracing::debug!(%error, "not registered");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryLog;
    use duramen_common::HistoryId;
    use std::sync::Arc;

    fn info(http_addr: &str) -> ServingNodeInfo {
        ServingNodeInfo { name: "a".to_owned(), http_addr: http_addr.to_owned() }
    }

    /// Goal: of two nodes of one name the second ends, naming the first; one that had the name goes on and complains.
    #[tokio::test(start_paused = true)]
    async fn a_name_that_another_has_is_waited_for_and_given_up() {
        let log = Arc::new(MemoryLog::new(HistoryId::from_bits(1), 1));
        let problem = NameProblem::default();
        log.set_name_taken(Some("x:1".to_owned()));
        let why = stay_registered(&*log, &info("x:2"), &problem).await;
        assert!(why.contains("x:1") && why.contains("x:2") && why.contains("another name"), "{why}");
        log.set_name_taken(None);
        let staying = async {
            stay_registered(&*log, &info("x:2"), &problem).await;
        };
        let watching = async {
            while problem.lock().is_some() {
                sleep(REPEAT_EVERY).await;
            }
            log.set_name_taken(Some("x:1".to_owned()));
            sleep(NAME_PATIENCE * 3).await;
            assert!(problem.lock().is_some());
            log.set_name_taken(None);
            sleep(REPEAT_EVERY * 2).await;
            assert_eq!(*problem.lock(), None);
        };
        tokio::select! {
            () = staying => panic!("a node that had its name ended"),
            () = watching => {}
        }
    }
}
