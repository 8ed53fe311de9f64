//! Conditional and repeated writes.

use super::*;
use duramen_common::PartitionId;
use serde_json::json;

/// If-Match: the current version, or any; 412 with the current ETag and the position served.
#[tokio::test]
async fn if_match_takes_the_current_version_only() {
    let harness = Harness::start(2).await;
    let first = harness.put("apple", "1").await;
    let second = harness.put_with("apple", "2", &[("if-match", &first.etag())]).await;
    assert_eq!(second.status, 204);
    let refused = harness.put_with("apple", "3", &[("if-match", &first.etag())]).await;
    refused.problem(412, "version-mismatch");
    assert_eq!(refused.etag(), second.etag());
    assert!(refused.timestamp() > second.timestamp(), "the position of the refused record, or later");
    assert_eq!(harness.get("/v1/kv/apple").await.text(), "2");
    let any = harness.put_with("apple", "4", &[("if-match", "*")]).await;
    assert_eq!(any.status, 204);
    harness.delete_with("apple", &[("if-match", &first.etag())]).await.problem(412, "version-mismatch");
    assert_eq!(harness.delete_with("apple", &[("if-match", &any.etag())]).await.status, 204);
    let gone = harness.put_with("apple", "5", &[("if-match", "*")]).await;
    gone.problem(412, "version-mismatch");
    assert_eq!(gone.header("etag"), None, "an absent key has no version");
    harness.delete_with("apple", &[("if-match", "*")]).await.problem(412, "version-mismatch");
    harness.stop().await;
}

/// If-None-Match: * creates and never overwrites.
#[tokio::test]
async fn if_none_match_creates_only() {
    let harness = Harness::start(2).await;
    let created = harness.put_with("apple", "1", &[("if-none-match", "*")]).await;
    assert_eq!(created.status, 204);
    let refused = harness.put_with("apple", "2", &[("if-none-match", "*")]).await;
    refused.problem(412, "version-mismatch");
    assert_eq!(refused.etag(), created.etag());
    harness.delete_with("apple", &[]).await;
    assert_eq!(harness.put_with("apple", "3", &[("if-none-match", "*")]).await.status, 204);
    harness.stop().await;
}

/// A tag that no version can be (weak, of another partition or history, no token at all) never matches: 412 with the
/// current ETag, and nothing is appended.
#[tokio::test]
async fn a_tag_that_no_version_can_be_never_matches() {
    let harness = Harness::start(2).await;
    let put = harness.put("apple", "1").await;
    let token = put.timestamp();
    let (_, timestamp) = token.split_once('.').unwrap();
    let (partition, offset) = timestamp.split_once(':').unwrap();
    let other_partition = 1 - partition.parse::<u16>().unwrap();
    let end = || harness.log.committed_end(partition.parse().unwrap());
    let before = end();
    for tag in [
        format!("W/\"{token}\""),
        format!("\"c7f3a1.{other_partition}:{offset}\""),
        format!("\"c7f3a2.{timestamp}\""),
        format!("\"c7f3a1.0:{offset}_1:{offset}\""),
        "\"c7f3a1.\"".to_owned(),
        "\"\"".to_owned(),
        "\"anything\"".to_owned(),
    ] {
        for answer in [
            harness.put_with("apple", "2", &[("if-match", &tag)]).await,
            harness.delete_with("apple", &[("if-match", &tag)]).await,
        ] {
            answer.problem(412, "version-mismatch");
            assert_eq!(answer.etag(), put.etag(), "{tag}");
            assert_eq!(answer.timestamp(), token);
        }
    }
    assert_eq!(end(), before);
    harness.stop().await;
}

/// Conditions that are not of the contract: 400, and nothing is appended.
#[tokio::test]
async fn malformed_conditions_are_400() {
    let harness = Harness::start(1).await;
    let before = harness.log.committed_end(PartitionId::new(0));
    for conditions in [
        &[("if-match", "\"c7f3a1.0:1\", \"c7f3a1.0:2\"")][..],
        &[("if-match", "\"c7f3a1.0:1\""), ("if-match", "\"c7f3a1.0:2\"")],
        &[("if-match", "c7f3a1.0:1")],
        &[("if-match", "")],
        &[("if-match", "*"), ("if-none-match", "*")],
        &[("if-none-match", "\"c7f3a1.0:1\"")],
        &[("if-none-match", "x")],
    ] {
        harness.put_with("apple", "1", conditions).await.problem(400, "bad-request");
    }
    harness.delete_with("apple", &[("if-none-match", "*")]).await.problem(400, "bad-request");
    assert_eq!(harness.log.committed_end(PartitionId::new(0)), before);
    harness.stop().await;
}

