//! Status, digest, health, metrics; who may come in; how a node starts and stops.

use super::*;
use duramen_common::PartitionId;
use duramen_common::log::Log as _;
use serde_json::json;

#[tokio::test]
async fn status_says_how_far_each_partition_is() {
    let harness = Harness::start(2).await;
    harness.log.push(PartitionId::new(1), [crate::testing::put("a", "1")]);
    harness.get("/v1/kv/a").await;
    let answer = harness.get("/v1/kv").await;
    assert_eq!(answer.status, 200);
    let answer = harness.get("/v1/status").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(
        answer.json(),
        json!({"node": "tested", "history": "c7f3a1", "partitions": [
            {"partition": 0, "leader": null, "committed_end": 0, "applied_end": 0, "lag": 0, "horizon": 0},
            {"partition": 1, "leader": null, "committed_end": 1, "applied_end": 1, "lag": 0, "horizon": 0},
        ]})
    );
    harness.stop().await;
}

/// The digest is equal on all nodes at the same applied end, and differs when anything does.
#[tokio::test]
async fn digests_agree_at_one_applied_end() {
    let harness = Harness::start(1).await;
    let other = Harness::start_with(config(), harness.log.clone()).await;
    let put = harness.put("apple", "1").await;
    let target = format!("/v1/partitions/0/digest?after={}", put.timestamp());
    let digest = harness.get(&target).await;
    assert_eq!(digest.status, 200);
    assert_eq!(other.get(&target).await.json(), digest.json());
    let body = digest.json();
    assert_eq!((&body["partition"], &body["applied_end"]), (&0.into(), &1.into()));
    assert_eq!(body.as_object().unwrap().len(), 3);
    let text = body["digest"].as_str().unwrap();
    assert!(text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    let put = harness.put("apple", "1").await;
    let later = harness.get(&format!("/v1/partitions/0/digest?after={}", put.timestamp())).await.json();
    assert_ne!(later["digest"], body["digest"], "the version is part of it");
    for partition in ["1", "x", "65535", "-1", "00", ""] {
        harness.get(&format!("/v1/partitions/{partition}/digest")).await.problem(404, "not-found");
    }
    other.stop().await;
    harness.stop().await;
}

#[tokio::test]
async fn health_readiness_and_metrics_answer() {
    let harness = Harness::start(1).await;
    harness.put("apple", "1").await;
    harness.get("/v1/kv/pear").await;
    assert_eq!(harness.get("/healthz").await.status, 200);
    assert_eq!(harness.get("/readyz").await.status, 200);
    let metrics = harness.get("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    for line in [
        "duramen_http_requests_total{route=\"key\",status=\"204\"} 1",
        "duramen_http_requests_total{route=\"key\",status=\"404\"} 1",
        "duramen_http_request_duration_seconds_count{route=\"key\"} 2",
        "duramen_applied_end{partition=\"0\"} 1",
        "duramen_lag{partition=\"0\"} 0",
        "duramen_readers_waiting 0",
        "duramen_overlay_bytes ",
        "# EOF",
    ] {
        assert!(metrics.text().contains(line), "{line} in\n{}", metrics.text());
    }
    harness.stop().await;
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405() {
    let harness = Harness::start(1).await;
    for path in ["/", "/v1", "/v1/", "/v1/kv2", "/v2/kv/a", "/v1/partitions/0", "/v1/partitions/0/digest/", "/HEALTHZ"]
    {
        harness.get(path).await.problem(404, "not-found");
        harness.send("POST", path, &[], b"x").await.problem(404, "not-found");
    }
    for (method, path, allow) in [
        ("POST", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/v1/kv", "GET, HEAD"),
        ("GET", "/v1/batch", "POST"),
        ("PUT", "/v1/txn", "POST"),
        ("POST", "/v1/feed", "GET"),
        ("POST", "/v1/status", "GET, HEAD"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
    ] {
        let answer = harness.send(method, path, &[], b"").await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some(allow));
    }
    harness.stop().await;
}

/// Bound to loopback, only loopback hosts are taken: a name that was rebound to 127.0.0.1 is not.
#[tokio::test]
async fn only_loopback_hosts_are_taken() {
    let harness = Harness::start(1).await;
    for host in ["localhost", "localhost:1", "127.0.0.1", "127.9.9.9:7001", "[::1]:7001"] {
        assert_eq!(harness.get_with("/healthz", &[("host", host)]).await.status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:7001", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "[::2]"]
    {
        for path in ["/healthz", "/v1/kv/a", "/metrics", "/nothing"] {
            harness.get_with(path, &[("host", host)]).await.problem(403, "forbidden");
        }
        harness.put_with("a", "1", &[("host", host)]).await.problem(403, "forbidden");
    }
    let absolute = harness.get_with("http://evil.example/healthz", &[("host", "localhost")]).await;
    absolute.problem(403, "forbidden");
    let answer = raw(harness.addr(), b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    Answer::parse(&answer, false).unwrap().problem(400, "bad-request");
    harness.stop().await;
}

/// No cross-origin access unless origins are configured.
#[tokio::test]
async fn foreign_origins_are_refused() {
    let harness = Harness::start(1).await;
    for origin in ["https://evil.example", "null", "http://localhost:1", "file://", ""] {
        harness.get_with("/v1/kv/a", &[("origin", origin)]).await.problem(403, "forbidden");
        harness.put_with("a", "1", &[("origin", origin)]).await.problem(403, "forbidden");
        harness.post("/v1/batch", json!({"ops": []}), &[("origin", origin)]).await.problem(403, "forbidden");
        let preflight = [("origin", origin), ("access-control-request-method", "PUT")];
        let answer = harness.send("OPTIONS", "/v1/kv/a", &preflight, b"").await;
        answer.problem(403, "forbidden");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let own = format!("http://{}", harness.addr());
    assert_eq!(harness.put_with("a", "1", &[("origin", &own)]).await.status, 204);
    harness.stop().await;
}

#[tokio::test]
async fn configured_origins_are_answered_with_cors() {
    let mut open = config();
    open.allowed_origins = vec!["https://app.example".to_owned()];
    let harness = Harness::start_with(open, Arc::new(MemoryLog::new(history(), 1))).await;
    let origin = ("origin", "https://app.example");
    let put = harness.put_with("a", "1", &[origin]).await;
    assert_eq!((put.status, put.header("access-control-allow-origin")), (204, Some("https://app.example")));
    assert!(put.header("access-control-expose-headers").unwrap().contains("log-timestamp"));
    assert_eq!(put.header("vary"), Some("origin"));
    let missing = harness.get_with("/v1/kv/b", &[origin]).await;
    missing.problem(404, "not-found");
    assert!(missing.header("access-control-allow-origin").is_some(), "a page must be able to read a problem");
    let preflight = [origin, ("access-control-request-method", "PUT"), ("access-control-request-headers", "if-match")];
    let answer = harness.send("OPTIONS", "/v1/kv/a", &preflight, b"").await;
    assert_eq!(answer.status, 204);
    assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("if-match"));
    harness.get_with("/v1/kv/a", &[("origin", "https://evil.example")]).await.problem(403, "forbidden");
    harness.stop().await;
}

/// Goal: a node that can neither write nor read linearizably says so. Method: a log without known leaders, for longer than
/// the node stays ready without; then one leads.
#[tokio::test]
async fn a_node_without_leaders_is_not_ready_for_long() {
    let config = ServingNodeConfig { ready_without_leader: Duration::from_millis(50), ..config() };
    let harness = Harness::start_with(config, Arc::new(MemoryLog::new(history(), 2))).await;
    while harness.get("/readyz").await.status == 200 {
        tokio::task::yield_now().await;
    }
    let answer = harness.get("/readyz").await;
    answer.problem(503, "no-leader");
    assert!(answer.text().contains("2 of 2 partitions have had no known leader"), "{}", answer.text());
    assert!(harness.get("/metrics").await.text().contains("duramen_leaderless_partitions 2"));
    assert_eq!(harness.get("/v1/kv/a?consistency=stale").await.status, 404);
    harness.log.set_leader(Some(duramen_common::NodeId::new(3)));
    while harness.get("/readyz").await.status != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(harness.get("/v1/status").await.json()["partitions"][1]["leader"], 3);
    harness.stop().await;
}

/// The port is there at once; until the log answers, everything but /healthz is 503; the node registers itself.
#[tokio::test]
async fn a_node_answers_before_the_log_does() {
    let log = Arc::new(MemoryLog::new(history(), 2));
    log.set_unavailable(true);
    let node = ServingNode::start(config(), log.clone(), Seams::system()).await.unwrap();
    let harness = Harness { log, node };
    assert_eq!(harness.get("/healthz").await.status, 200);
    assert_eq!(harness.get("/metrics").await.status, 200);
    for path in ["/readyz", "/v1/kv/a", "/v1/kv", "/v1/status", "/v1/feed"] {
        harness.get(path).await.problem(503, "behind");
    }
    harness.put("a", "1").await.problem(503, "no-leader");
    harness.log.set_unavailable(false);
    tokio::time::timeout(HANG, harness.node.ready()).await.unwrap();
    assert_eq!(harness.get("/readyz").await.status, 200);
    assert_eq!(harness.put("a", "1").await.status, 204);
    let registered = || async { harness.log.cluster(Duration::ZERO).await.unwrap().serving_nodes };
    while registered().await.is_empty() {
        tokio::task::yield_now().await;
    }
    let info = &registered().await[0];
    assert_eq!((info.name.as_str(), info.http_addr.clone()), ("tested", harness.addr().to_string()));
    harness.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_said_to_be_taken() {
    let harness = Harness::start(1).await;
    let taken = ServingNodeConfig { http_addr: harness.addr(), ..config() };
    let error = ServingNode::start(taken, harness.log.clone(), Seams::system()).await.err().unwrap();
    assert!(error.to_string().contains(&harness.addr().to_string()), "{error}");
    harness.stop().await;
}

/// A stop ends idle connections and open feeds, and takes no new ones.
#[tokio::test]
async fn a_stop_ends_everything() {
    let harness = Harness::start(1).await;
    let addr = harness.addr();
    let idle = TcpStream::connect(addr).await.unwrap();
    let mut feed = feed::Feed::open(&harness, "/v1/feed", &[]).await;
    harness.stop().await;
    assert_eq!(feed.rest().await, "");
    drop(idle);
    assert!(TcpStream::connect(addr).await.is_err());
}
