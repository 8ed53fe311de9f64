//! GET, HEAD, PUT and DELETE of one key, without conditions.

use super::*;

/// `PUT` 204 · ETag · Log-Timestamp; `GET` 200 body, ETag, Log-Timestamp, octet-stream.
#[tokio::test]
async fn a_value_is_read_back_with_its_version() {
    let harness = Harness::start(4).await;
    let put = harness.put("apple", "Tim Cook").await;
    assert_eq!(put.status, 204);
    assert!(put.body.is_empty());
    assert_eq!(put.etag(), format!("\"{}\"", put.timestamp()));
    assert!(put.timestamp().starts_with("c7f3a1."), "{}", put.timestamp());
    let get = harness.get("/v1/kv/apple").await;
    assert_eq!((get.status, get.text()), (200, "Tim Cook"));
    assert_eq!(get.etag(), put.etag());
    assert_eq!(get.timestamp(), put.timestamp());
    assert_eq!(get.header("content-type"), Some("application/octet-stream"));
    let timing = get.header("server-timing").unwrap();
    let waited = timing.strip_prefix("wait;dur=").unwrap();
    assert!(waited.contains('.') && waited.parse::<f64>().unwrap() >= 0.0, "{timing}");
    harness.stop().await;
}

/// `HEAD` is `GET` without the body, `Content-Length` included.
#[tokio::test]
async fn head_is_get_without_the_body() {
    let harness = Harness::start(1).await;
    harness.put("apple", "Tim Cook").await;
    let head = harness.send("HEAD", "/v1/kv/apple", &[], b"").await;
    let get = harness.get("/v1/kv/apple").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("8"));
    assert_eq!(head.etag(), get.etag());
    assert_eq!(head.timestamp(), get.timestamp());
    let missing = harness.send("HEAD", "/v1/kv/pear", &[], b"").await;
    assert_eq!((missing.status, missing.body.len()), (404, 0));
    assert_eq!(missing.header("content-type"), Some("application/problem+json"));
    harness.stop().await;
}

/// 404 also has a Log-Timestamp; where nothing is applied it names no partition.
#[tokio::test]
async fn a_missing_key_is_404_and_names_the_position() {
    let harness = Harness::start(1).await;
    let empty = harness.get("/v1/kv/pear").await;
    empty.problem(404, "not-found");
    assert_eq!(empty.timestamp(), "c7f3a1.");
    let put = harness.put("apple", "1").await;
    let missing = harness.get("/v1/kv/pear").await;
    missing.problem(404, "not-found");
    assert_eq!(missing.timestamp(), put.timestamp());
    assert!(missing.header("server-timing").is_some());
    harness.stop().await;
}

/// `DELETE` 204, of an absent key too; Log-Timestamp, no ETag.
#[tokio::test]
async fn a_delete_answers_204_without_etag() {
    let harness = Harness::start(1).await;
    harness.put("apple", "1").await;
    for _ in 0..2 {
        let delete = harness.delete_with("apple", &[]).await;
        assert_eq!(delete.status, 204);
        assert_eq!(delete.header("etag"), None);
        let get = harness.get_with("/v1/kv/apple", &[("read-after", &delete.timestamp())]).await;
        get.problem(404, "not-found");
        assert_eq!(get.timestamp(), delete.timestamp());
    }
    harness.stop().await;
}

/// 304 with If-None-Match (a list, weak tags and `*`), with ETag and Log-Timestamp and no body.
#[tokio::test]
async fn a_known_version_is_304() {
    let harness = Harness::start(1).await;
    let put = harness.put("apple", "1").await;
    let etag = put.etag();
    for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
        let get = harness.get_with("/v1/kv/apple", &[("if-none-match", &known)]).await;
        assert_eq!((get.status, get.body.len()), (304, 0), "{known}");
        assert_eq!(get.etag(), etag);
        assert_eq!(get.timestamp(), put.timestamp());
    }
    for other in ["\"c7f3a1.0:99\"", "W/\"x\""] {
        assert_eq!(harness.get_with("/v1/kv/apple", &[("if-none-match", other)]).await.status, 200);
    }
    harness.get_with("/v1/kv/pear", &[("if-none-match", "*")]).await.problem(404, "not-found");
    harness.get_with("/v1/kv/apple", &[("if-none-match", "x")]).await.problem(400, "bad-request");
    harness.stop().await;
}

