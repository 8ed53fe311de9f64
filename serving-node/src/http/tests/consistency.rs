//! What a read sees: linearizable, session, stale; tokens; waits.

use super::*;
use duramen_common::PartitionId;

const P0: PartitionId = PartitionId::new(0);

/// Without a token the default is linearizable: one question to the leader. With one, session: none.
#[tokio::test]
async fn the_default_is_linearizable_and_with_a_token_session() {
    let harness = Harness::start(1).await;
    let put = harness.put("apple", "1").await;
    let asked = harness.log.tails_asked();
    assert_eq!(harness.get("/v1/kv/apple").await.status, 200);
    assert_eq!(harness.log.tails_asked(), asked + 1);
    assert_eq!(harness.get("/v1/kv/apple?consistency=linearizable").await.status, 200);
    assert_eq!(harness.log.tails_asked(), asked + 2);
    let token = put.timestamp();
    for get in [
        harness.get_with("/v1/kv/apple", &[("read-after", &token)]).await,
        harness.get(&format!("/v1/kv/apple?after={token}")).await,
        harness.get(&format!("/v1/kv/apple?after={token}&consistency=session")).await,
        harness.get("/v1/kv/apple?consistency=stale").await,
    ] {
        assert_eq!((get.status, get.text()), (200, "1"));
    }
    assert_eq!(harness.log.tails_asked(), asked + 2);
    let both = harness.get(&format!("/v1/kv/apple?after={token}&consistency=linearizable")).await;
    assert_eq!(both.status, 200);
    assert_eq!(harness.log.tails_asked(), asked + 3);
    harness.stop().await;
}

#[tokio::test]
async fn an_unknown_consistency_and_a_session_without_a_token_are_400() {
    let harness = Harness::start(1).await;
    for target in ["/v1/kv/apple", "/v1/kv"] {
        for consistency in ["session", "strong", "", "Linearizable", "stale&consistency=stale"] {
            harness.get(&format!("{target}?consistency={consistency}")).await.problem(400, "bad-request");
        }
    }
    harness.stop().await;
}

/// A read with a token waits until this node has applied it; the token may come by header, header again, and query.
#[tokio::test]
async fn a_read_with_a_token_waits_until_it_is_applied() {
    let mut slow = config();
    slow.partitions.lag = Duration::from_millis(150);
    let log = Arc::new(MemoryLog::new(history(), 4));
    let harness = Harness::start_with(slow, log).await;
    let one = harness.put("apple", "1").await.timestamp();
    let two = harness.put("google", "2").await.timestamp();
    let get = harness.get_with("/v1/kv/google", &[("read-after", &one), ("read-after", &two)]).await;
    assert_eq!((get.status, get.text()), (200, "2"));
    let three = harness.put("google", "3").await.timestamp();
    let get = harness.get_with(&format!("/v1/kv/google?after={three}"), &[("read-after", &two)]).await;
    assert_eq!((get.status, get.text()), (200, "3"));
    let waited: f64 = get.header("server-timing").unwrap().strip_prefix("wait;dur=").unwrap().parse().unwrap();
    assert!(waited > 10.0, "it was parked for {waited} ms");
    let four = harness.put("google", "4").await.timestamp();
    let get = harness.get_with("/v1/kv/google", &[("read-after", &format!("{one}, {four}"))]).await;
    assert_eq!(get.text(), "4");
    let five = harness.put("google", "5").await;
    let get = harness.get("/v1/kv/google").await;
    assert_eq!((get.text(), get.timestamp()), ("5", five.timestamp()), "linearizable waits as well");
    harness.stop().await;
}

/// 503 behind: wanted, applied and lag in the body; never 404 for a timeout. `stale` goes on answering.
#[tokio::test]
async fn a_node_that_does_not_get_there_in_time_is_behind() {
    let harness = Harness::start(1).await;
    harness.log.stall(true);
    harness.log.push(P0, [crate::testing::put("apple", "1")]);
    let token = ("read-after", "c7f3a1.0:0");
    for get in [
        harness.get_with("/v1/kv/apple", &[("prefer", "wait=0"), token]).await,
        harness.get_with("/v1/kv/apple", &[("prefer", "wait=1"), token]).await,
        harness.get_with("/v1/kv", &[("prefer", "wait=1"), token]).await,
    ] {
        let body = get.problem(503, "behind");
        assert_eq!((&body["wanted"], &body["applied"], &body["lag"]), (&1.into(), &0.into(), &1.into()));
    }
    for target in ["/v1/kv/apple?consistency=stale", "/v1/kv/apple?consistency=stale&after=c7f3a1.0:0"] {
        let stale = harness.get(target).await;
        stale.problem(404, "not-found");
        assert_eq!(stale.timestamp(), "c7f3a1.");
    }
    harness.log.stall(false);
    assert_eq!(harness.get_with("/v1/kv/apple", &[token]).await.text(), "1");
    harness.stop().await;
}

