//! Appends: redirects, retries, what is unknown, coalescing, limits.

use super::fake::{Cluster, Do, addr};
use super::*;
use crate::log_client::HistoryPin;
use duramen_common::log::Effect;
use duramen_common::protocol::LogRefusal;
use duramen_common::{HistoryId, NodeId};
use tokio::time::Instant;

fn unknown() -> LogRefusal {
    LogRefusal::OutcomeUnknown { reason: "scripted".to_owned() }
}

fn unavailable() -> LogRefusal {
    LogRefusal::Unavailable { reason: "scripted".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_followed_and_remembered() {
    let cluster = Cluster::start(3, Some(3));
    let client = client(&cluster);
    for number in 0..5 {
        assert_eq!(client.append(P0, set(number), LONG).await.unwrap(), at(number, 1));
    }
    let askers: Vec<u64> = cluster.log.lock().appends.iter().map(|(node, _)| *node).collect();
    assert_eq!(askers, [3; 5], "the tail question found the leader, so that each append went to it alone");
    cluster.set_leader(Some(2));
    assert_eq!(client.append(P0, set(5), LONG).await.unwrap(), at(5, 1));
    assert_eq!(client.append(P0, set(6), LONG).await.unwrap(), at(6, 1));
    let askers: Vec<u64> = cluster.log.lock().appends.iter().skip(5).map(|(node, _)| *node).collect();
    assert_eq!(askers, [3, 2, 2]);
}

/// Method: no leader for two seconds, two nodes that name each other after that, then a leader.
#[tokio::test(start_paused = true)]
async fn an_election_is_waited_for() {
    let cluster = Cluster::start(3, Some(1));
    let client = client(&cluster);
    client.append(P0, set(0), LONG).await.unwrap();
    cluster.set_leader(None);
    let appending = spawn_append(&client, set(1), LONG);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!appending.is_finished());
    cluster.set_leader(Some(2));
    assert_eq!(appending.await.unwrap().unwrap(), at(1, 1));
    let attempts = cluster.log.lock().appends.len();
    assert!(attempts < 100, "{attempts} attempts in two seconds: it does not pause");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    for fault in [Do::AppendAndHang, Do::AppendAndGarble, Do::AppendAndRefuse(unknown()), Do::Hang] {
        let cluster = Cluster::start(3, Some(1));
        let client = client(&cluster);
        cluster.script([Do::Right, fault.clone()]);
        client.append(P0, set(0), LONG).await.unwrap();
        assert_eq!(client.append(P0, set_of(1, 3), LONG).await.unwrap(), at(1, 3), "{fault:?}");
        assert_eq!(cluster.log.lock().ids.len(), 4, "{fault:?}");
    }
}

/// Goal: one unknown attempt makes the whole call unknown, whatever definite refusals follow.
#[tokio::test(start_paused = true)]
async fn what_was_unknown_once_stays_unknown() {
    for fault in [Do::AppendAndHang, Do::AppendAndGarble, Do::AppendAndRefuse(unknown()), Do::Hang] {
        for later in [
            Do::Refuse(unavailable()),
            Do::Refuse(LogRefusal::Overloaded),
            Do::Refuse(LogRefusal::LogFull { node: NodeId::new(1) }),
            Do::Refuse(LogRefusal::Invalid { reason: "scripted".to_owned() }),
            Do::Refuse(LogRefusal::NotLeader { partition: P0, leader: Some(NodeId::new(2)) }),
        ] {
            let cluster = Cluster::start(3, Some(1));
            let client = client(&cluster);
            cluster.script(std::iter::once(fault.clone()).chain(std::iter::repeat_n(later.clone(), 10_000)));
            let error = client.append(P0, set(0), Duration::from_secs(5)).await.unwrap_err();
            assert_eq!(error.effect(), Effect::Unknown, "{fault:?}, then {later:?}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_definite_refusals_make_a_definite_failure() {
    let full = LogRefusal::LogFull { node: NodeId::new(1) };
    let cluster = Cluster::start(1, Some(1));
    let client = client(&cluster);
    cluster.script([Do::Refuse(full), Do::Refuse(LogRefusal::Overloaded)]);
    assert_eq!(client.append(P0, set(0), LONG).await, Err(AppendError::LogFull { node: NodeId::new(1) }));
    assert_eq!(client.append(P0, set(0), LONG).await, Err(AppendError::Overloaded));
    cluster.script(std::iter::repeat_n(Do::Refuse(unavailable()), 10_000));
    let started = Instant::now();
    let error = client.append(P0, set(0), Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(error, AppendError::NoLeader { .. }), "{error:?}");
    assert_eq!(started.elapsed().as_millis(), 3000);
    // Nobody there at all.
    cluster.network.crash(&addr(1));
    let error = client.append(P0, set(0), Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(error, AppendError::NoLeader { .. }), "{error:?}");
    assert!(cluster.log.lock().ids.is_empty());
}

/// Goal: a caller has its answer at its deadline, under way or not, and nothing of it is sent later.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_and_nothing_is_sent_behind_it() {
    let cluster = Cluster::start(1, Some(1));
    let client = client(&cluster);
    client.append(P0, set(0), LONG).await.unwrap();
    cluster.script([Do::Hang, Do::Hang]);
    let started = Instant::now();
    let mut calls = Vec::new();
    for number in 1..=2 {
        calls.push(spawn_append(&client, set(number), Duration::from_millis(200)));
        let log = Arc::clone(&cluster.log);
        eventually("it is under way", move || log.lock().appends.len() == 1 + number as usize).await;
    }
    // Both places are taken, so that this one is never sent.
    let waiting = spawn_append(&client, set(3), Duration::from_millis(100));
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, AppendError::NoLeader { .. }), "{error:?}");
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown, "{error}");
    }
    assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let log = cluster.log.lock();
    assert_eq!(log.appends.len(), 3, "something was sent behind its deadline");
}