/// A repeated Idempotency-Key answers with the first timestamp and, for a conditional write, the first outcome, at
/// another node too.
#[tokio::test]
async fn a_repeat_gets_the_first_answer_at_any_node() {
    let harness = Harness::start(2).await;
    let other = Harness::start_with(config(), harness.log.clone()).await;
    let key = [("idempotency-key", "order-1")];
    let first = harness.put_with("apple", "1", &key).await;
    harness.put("apple", "2").await;
    for node in [&harness, &other] {
        let repeat = node.put_with("apple", "1", &key).await;
        assert_eq!((repeat.status, repeat.timestamp()), (204, first.timestamp()));
        assert_eq!(repeat.etag(), first.etag());
    }
    assert_eq!(harness.get("/v1/kv/apple").await.text(), "2", "it took effect once");

    let create = [("idempotency-key", "create-pear"), ("if-none-match", "*")];
    let created = harness.put_with("pear", "1", &create).await;
    assert_eq!(created.status, 204);
    let fail = [("idempotency-key", "fail-pear"), ("if-none-match", "*")];
    harness.put_with("pear", "2", &fail).await.problem(412, "version-mismatch");
    harness.delete_with("pear", &[]).await;
    for node in [&harness, &other] {
        let repeat = node.put_with("pear", "1", &create).await;
        assert_eq!((repeat.status, repeat.timestamp()), (204, created.timestamp()));
        node.put_with("pear", "2", &fail).await.problem(412, "version-mismatch");
        node.get("/v1/kv/pear").await.problem(404, "not-found");
    }
    let delete = harness.delete_with("apple", &[("idempotency-key", "delete-1")]).await;
    harness.put("apple", "3").await;
    let repeat = other.delete_with("apple", &[("idempotency-key", "delete-1")]).await;
    assert_eq!(repeat.timestamp(), delete.timestamp());
    assert_eq!(harness.get("/v1/kv/apple").await.text(), "3");
    other.stop().await;
    harness.stop().await;
}

/// 422 key-reused: the same Idempotency-Key for another value, another condition, another op.
#[tokio::test]
async fn an_idempotency_key_for_something_else_is_422() {
    let harness = Harness::start(1).await;
    let key = ("idempotency-key", "order-1");
    assert_eq!(harness.put_with("apple", "1", &[key]).await.status, 204);
    harness.put_with("apple", "2", &[key]).await.problem(422, "key-reused");
    harness.put_with("apple", "1", &[key, ("if-match", "*")]).await.problem(422, "key-reused");
    harness.delete_with("apple", &[key]).await.problem(422, "key-reused");
    assert_eq!(harness.get("/v1/kv/apple").await.text(), "1");
    harness.stop().await;
}

#[tokio::test]
async fn an_empty_or_long_idempotency_key_is_400() {
    let harness = Harness::start(1).await;
    let longest = "k".repeat(255);
    assert_eq!(harness.put_with("apple", "1", &[("idempotency-key", &longest)]).await.status, 204);
    let over = "k".repeat(256);
    let refused = harness.put_with("apple", "1", &[("idempotency-key", &over)]).await;
    assert_eq!(refused.problem(400, "bad-request")["limit"], 255);
    harness.put_with("apple", "1", &[("idempotency-key", "")]).await.problem(400, "bad-request");
    harness.stop().await;
}

/// 503 no-leader: nothing was appended. 503 outcome-unknown: it may be, and the answer names the key to retry with, also
/// where the caller gave none.
#[tokio::test]
async fn what_is_not_acknowledged_is_told_as_it_is() {
    let harness = Harness::start(1).await;
    harness.log.set_unavailable(true);
    harness.put("apple", "1").await.problem(503, "no-leader");
    harness.log.set_unavailable(false);

    harness.log.hold_commits(PartitionId::new(0), true);
    let wait = ("prefer", "wait=0");
    let unknown = harness.put_with("apple", "1", &[wait]).await;
    let minted = unknown.problem(503, "outcome-unknown")["idempotency_key"].as_str().unwrap().to_owned();
    assert_eq!(unknown.header("idempotency-key"), Some(&minted[..]));
    let given = harness.put_with("pear", "1", &[wait, ("idempotency-key", "mine")]).await;
    assert_eq!(given.problem(503, "outcome-unknown")["idempotency_key"], "mine");
    harness.log.hold_commits(PartitionId::new(0), false);

    let retried = harness.put_with("apple", "1", &[("idempotency-key", &minted)]).await;
    assert_eq!((retried.status, retried.timestamp()), (204, "c7f3a1.0:0".to_owned()), "the first attempt is the one");
    harness.stop().await;
}

