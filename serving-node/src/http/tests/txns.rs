//! `POST /v1/txn`.

use super::*;
use serde_json::json;

fn put(key: &str, value: &str) -> Value {
    json!({"put": {"key": key, "value": value}})
}

/// All or nothing, behind versions; {"committed","timestamp"}.
#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let harness = Harness::start(4).await;
    let open = json!({"if": [{"key": "{a}x", "version": null}], "ops": [put("{a}x", "1"), put("{a}y", "2")]});
    let first = harness.post("/v1/txn", open.clone(), &[]).await;
    assert_eq!((first.status, first.header("content-type")), (200, Some("application/json")));
    assert_eq!(first.json(), json!({"committed": true, "timestamp": first.timestamp()}));
    let token = first.timestamp();
    for (key, value) in [("%7Ba%7Dx", "1"), ("{a}y", "2")] {
        let get = harness.get(&format!("/v1/kv/{key}?after={token}")).await;
        assert_eq!((get.text(), get.etag()), (value, format!("\"{token}\"")));
    }
    let refused = harness.post("/v1/txn", open, &[]).await;
    assert_eq!(refused.json(), json!({"committed": false, "timestamp": refused.timestamp()}));
    assert!(refused.timestamp() > token);
    let next = json!({"if": [{"key": "{a}x", "version": token}, {"key": "{a}z", "version": null}],
        "ops": [put("{a}x", "3"), {"delete": {"key": "{a}y"}}]});
    assert_eq!(harness.post("/v1/txn", next.clone(), &[]).await.json()["committed"], true);
    assert_eq!(harness.post("/v1/txn", next, &[]).await.json()["committed"], false);
    assert_eq!(harness.get("/v1/kv/{a}x").await.text(), "3");
    harness.get("/v1/kv/{a}y").await.problem(404, "not-found");
    harness.stop().await;
}

/// Ops may be empty (a check), guards may be missing (an atomic write); one of them names a key.
#[tokio::test]
async fn ops_or_guards_may_be_empty() {
    let harness = Harness::start(2).await;
    let check = json!({"if": [{"key": "a", "version": null}], "ops": []});
    assert_eq!(harness.post("/v1/txn", check.clone(), &[]).await.json()["committed"], true);
    for body in [json!({"ops": [put("a", "1")]}), json!({"if": [], "ops": [put("a", "1"), put("a", "2")]})] {
        assert_eq!(harness.post("/v1/txn", body, &[]).await.json()["committed"], true);
    }
    assert_eq!(harness.get("/v1/kv/a").await.text(), "2", "ops are applied in order");
    assert_eq!(harness.post("/v1/txn", check, &[]).await.json()["committed"], false);
    harness.post("/v1/txn", json!({"if": [], "ops": []}), &[]).await.problem(400, "bad-request");
    harness.post("/v1/txn", json!({}), &[]).await.problem(400, "bad-request");
    harness.post("/v1/txn", json!({"if": [["a", null]]}), &[]).await.problem(400, "bad-request");
    harness.stop().await;
}

/// As many guards as there may be: they decide, also where their versions can never be.
#[tokio::test]
async fn a_thousand_guards_decide() {
    let harness = Harness::start(2).await;
    for (version, committed) in [(json!("c7f3a2.0:0"), false), (json!("c7f3a1.0:9"), false), (Value::Null, true)] {
        let guards = vec![json!({"key": "a", "version": version}); 1000];
        let answer = harness.post("/v1/txn", json!({"if": guards, "ops": [put("a", "1")]}), &[]).await;
        assert_eq!((answer.status, &answer.json()["committed"]), (200, &json!(committed)), "{version}");
    }
    let guards = vec![json!({"key": "a", "version": null}); 1001];
    harness.post("/v1/txn", json!({"if": guards}), &[]).await.problem(413, "too-large");
    harness.stop().await;
}

/// A version of another partition or history never matches.
#[tokio::test]
async fn a_version_that_cannot_be_never_matches() {
    let harness = Harness::start(2).await;
    let token = harness.put("a", "1").await.timestamp();
    let (_, timestamp) = token.split_once('.').unwrap();
    let (partition, offset) = timestamp.split_once(':').unwrap();
    let other = 1 - partition.parse::<u16>().unwrap();
    for version in [format!("c7f3a2.{timestamp}"), format!("c7f3a1.{other}:{offset}"), "c7f3a1.".to_owned()] {
        for key in ["a", "{a}absent"] {
            let body = json!({"if": [{"key": key, "version": version}], "ops": [put("{a}b", "1")]});
            let answer = harness.post("/v1/txn", body, &[]).await;
            assert_eq!((answer.status, &answer.json()["committed"]), (200, &false.into()), "{version}");
        }
    }
    harness.get("/v1/kv/{a}b").await.problem(404, "not-found");
    harness.stop().await;
}

#[tokio::test]
async fn keys_of_many_partitions_are_422() {
    let harness = Harness::start(4).await;
    let ops: Vec<Value> = (0..20).map(|n| put(&format!("k{n}"), "1")).collect();
    harness.post("/v1/txn", json!({"if": [], "ops": ops}), &[]).await.problem(422, "many-partitions");
    let guards: Vec<Value> = (0..20).map(|n| json!({"key": format!("k{n}"), "version": null})).collect();
    harness.post("/v1/txn", json!({"if": guards, "ops": []}), &[]).await.problem(422, "many-partitions");
    let tagged: Vec<Value> = (0..20).map(|n| put(&format!("{{t}}{n}"), "1")).collect();
    assert_eq!(harness.post("/v1/txn", json!({"ops": tagged}), &[]).await.json()["committed"], true);
    harness.stop().await;
}

#[tokio::test]
async fn a_malformed_transaction_is_refused() {
    let harness = Harness::start(1).await;
    for (body, status, kind) in [
        (json!({"if": [{"key": "a"}], "ops": []}), 400, "bad-request"),
        (json!({"if": [{"key": "a", "version": 7}], "ops": []}), 400, "bad-request"),
        (json!({"if": [{"key": "a", "version": null, "value": "x"}], "ops": []}), 400, "bad-request"),
        (json!({"if": {}, "ops": []}), 400, "bad-request"),
        (json!({"iff": [], "ops": [put("a", "1")]}), 400, "bad-request"),
        (json!({"if": [{"key": "a", "version": "x"}], "ops": []}), 400, "bad-token"),
        (json!({"if": [{"key": "", "version": null}], "ops": []}), 400, "bad-key"),
        (json!({"if": vec![json!({"key": "a", "version": null}); 1001], "ops": []}), 413, "too-large"),
        (json!({"ops": vec![put("a", "1"); 1001]}), 413, "too-large"),
    ] {
        harness.post("/v1/txn", body, &[]).await.problem(status, kind);
    }
    assert_eq!(harness.log.committed_end("0".parse().unwrap()).get(), 0);
    harness.stop().await;
}

/// A repeat answers with the first outcome; another transaction under the same key is 422.
#[tokio::test]
async fn a_repeated_transaction_gets_the_first_answer() {
    let harness = Harness::start(2).await;
    let key = [("idempotency-key", "transfer-1")];
    let body = json!({"if": [{"key": "a", "version": null}], "ops": [put("a", "1")]});
    let first = harness.post("/v1/txn", body.clone(), &key).await;
    assert_eq!(harness.post("/v1/txn", body, &key).await.json(), first.json());
    let other = json!({"if": [{"key": "a", "version": null}], "ops": [put("a", "2")]});
    harness.post("/v1/txn", other, &key).await.problem(422, "key-reused");
    harness.stop().await;
}