/// Method: the first append is held at the node while 500 others come.
#[tokio::test(start_paused = true)]
async fn what_waits_becomes_one_request_and_each_caller_gets_its_own_offsets() {
    let cluster = Cluster::start(1, Some(1));
    let client = client_with(&cluster, |config| config.appends_in_flight_max = 1);
    client.append(P0, set(9_000_000), LONG).await.unwrap();
    cluster.script([Do::AtGate]);
    let first = spawn_append(&client, set(0), LONG);
    let log = Arc::clone(&cluster.log);
    eventually("the first is under way", move || log.lock().appends.len() == 2).await;
    let calls: Vec<Appending> =
        (1..=500).map(|number| spawn_append(&client, set_of(number, 1 + number % 3), LONG)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    cluster.gate.add_permits(1);
    first.await.unwrap().unwrap();
    for (number, call) in (1u64..).zip(calls) {
        let runs = call.await.unwrap().unwrap();
        let [AppendedRun::At { first_offset, count }] = runs[..] else { panic!("{runs:?}") };
        assert_eq!(u64::from(count), 1 + number % 3);
        for at in 0..u64::from(count) {
            let offset = first_offset.get() + at;
            assert_eq!(cluster.log.lock().ids[offset as usize], id(number).plus(at));
        }
    }
    assert_eq!(cluster.log.lock().appends.len(), 3, "500 sets were not coalesced into one request");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_bounded_in_bytes() {
    let cluster = Cluster::start(1, Some(1));
    let client = client_with(&cluster, |config| {
        config.appends_in_flight_max = 1;
        config.append_bytes_max = 10_000;
    });
    client.append(P0, set(0), LONG).await.unwrap();
    let record = Record::event(None, Bytes::from(vec![0; 4_000]));
    let large = Record::event(None, Bytes::from(vec![0; 40_000]));
    let calls: Vec<Appending> = (1..=21)
        .map(|number| {
            let record = if number == 11 { &large } else { &record };
            spawn_append(&client, RecordSet::of(id(number), record).unwrap(), LONG)
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let log = cluster.log.lock();
    assert!(log.appends.iter().all(|(_, request)| request.count <= 2), "over the bytes");
    assert_eq!(log.ids.len(), 22);
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_refuses_at_once_and_takes_again_later() {
    let cluster = Cluster::start(1, Some(1));
    let client = client_with(&cluster, |config| {
        config.inbox_sets_max = 10;
        config.appends_in_flight_max = 1;
    });
    client.append(P0, set(0), LONG).await.unwrap();
    cluster.script([Do::AtGate]);
    let calls: Vec<Appending> = (1..=30).map(|number| spawn_append(&client, set(number), LONG)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = calls.iter().filter(|call| call.is_finished()).count();
    assert_eq!(refused, 20);
    cluster.gate.add_permits(1);
    for call in calls {
        assert!(matches!(call.await.unwrap(), Ok(_) | Err(AppendError::Overloaded)));
    }
    assert_eq!(cluster.log.lock().ids.len(), 11);
    client.append(P0, set(31), LONG).await.unwrap();

    let client = client_with(&cluster, |config| config.inbox_bytes_max = 50_000);
    let large = |number| RecordSet::of(id(number), &Record::event(None, Bytes::from(vec![0; 60_000]))).unwrap();
    cluster.script([Do::AtGate]);
    let alone = spawn_append(&client, large(40), LONG);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(client.append(P0, large(41), LONG).await, Err(AppendError::Overloaded));
    cluster.gate.add_permits(1);
    alone.await.unwrap().unwrap();
}

/// Goal: the log can tell how old a retry is. Method: a set is lost at first; the log grows; then it is sent again.
#[tokio::test(start_paused = true)]
async fn the_known_end_is_that_of_the_first_sending() {
    let cluster = Cluster::start(1, Some(1));
    for number in 0..5 {
        let request = fake_request(1000 + number);
        cluster.log.lock().append(&request, set(1000 + number).records);
    }
    let client = client(&cluster);
    cluster.script([Do::Hang]);
    let retried = spawn_append(&client, set(0), LONG);
    let log = Arc::clone(&cluster.log);
    eventually("it is under way", move || log.lock().appends.len() == 1).await;
    for number in 1..=3 {
        client.append(P0, set(number), LONG).await.unwrap();
    }
    retried.await.unwrap().unwrap();
    let log = cluster.log.lock();
    let known_of = |number| -> Vec<u64> {
        let carries = |request: &&(u64, _)| carries(&request.1, id(number));
        log.appends.iter().filter(carries).map(|(_, request)| request.known_end.get()).collect()
    };
    assert_eq!(known_of(0), [5, 5], "the retry carries what was known when it was first sent");
    assert_eq!(
        (known_of(1), known_of(3)),
        (vec![5], vec![7]),
        "later sets carry what their predecessors' answers said"
    );
    assert_eq!(log.tails, 1, "the log's end is asked for once");
}

fn carries(request: &duramen_common::protocol::AppendRequest, wanted: RequestId) -> bool {
    request.ids.iter().any(|run| {
        let distance = wanted.bits().wrapping_sub(run.base.bits());
        distance < u128::from(run.count)
    })
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_came_too_late_is_unknown_at_once() {
    let cluster = Cluster::start(1, Some(1));
    let client = client(&cluster);
    cluster.script([Do::Hang, Do::Refuse(LogRefusal::TooLate)]);
    let error = client.append(P0, set(0), LONG).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(cluster.log.lock().appends.len(), 2, "nothing is sent after the log can no longer tell");
}

/// Goal: a client that was idle while others wrote more than the window is not shut out by the end it once knew.
#[tokio::test(start_paused = true)]
async fn a_first_attempt_under_an_old_end_asks_for_the_end_again() {
    let cluster = Cluster::start(1, Some(1));
    let client = client(&cluster);
    client.append(P0, set(0), LONG).await.unwrap();
    cluster.script([Do::Refuse(LogRefusal::TooLate)]);
    client.append(P0, set(1), LONG).await.unwrap();
    let log = cluster.log.lock();
    assert_eq!((log.appends.len(), log.tails), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_bad_set_does_not_harm_its_company() {
    let cluster = Cluster::start(1, Some(1));
    cluster.log.lock().poison = Some(Bytes::from_static(b"poison"));
    let client = client_with(&cluster, |config| config.appends_in_flight_max = 1);
    client.append(P0, set(0), LONG).await.unwrap();
    cluster.script([Do::AtGate]);
    let first = spawn_append(&client, set(1), LONG);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let calls: Vec<Appending> = (2..=6).map(|number| spawn_append(&client, set(number), LONG)).collect();
    let bad = RecordSet::of(id(7), &Record::event(None, Bytes::from_static(b"poison"))).unwrap();
    let bad = spawn_append(&client, bad, LONG);
    tokio::time::sleep(Duration::from_millis(1)).await;
    cluster.gate.add_permits(1);
    first.await.unwrap().unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(matches!(bad.await.unwrap(), Err(AppendError::Invalid { .. })));
    assert_eq!(cluster.log.lock().ids.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn what_no_log_takes_is_refused_before_it_is_sent() {
    let cluster = Cluster::start(1, Some(1));
    let client = client(&cluster);
    let mut wrong = set_of(1, 3);
    wrong.count = 2;
    assert!(matches!(client.append(P0, wrong, LONG).await, Err(AppendError::Invalid { .. })));
    let large = RecordSet { records: Bytes::from(vec![0; 9 << 20]), ..set(1) };
    assert!(matches!(client.append(P0, large, LONG).await, Err(AppendError::TooLarge { .. })));
    let started = Instant::now();
    let nowhere = client.append(PartitionId::new(5), set(1), LONG).await;
    assert!(matches!(nowhere, Err(AppendError::Invalid { .. })), "{nowhere:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(cluster.log.lock().appends.is_empty());
}

/// Goal: a client never writes into another cluster that took over an address.
#[tokio::test(start_paused = true)]
async fn nothing_is_appended_to_another_history() {
    let cluster = Cluster::start(1, Some(1));
    let ours = HistoryPin::fixed(HistoryId::from_bits(8));
    let client = client_with(&cluster, |config| config.history = ours);
    let error = client.append(P0, set(0), Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(error, AppendError::NoLeader { .. }), "{error:?}");
    let log = cluster.log.lock();
    assert!(log.appends.is_empty() && log.tails == 0);
}

/// Goal: dropping the client ends its tasks, so that nothing is left on the runtime.
#[tokio::test(start_paused = true)]
async fn a_dropped_client_leaves_no_task() {
    let cluster = Cluster::start(1, Some(1));
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let client = client(&cluster);
    client.append(P0, set(0), LONG).await.unwrap();
    assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() > before);
    drop(client);
    let metrics = tokio::runtime::Handle::current().metrics();
    eventually("its tasks end", move || metrics.num_alive_tasks() <= before).await;
}
