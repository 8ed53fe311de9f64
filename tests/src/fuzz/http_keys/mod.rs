//! The HTTP API of a serving node, over a log in memory: keys, tokens, entity tags, cursors, bodies, however they are written.
//!
//! * Input: up to twelve requests (`requests`). Every answer has the form of the contract (`answer`); what was acknowledged is read
//!   back under every spelling of its key and under no other key, and is what conditions, pages and the feed speak of (`judge`).
//! * Each input has a node of its own, in one thread and virtual time.
//! * Source: DESIGN §4. Deliberately absent: what hyper itself refuses, sockets, faults.

mod answer;
mod judge;
mod requests;

use super::Target;
use crate::planted::chance::Chance;
use answer::Answer;
use duramen_common::{HistoryId, Offset, PartitionId, Timestamp};
use duramen_serving_node::testing::{MemoryLog, Model};
use duramen_serving_node::{IndexKind, PartitionsConfig, ServingNode, ServingNodeConfig};
use judge::{Item, Judge, blob};
use requests::{Ask, SEPARATOR, path_of};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The target.
pub const TARGET: Target = Target {
    name: "http_keys",
    run,
    seeds,
    nasty,
    words: &[
        "%",
        "%2F",
        "%00",
        "%FF",
        "..",
        "//",
        "{t}",
        "?",
        "&",
        "=",
        "\u{1e}",
        "\n",
        "\n\n",
        "*",
        "W/",
        "\"",
        "GET ",
        "HEAD ",
        "PUT ",
        "DELETE ",
        "POST ",
        "OPTIONS ",
        "/v1/kv/",
        "/v1/kv?",
        "/v1/batch",
        "/v1/txn",
        "/v1/feed?",
        "/v1/status",
        "/v1/partitions/0/digest",
        "prefix=",
        "start=",
        "end=",
        "limit=",
        "cursor=",
        "after=",
        "from=",
        "consistency=",
        "stale",
        "session",
        "linearizable",
        "c7f3a1.",
        "c7f3a1.0:0",
        "c7f3a1.1:1",
        "c7f3a2.0:0",
        "\"c7f3a1.0:0\"",
        "\nif-match: ",
        "\nif-none-match: *",
        "\nidempotency-key: ",
        "\nread-after: ",
        "\nprefer: wait=",
        "\nhost: ",
        "\ncontent-range: bytes 6-21/22",
        "\ncontent-encoding: gzip",
        "\nif-unmodified-since: ",
        "\nexpect: ",
        "\nte: ",
        ",",
        "\norigin: ",
        "\nlast-event-id: ",
        "\ncontent-type: application/json",
        "{\"ops\":[",
        "{\"put\":",
        "{\"delete\":",
        "{\"key\":\"a\"",
        ",\"value\":\"1\"",
        ",\"version\":null",
        "{\"base64\":\"/w==\"}",
        "\"if\":[",
        "18446744073709551614",
    ],
    inputs: 10_000,
    heap_bytes_max: 16 * 1024 * 1024,
};

const PARTITIONS: u16 = 2;
/// Small, so that the limit is met.
const VALUE_BYTES_MAX: usize = 512;

