//! Who leads, as it is shown; and leaders that others cannot call.

use crate::http::ask;
use crate::support::{Cluster, events, eventually, free_port};
use duramen_common::NodeId;
use serde_json::Value;

/// What a node's `/v1/cluster` says about leaders and problems.
async fn shown(cluster: &Cluster, node: u64) -> (Vec<Option<u64>>, String) {
    let answer = ask(cluster, node, "GET", "/v1/cluster", &[], b"").await;
    if answer.status != 200 {
        return (Vec::new(), answer.body);
    }
    let body = answer.json();
    let leaders = body["leaders"].as_array().unwrap().iter().map(Value::as_u64).collect();
    (leaders, body["problems"].to_string())
}

async fn readiness(cluster: &Cluster, node: u64) -> (u16, String) {
    let answer = ask(cluster, node, "GET", "/readyz", &[], b"").await;
    (answer.status, answer.body)
}

/// Goal: nobody is shown as leader who was not confirmed lately. Method: two of three nodes stop; the survivor, leader of
/// something or not, says that it knows no leader, is not ready, and says why. One comes back: all is well again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_majority_shows_no_leader_and_is_not_ready() {
    let mut cluster = Cluster::configured(3, |config| config.limits.leader_silence_ms_max = 1_000).await;
    for node in 1..=3 {
        cluster.start(node).await.unwrap();
    }
    cluster.wait_ready().await;
    eventually("all are ready and show every leader", async || {
        let mut well = true;
        for node in 1..=3 {
            let (leaders, _) = shown(&cluster, node).await;
            well &= readiness(&cluster, node).await.0 == 200 && leaders.iter().all(Option::is_some);
        }
        well
    })
    .await;
    // One that leads something stays, so that a leader without followers is met as well.
    let survivor = cluster.leader(0).await;
    for node in (1..=3).filter(|&node| node != survivor) {
        cluster.stop(node).await;
    }
    eventually("no leader is shown", async || shown(&cluster, survivor).await.0 == [None, None]).await;
    let (status, why) = readiness(&cluster, survivor).await;
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("no leader of partitions meta, 0, 1") && why.contains("1000 ms"), "{why}");
    eventually("it says that it leads without a majority", async || {
        shown(&cluster, survivor).await.1.contains("no majority of the log nodes answers it")
    })
    .await;
    let metrics = ask(&cluster, survivor, "GET", "/metrics", &[], b"").await.body;
    assert!(metrics.contains("duramen_log_leader{partition=\"0\"} 0"), "{metrics}");
    let other = if survivor == 1 { 2 } else { 1 };
    cluster.start(other).await.unwrap();
    eventually("a majority is well again", async || {
        readiness(&cluster, survivor).await.0 == 200 && shown(&cluster, survivor).await.0.iter().all(Option::is_some)
    })
    .await;
    cluster.stop_all().await;
}

/// Goal: a leader that the other log nodes cannot call does not stay leader. Method: node 3 has a new address in its own
/// configuration only. While node 2 is away node 3 must lead, because node 1 cannot call it for a vote: nobody else could,
/// so it stays, and node 1 shows no leader and names it. With node 2 back, node 3 hands over and does not lead again.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_the_others_cannot_call_hands_over() {
    let mut cluster = Cluster::configured(3, |config| config.limits.unreachable_ms_max = 1_500).await;
    for node in 1..=3 {
        cluster.start(node).await.unwrap();
    }
    cluster.wait_ready().await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    let new = free_port().await.local_addr().unwrap().to_string();
    let old = cluster.configs[&3].rpc_listen.clone();
    let moved = cluster.configs.get_mut(&3).unwrap();
    moved.rpc_listen.clone_from(&new);
    moved.peers.iter_mut().find(|peer| peer.node == NodeId::new(3)).unwrap().rpc_addr.clone_from(&new);
    cluster.caller.moved(3, &new);
    cluster.start(3).await.unwrap();
    cluster.start(1).await.unwrap();
    eventually("node 3 leads everything", async || shown(&cluster, 3).await.0 == [Some(3), Some(3)]).await;
    eventually("node 1 names it, both addresses, and no leader", async || {
        let (leaders, problems) = shown(&cluster, 1).await;
        leaders == [None, None]
            && problems.contains("node 3 cannot be called, although it leads partitions meta, 0, 1")
            && problems.contains(&format!("node 3 has itself at {new}"))
            && problems.contains(&old)
    })
    .await;
    assert_eq!(shown(&cluster, 3).await.0, [Some(3), Some(3)], "nobody else could lead");
    cluster.start(2).await.unwrap();
    eventually("the others lead", async || {
        let (leaders, _) = shown(&cluster, 1).await;
        leaders.len() == 2 && leaders.iter().all(|leader| matches!(leader, Some(1 | 2)))
    })
    .await;
    for partition in [0, 1] {
        cluster.caller.append(partition, &events(u128::from(partition) * 10, 3)).await;
    }
    assert_eq!(readiness(&cluster, 1).await.0, 200);
    // Whoever leads is gone: what is left may elect node 3, which is the only one that can call.
    cluster.stop_all().await;
}
