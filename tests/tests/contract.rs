//! DESIGN §4, line by line, against a real cluster: statuses, headers, bodies.

use crate::e2e;
use duramen_tests::harness::Cluster;
use duramen_tests::harness::cluster::Plan;
use duramen_tests::harness::http::{Answer, Http, kv};
use serde_json::{Value, json};

fn etag(answer: &Answer) -> String {
    answer.header("etag").unwrap_or_else(|| panic!("no ETag: {answer}")).to_owned()
}

/// The same token, one record further: not there yet.
fn later(token: &str, by: u64) -> String {
    let (head, offset) = token.rsplit_once(':').expect("a timestamp");
    format!("{head}:{}", offset.parse::<u64>().expect("an offset") + by)
}

e2e! {
    /// Goal: PUT, GET, HEAD, DELETE as written. Method: each line of the contract, at either node.
    async fn the_contract_of_single_keys_holds(places: 1, seconds: 90) {
        let cluster = Cluster::five().await;
        let (one, two) = (cluster.http(0), cluster.http(1));
        writes(&one, &two).await;
        conditions(&one, &two).await;
        reads(&one, &two).await;
        tokens(&one, &two).await;
        malformed(&one).await;
    }
}

async fn writes(one: &Http, two: &Http) {
    let put = one.put(kv("w"), "1").expect(204).await;
    assert_eq!(put.version(), put.timestamp(), "{put}");
    assert!(put.body.is_empty() && put.version().single().is_some(), "{put}");
    let again = two.put(kv("w"), "2").expect(204).await;
    assert!(again.version() != put.version());
    let deleted = one.delete(kv("w")).expect(204).await;
    assert!(deleted.header("etag").is_none() && deleted.timestamp().single().is_some(), "{deleted}");
    let absent = two.delete(kv("never")).expect(204).await;
    assert!(absent.header("etag").is_none() && absent.timestamp().single().is_some(), "{absent}");
    let gone = two.get(kv("w")).ok().await.expect_problem(404, "not-found");
    assert!(gone.timestamp().offset() >= deleted.timestamp().offset(), "a 404 names its position: {gone}");
    assert!(gone.header("etag").is_none(), "{gone}");
}

trait TokenOrder {
    fn offset(&self) -> u64;
}
impl TokenOrder for duramen_common::SessionToken {
    fn offset(&self) -> u64 {
        self.single().expect("one timestamp").offset.get()
    }
}

async fn conditions(one: &Http, two: &Http) {
    let created = one.put(kv("c"), "1").header("if-none-match", "*").expect(204).await;
    let taken = two.put(kv("c"), "2").header("if-none-match", "*").ok().await.expect_problem(412, "version-mismatch");
    assert_eq!(etag(&taken), etag(&created), "a 412 tells the current version");
    assert!(taken.timestamp().offset() >= created.timestamp().offset(), "a 412 keeps a session monotonic: {taken}");
    let second = two.put(kv("c"), "2").header("if-match", etag(&created)).expect(204).await;
    let late =
        one.put(kv("c"), "3").header("if-match", etag(&created)).ok().await.expect_problem(412, "version-mismatch");
    assert_eq!(etag(&late), etag(&second));
    let third = one.put(kv("c"), "3").header("if-match", "*").expect(204).await;
    let none = one.put(kv("c-absent"), "x").header("if-match", "*").ok().await.expect_problem(412, "version-mismatch");
    assert!(none.header("etag").is_none(), "nothing has no version: {none}");
    let _ = two.get(kv("c-absent")).expect(404).await;
    // Never matches: weak, of another partition, of another history.
    let strong = etag(&third);
    let inner = strong.trim_matches('"');
    let (history, at) = inner.split_once('.').expect("a token");
    let (partition, offset) = at.split_once(':').expect("a timestamp");
    let other_partition = (partition.parse::<u16>().expect("a number") + 1) % 4;
    let other_history = if history == "000001" { "000002" } else { "000001" };
    for never in [
        format!("W/{strong}"),
        format!("\"{history}.{other_partition}:{offset}\""),
        format!("\"{other_history}.{at}\""),
        "\"nonsense\"".to_owned(),
    ] {
        let answer = one.put(kv("c"), "x").header("if-match", &never).ok().await;
        let answer = answer.expect_problem(412, "version-mismatch");
        assert_eq!(etag(&answer), strong, "If-Match: {never}");
    }
    for malformed in [format!("{strong}, {strong}"), inner.to_owned(), String::new()] {
        let answer = one.put(kv("c"), "x").header("if-match", &malformed).ok().await;
        let _ = answer.expect_problem(400, "bad-request");
    }
    let _ = one.delete(kv("c")).header("if-match", etag(&created)).ok().await.expect_problem(412, "version-mismatch");
    let _ = one.delete(kv("c")).header("if-match", &strong).expect(204).await;
    // A key that comes back has another version.
    let back = one.put(kv("c"), "1").header("if-none-match", "*").expect(204).await;
    assert_ne!(etag(&back), etag(&created));
}

