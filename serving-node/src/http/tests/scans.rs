//! `GET /v1/kv`: pages over all partitions.

use super::*;

fn keys_of(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect()
}

async fn filled(partitions: u16, count: usize) -> (Harness, Vec<String>) {
    let harness = Harness::start(partitions).await;
    let keys: Vec<String> = (0..count).map(|number| format!("k{number:03}")).collect();
    for key in &keys {
        assert_eq!(harness.put(key, &format!("v-{key}")).await.status, 204);
    }
    (harness, keys)
}

/// {"items":[{"key","value","version"}],"cursor","timestamp"}, ordered by key bytes over all partitions.
#[tokio::test]
async fn a_scan_gives_items_in_key_order_over_all_partitions() {
    let (harness, keys) = filled(4, 20).await;
    let put = harness.put("k007", "again").await;
    let answer = harness.get("/v1/kv").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let page = answer.json();
    assert_eq!(keys_of(&page), keys);
    assert_eq!(page["cursor"], Value::Null);
    assert_eq!(page["timestamp"], answer.timestamp());
    assert_eq!(answer.timestamp().matches(':').count(), 4, "all partitions that are not empty");
    assert!(answer.header("server-timing").is_some());
    let item = &page["items"][7];
    assert_eq!(item["value"], "again");
    assert_eq!(item["version"], put.timestamp());
    assert_eq!(item.as_object().unwrap().len(), 3);
    assert_eq!(page.as_object().unwrap().len(), 3);
    harness.stop().await;
}

#[tokio::test]
async fn an_empty_scan_is_a_page() {
    let harness = Harness::start(2).await;
    let answer = harness.get("/v1/kv").await;
    assert_eq!(answer.text(), "{\"items\":[],\"cursor\":null,\"timestamp\":\"c7f3a1.\"}");
    assert_eq!(answer.timestamp(), "c7f3a1.");
    harness.stop().await;
}