/// A node cut off from the log: linearizable reads answer 503, never an old value; session and stale go on.
#[tokio::test]
async fn a_node_without_a_leader_answers_no_linearizable_read() {
    let harness = Harness::start(1).await;
    let put = harness.put("apple", "1").await;
    assert_eq!(harness.get("/v1/kv/apple").await.status, 200);
    harness.log.set_unavailable(true);
    for target in ["/v1/kv/apple", "/v1/kv", "/v1/kv/pear"] {
        harness.get_with(target, &[("prefer", "wait=1")]).await.problem(503, "no-leader");
    }
    assert_eq!(harness.get("/v1/kv/apple?consistency=stale").await.text(), "1");
    assert_eq!(harness.get_with("/v1/kv/apple", &[("read-after", &put.timestamp())]).await.text(), "1");
    harness
        .get_with("/v1/kv/apple", &[("read-after", "c7f3a1.0:9"), ("prefer", "wait=1")])
        .await
        .problem(503, "behind");
    harness.stop().await;
}

/// 400 bad-token: malformed, of a partition that there is not, or past the committed end as the leader says.
#[tokio::test]
async fn a_bad_token_is_400() {
    let harness = Harness::start(2).await;
    harness.put("apple", "1").await;
    let long = format!("c7f3a1.{}", (0..3000).map(|p| format!("{p}:1")).collect::<Vec<_>>().join("_"));
    for token in ["x", "", "c7f3a1", "c7f3a1.0", "c7f3a1.1:1_0:1", "c7f3a1.00:1", "c7f3a1.2:0", &long] {
        harness.get(&format!("/v1/kv/apple?after={token}")).await.problem(400, "bad-token");
        harness.get(&format!("/v1/kv?after={token}")).await.problem(400, "bad-token");
    }
    harness.get_with("/v1/kv/apple", &[("read-after", "x")]).await.problem(400, "bad-token");
    let past = "c7f3a1.0:1000_1:1000";
    for consistency in ["session", "linearizable"] {
        let get = harness.get(&format!("/v1/kv/apple?after={past}&consistency={consistency}")).await;
        get.problem(400, "bad-token");
    }
    harness.get(&format!("/v1/kv?after={past}")).await.problem(400, "bad-token");
    assert_eq!(harness.get(&format!("/v1/kv/apple?after={past}&consistency=stale")).await.status, 200);
    harness.stop().await;
}

/// A token past the end that this node knows of is not bad before the leader has said so: it is waited for.
#[tokio::test]
async fn a_token_that_is_new_here_is_waited_for() {
    let harness = Harness::start(1).await;
    harness.log.stall(true);
    let addr = harness.addr();
    let reading = tokio::spawn(async move { send(addr, "GET", "/v1/kv/apple?after=c7f3a1.0:0", &[], b"").await });
    let asked = harness.log.tails_asked();
    while harness.log.tails_asked() == asked {
        tokio::task::yield_now().await;
    }
    harness.log.push(P0, [crate::testing::put("apple", "1")]);
    harness.log.stall(false);
    let get = reading.await.unwrap();
    assert_eq!((get.status, get.text()), (200, "1"));
    harness.stop().await;
}

/// 409 other-history, for every way to bring a token, with `stale` too.
#[tokio::test]
async fn a_token_of_another_history_is_409() {
    let harness = Harness::start(1).await;
    let other = "c7f3a2.0:0";
    harness.get_with("/v1/kv/apple", &[("read-after", other)]).await.problem(409, "other-history");
    for target in ["/v1/kv/apple", "/v1/kv"] {
        for consistency in ["session", "linearizable", "stale"] {
            let target = format!("{target}?after={other}&consistency={consistency}");
            harness.get(&target).await.problem(409, "other-history");
        }
    }
    harness.get("/v1/kv/apple?after=c7f3a2.&consistency=stale").await.problem(409, "other-history");
    let mixed = harness.get_with("/v1/kv/apple?after=c7f3a1.", &[("read-after", other)]).await;
    mixed.problem(409, "other-history");
    harness.get(&format!("/v1/feed?from={other}")).await.problem(409, "other-history");
    harness.stop().await;
}

/// 304, 404 and 412 keep a session monotonic: each names the position that it was served at.
#[tokio::test]
async fn every_answer_of_a_session_can_be_read_after() {
    let harness = Harness::start(4).await;
    let put = harness.put("apple", "1").await;
    let known = harness.get_with("/v1/kv/apple", &[("if-none-match", &put.etag())]).await;
    let refused = harness.put_with("apple", "2", &[("if-none-match", "*")]).await;
    let missing = harness.get("/v1/kv/pear").await;
    let scan = harness.get("/v1/kv").await;
    for answer in [put, known, refused, missing, scan] {
        let get = harness.get_with("/v1/kv/apple", &[("read-after", &answer.timestamp())]).await;
        assert_eq!(get.status, 200, "after {answer:?}");
    }
    harness.stop().await;
}