async fn reads(one: &Http, two: &Http) {
    let put = one.put(kv("r"), "value").expect(204).await;
    let read = two.get(kv("r")).expect(200).await;
    assert_eq!((read.text().as_str(), etag(&read)), ("value", etag(&put)));
    assert!(read.timestamp().offset() >= put.timestamp().offset(), "a read names its position: {read}");
    let head = two.call("HEAD", kv("r")).expect(200).await;
    assert_eq!((head.header("content-length"), etag(&head)), (Some("5"), etag(&put)));
    let unchanged = two.get(kv("r")).header("if-none-match", etag(&put)).expect(304).await;
    assert!(unchanged.timestamp().offset() >= put.timestamp().offset() && unchanged.body.is_empty(), "{unchanged}");
    assert_eq!(etag(&unchanged), etag(&put));
    let _ = two.get(kv("r")).header("if-none-match", "\"000000.0:0\"").expect(200).await;
    let token = put.timestamp();
    for http in [one, two] {
        let _ = http.get(kv("r")).after(&token).expect(200).await;
        let _ = http.get(kv("r") + &format!("?after={token}")).expect(200).await;
        let _ = http.get(kv("r") + &format!("?after={token}&consistency=session")).expect(200).await;
        let _ = http.get(kv("r") + "?consistency=linearizable").after(&token).expect(200).await;
        let _ = http.get(kv("r") + "?consistency=linearizable").expect(200).await;
        let _ = http.get(kv("r") + "?consistency=stale").after(&token).expect(200).await;
        let absent = http.get(kv("r-absent")).ok().await.expect_problem(404, "not-found");
        assert!(absent.header("log-timestamp").is_some() || absent.header("etag").is_none(), "{absent}");
    }
    // Whoever would not wait is answered all the same: the leader is asked, and nothing is waited for to happen.
    for number in 0..20 {
        let _ = one.put(kv("r"), number.to_string()).header("prefer", "wait=0").expect(204).await;
        let read = two.get(kv("r")).header("prefer", "wait=0").ok().await;
        assert!(read.status == 200 && read.text() == number.to_string() || read.problem() == "behind", "{read}");
        let _ = two.get(kv("r")).header("prefer", "wait=31").expect(200).await;
    }
    let status = one.get("/v1/status").expect(200).await.json();
    assert!(status["node"].is_string() && status["history"].as_str().is_some_and(|h| h.len() == 6), "{status}");
    let partitions = status["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), 4);
    for (number, partition) in partitions.iter().enumerate() {
        assert_eq!(partition["partition"], number);
        for field in ["committed_end", "applied_end", "lag", "horizon"] {
            assert!(partition[field].is_u64(), "{field}: {status}");
        }
    }
    let digest = one.get("/v1/partitions/0/digest").expect(200).await.json();
    assert!(digest["partition"] == 0 && digest["applied_end"].is_u64() && digest["digest"].is_string(), "{digest}");
    let _ = one.get("/v1/partitions/4/digest").expect(404).await;
    for path in ["/healthz", "/readyz"] {
        let _ = one.get(path).expect(200).await;
    }
    let metrics = one.get("/metrics").expect(200).await.text();
    assert!(metrics.contains("# TYPE") && metrics.contains("applied_end"), "{metrics}");
}

async fn tokens(one: &Http, two: &Http) {
    let put = one.put(kv("t"), "1").expect(204).await;
    let token = put.timestamp().to_string();
    let _ = two.get(kv("t")).after(&token).expect(200).await;
    let _ = two.get(kv("t") + "?consistency=session").ok().await.expect_problem(400, "bad-request");
    let _ = two.get(kv("t") + "?consistency=fresh").after(&token).ok().await.expect_problem(400, "bad-request");
    // Both places are merged: the greater counts.
    let future = later(&token, 1_000_000);
    let merged = two.get(kv("t") + &format!("?after={future}")).after(&token).wait(1).ok().await;
    let _ = merged.expect_problem(400, "bad-token");
    let _ = two.get(kv("t")).after(&future).wait(2).ok().await.expect_problem(400, "bad-token");
    // A position of a partition that the key is not in does not matter to it.
    let _ = two.get(kv("t") + &format!("?consistency=stale&after={future}")).expect(200).await;
    let (history, at) = token.split_once('.').expect("a token");
    let other = if history == "000001" { "000002" } else { "000001" };
    for consistency in ["session", "linearizable", "stale"] {
        let answer =
            two.get(kv("t") + &format!("?consistency={consistency}")).after(format!("{other}.{at}")).ok().await;
        let _ = answer.expect_problem(409, "other-history");
    }
    let many = format!("{history}.{}", (0..2000).map(|p| format!("{p}:1")).collect::<Vec<_>>().join("_"));
    for bad in [
        "",
        ".",
        history,
        "zzzzzz.0:1",
        &format!("{history}.0:1_0:2"),
        &format!("{history}.1:1_0:1"),
        &format!("{history}.0:01"),
        &format!("{history}.0:-1"),
        &many,
    ] {
        let answer = two.get(kv("t")).after(bad).ok().await;
        let _ = answer.expect_problem(400, "bad-token");
    }
    let nothing_seen = two.get(kv("t")).after(format!("{history}.")).expect(200).await;
    assert!(["1"].contains(&nothing_seen.text().as_str()), "{nothing_seen}");
}

async fn malformed(http: &Http) {
    for key in ["", "%", "%2", "%zz", &"k".repeat(1025), &"%41".repeat(1025)] {
        for call in [http.get(format!("/v1/kv/{key}")), http.put(format!("/v1/kv/{key}"), "x")] {
            let answer = call.ok().await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-key"), "{answer}");
        }
    }
    let _ = http.put(kv("big"), vec![0u8; (1 << 20) + 1]).ok().await.expect_problem(413, "too-large");
    for wait in ["wait=x", "wait=-1"] {
        let answer = http.get(kv("t")).header("prefer", wait).ok().await;
        assert!([200, 400, 404].contains(&answer.status), "{answer}");
    }
    let _ = http.get("/v1/nothing").ok().await.expect_problem(404, "not-found");
    let _ = http.call("PATCH", kv("t")).ok().await.expect_problem(405, "method-not-allowed");
    for limit in ["0", "1001", "-1", "x", ""] {
        let answer = http.get(format!("/v1/kv?limit={limit}")).ok().await;
        let _ = answer.expect_problem(400, "bad-request");
    }
    let _ = http.get("/v1/kv?cursor=nonsense").ok().await.expect_problem(400, "bad-request");
    // A web page must not reach a developer's database.
    let rebound = http.get(kv("t")).header("host", "evil.example").ok().await;
    let _ = rebound.expect_problem(403, "forbidden");
    let foreign = http.put(kv("t"), "x").header("origin", "https://evil.example").ok().await;
    assert!(foreign.status == 403 || foreign.header("access-control-allow-origin").is_none(), "{foreign}");
}

e2e! {
    /// Goal: batch, transaction, scan as written. Method: each line of the contract.
    async fn the_contract_of_many_keys_holds(places: 1, seconds: 90) {
        let cluster = Cluster::five().await;
        let (one, two) = (cluster.http(0), cluster.http(1));
        batches(&one, &two).await;
        transactions(&one, &two).await;
        scans(&one, &two).await;
        media_types(&one).await;
        log_nodes(&cluster).await;
    }
}

async fn batches(one: &Http, two: &Http) {
    let ops: Vec<Value> = (0..100)
        .map(|n| match n % 10 {
            9 => json!({"delete": {"key": format!("b{}", n - 1)}}),
            _ => json!({"put": {"key": format!("b{n}"), "value": format!("v{n}")}}),
        })
        .collect();
    let answer = one.post("/v1/batch", &json!({"ops": ops})).expect(200).await;
    let results = answer.json()["results"].as_array().expect("results").clone();
    assert_eq!(results.len(), 100);
    let mut last = std::collections::BTreeMap::new();
    for result in &results {
        assert_eq!(result["status"], 204, "{result}");
        let token: duramen_common::SessionToken =
            result["timestamp"].as_str().expect("a timestamp").parse().expect("a token");
        let at = token.single().expect("one");
        assert!(last.insert(at.partition, at.offset).is_none_or(|before| before < at.offset), "in order: {answer}");
    }
    let touched: Vec<_> = answer.timestamp().timestamps().map(|at| (at.partition, at.offset)).collect();
    assert_eq!(touched, last.into_iter().collect::<Vec<_>>(), "Log-Timestamp names the partitions touched: {answer}");
    for n in 0..10 {
        let read = two.get(kv(format!("b{n}"))).after(answer.timestamp()).ok().await;
        assert_eq!(read.status, if n >= 8 { 404 } else { 200 }, "{read}");
    }
    let empty = one.post("/v1/batch", &json!({"ops": []})).ok().await;
    assert!([200, 400].contains(&empty.status), "{empty}");
    let many: Vec<Value> = (0..1001).map(|n| json!({"delete": {"key": format!("x{n}")}})).collect();
    let _ = one.post("/v1/batch", &json!({"ops": many})).ok().await.expect_problem(413, "too-large");
    let big = json!({"ops": [{"put": {"key": "x", "value": "v".repeat(4 << 20)}}]});
    let _ = one.post("/v1/batch", &big).ok().await.expect_problem(413, "too-large");
    for malformed in [
        json!({}),
        json!([]),
        json!({"ops": [{"put": {"key": "x"}}]}),
        json!({"ops": [{"take": {"key": "x"}}]}),
        json!({"ops": [{"put": {"key": 1, "value": "x"}}]}),
    ] {
        let _ = one.post("/v1/batch", &malformed).ok().await.expect_problem(400, "bad-request");
    }
    let answer = one.post("/v1/batch", &json!({"ops": [{"delete": {"key": ""}}]})).ok().await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-key"), "{answer}");
}

async fn transactions(one: &Http, two: &Http) {
    let txn = |condition: Value, ops: Value| one.post("/v1/txn", &json!({"if": condition, "ops": ops}));
    let put = |key: &str, value: &str| json!({"put": {"key": key, "value": value}});
    let made =
        txn(json!([{"key": "{x}a", "version": null}]), json!([put("{x}a", "1"), put("{x}b", "1")])).expect(200).await;
    assert_eq!(made.json()["committed"], true, "{made}");
    let version = made.json()["timestamp"].as_str().expect("a timestamp").to_owned();
    assert_eq!(two.get(kv("{x}b")).after(&version).expect(200).await.version().to_string(), version);
    let not =
        txn(json!([{"key": "{x}a", "version": null}]), json!([put("{x}a", "2"), put("{x}b", "2")])).expect(200).await;
    assert_eq!(not.json()["committed"], false, "{not}");
    assert_eq!(two.get(kv("{x}b")).expect(200).await.text(), "1", "a failed guard changes nothing");
    let both = json!([{"key": "{x}a", "version": version}, {"key": "{x}b", "version": version}]);
    let check = txn(both.clone(), json!([])).expect(200).await;
    assert_eq!(check.json()["committed"], true, "guards alone: {check}");
    assert_eq!(two.get(kv("{x}a")).expect(200).await.version().to_string(), version, "guards alone change nothing");
    let moved = txn(both, json!([put("{x}a", "3"), {"delete": {"key": "{x}b"}}])).expect(200).await;
    assert_eq!(moved.json()["committed"], true, "{moved}");
    assert_eq!(two.get(kv("{x}a")).expect(200).await.text(), "3");
    let _ = two.get(kv("{x}b")).expect(404).await;
    let far: Vec<Value> = (0..64).map(|n| put(&format!("far{n}"), "x")).collect();
    let _ = txn(json!([]), json!(far)).ok().await.expect_problem(422, "many-partitions");
    let _ = two.get(kv("far0")).expect(404).await;
    let _ = txn(json!([{"key": "{x}a", "version": "nonsense"}]), json!([])).ok().await;
    let _ = txn(json!("x"), json!([])).ok().await.expect_problem(400, "bad-request");
}

async fn scans(one: &Http, two: &Http) {
    let ops: Vec<Value> =
        (0..150).map(|n| json!({"put": {"key": format!("s/{n:03}"), "value": n.to_string()}})).collect();
    let written = one.post("/v1/batch", &json!({"ops": ops})).expect(200).await.timestamp();
    let page = two.get("/v1/kv?prefix=s/").after(&written).expect(200).await;
    let body = page.json();
    assert_eq!(body["items"].as_array().map(Vec::len), Some(100), "the default limit is 100");
    let item = &body["items"][7];
    assert_eq!((item["key"].as_str(), item["value"].as_str()), (Some("s/007"), Some("7")));
    let single = two.get(kv("s/007")).expect(200).await;
    assert_eq!(item["version"].as_str(), Some(single.version().to_string().as_str()));
    let timestamp = body["timestamp"].as_str().expect("a timestamp");
    assert_eq!(page.header("log-timestamp"), Some(timestamp), "{page}");
    let token: duramen_common::SessionToken = timestamp.parse().expect("a token");
    for at in written.timestamps() {
        assert!(token.position(at.partition) >= Some(at.offset), "a scan's token covers what it was asked for");
    }
    let cursor = body["cursor"].as_str().expect("there is more");
    let rest = one.get(format!("/v1/kv?prefix=s/&cursor={cursor}")).expect(200).await.json();
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(50));
    assert_eq!(rest["items"][0]["key"], "s/100");
    assert!(rest["cursor"].is_null(), "{rest}");
    let nothing = two.get("/v1/kv?prefix=zzz").expect(200).await.json();
    assert_eq!(nothing["items"], json!([]));
    let _ = two.get("/v1/kv?prefix=s/&consistency=stale&limit=1").expect(200).await;
    let future = later(&one.put(kv("s/000"), "x").expect(204).await.timestamp().to_string(), 1_000_000);
    let _ = two.get("/v1/kv?prefix=s/").after(&future).wait(2).ok().await.expect_problem(400, "bad-token");
}