/// An acknowledged conditional write whose outcome this node does not learn in time: outcome-unknown, never 412 or 204.
#[tokio::test]
async fn a_conditional_write_that_is_not_applied_in_time_is_unknown() {
    let log = Arc::new(MemoryLog::new(history(), 1));
    let harness = Harness::start_unready(lagging(), log.clone()).await;
    let headers = [("prefer", "wait=0"), ("if-none-match", "*"), ("idempotency-key", "mine")];
    let unknown = harness.put_with("apple", "1", &headers).await;
    assert_eq!(unknown.problem(503, "outcome-unknown")["idempotency_key"], "mine");
    let unconditional = harness.put_with("pear", "1", &[("prefer", "wait=0")]).await;
    assert_eq!(unconditional.status, 204, "it needs no local apply");
    let other = Harness::start_with(config(), log).await;
    let retried = other.put_with("apple", "1", &headers[1..]).await;
    assert_eq!((retried.status, retried.timestamp()), (204, "c7f3a1.0:0".to_owned()));
    other.stop().await;
    harness.stop().await;
}

#[tokio::test]
async fn a_wait_that_is_none_is_400() {
    let harness = Harness::start(1).await;
    for wait in ["wait=x", "wait=-1", "wait=1.5", "wait="] {
        harness.put_with("apple", "1", &[("prefer", wait)]).await.problem(400, "bad-request");
        harness.get_with("/v1/kv/apple", &[("prefer", wait)]).await.problem(400, "bad-request");
        harness.get_with("/v1/kv", &[("prefer", wait)]).await.problem(400, "bad-request");
    }
    assert_eq!(harness.put_with("apple", "1", &[("prefer", "respond-async, wait=31")]).await.status, 204);
    harness.stop().await;
}

/// Two writers that increment by compare-and-set lose nothing.
#[tokio::test]
async fn compare_and_set_loses_no_increment() {
    let harness = Harness::start(1).await;
    harness.put("counter", "0").await;
    let addr = harness.addr();
    let writers = (0..4).map(|_| {
        tokio::spawn(async move {
            for _ in 0..25 {
                loop {
                    let read = send(addr, "GET", "/v1/kv/counter", &[], b"").await;
                    let next = (read.text().parse::<u32>().unwrap() + 1).to_string();
                    let etag = read.etag();
                    let put = send(addr, "PUT", "/v1/kv/counter", &[("if-match", &etag)], next.as_bytes()).await;
                    if put.status == 204 {
                        break;
                    }
                    put.problem(412, "version-mismatch");
                }
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(harness.get("/v1/kv/counter").await.text(), "100");
    harness.stop().await;
}

/// Goal: an Idempotency-Key is for one write, also where the other one is of another partition, whose log cannot know.
/// Method: one key for many keys, puts and batches, over several partitions; a repeat of the first is still answered.
#[tokio::test]
async fn a_key_used_for_another_partition_is_refused() {
    let harness = Harness::start(4).await;
    let headers = [("idempotency-key", "once")];
    let first = harness.put_with("key-0", "1", &headers).await;
    assert_eq!(first.status, 204);
    for number in 1..20 {
        harness.put_with(&format!("key-{number}"), "1", &headers).await.problem(422, "key-reused");
        let ops = json!({"ops": [{"put": {"key": format!("key-{number}"), "value": "1"}}]});
        let batch = harness.post("/v1/batch", ops, &headers).await.json();
        assert_eq!(batch["results"][0]["status"], json!(422), "{batch}");
        harness.get(&format!("/v1/kv/key-{number}")).await.problem(404, "not-found");
    }
    assert_eq!(harness.put_with("key-0", "1", &headers).await.etag(), first.etag());
    harness.stop().await;
}
