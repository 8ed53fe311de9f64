//! What is not understood is refused, not ignored: nothing is written, and nothing else is read instead.

use super::*;
use serde_json::json;

/// A refused write leaves the value as it was.
#[tokio::test]
async fn a_write_that_says_more_than_is_done_is_refused() {
    let harness = Harness::start(1).await;
    harness.put("a", "before").await;
    for headers in [
        &[("content-range", "bytes 6-21/22")][..],
        &[("content-encoding", "gzip")],
        &[("content-encoding", "identity, br")],
        &[("te", "gzip")],
        &[("range", "bytes=0-1")],
        &[("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT")],
        &[("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT")],
        &[("if-none-match", "\"c7f3a1.0:0\"")],
        &[("if-match", "\"c7f3a1.0:0\""), ("if-match", "\"c7f3a1.0:0\"")],
        &[("if-match", ",")],
        &[("idempotency-key", "a"), ("idempotency-key", "b")],
        &[("content-type", "text/plain"), ("content-type", "text/html")],
    ] {
        harness.put_with("a", "after", headers).await.problem(400, "bad-request");
    }
    harness.put_with("a", "after", &[("expect", "a-miracle")]).await.problem(417, "expectation-failed");
    for target in ["/v1/kv/a?x=1", "/v1/kv/a?after=c7f3a1.0:0", "/v1/kv/a?", "/v1/kv/a?%zz"] {
        harness.send("PUT", target, &[], b"after").await.problem(400, "bad-request");
        harness.send("DELETE", target, &[], b"").await.problem(400, "bad-request");
    }
    harness.send("DELETE", "/v1/kv/a", &[], b"a body").await.problem(400, "bad-request");
    harness.delete_with("a", &[("if-none-match", "*")]).await.problem(400, "bad-request");
    assert_eq!(harness.get("/v1/kv/a").await.text(), "before");
    assert_eq!(harness.log.committed_end("0".parse().unwrap()).get(), 1, "nothing else is in the log");
    harness.stop().await;
}