async fn media_types(http: &Http) {
    for path in ["/v1/batch", "/v1/txn"] {
        let without = http.call("POST", path).body("{\"ops\":[]}").ok().await;
        let _ = without.expect_problem(415, "media-type");
        let other = http.call("POST", path).header("content-type", "text/plain").body("{\"ops\":[]}").ok().await;
        let _ = other.expect_problem(415, "media-type");
        let broken = http.call("POST", path).header("content-type", "application/json").body("{\"ops\":").ok().await;
        let _ = broken.expect_problem(400, "bad-request");
        let _ = http.get(path).ok().await.expect_problem(405, "method-not-allowed");
    }
}

/// The log nodes' own HTTP.
async fn log_nodes(cluster: &Cluster) {
    let leader = cluster.leader_of(0).await;
    let log = cluster.log_http(leader);
    let tail = log.get("/v1/log/0/tail").expect(200).await.json();
    let end = tail["committed_end"].as_u64().unwrap_or_else(|| panic!("{tail}"));
    let appended =
        log.call("POST", "/v1/log/0").header("content-type", "application/octet-stream").body("an event").ok().await;
    assert!(appended.status == 200 || appended.status == 204, "{appended}");
    let now = log.get("/v1/log/0/tail").expect(200).await.json();
    assert_eq!(now["committed_end"], end + 1, "{now}");
    let records = log.get(format!("/v1/log/0?from={end}&limit=10&wait=0")).expect(200).await;
    assert_eq!(records.text().lines().count(), 1, "{records}");
    assert!(records.text().contains("an event"), "{records}");
    let parked = log.get(format!("/v1/log/0?from={}&limit=10&wait=1", end + 1)).expect(200).await;
    assert!(parked.text().trim().is_empty(), "{parked}");
    let info = log.get("/v1/cluster").expect(200).await.json();
    assert_eq!(info["log_nodes"].as_array().map(Vec::len), Some(3), "{info}");
    assert_eq!(info["serving_nodes"].as_array().map(Vec::len), Some(2), "serving nodes are registered: {info}");
    assert_eq!(info["partitions"], 4, "{info}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        let _ = log.get(path).expect(200).await;
    }
    let _ = log.get("/v1/log/99/tail").expect(404).await;
    let refused = log.call("POST", "/v1/log/0").header("content-type", "text/html").body("x").ok().await;
    let _ = refused.expect_problem(415, "media-type");
}

