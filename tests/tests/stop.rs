//! The end of a node: whoever waits gets an answer that says no more than is known.

use crate::e2e;
use duramen_tests::harness::cluster::{PATIENCE, Plan};
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::{Answer, Cluster, until};
use rustix::process::Signal;
use serde_json::json;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A cluster without a majority: what is asked of it waits.
async fn without_majority() -> Cluster {
    let plan = Plan { partitions: 1, serving_nodes: 1, proxied: false, ..Plan::default() };
    let mut cluster = Cluster::start(plan).await;
    cluster.http(0).put(kv("k"), "x").wait(20).expect(204).await;
    cluster.log[0].kill();
    cluster.log[1].kill();
    // Whoever led finds out that it does not any more.
    until("the loss to be noticed", PATIENCE, || async {
        let answer = cluster.http(0).put(kv("k"), "y").wait(0).ok().await;
        if answer.status == 503 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    cluster
}

fn closes(answer: &Answer) {
    assert_eq!(answer.header("connection"), Some("close"), "{answer}");
    assert!(answer.header("retry-after").is_some(), "{answer}");
}

/// A number of a node's metrics.
async fn metric(http: &Http, name: &str) -> u64 {
    let text = http.get("/metrics").limit(PATIENCE).expect(200).await.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

type Asked = JoinHandle<Answer>;

e2e! {
    /// Goal: at SIGTERM parked reads are 503, writes under way `outcome-unknown` with their key, also one that the node made,
    /// each op of a batch and a transaction too; a feed ends whole; the stop is bounded.
    async fn who_waits_at_a_serving_node_is_answered(places: 1, seconds: 120) {
        let mut cluster = without_majority().await;
        let http = cluster.http(0);
        let ask = |call: duramen_tests::harness::http::Call| -> Asked { tokio::spawn(call.wait(30).limit(PATIENCE).ok()) };
        let gets: Vec<Asked> = (0..5).map(|number| ask(http.get(kv(format!("g{number}"))))).collect();
        let puts: Vec<Asked> = (0..5).map(|number| ask(http.put(kv(format!("p{number}")), "v"))).collect();
        let given = ask(http.put(kv("given"), "v").header("idempotency-key", "mine"));
        let op = |key: &str| json!({"put": {"key": key, "value": "v"}});
        let batch = ask(http.post("/v1/batch", &json!({"ops": [op("a"), op("b")]})));
        let txn = ask(http.post("/v1/txn", &json!({"if": [{"key": "t", "version": null}], "ops": [op("t")]})));
        let scan = ask(http.get("/v1/kv"));
        let history = http.get("/v1/status").expect(200).await.json()["history"].as_str().unwrap_or_default().to_owned();
        let mut feed = TcpStream::connect(http.addr()).await.expect("it listens");
        let head = format!("GET /v1/feed?from={history}. HTTP/1.1\r\nHost: localhost\r\n\r\n");
        feed.write_all(head.as_bytes()).await.expect("it reads");
        // The bodies of six puts, each of a byte, a batch and a transaction are held, and the reads were sent before them.
        until("all to be there", PATIENCE, || async {
            let (held, feeds) = (metric(&http, "duramen_http_body_bytes").await, metric(&http, "duramen_http_feeds").await);
            if held >= 154 && feeds == 1 { Ok(()) } else { Err(format!("{held} bytes of bodies, {feeds} feeds")) }
        })
        .await;
        let began = tokio::time::Instant::now();
        assert!(cluster.serving[0].stop(PATIENCE).await.success());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        for get in gets.into_iter().chain([scan]) {
            let answer = get.await.expect("it is answered");
            closes(&answer);
            assert!(["behind", "no-leader"].contains(&&*answer.expect_status(503).problem()));
        }
        for put in puts.into_iter().chain([txn]) {
            let answer = put.await.expect("it is answered");
            closes(&answer);
            let key = answer.header("idempotency-key").unwrap_or_else(|| panic!("no key: {answer}")).to_owned();
            assert_eq!(answer.expect_problem(503, "outcome-unknown").json()["idempotency_key"], key);
        }
        let answer = given.await.expect("it is answered").expect_problem(503, "outcome-unknown");
        assert_eq!(answer.header("idempotency-key"), Some("mine"));
        let answer = batch.await.expect("it is answered").expect_status(200);
        assert!(answer.header("idempotency-key").is_some(), "{answer}");
        for result in answer.json()["results"].as_array().expect("a result for each op") {
            assert_eq!(result["problem"]["type"], "outcome-unknown", "{result}");
            assert!(result["problem"]["idempotency_key"].is_string(), "{result}");
        }
        let mut told = Vec::new();
        feed.read_to_end(&mut told).await.expect("it ends");
        let told = String::from_utf8_lossy(&told);
        assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("\r\n0\r\n\r\n"), "{told}");
    }
}

e2e! {
    /// Goal: the same at a log node: a parked fetch is 503, an append under way `outcome-unknown` with its key.
    async fn who_waits_at_a_log_node_is_answered(places: 1, seconds: 120) {
        let mut cluster = without_majority().await;
        let http = cluster.log_http(2);
        let fetch = tokio::spawn(http.get("/v1/log/0?from=1&wait=30").limit(PATIENCE).ok());
        let event = http.call("POST", "/v1/log/0").header("content-type", "application/octet-stream").body("an event");
        let append = tokio::spawn(event.wait(30).limit(PATIENCE).ok());
        until("both to be there", PATIENCE, || async {
            let held = metric(&http, "duramen_http_body_bytes").await;
            if held == 8 { Ok(()) } else { Err(format!("{held} bytes of bodies")) }
        })
        .await;
        assert!(cluster.log[2].stop(PATIENCE).await.success());
        let answer = fetch.await.expect("it is answered");
        closes(&answer);
        let _ = answer.expect_problem(503, "no-leader");
        let answer = append.await.expect("it is answered");
        closes(&answer);
        let key = answer.header("idempotency-key").unwrap_or_else(|| panic!("no key: {answer}")).to_owned();
        assert_eq!(answer.expect_problem(503, "outcome-unknown").json()["idempotency_key"], key);
    }
}

e2e! {
    /// Goal: a second signal ends a node at once, whoever waits.
    async fn a_second_signal_ends_a_node_at_once(places: 1, seconds: 90) {
        let mut cluster = without_majority().await;
        let http = cluster.http(0);
        let parked = tokio::spawn(http.get(kv("parked")).wait(30).limit(PATIENCE).send());
        cluster.serving[0].signal(Signal::TERM);
        until("the first to be heard", PATIENCE, || async {
            let told = cluster.serving[0].output();
            if told.contains("stopping") { Ok(()) } else { Err(told) }
        })
        .await;
        cluster.serving[0].signal(Signal::TERM);
        let status = cluster.serving[0].wait_end(PATIENCE).await;
        assert!(status.code() == Some(130) || status.success(), "{status:?} {:?}", status.signal());
        drop(parked.await);
    }
}