/// Codings of a transfer that nothing here decodes must not reach the value.
#[tokio::test]
async fn a_transfer_coding_that_is_not_known_is_refused() {
    let harness = Harness::start(1).await;
    for head in ["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"] {
        let request = format!(
            "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        );
        let answer = raw(harness.addr(), request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{head}: {}", answer.escape_ascii());
    }
    harness.get("/v1/kv/a").await.problem(404, "not-found");
    harness.stop().await;
}

/// A misspelt parameter would read something else; it is named, with those that there are.
#[tokio::test]
async fn a_parameter_that_is_not_known_is_named() {
    let harness = Harness::start(1).await;
    harness.put("a", "1").await;
    for (target, parameter, known) in [
        ("/v1/kv?prefx=z", "prefx", "prefix, start, end, limit, cursor, after, consistency"),
        ("/v1/kv?from=a", "from", "start"),
        ("/v1/kv/a?afer=c7f3a1.0:0", "afer", "after, consistency"),
        ("/v1/feed?form=c7f3a1.", "form", "prefix, from"),
        ("/v1/feed?after=c7f3a1.", "after", "prefix, from"),
        ("/v1/status?x", "x", "none"),
        ("/v1/partitions/0/digest?limit=1", "limit", "after, consistency"),
        ("/healthz?verbose=1", "verbose", "none"),
        ("/readyz?verbose=1", "verbose", "none"),
        ("/metrics?name%5B%5D=a", "name[]", "none"),
    ] {
        let problem = harness.get(target).await.problem(400, "bad-request");
        assert_eq!(problem["parameter"], parameter, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(known), "{problem}");
    }
    harness.get("/v1/nothing?x=1").await.problem(404, "not-found");
    for target in ["/v1/batch?x=1", "/v1/txn?x=1"] {
        harness.post(target, json!({"ops": [{"delete": {"key": "a"}}]}), &[]).await.problem(400, "bad-request");
    }
    assert_eq!(harness.get("/v1/kv/a?").await.text(), "1", "an empty query says nothing");
    assert_eq!(harness.get("/v1/kv/a").await.text(), "1");
    harness.stop().await;
}

/// Conditions that a read does not evaluate, and bodies that it does not look at.
#[tokio::test]
async fn a_read_that_says_more_than_is_done_is_refused() {
    let harness = Harness::start(1).await;
    harness.put("a", "1").await;
    for target in ["/v1/kv/a", "/v1/kv", "/v1/status", "/v1/feed"] {
        harness.get_with(target, &[("if-match", "*")]).await.problem(400, "bad-request");
        harness.send("GET", target, &[], b"{}").await.problem(400, "bad-request");
    }
    assert_eq!(harness.send("HEAD", "/v1/kv/a", &[("if-match", "*")], b"").await.status, 400);
    let whole = harness.get_with("/v1/kv/a", &[("range", "bytes=0-0"), ("te", "trailers")]).await;
    assert_eq!((whole.status, whole.text()), (200, "1"), "a server may answer a range with the whole");
    let twice = [("last-event-id", "c7f3a1."), ("last-event-id", "c7f3a1.0:0")];
    harness.get_with("/v1/feed", &twice).await.problem(400, "bad-request");
    harness.stop().await;
}

/// Empty elements of lists are legal, and a comma in a quoted string ends nothing.
#[tokio::test]
async fn lists_are_read_as_http_says() {
    let harness = Harness::start(1).await;
    let etag = harness.put("a", "1").await.etag();
    let listed = format!(", \"x\", ,{etag} ,");
    assert_eq!(harness.get_with("/v1/kv/a", &[("if-none-match", &listed)]).await.status, 304);
    let one = format!(" , {etag},");
    let prefer = [("if-match", &one[..]), ("prefer", "note=\"a, wait=x\", wait=2,")];
    assert_eq!(harness.put_with("a", "2", &prefer).await.status, 204);
    assert_eq!(harness.get_with("/v1/kv/a", &[("read-after", ", c7f3a1.0:1,,")]).await.text(), "2");
    harness.stop().await;
}

/// JSON with members that nobody reads, or with one member twice.
#[tokio::test]
async fn json_with_members_that_nobody_reads_is_refused() {
    let harness = Harness::start(1).await;
    for (target, body) in [
        ("/v1/batch", r#"{"ops":[{"put":{"key":"a","value":"1"}}],"atomic":true}"#),
        ("/v1/batch", r#"{"ops":[{"put":{"key":"a","value":"1","if":null}}]}"#),
        ("/v1/batch", r#"{"ops":[{"put":{"key":"a","key":"b","value":"1"}}]}"#),
        ("/v1/batch", r#"{"ops":[{"put":{"key":"a","value":"1"},"delete":{"key":"a"}}]}"#),
        ("/v1/batch", r#"{"ops":[],"ops":[{"delete":{"key":"a"}}]}"#),
        ("/v1/batch", r#"{"ops":[{"put":{"key":{"base64":"YQ==","base64":"Yg=="},"value":"1"}}]}"#),
        ("/v1/batch", r#"{"ops":[{"delete":{"key":"a"}}]} {}"#),
        ("/v1/txn", r#"{"ops":[{"delete":{"key":"a"}}],"iff":[]}"#),
        ("/v1/txn", r#"{"if":[{"key":"a","version":null,"value":"1"}],"ops":[]}"#),
        ("/v1/txn", r#"{"if":[],"if":[],"ops":[{"delete":{"key":"a"}}]}"#),
    ] {
        let json = [("content-type", "application/json")];
        harness.send("POST", target, &json, body.as_bytes()).await.problem(400, "bad-request");
    }
    assert_eq!(harness.log.committed_end("0".parse().unwrap()).get(), 0);
    harness.stop().await;
}