/// Keys are percent-decoded once and never normalised: each of these is a key of its own.
#[tokio::test]
async fn any_bytes_are_a_key() {
    let harness = Harness::start(4).await;
    let long = "%61".repeat(1024);
    let keys = [
        "a",
        "a/b",
        "a%2Fc",
        "..",
        "../..",
        ".",
        "a/../b",
        "a//b",
        "//",
        "%00",
        "%20",
        "a%20b",
        "%C3%A9",
        "%ff%fe",
        "a+b",
        "%25",
        "{tag}x",
        "a%3Fb%23c",
        &long,
    ];
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(harness.put(key, &number.to_string()).await.status, 204, "{key}");
    }
    for (number, key) in keys.iter().enumerate() {
        let get = harness.get(&format!("/v1/kv/{key}")).await;
        assert_eq!((get.status, get.text()), (200, &number.to_string()[..]), "{key}");
    }
    assert_eq!(harness.get("/v1/kv/a%2Fb").await.text(), "1", "an encoded slash is the same byte");
    assert_eq!(harness.get("/v1/kv/%61").await.text(), "0", "an encoded letter is the same byte");
    harness.get("/v1/kv/a%252Fb").await.problem(404, "not-found");
    harness.stop().await;
}

/// 400 bad-key: empty, over 1024 bytes, not percent-encoded properly.
#[tokio::test]
async fn what_is_no_key_is_bad_key() {
    let harness = Harness::start(1).await;
    let long = "a".repeat(1025);
    for key in ["", "%", "%2", "%zz", &long] {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let answer = harness.send(method, &format!("/v1/kv/{key}"), &[], b"").await;
            assert_eq!(answer.status, 400, "{method} {key}");
            if method != "HEAD" {
                answer.problem(400, "bad-key");
            }
        }
    }
    assert_eq!(harness.put(&long, "").await.json()["limit"], 1024);
    harness.stop().await;
}

/// Values are raw: empty, any bytes, up to the limit; chunked too.
#[tokio::test]
async fn values_are_raw_bytes_up_to_the_limit() {
    let harness = Harness::start(1).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let largest = vec![7; 64 * 1024];
    for value in [&b""[..], b"\0", &every_byte, &largest] {
        assert_eq!(harness.send("PUT", "/v1/kv/a", &[], value).await.status, 204);
        let get = harness.get("/v1/kv/a").await;
        assert_eq!(get.body, value);
        assert_eq!(get.header("content-length"), Some(&value.len().to_string()[..]));
    }
    let chunked = [("transfer-encoding", "chunked")];
    let put = harness.send("PUT", "/v1/kv/a", &chunked, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(put.status, 204);
    assert_eq!(harness.get("/v1/kv/a").await.text(), "abcde");
    harness.stop().await;
}

/// 413 too-large with the limit in the body, announced or chunked; the connection lives long enough to say so.
#[tokio::test]
async fn a_value_over_the_limit_is_413_and_names_it() {
    let harness = Harness::start(1).await;
    let over = vec![7; 64 * 1024 + 1];
    let put = harness.send("PUT", "/v1/kv/a", &[], &over).await;
    assert_eq!(put.problem(413, "too-large")["limit"], 64 * 1024);
    let huge = vec![7; 4 * 1024 * 1024];
    harness.send("PUT", "/v1/kv/a", &[], &huge).await.problem(413, "too-large");
    let mut body = format!("{:x}\r\n", over.len()).into_bytes();
    body.extend_from_slice(&over);
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    let put = harness.send("PUT", "/v1/kv/a", &[("transfer-encoding", "chunked")], &body).await;
    assert_eq!(put.problem(413, "too-large")["limit"], 64 * 1024);
    harness.get("/v1/kv/a").await.problem(404, "not-found");
    harness.stop().await;
}