e2e! {
    /// Goal: waits are honest: `Server-Timing` says how long, `Prefer: wait` bounds it, `behind` has its members and
    /// `Retry-After`. Method: a node that applies 700 ms late.
    async fn a_parked_read_says_how_long_it_waited(places: 1, seconds: 60) {
        let serving_extra = vec![String::new(), "lag-ms = 700".to_owned()];
        let cluster = Cluster::start(Plan { serving_extra, ..Plan::default() }).await;
        let (one, two) = (cluster.http(0), cluster.http(1));
        let put = one.put(kv("p"), "1").expect(204).await;
        let behind = two.get(kv("p")).after(put.timestamp()).wait(0).ok().await.expect_problem(503, "behind");
        assert!(behind.header("retry-after").is_some(), "{behind}");
        let members = behind.json();
        for member in ["wanted", "applied", "lag"] {
            assert!(!members[member].is_null(), "{member}: {behind}");
        }
        let waited = two.get(kv("p")).after(put.timestamp()).wait(20).expect(200).await;
        assert_eq!(waited.text(), "1");
        let put = one.put(kv("p"), "2").expect(204).await;
        let waited = two.get(kv("p")).after(put.timestamp()).expect(200).await;
        let timing = waited.header("server-timing").unwrap_or_else(|| panic!("no Server-Timing: {waited}"));
        let parked_ms: f64 = timing.split("wait;dur=").nth(1).and_then(|ms| ms.split([',', ';']).next()?.parse().ok())
            .unwrap_or_else(|| panic!("Server-Timing: {timing}"));
        assert!(parked_ms > 100.0, "{timing}");
        assert_eq!(two.get(kv("p")).expect(200).await.text(), "2", "linearizable waits too");
    }
}