fn run(data: &[u8]) {
    let asks = Ask::all(data);
    if asks.is_empty() {
        return;
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime of one thread needs nothing");
    runtime.block_on(converse(&asks));
}

async fn converse(asks: &[Ask]) {
    let history = HistoryId::from_bits(0x00c7_f3a1);
    let log = Arc::new(MemoryLog::new(history, PARTITIONS));
    let config = ServingNodeConfig {
        partitions: PartitionsConfig { index: IndexKind::Memory, ..PartitionsConfig::default() },
        value_bytes_max: VALUE_BYTES_MAX,
        allowed_origins: vec!["https://app.example".to_owned()],
        ..ServingNodeConfig::default()
    };
    let seams = Chance::new(7, 0).seams();
    let node = ServingNode::start_without_port(config, log.clone(), seams).await.expect("the settings are good");
    node.ready().await;
    let mut judge = Judge::new(PARTITIONS);
    for ask in asks {
        let answer = Answer::to(&node, ask).await;
        judge.see(ask, &answer);
    }
    settle(&node, &log, &mut judge).await;
    read_back(&node, asks, &judge).await;
    pages(&node, &judge).await;
    let mut feed = Answer::to(&node, &Ask::get("/v1/feed?from=c7f3a1.")).await;
    judge.check_feed(&feed.events().await);
    node.shutdown().await;
}

/// What is live by the log itself: the same as by what was acknowledged, or what stands for it where that is uncertain.
async fn settle(node: &ServingNode, log: &MemoryLog, judge: &mut Judge) {
    let mut live: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let folded = Model::of(&log.batches(partition), Offset::MAX).live;
        live.extend(folded.into_iter().map(|(key, (offset, value))| (key, (value, Timestamp { partition, offset }))));
    }
    if judge.is_uncertain {
        judge.named.extend(live.keys().cloned());
        judge.live = live;
        judge.is_uncertain = false;
    } else {
        assert_eq!(live, judge.live, "the log leads to another state than what was acknowledged");
    }
    node.ready().await;
}

/// Every key that was named, in every spelling: its value, or 404.
async fn read_back(node: &ServingNode, asks: &[Ask], judge: &Judge) {
    for key in judge.live.keys().chain(&judge.named) {
        for is_lower_case in [false, true] {
            let ask = Ask::get(&path_of(key, is_lower_case));
            judge.check_read(key, &ask, &Answer::to(node, &ask).await);
        }
    }
    for (ask, key) in asks.iter().filter_map(|ask| Some((ask, ask.key()?))) {
        let ask = Ask { uri: ask.uri.path().parse().expect("it was one before"), ..Ask::get("/") };
        judge.check_read(&key, &ask, &Answer::to(node, &ask).await);
    }
}

