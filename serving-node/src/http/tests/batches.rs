//! `POST /v1/batch`.

use super::*;
use duramen_common::PartitionId;
use serde_json::json;

fn puts(count: usize) -> Value {
    json!({"ops": (0..count).map(|n| json!({"put": {"key": format!("k{n}"), "value": "v"}})).collect::<Vec<_>>()})
}

fn ends(harness: &Harness) -> u64 {
    (0..harness.log.cluster_info().partitions).map(|p| harness.log.committed_end(PartitionId::new(p)).get()).sum()
}

/// 200 with one result an op, in order; Log-Timestamp names the partitions touched.
#[tokio::test]
async fn results_stand_in_the_order_of_the_ops() {
    let harness = Harness::start(4).await;
    let ops = json!({"ops": [
        {"put": {"key": "apple", "value": "1"}},
        {"put": {"key": {"base64": "/w=="}, "value": {"base64": "/g=="}}},
        {"delete": {"key": "apple"}},
        {"put": {"key": "google", "value": ""}},
    ]});
    let answer = harness.post("/v1/batch", ops, &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let body = answer.json();
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    for result in results {
        assert_eq!(result["status"], 204);
        assert_eq!(result.as_object().unwrap().len(), 2);
        let token = result["timestamp"].as_str().unwrap();
        let get = harness.get(&format!("/v1/kv/google?after={token}")).await;
        assert_eq!(get.status, 200);
    }
    let token = answer.timestamp();
    harness.get(&format!("/v1/kv/apple?after={token}")).await.problem(404, "not-found");
    assert_eq!(harness.get(&format!("/v1/kv/%ff?after={token}")).await.body, b"\xfe");
    harness.stop().await;
}

/// Ops of one partition go in one append, in order.
#[tokio::test]
async fn ops_of_one_partition_go_in_one_append() {
    let harness = Harness::start(3).await;
    let answer = harness.post("/v1/batch", puts(60), &[]).await;
    assert_eq!(answer.status, 200);
    for partition in 0..3 {
        assert_eq!(harness.log.batches(PartitionId::new(partition)).len(), 1);
    }
    let ops =
        json!({"ops": (0..50).map(|n| json!({"put": {"key": "same", "value": n.to_string()}})).collect::<Vec<_>>()});
    harness.post("/v1/batch", ops, &[]).await;
    assert_eq!(harness.get("/v1/kv/same").await.text(), "49");
    harness.stop().await;
}

#[tokio::test]
async fn a_batch_has_at_most_1000_ops() {
    let harness = Harness::start(2).await;
    assert_eq!(harness.post("/v1/batch", puts(1000), &[]).await.json()["results"].as_array().unwrap().len(), 1000);
    let before = ends(&harness);
    assert_eq!(harness.post("/v1/batch", puts(1001), &[]).await.problem(413, "too-large")["limit"], 1000);
    assert_eq!(ends(&harness), before);
    assert_eq!(harness.post("/v1/batch", json!({"ops": []}), &[]).await.text(), "{\"results\":[]}");
    harness.stop().await;
}

#[tokio::test]
async fn a_batch_has_at_most_4_mib() {
    let harness = Harness::start(1).await;
    let filler = " ".repeat(4 * 1024 * 1024);
    let json = [("content-type", "application/json")];
    let over = harness.send("POST", "/v1/batch", &json, format!("{{\"ops\":[]}}{filler}").as_bytes()).await;
    assert_eq!(over.problem(413, "too-large")["limit"], 4 * 1024 * 1024);
    let at = harness.send("POST", "/v1/batch", &json, format!("{{\"ops\":[]}}{}", &filler[10..]).as_bytes()).await;
    assert_eq!(at.status, 200);
    harness.stop().await;
}

/// A malformed op refuses the whole batch, and nothing is appended.
#[tokio::test]
async fn a_malformed_op_appends_nothing() {
    let harness = Harness::start(1).await;
    let good = json!({"put": {"key": "a", "value": "1"}});
    for (bad, status, kind) in [
        (json!({"put": {"key": "a"}}), 400, "bad-request"),
        (json!({"put": {"key": "a", "value": 1}}), 400, "bad-request"),
        (json!({"put": {"key": "a", "value": {"base64": "?"}}}), 400, "bad-request"),
        (json!({"put": {"key": "a", "value": "1", "if": 1}}), 400, "bad-request"),
        (json!({"delete": {"key": "a", "value": "1"}}), 400, "bad-request"),
        (json!({"patch": {"key": "a"}}), 400, "bad-request"),
        (json!({}), 400, "bad-request"),
        (json!({"put": {"key": "a", "value": "1"}, "delete": {"key": "a"}}), 400, "bad-request"),
        (json!("put"), 400, "bad-request"),
        (json!({"put": ["a", "1"]}), 400, "bad-request"),
        (json!({"delete": ["a"]}), 400, "bad-request"),
        (json!({"put": {"key": ["YQ=="], "value": "1"}}), 400, "bad-request"),
        (json!({"put": {"key": "", "value": "1"}}), 400, "bad-key"),
        (json!({"delete": {"key": "k".repeat(1025)}}), 400, "bad-key"),
        (json!({"put": {"key": "a", "value": "v".repeat(64 * 1024 + 1)}}), 413, "too-large"),
    ] {
        let answer = harness.post("/v1/batch", json!({"ops": [good, bad]}), &[]).await;
        answer.problem(status, kind);
    }
    for body in [&b""[..], b"{", b"[]", b"null", b"{}", b"{\"ops\":1}", b"{\"ops\":[],\"x\":1}", b"[[]]", b"\xff"] {
        let answer = harness.send("POST", "/v1/batch", &[("content-type", "application/json")], body).await;
        answer.problem(400, "bad-request");
    }
    assert_eq!(ends(&harness), 0);
    harness.stop().await;
}

#[tokio::test]
async fn a_body_needs_its_content_type() {
    let harness = Harness::start(1).await;
    let body = b"{\"ops\":[]}";
    for target in ["/v1/batch", "/v1/txn"] {
        harness.send("POST", target, &[], body).await.problem(415, "media-type");
        for media in ["text/plain", "application/jsonx", "application/x-www-form-urlencoded", ""] {
            harness.send("POST", target, &[("content-type", media)], body).await.problem(415, "media-type");
        }
    }
    let json = [("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(harness.send("POST", "/v1/batch", &json, body).await.status, 200);
    harness.stop().await;
}

/// A repeated batch takes effect once, op by op.
#[tokio::test]
async fn a_repeated_batch_gets_the_first_timestamps() {
    let harness = Harness::start(3).await;
    let key = [("idempotency-key", "load-1")];
    let first = harness.post("/v1/batch", puts(10), &key).await;
    let before = ends(&harness);
    let repeat = harness.post("/v1/batch", puts(10), &key).await;
    assert_eq!(repeat.json(), first.json());
    assert_eq!(repeat.timestamp(), first.timestamp());
    assert_eq!(ends(&harness), before);
    let mut other = puts(10);
    other["ops"][3]["put"]["value"] = "other".into();
    let results = harness.post("/v1/batch", other, &key).await.json();
    for (place, result) in results["results"].as_array().unwrap().iter().enumerate() {
        if place == 3 {
            assert_eq!((&result["status"], &result["problem"]["type"]), (&422.into(), &"key-reused".into()));
        } else {
            assert_eq!(result["status"], 204, "{place}");
        }
    }
    harness.stop().await;
}

/// An op that is not acknowledged says so for itself; the others are done.
#[tokio::test]
async fn each_op_has_its_own_status() {
    let harness = Harness::start(2).await;
    harness.log.hold_commits(PartitionId::new(1), true);
    let answer = harness.post("/v1/batch", puts(20), &[("prefer", "wait=0"), ("idempotency-key", "mine")]).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let results = body["results"].as_array().unwrap();
    let unknown: Vec<_> = results.iter().filter(|result| result["status"] == 503).collect();
    assert!(!unknown.is_empty() && unknown.len() < 20);
    assert_eq!(answer.header("idempotency-key"), Some("mine"), "what a repeat of the whole must carry");
    for result in unknown {
        assert_eq!(result["problem"]["type"], "outcome-unknown");
        assert_eq!(result["problem"]["idempotency_key"], "mine");
        assert_eq!(result["timestamp"], Value::Null);
    }
    assert!(answer.timestamp().starts_with("c7f3a1.0:") && !answer.timestamp().contains('_'));
    harness.log.hold_commits(PartitionId::new(1), false);
    harness.log.set_unavailable(true);
    let answer = harness.post("/v1/batch", puts(2), &[]).await;
    assert_eq!((answer.status, answer.timestamp()), (200, "c7f3a1.".to_owned()));
    assert_eq!(answer.json()["results"][0]["problem"]["type"], "no-leader");
    assert_eq!(answer.header("idempotency-key"), None, "nothing is unknown");
    harness.stop().await;
}
