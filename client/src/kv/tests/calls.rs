//! Calls: keys, failover, doubt, sessions.

use super::server::{Reply, Server};
use crate::kv::{
    Client, ClientConfig, Condition, Consistency, Error, FailureCause, Op, ReadOptions, ScanQuery, Session, Swap,
    Version, WriteOptions,
};
use duramen_common::ProblemKind;
use duramen_common::log::Effect;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn client(urls: &[&str]) -> Client {
    let mut config = ClientConfig::new(urls.iter().copied());
    config.backoff = Duration::from_millis(1);
    config.deadline = 10 * SECOND;
    Client::new(config).unwrap()
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// Goal: a write goes on under one key over lost connections, unknown outcomes and other nodes, and one certain answer
/// ends the doubt.
#[tokio::test]
async fn every_attempt_of_a_write_carries_the_same_key() {
    let cut = || Reply::Cut(String::new());
    let one = Server::replying(vec![cut(), Reply::problem(503, "no-leader"), Reply::written("c7f3a1.0:7")]).await;
    let other = Server::replying(vec![Reply::problem(503, "outcome-unknown"), Reply::Cut("HTTP/1.1 20".into())]).await;
    let written = client(&[&one.url, &other.url]).put("a", "v").await.unwrap();
    assert_eq!(written.version, version("c7f3a1.0:7"));
    let requests = [one.received(), other.received()].concat();
    assert!(requests.len() >= 4, "{requests:?}");
    let key = requests[0].header("idempotency-key").unwrap();
    assert_eq!(key.len(), 32);
    assert!(requests.iter().all(|request| request.header("idempotency-key") == Some(key)), "{requests:?}");
    assert!(requests.iter().all(|request| request.body == b"v" && request.method == "PUT"));
}

#[tokio::test]
async fn two_writes_have_two_keys() {
    let server = Server::replying(vec![Reply::written("c7f3a1.0:7")]).await;
    let client = client(&[&server.url]);
    client.put("a", "v").await.unwrap();
    client.delete("a").await.unwrap();
    let requests = server.received();
    assert_ne!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
}

/// Goal: what is unknown stays unknown, whatever later attempts refuse. Method: one attempt in doubt, then refusals that
/// are certain only about themselves.
#[tokio::test]
async fn a_write_in_doubt_stays_in_doubt_until_its_deadline() {
    for doubt in [
        Reply::problem(503, "outcome-unknown"),
        Reply::Cut(String::new()),
        Reply::Whole(502, vec![], "proxy".into()),
        Reply::Whole(204, vec![], String::new()),
        Reply::Hang,
    ] {
        for after in [Reply::problem(503, "no-leader"), Reply::problem(400, "bad-request")] {
            let server = Server::replying(vec![doubt.clone(), after]).await;
            let options = WriteOptions::when(Condition::Exists).within(SECOND / 4);
            let error = client(&[&server.url]).put_with("a", "v", &options).await.unwrap_err();
            let Error::OutcomeUnknown(unknown) = &error else { panic!("{doubt:?}: {error:?}") };
            assert_eq!(error.effect(), Effect::Unknown);
            assert_eq!(unknown.condition, Some(Condition::Exists));
            assert_eq!(server.received()[0].header("idempotency-key"), Some(unknown.idempotency_key.as_str()));
        }
    }
}

#[tokio::test]
async fn a_mismatch_after_a_doubt_is_the_first_outcome() {
    let mismatch = Reply::problem(412, "version-mismatch").with("ETag", "\"c7f3a1.0:9\"");
    let server = Server::replying(vec![Reply::Cut(String::new()), mismatch.with("Log-Timestamp", "c7f3a1.0:11")]).await;
    let error = client(&[&server.url]).compare_and_set("a", Some(version("c7f3a1.0:3")), "v").await.unwrap_err();
    let Error::VersionMismatch { current, seen } = error else { panic!("{error:?}") };
    assert_eq!(current, Some(version("c7f3a1.0:9")));
    assert_eq!(seen.unwrap().to_string(), "c7f3a1.0:11");
    assert_eq!(server.received()[1].header("if-match"), Some("\"c7f3a1.0:3\""));
}

/// Goal: a write that was certainly never appended is no doubt.
#[tokio::test]
async fn refusals_before_any_append_leave_no_doubt() {
    let dead = Server::dead_url().await;
    let server = Server::replying(vec![Reply::problem(503, "no-leader"), Reply::problem(429, "overloaded")]).await;
    let options = WriteOptions::default().within(SECOND / 4);
    let error = client(&[&dead, &server.url]).put_with("a", "v", &options).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { attempts: 2.., .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::None);
}

#[tokio::test]
async fn a_call_fails_over_from_a_dead_node_and_stays_where_it_was_answered() {
    let dead = Server::dead_url().await;
    let behind = Server::replying(vec![Reply::problem(503, "behind")]).await;
    let server = Server::replying(vec![Reply::value("v", "c7f3a1.0:7")]).await;
    let client = client(&[&dead, &behind.url, &server.url]);
    for _ in 0..3 {
        let got = client.get("a").await.unwrap();
        assert_eq!(got.value().unwrap(), "v");
        assert_eq!(got.version(), Some(version("c7f3a1.0:7")));
    }
    assert_eq!(behind.received().len(), 1);
    assert_eq!(server.received().len(), 3);
    client.starting_at(1).get("a").await.unwrap();
    assert_eq!(behind.received().len(), 2);
}

#[tokio::test]
async fn a_node_that_hangs_leaves_time_for_another() {
    let hanging = Server::replying(vec![Reply::Hang]).await;
    let server = Server::replying(vec![Reply::value("v", "c7f3a1.0:7")]).await;
    let read = ReadOptions::default().within(3 * SECOND);
    let got = client(&[&hanging.url, &server.url]).get_with("a", &read).await.unwrap();
    assert_eq!(got.value().unwrap(), "v");
    assert_eq!(hanging.received()[0].header("prefer"), Some("wait=1"));
}

#[tokio::test]
async fn retry_after_is_heeded_and_not_beyond_the_deadline() {
    let wait = Reply::problem(429, "overloaded").with("Retry-After", "1");
    let server = Server::replying(vec![wait.clone(), Reply::value("v", "c7f3a1.0:7")]).await;
    let begun = tokio::time::Instant::now();
    client(&[&server.url]).get("a").await.unwrap();
    assert!(begun.elapsed() >= SECOND);
    let wait_long = Reply::problem(429, "overloaded").with("Retry-After", "30");
    let server = Server::replying(vec![wait_long]).await;
    let begun = tokio::time::Instant::now();
    let error = client(&[&server.url]).get_with("a", &ReadOptions::default().within(30 * SECOND)).await.unwrap_err();
    assert!(error.is_problem(ProblemKind::Overloaded), "{error:?}");
    assert!(begun.elapsed() < 30 * SECOND, "it slept although no attempt was left");
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn a_certain_refusal_is_not_repeated() {
    for (status, kind) in [(400, "bad-token"), (409, "other-history"), (413, "too-large"), (507, "log-full")] {
        let server = Server::replying(vec![Reply::problem(status, kind)]).await;
        let error = client(&[&server.url]).put("a", "v").await.unwrap_err();
        assert!(matches!(&error, Error::Refused(problem) if problem.kind.name() == kind), "{error:?}");
        assert_eq!(error.effect(), Effect::None);
        assert_eq!(server.received().len(), 1);
    }
}

#[tokio::test]
async fn absent_is_only_what_the_server_says_is_absent() {
    let absent = Reply::problem(404, "not-found").with("Log-Timestamp", "c7f3a1.0:7");
    let server =
        Server::replying(vec![absent, Reply::problem(404, "not-found"), Reply::Whole(404, vec![], "nginx".into())])
            .await;
    let client = client(&[&server.url]);
    let got = client.get("a").await.unwrap();
    assert_eq!((got.entry, got.seen.to_string()), (None, "c7f3a1.0:7".to_owned()));
    assert!(matches!(client.get("a").await, Err(Error::Refused(_))));
    assert!(matches!(client.get("a").await, Err(Error::Unexpected(_))));
    assert_eq!(server.received().len(), 3);
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused() {
    let server = Server::replying(vec![Reply::value(&"v".repeat(1001), "c7f3a1.0:7")]).await;
    let mut config = ClientConfig::new([&server.url]);
    config.answer_bytes_max = 1000;
    let error = Client::new(config).unwrap().get("a").await.unwrap_err();
    assert!(matches!(&error, Error::Unexpected(failure) if matches!(failure.cause, FailureCause::Unexpected(_))));
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn options_become_parameters_and_headers() {
    let server = Server::replying(vec![Reply::value("v", "c7f3a1.0:7")]).await;
    let client = client(&[&server.url]);
    let read = ReadOptions {
        consistency: Some(Consistency::Session),
        after: "c7f3a1.0:7".parse().ok(),
        ..ReadOptions::default()
    };
    client.get_with("a/b %00", &read.within(7 * SECOND)).await.unwrap();
    let request = &server.received()[0];
    assert_eq!(request.target, "/v1/kv/a%2Fb%20%2500?consistency=session");
    assert_eq!(request.header("read-after"), Some("c7f3a1.0:7"));
    assert_eq!(request.header("prefer").map(str::len), Some("wait=6".len()));
    assert_eq!(request.header("idempotency-key"), None);
}

/// Goal: compare-and-set by value goes on under a new key after a certain mismatch, with the version it read again.
#[tokio::test]
async fn compare_and_set_by_value_reads_again_after_a_mismatch() {
    let server = Server::start(|number, request| match (number, request.method.as_str()) {
        (0, "GET") => Reply::value("1", "c7f3a1.0:1"),
        (1, "PUT") => Reply::problem(412, "version-mismatch"),
        (2, "GET") => Reply::value("1", "c7f3a1.0:5"),
        (3, "PUT") => Reply::written("c7f3a1.0:6"),
        _ => Reply::value("2", "c7f3a1.0:6"),
    })
    .await;
    let client = client(&[&server.url]);
    let swap = client.compare_and_set_value("a", Some(b"1"), "2", &ReadOptions::default()).await.unwrap();
    assert!(matches!(swap, Swap::Swapped(written) if written.version == version("c7f3a1.0:6")));
    let requests = server.received();
    assert!(requests[0].target.ends_with("?consistency=linearizable"));
    assert_eq!(requests[1].header("if-match"), Some("\"c7f3a1.0:1\""));
    assert_eq!(requests[3].header("if-match"), Some("\"c7f3a1.0:5\""));
    assert_ne!(requests[1].header("idempotency-key"), requests[3].header("idempotency-key"));
    let swap = client.compare_and_set_value("a", None, "2", &ReadOptions::default()).await.unwrap();
    assert!(matches!(swap, Swap::Differs(got) if got.value().unwrap() == "2"));
}

/// Goal: a batch keeps each op's own outcome over its attempts.
#[tokio::test]
async fn a_batch_is_sent_again_for_the_ops_that_are_open() {
    let results = |second: &str| {
        serde_json::json!({"results": [
            {"status": 204, "timestamp": "c7f3a1.0:7"},
            {"status": 503, "problem": {"type": second, "status": 503, "detail": ""}},
            {"status": 413, "problem": {"type": "too-large", "status": 413, "detail": ""}},
        ]})
    };
    let ops = [Op::put("a", "1"), Op::put("b", &[0xff_u8][..]), Op::delete("c")];
    let all = serde_json::json!({"results": [{"timestamp": "c7f3a1.0:7"}, {"timestamp": "c7f3a1.1:3"}, {"timestamp": "c7f3a1.0:8"}]});
    let server = Server::replying(vec![Reply::json(results("no-leader")), Reply::json(all)]).await;
    let batch = client(&[&server.url]).batch(&ops).await.unwrap();
    assert_eq!(batch.token().unwrap().to_string(), "c7f3a1.0:7_1:3");
    assert!(matches!(&batch.results[2], Err(Error::Refused(_))), "a certain refusal stays");
    let requests = server.received();
    assert_eq!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    let body: serde_json::Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"ops": [{"put": {"key": "a", "value": "1"}}, {"put": {"key": "b", "value": {"base64": "/w=="}}}, {"delete": {"key": "c"}}]})
    );

    let server =
        Server::replying(vec![Reply::json(results("outcome-unknown")), Reply::json(results("no-leader"))]).await;
    let options = WriteOptions::under_key("mine").within(SECOND / 4);
    let batch = client(&[&server.url]).batch_with(&ops, &options).await.unwrap();
    assert!(batch.results[0].is_ok());
    assert!(matches!(&batch.results[1], Err(Error::OutcomeUnknown(unknown)) if unknown.idempotency_key == "mine"));
}

#[tokio::test]
async fn a_scan_goes_through_all_pages() {
    let page = |key: &str, cursor: Option<&str>| {
        Reply::json(serde_json::json!({
            "items": [{"key": key, "value": {"base64": "/w=="}, "version": "c7f3a1.0:1"}],
            "cursor": cursor, "timestamp": "c7f3a1.0:9_1:2",
        }))
    };
    let server = Server::start(move |_, request| match request.target.as_str() {
        "/v1/kv?prefix=x%2F&limit=1" => page("x/1", Some("c+1")),
        "/v1/kv?prefix=x%2F&limit=1&cursor=c%2B1" => page("x/2", None),
        other => panic!("{other}"),
    })
    .await;
    let mut pager = client(&[&server.url]).scan(ScanQuery { limit: Some(1), ..ScanQuery::prefix("x/") });
    let mut keys = Vec::new();
    while let Some(item) = pager.next().await.unwrap() {
        assert_eq!(item.value, [0xff_u8][..]);
        keys.push(item.key);
    }
    assert_eq!(keys, ["x/1", "x/2"]);
}

#[tokio::test]
async fn status_and_digest_are_read() {
    let status = serde_json::json!({"node": "s1", "history": "c7f3a1", "partitions": [
        {"partition": 0, "leader": 2, "committed_end": 9, "applied_end": 7, "lag": 2, "horizon": 0},
        {"partition": 1, "leader": null, "committed_end": 9, "applied_end": null, "lag": 9, "horizon": 4, "catching_up": {}},
    ]});
    let digest = serde_json::json!({"partition": 1, "applied_end": 7, "digest": "00ff"});
    let server = Server::replying(vec![Reply::json(status), Reply::json(digest)]).await;
    let client = client(&[&server.url]);
    let status = client.status().await.unwrap();
    assert_eq!((status.partitions[0].applied_end, status.partitions[1].applied_end), (Some(7), None));
    assert_eq!(client.digest(duramen_common::PartitionId::new(1)).await.unwrap().digest, "00ff");
    assert_eq!(server.received()[1].target, "/v1/partitions/1/digest");
}

/// Goal: a session's token grows with every answer, also with 404 and 412, and goes with every read.
#[tokio::test]
async fn a_session_merges_what_it_sees_and_sends_it() {
    let server = Server::replying(vec![
        Reply::problem(404, "not-found").with("Log-Timestamp", "c7f3a1."),
        Reply::written("c7f3a1.1:7"),
        Reply::written("c7f3a1.0:3"),
        Reply::problem(412, "version-mismatch").with("Log-Timestamp", "c7f3a1.1:9"),
        Reply::value("v", "c7f3a1.0:2"),
        Reply::value("v", "c7f3a1.2:0"),
    ])
    .await;
    let session = Session::new(client(&[&server.url]));
    assert_eq!(session.export(), "");
    assert_eq!(session.get("a").await.unwrap().entry, None);
    assert_eq!(session.export(), "c7f3a1.");
    session.put("a", "v").await.unwrap();
    session.delete("b").await.unwrap();
    assert!(session.compare_and_set("a", None, "v").await.is_err());
    session.get("a").await.unwrap();
    assert_eq!(session.export(), "c7f3a1.0:3_1:9");
    let again = Session::import(client(&[&server.url]), &session.export()).unwrap();
    again.get("a").await.unwrap();
    assert_eq!(again.export(), "c7f3a1.0:3_1:9_2:0");
    let requests = server.received();
    assert_eq!((requests[0].target.as_str(), requests[0].header("read-after")), ("/v1/kv/a", None));
    for request in [&requests[4], &requests[5]] {
        assert_eq!(request.target, "/v1/kv/a?consistency=session");
        assert_eq!(request.header("read-after"), Some("c7f3a1.0:3_1:9"));
    }
    assert!(Session::import(client(&[&server.url]), "c7f3a1.x").is_err());
    assert!(session.see(&"000001.0:1".parse().unwrap()).is_err());
}