/// All pages, two items each: everything that is live, once and in order.
async fn pages(node: &ServingNode, judge: &Judge) {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut path = "/v1/kv?limit=2".to_owned();
    for _ in 0..=judge.live.len() {
        let answer = Answer::to(node, &Ask::get(&path)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let page = answer.json();
        let items = page["items"].as_array().expect("a page has items");
        found.extend(items.iter().map(|item| (blob(&item["key"]), blob(&item["value"]))));
        match page["cursor"].as_str() {
            Some(cursor) => path = format!("/v1/kv?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let live: Vec<_> = judge.live.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    assert_eq!(found, live, "pages are not what is live");
}

/// Requests as one input.
fn input(requests: &[&str]) -> Vec<u8> {
    requests.join(&*char::from(SEPARATOR).to_string()).into_bytes()
}

fn seeds() -> Vec<Vec<u8>> {
    let json = "\ncontent-type: application/json\n\n";
    let batch = format!(
        "POST /v1/batch{json}{}",
        r#"{"ops":[{"put":{"key":"a","value":"1"}},{"delete":{"key":"b"}},{"put":{"key":{"base64":"/w=="},"value":""}}]}"#
    );
    let txn = format!(
        "POST /v1/txn\nidempotency-key: t{json}{}",
        r#"{"if":[{"key":"{t}a","version":null},{"key":"{t}b","version":"c7f3a1.0:0"}],"ops":[{"put":{"key":"{t}a","value":"1"}}]}"#
    );
    let alone = format!("POST /v1/txn{json}{}", r#"{"ops":[{"put":{"key":"a","value":"2"}},{"delete":{"key":"a"}}]}"#);
    vec![
        input(&["PUT /v1/kv/a\n\none", "GET /v1/kv/a", "HEAD /v1/kv/a", "DELETE /v1/kv/a", "GET /v1/kv/a"]),
        input(&["PUT /v1/kv/a%2Fb\n\none", "PUT /v1/kv/a/b\n\ntwo", "PUT /v1/kv/..\n\nthree", "GET /v1/kv/%61%2fb"]),
        input(&["PUT /v1/kv/k%20+%00%FF\nif-none-match: *\n\nv", "PUT /v1/kv/k%20+%00%ff\nif-none-match: *\n\nw"]),
        input(&["PUT /v1/kv/b\n\n1", "PUT /v1/kv/b\nif-match: \"c7f3a1.0:0\"\n\n2", "PUT /v1/kv/b\nif-match: *\n\n3"]),
        input(&[
            "PUT /v1/kv/a\nidempotency-key: i\n\n1",
            "PUT /v1/kv/a\nidempotency-key: i\n\n1",
            "PUT /v1/kv/c\nidempotency-key: i\n\n1",
        ]),
        input(&[
            "PUT /v1/kv/a\n\n1",
            "GET /v1/kv/a?after=c7f3a1.0:0&consistency=session\nprefer: wait=2",
            "GET /v1/kv/a\nread-after: c7f3a1.1:0",
        ]),
        input(&[
            "PUT /v1/kv/a\n\n1",
            "PUT /v1/kv/b\n\n2",
            "GET /v1/kv?prefix=a&start=a&end=b&limit=1&consistency=stale",
            "GET /v1/kv?limit=1",
        ]),
        input(&["PUT /v1/kv/a\n\n1", "GET /v1/kv/a\nif-none-match: \"c7f3a1.0:0\"", "GET /v1/kv/a\nif-none-match: *"]),
        input(&[&batch, "GET /v1/kv/%FF", &batch]),
        input(&[&txn, &txn, &alone, "GET /v1/kv/{t}a"]),
        input(&["GET /v1/feed?from=c7f3a1.0:0&prefix=a", "GET /v1/feed\nlast-event-id: c7f3a1."]),
        input(&[
            "GET /v1/status",
            "GET /healthz",
            "GET /readyz",
            "GET /metrics",
            "GET /v1/partitions/1/digest?after=c7f3a1.",
        ]),
        input(&[
            "OPTIONS /v1/kv/a\norigin: https://app.example\naccess-control-request-method: PUT",
            "GET /v1/kv/a\nhost: [::1]:7001",
        ]),
        input(&["GET http://localhost:7001/v1/kv/a", "PATCH /v1/kv/a", "PUT /v1/kv\n\n1", "GET /v2"]),
    ]
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    let json = "\ncontent-type: application/json\n\n";
    let guards = |count: usize| {
        let guard = r#"{"key":"a","version":"c7f3a2.0:0"}"#;
        format!("POST /v1/txn{json}{{\"if\":[{}]}}", vec![guard; count].join(","))
    };
    let long_key = |bytes: usize| format!("PUT /v1/kv/{}\n\n1", "%61".repeat(bytes));
    let deep = format!("POST /v1/batch{json}{{\"ops\":{}", "[".repeat(10_000));
    let text = |requests: &[&str]| input(requests);
    vec![
        ("the longest key, and one byte more", text(&[&long_key(1024), &long_key(1025)])),
        ("no key", text(&["PUT /v1/kv/\n\n1"])),
        (
            "percent signs that encode nothing",
            text(&["PUT /v1/kv/%\n\n1", "PUT /v1/kv/%4\n\n1", "PUT /v1/kv/%+4\n\n1", "PUT /v1/kv/%zz\n\n1"]),
        ),
        ("a percent sign that is encoded", text(&["PUT /v1/kv/%2541\n\n1", "GET /v1/kv/A", "GET /v1/kv/%41"])),
        ("a plus is no space in a path", text(&["PUT /v1/kv/a+b\n\n1", "GET /v1/kv/a%20b", "GET /v1/kv/a%2Bb"])),
        ("a question mark in a key", text(&["PUT /v1/kv/a%3Fb\n\n1", "GET /v1/kv/a?b"])),
        ("a key that has the form of a path", text(&["PUT /v1/kv//v1/kv/../kv/a\n\n1"])),
        ("bytes over 127 as they are", [&b"PUT /v1/kv/"[..], "\u{e9}".as_bytes(), b"\n\n1"].concat()),
        ("a value over the limit", text(&[&format!("PUT /v1/kv/a\n\n{}", "v".repeat(VALUE_BYTES_MAX + 1))])),
        ("an empty value", text(&["PUT /v1/kv/a\n\n", "GET /v1/kv/a"])),
        ("a wait of no time", text(&["PUT /v1/kv/a\nprefer: wait=0\n\n1", "GET /v1/kv/a\nprefer: wait=0"])),
        (
            "the longest wait, for what never comes",
            text(&["GET /v1/kv/a?after=c7f3a1.0:18446744073709551614\nprefer: wait=30"]),
        ),
        ("a token for every partition that a number can name", text(&["GET /v1/kv/a?after=c7f3a1.65534:0"])),
        ("a feed from the end of all numbers", text(&["GET /v1/feed?from=c7f3a1.0:18446744073709551614"])),
        ("a cursor that ends before it starts", text(&[&format!("GET /v1/kv?cursor={BACKWARDS}")])),
        (
            "a range that ends before it starts",
            text(&["PUT /v1/kv/b\n\n1", "GET /v1/kv?start=b&end=a", "GET /v1/kv?start=b&end=b"]),
        ),
        ("brackets ten thousand deep", text(&[&deep])),
        (
            "half of a surrogate pair",
            text(&[&format!("POST /v1/batch{json}{}", r#"{"ops":[{"put":{"key":"\ud800","value":""}}]}"#)]),
        ),
        (
            "an op that is two",
            text(&[&format!(
                "POST /v1/batch{json}{}",
                r#"{"ops":[{"put":{"key":"a","value":"1"},"delete":{"key":"a"}}]}"#
            )]),
        ),
        ("found by reading: 600 guards that never hold", text(&[&guards(600)])),
        ("found by reading: as many guards as there may be, none of which holds", text(&[&guards(1000)])),
        ("one guard too many", text(&[&guards(1001)])),
        (
            "an Idempotency-Key for two partitions",
            text(&[
                "PUT /v1/kv/a\nidempotency-key: i\n\n1",
                "PUT /v1/kv/b\nidempotency-key: i\n\n1",
                "PUT /v1/kv/c\nidempotency-key: i\n\n1",
                "PUT /v1/kv/d\nidempotency-key: i\n\n1",
            ]),
        ),
        (
            "an Idempotency-Key of bytes that are no text",
            [&b"PUT /v1/kv/a\nprefer: wait=0\nidempotency-key: "[..], &[0xe9, 0xff], b"\n\n1"].concat(),
        ),
        (
            "a weak tag, two tags, and no tag",
            text(&[
                "PUT /v1/kv/a\nif-match: W/\"c7f3a1.0:0\"\n\n1",
                "PUT /v1/kv/a\nif-match: \"a\", \"b\"\n\n1",
                "PUT /v1/kv/a\nif-match: \n\n1",
            ]),
        ),
        (
            "a part of a value, encoded values, and a query on writes",
            text(&[
                "PUT /v1/kv/a\ncontent-range: bytes 6-21/22\n\nbrave new world",
                "PUT /v1/kv/a\ncontent-encoding: gzip\n\n1",
                "PUT /v1/kv/a?x\n\n1",
                "PUT /v1/kv/a?\n\n1",
                "DELETE /v1/kv/a?after=c7f3a1.",
                "DELETE /v1/kv/a\n\nbody",
                "GET /v1/kv/a",
            ]),
        ),
        ("a parameter that is misspelt", text(&["PUT /v1/kv/a\n\n1", "GET /v1/kv?prefx=z", "GET /v1/status?x"])),
        ("a host from elsewhere", text(&["GET /v1/kv/a\nhost: evil.example", "GET http://evil.example/v1/kv/a"])),
    ]
}

/// A cursor of this API: behind `b`, up to `a`, of what nobody asked for.
const BACKWARDS: &str = "AQAAAAAAAAAABwBjN2YzYTEuAQBhYg";
