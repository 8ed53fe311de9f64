//! Goal: nobody gets the answer to a question that was sent before they asked. Method: a log that holds its answers.

use super::*;
use duramen_common::batch::RecordSet;
use duramen_common::log::{AppendError, ClusterError, FetchError, Fetched};
use duramen_common::protocol::{AppendedRun, BatchId, ClusterInfo, ServingNodeInfo, TailAnswer};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A log whose committed end is a counter, read when the question arrives; answers after a delay.
struct SlowLog {
    end: AtomicU64,
    asked: AtomicU64,
    delay: Duration,
    dead: AtomicBool,
}

impl Log for SlowLog {
    fn append(
        &self,
        _: PartitionId,
        _: RecordSet,
        _: Duration,
    ) -> BoxFuture<'_, Result<Vec<AppendedRun>, AppendError>> {
        async { Err(AppendError::Stopped) }.boxed()
    }

    fn fetch(
        &self,
        partition: PartitionId,
        _: Offset,
        _: Option<BatchId>,
        _: u32,
        _: Duration,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        async move { Err(FetchError::Unavailable { partition, reason: String::new() }) }.boxed()
    }

    fn tail(&self, _: PartitionId, _: Duration) -> BoxFuture<'_, Result<TailAnswer, TailError>> {
        async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.dead.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let committed_end = Offset::new(self.end.load(Ordering::Relaxed));
            tokio::time::sleep(self.delay).await;
            Ok(TailAnswer { committed_end })
        }
        .boxed()
    }

    fn cluster(&self, _: Duration) -> BoxFuture<'_, Result<ClusterInfo, ClusterError>> {
        async { Err(ClusterError::Unavailable { waited_ms: 0, reason: String::new() }) }.boxed()
    }

    fn register(&self, _: ServingNodeInfo, _: Duration) -> BoxFuture<'_, Result<(), ClusterError>> {
        async { Ok(()) }.boxed()
    }
}

fn question(delay_ms: u64, dead: bool) -> (Arc<SlowLog>, Arc<TailQuestion>) {
    let delay = Duration::from_millis(delay_ms);
    let log =
        Arc::new(SlowLog { end: AtomicU64::new(0), asked: AtomicU64::new(0), delay, dead: AtomicBool::new(dead) });
    let question =
        TailQuestion::new(Arc::clone(&log) as Arc<dyn Log>, PartitionId::new(0), Duration::from_millis(1_000));
    (log, question)
}

fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Goal: an answer covers every write acknowledged before its reader asked. Method: writes and readers at random
    /// moments in virtual time against a log that reads its end when a question arrives and answers later.
    #[test]
    fn nobody_gets_the_answer_to_a_question_sent_before_they_asked(
        steps in proptest::collection::vec((0u64..30, any::<bool>()), 1..60),
        delay_ms in 1u64..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (log, question) = question(delay_ms, false);
            let mut readers = Vec::new();
            for (pause_ms, write) in steps {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                if write {
                    log.end.fetch_add(1, Ordering::Relaxed);
                } else {
                    let acknowledged = log.end.load(Ordering::Relaxed);
                    let question = Arc::clone(&question);
                    readers.push(tokio::spawn(async move { (acknowledged, question.ask(in_ms(10_000)).await) }));
                    tokio::task::yield_now().await;
                }
            }
            for reader in readers {
                let (acknowledged, end) = reader.await.unwrap();
                assert!(end.unwrap() >= Offset::new(acknowledged));
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_come_while_one_is_on_its_way_share_the_next() {
    let (log, question) = question(10, false);
    let ask = || {
        let question = Arc::clone(&question);
        tokio::spawn(async move { question.ask(in_ms(1_000)).await })
    };
    let first = ask();
    while log.asked.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let later: Vec<_> = (0..100).map(|_| ask()).collect();
    first.await.unwrap().unwrap();
    for reader in later {
        reader.await.unwrap().unwrap();
    }
    assert_eq!(log.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_holds_nobody_beyond_the_deadline_and_does_not_hold_the_next_question() {
    let (log, question) = question(10, true);
    let start = Instant::now();
    assert!(question.ask(in_ms(50)).await.is_err());
    assert_eq!(start.elapsed(), Duration::from_millis(50));
    log.dead.store(false, Ordering::Relaxed);
    question.ask(in_ms(5_000)).await.unwrap();
    assert_eq!(log.asked.load(Ordering::Relaxed), 2, "the second question was sent after the first one's own timeout");
    assert!(start.elapsed() < Duration::from_millis(1_100));
}

/// Goal: readers outlive an election. Method: a leader that is dead for three questions.
#[tokio::test(start_paused = true)]
async fn a_question_that_fails_is_asked_again_until_the_deadline() {
    let (log, question) = question(10, true);
    let start = Instant::now();
    let patient = {
        let question = Arc::clone(&question);
        tokio::spawn(async move { question.ask(in_ms(5_000)).await })
    };
    while log.asked.load(Ordering::Relaxed) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    log.dead.store(false, Ordering::Relaxed);
    patient.await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_millis(3_300), "{:?}", start.elapsed());
    log.dead.store(true, Ordering::Relaxed);
    let start = Instant::now();
    assert!(matches!(question.ask(in_ms(2_500)).await, Err(TailError::Unavailable { .. })));
    assert_eq!(start.elapsed(), Duration::from_millis(2_500), "and no longer");
}
