//! How a cluster comes to be, and who may not belong to it.

use crate::support::{Cluster, PATIENCE, events, eventually};
use duramen_common::NodeId;
use duramen_common::seams::Seams;
use duramen_log_service::disk::MemDisk;
use duramen_log_service::node::{LogNode, StartError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Goal: a blank node never forms a cluster alone. Method: two of three wait for the third, which is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_forms_only_when_all_its_nodes_answer() {
    let mut cluster = Cluster::configured(3, |_| {}).await;
    for node in [1, 2] {
        cluster.start(node).await.unwrap();
    }
    eventually("node 1 names the one that is missing", async || cluster.nodes[&1].stage().contains("node 3")).await;
    assert!(cluster.nodes.values().all(|node| node.history().is_none()));
    cluster.start(3).await.unwrap();
    cluster.wait_ready().await;
    let history = cluster.history();
    assert!(cluster.nodes.values().all(|node| node.history() == Some(history)));
    cluster.stop_all().await;
}

/// Goal: a crash anywhere in the forming leaves one cluster of one history. Method: the power of one node's disk is cut
/// after so many calls, what was not synced is forgotten, the node is started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_forming_ends_in_one_cluster() {
    for (node, calls) in [(1, 2), (1, 6), (1, 9), (1, 14), (1, 30), (3, 4), (3, 8), (3, 12), (3, 25)] {
        let mut cluster = Cluster::configured(3, |_| {}).await;
        let disk = MemDisk::new();
        disk.cut_power_after(calls);
        cluster.disks.insert(node, Arc::new(disk.clone()));
        for other in (1..=3).filter(|&other| other != node) {
            cluster.start(other).await.unwrap();
        }
        if cluster.start(node).await.is_ok() {
            let failed = timeout(Duration::from_secs(20), cluster.nodes[&node].failed()).await;
            failed.unwrap_or_else(|_| panic!("node {node} lives on without a disk after {calls} calls"));
            cluster.stop(node).await;
        }
        disk.crash(calls);
        cluster.start(node).await.unwrap_or_else(|error| panic!("node {node} after {calls} calls: {error}"));
        cluster.wait_ready().await;
        let history = cluster.history();
        assert!(cluster.nodes.values().all(|node| node.history() == Some(history)), "node {node}, {calls} calls");
        cluster.caller.append(0, &events(0, 3)).await;
        assert_eq!(cluster.caller.read_all(node, 0, 3).await.len(), 3);
        cluster.stop_all().await;
    }
}

/// Goal: a node that lost what it promised to keep does not vote under its old number. Method: its folder is deleted; it
/// is refused by name and says what to do, the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_under_its_old_number() {
    let mut cluster = Cluster::ready(3).await;
    cluster.caller.append(0, &events(0, 3)).await;
    // The lowest number is the one that forms clusters.
    cluster.stop(1).await;
    std::fs::remove_dir_all(&cluster.configs[&1].data_dir).unwrap();
    cluster.start(1).await.unwrap();
    let wiped = &cluster.nodes[&1];
    eventually("it says what to do", async || wiped.stage().contains("must join as a new node")).await;
    assert_eq!(wiped.history(), None);
    eventually("the others go on", async || {
        let mut appended = false;
        for other in [2, 3] {
            appended |= cluster.caller.append_once(other, 0, &events(50, 1), 0, 1_000).await.is_ok();
        }
        appended
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_says_why_in_one_line() {
    let mut cluster = Cluster::configured(1, |_| {}).await;
    let config = cluster.configs[&1].clone();
    cluster.start(1).await.unwrap();
    cluster.wait_ready().await;
    let second = LogNode::start(config.clone(), Seams::system()).await.err().unwrap();
    assert!(second.to_string().contains("in use by another process"), "{second}");
    std::fs::remove_file(config.data_dir.join("LOCK")).unwrap();
    let second = LogNode::start(config.clone(), Seams::system()).await.err().unwrap();
    assert!(second.to_string().contains("in use by another process"), "{second}");
    let mut elsewhere = config.clone();
    elsewhere.data_dir.set_file_name("elsewhere");
    let taken = LogNode::start(elsewhere, Seams::system()).await.err().unwrap();
    assert!(matches!(taken, StartError::Listen { .. }), "{taken}");
    cluster.stop(1).await;
    let mut other = config.clone();
    other.node = NodeId::new(2);
    other.peers[0].node = NodeId::new(2);
    let foreign = LogNode::start(other, Seams::system()).await.err().unwrap();
    assert!(matches!(foreign, StartError::OtherNode { .. }), "{foreign}");
    std::fs::remove_dir_all(config.data_dir.join("partitions").join("0")).unwrap();
    let gone = LogNode::start(config.clone(), Seams::system()).await.err().unwrap();
    assert!(matches!(gone, StartError::LogGone { .. }), "{gone}");
    let mut unwritable = config;
    unwritable.data_dir = "/proc/duramen".into();
    let refused = LogNode::start(unwritable, Seams::system()).await.err().unwrap();
    for error in [second, taken, foreign, gone, refused] {
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
}

/// Goal: a node that is dropped does not go on voting unseen. Method: drop it; its folder can be taken again, and it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_node_ends() {
    let mut cluster = Cluster::ready(1).await;
    cluster.caller.append(0, &events(0, 3)).await;
    drop(cluster.nodes.remove(&1));
    let free = async { while cluster.start(1).await.is_err() {} };
    timeout(PATIENCE, free).await.unwrap();
    cluster.wait_ready().await;
    assert_eq!(cluster.caller.read_all(1, 0, 3).await.len(), 3);
    cluster.stop_all().await;
}

/// Goal: a node whose folder is removed while it runs promises nothing into files that nobody will find. Method: remove the
/// folder, or move it and put an empty one there; the node stops and says why, the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_folder_is_taken_away_stops() {
    let cluster = Cluster::ready(3).await;
    cluster.caller.append(0, &events(0, 3)).await;
    for (node, replace) in [(1, false), (2, true)] {
        let folder = cluster.configs[&node].data_dir.clone();
        if replace {
            std::fs::rename(&folder, folder.with_extension("moved")).unwrap();
            std::fs::create_dir(&folder).unwrap();
        } else {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        let failed = timeout(PATIENCE, cluster.nodes[&node].failed()).await.unwrap().to_string();
        assert!(failed.contains("moved, removed or replaced"), "{failed}");
        if !replace {
            cluster.caller.append(0, &events(3, 1)).await;
        }
    }
    cluster.stop_all().await;
}