/// Pages follow one another by their cursor, each full, with and without the query repeated, until null.
#[tokio::test]
async fn pages_follow_their_cursors_to_the_end() {
    let (harness, keys) = filled(4, 25).await;
    for query in ["limit=10", "limit=10&prefix=k0", "limit=10&start=k000&end=l", "limit=7"] {
        let mut given = Vec::new();
        let mut cursor = String::new();
        let mut pages = 0;
        loop {
            let repeated = if pages % 2 == 0 { query } else { query.split('&').next().unwrap() };
            let page = harness.get(&format!("/v1/kv?{repeated}&cursor={cursor}")).await.json();
            given.extend(keys_of(&page));
            pages += 1;
            match page["cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(given, keys, "{query}");
        assert!(pages <= 4, "{pages} pages for {query}");
    }
    harness.stop().await;
}

/// prefix, start (included), end (excluded) are percent-decoded bytes and hold together.
#[tokio::test]
async fn bounds_are_bytes() {
    let harness = Harness::start(4).await;
    for key in ["a", "a%00", "a%20b", "a%2Fb", "b", "b%FF", "b%FFx", "c"] {
        harness.put(key, "").await;
    }
    let count = |query: &'static str| {
        let harness = &harness;
        async move { harness.get(&format!("/v1/kv?{query}")).await.json()["items"].as_array().unwrap().len() }
    };
    for (query, wanted) in [
        ("", 8),
        ("prefix=a", 4),
        ("prefix=a%00", 1),
        ("prefix=a%2F", 1),
        ("prefix=a+b", 1),
        ("prefix=a%20", 1),
        ("prefix=b%FF", 2),
        ("start=a&end=b", 4),
        ("start=a%00&end=b", 3),
        ("start=b&end=b", 0),
        ("start=c&end=a", 0),
        ("prefix=b&start=b%00", 2),
        ("prefix=b&end=b%FFx", 2),
        ("prefix=&start=&end=", 8),
        ("start=c", 1),
        ("end=a", 0),
        ("prefix=d", 0),
    ] {
        assert_eq!(count(query).await, wanted, "{query}");
    }
    harness.stop().await;
}

/// JSON keys and values are strings, or {"base64"} where they are not UTF-8.
#[tokio::test]
async fn what_is_not_utf8_is_base64() {
    let harness = Harness::start(1).await;
    harness.send("PUT", "/v1/kv/%ff", &[], b"\xfe").await;
    let page = harness.get("/v1/kv").await.json();
    assert_eq!(page["items"][0]["key"], serde_json::json!({"base64": "/w=="}));
    assert_eq!(page["items"][0]["value"], serde_json::json!({"base64": "/g=="}));
    harness.stop().await;
}

#[tokio::test]
async fn a_limit_is_1_to_1000_and_100_by_default() {
    let (harness, _) = filled(2, 101).await;
    for limit in ["0", "1001", "-1", "x", "", "1.5", "+1", "99999999999999999999", "1&limit=2"] {
        harness.get(&format!("/v1/kv?limit={limit}")).await.problem(400, "bad-request");
    }
    let items = |page: Value| page["items"].as_array().unwrap().len();
    assert_eq!(items(harness.get("/v1/kv").await.json()), 100);
    assert_eq!(items(harness.get("/v1/kv?limit=1").await.json()), 1);
    assert_eq!(items(harness.get("/v1/kv?limit=1000").await.json()), 101);
    harness.stop().await;
}

#[tokio::test]
async fn a_cursor_of_another_scan_or_none_at_all_is_400() {
    let (harness, _) = filled(1, 3).await;
    let page = harness.get("/v1/kv?limit=1&prefix=k").await.json();
    let cursor = page["cursor"].as_str().unwrap();
    harness.get(&format!("/v1/kv?limit=1&prefix=j&cursor={cursor}")).await.problem(400, "bad-request");
    harness.get(&format!("/v1/kv?cursor={}", &cursor[1..])).await.problem(400, "bad-request");
    for cursor in ["x", "!!!", "AAAA", &"A".repeat(30_000)] {
        harness.get(&format!("/v1/kv?cursor={cursor}")).await.problem(400, "bad-request");
    }
    for query in ["prefix=%zz", "prefix=a&prefix=b"] {
        harness.get(&format!("/v1/kv?{query}")).await.problem(400, "bad-request");
    }
    let long = "a".repeat(1025);
    harness.get(&format!("/v1/kv?prefix={long}")).await.problem(400, "bad-key");
    harness.stop().await;
}

/// The cursor carries its page's token: the next page, at a node that lags, waits rather than be older.
#[tokio::test]
async fn the_next_page_is_never_older() {
    let (harness, _) = filled(2, 4).await;
    let cursor = harness.get("/v1/kv?limit=2").await.json()["cursor"].as_str().unwrap().to_owned();
    let behind = Harness::start_unready(lagging(), harness.log.clone()).await;
    let page = behind.get_with(&format!("/v1/kv?limit=2&cursor={cursor}"), &[("prefer", "wait=0")]).await;
    page.problem(503, "behind");
    let page = harness.get(&format!("/v1/kv?limit=2&cursor={cursor}")).await;
    assert_eq!(page.json()["items"].as_array().unwrap().len(), 2);
    behind.stop().await;
    harness.stop().await;
}

/// A page of large values ends early, with a cursor, and loses nothing.
#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let mut large = config();
    large.value_bytes_max = 1024 * 1024;
    let harness = Harness::start_with(large, Arc::new(MemoryLog::new(history(), 2))).await;
    let value = vec![b'v'; 1024 * 1024];
    for number in 0..14 {
        let put = harness.send("PUT", &format!("/v1/kv/k{number:02}"), &[], &value).await;
        assert_eq!(put.status, 204);
    }
    let mut given = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = harness.get(&format!("/v1/kv?cursor={cursor}")).await;
        assert!(answer.body.len() < 10 * 1024 * 1024, "a page of {} bytes", answer.body.len());
        let page = answer.json();
        given.extend(keys_of(&page));
        match page["cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(given, (0..14).map(|number| format!("k{number:02}")).collect::<Vec<_>>());
    harness.stop().await;
}
