//! A full disk: writes are refused by name, reads go on, also over a leader change, and the node lives on when space returns.

use crate::e2e;
use duramen_common::SessionToken;
use duramen_tests::harness::cluster::{PATIENCE, Plan};
use duramen_tests::harness::disk::SmallDisk;
use duramen_tests::harness::http::kv;
use duramen_tests::harness::{Answer, Cluster, until};
use std::path::Path;

/// Linearizable reads of all values at both serving nodes.
async fn check_reads(cluster: &Cluster, versions: &[SessionToken]) {
    for (number, version) in versions.iter().enumerate() {
        for node in 0..2 {
            let read = cluster.http(node).get(kv(format!("big/{number}"))).wait(20).expect(200).await;
            assert!(read.version() == *version && read.body.len() == 512 << 10, "value {number} at node {node}");
        }
    }
}

fn small_disks(folder: &Path) -> Result<Vec<SmallDisk>, String> {
    (1..=3).map(|number| SmallDisk::mount(&folder.join(format!("disk-{number}")), 320)).collect()
}

e2e! {
    /// Goal: 507 `log-full` before anything breaks; reads go on, also when the leader dies and comes back meanwhile; writes resume by
    /// themselves when there is space again. Method: each log node has a tmpfs of 320 MiB with a ballast file; values of 512 KiB are
    /// put until refused, and the ballast takes what is left; the leader is killed, then started again; then the ballast goes.
    async fn a_full_disk_is_refused_by_name_and_survived(places: 1, seconds: 240) {
        let folder = tempfile::TempDir::with_prefix("duramen-disks-").expect("a temporary folder");
        let disks = match small_disks(folder.path()) {
            Ok(disks) => disks,
            Err(why) => return eprintln!("skipped: cannot mount small file systems here ({why}); needs root"),
        };
        for disk in &disks {
            disk.fill_but(220 << 20).expect("room for the ballast");
        }
        let log_data = disks.iter().map(|disk| disk.at.join("data")).collect();
        let mut cluster = Cluster::start(Plan { partitions: 1, log_data, ..Plan::default() }).await;
        let http = cluster.http(0);
        let mut acknowledged = Vec::new();
        let refused: Answer = loop {
            let number = acknowledged.len();
            let value = vec![number as u8; 512 << 10];
            let answer = http.put(kv(format!("big/{number}")), value).wait(10).ok().await;
            match answer.status {
                204 => acknowledged.push(answer.version()),
                507 => break answer.expect_problem(507, "log-full"),
                // A write that met the end of the space may have no certain outcome.
                503 => assert_eq!(answer.problem(), "outcome-unknown", "{answer}"),
                _ => panic!("{answer}"),
            }
            assert!(number < 700, "320 MiB hold no 350 MiB");
        };
        assert!(refused.header("retry-after").is_some(), "{refused}");
        assert!(acknowledged.len() > 4, "refused after {} values only", acknowledged.len());
        check_reads(&cluster, &acknowledged).await;
        for disk in &disks {
            disk.fill_more().expect("the ballast can grow");
        }
        let leader = cluster.leader_of(0).await;
        cluster.log[leader].kill();
        check_reads(&cluster, &acknowledged).await;
        until("a write to be refused by name", PATIENCE, || async {
            let answer = http.put(kv("full"), "no").wait(5).send().await.map_err(|e| e.to_string())?;
            if answer.status == 507 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
        cluster.start_log(leader);
        cluster.wait_log_ready(leader).await;
        check_reads(&cluster, &acknowledged).await;
        for number in 0..3 {
            cluster.log[number].check_alive().unwrap_or_else(|ended| panic!("a full disk ended a node: {ended}"));
        }
        for disk in &disks {
            disk.free().expect("the ballast can go");
        }
        until("writes to resume by themselves", PATIENCE, || async {
            let answer = http.put(kv("again"), "there is space").wait(5).send().await.map_err(|e| e.to_string())?;
            if answer.status == 204 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
        // And what was written on a full disk survives a restart.
        for number in 0..3 {
            cluster.log[number].kill();
            cluster.start_log(number);
            cluster.wait_log_ready(number).await;
        }
        http.put(kv("restarted"), "yes").wait(20).expect(204).await;
        let last = acknowledged.len() - 1;
        assert_eq!(http.get(kv(format!("big/{last}"))).expect(200).await.version(), acknowledged[last]);
        drop(cluster);
    }
}

e2e! {
    /// Goal: a serving node whose disk is full reads on, says so, keeps its index, and catches up once there is room. Method: one
    /// serving node has a tmpfs of 96 MiB, which a ballast file fills; values of 512 KiB are put at the other one until the first
    /// is not ready any more; then the ballast goes.
    async fn a_serving_node_outlives_its_full_disk(places: 1, seconds: 240) {
        let mut cluster = Cluster::start(Plan { partitions: 1, ..Plan::default() }).await;
        cluster.serving[0].kill();
        let disk = match SmallDisk::mount(&cluster.serving_data(0), 96) {
            Ok(disk) => disk,
            Err(why) => return eprintln!("skipped: cannot mount small file systems here ({why}); needs root"),
        };
        cluster.start_serving(0);
        cluster.wait_serving_ready(0).await;
        let (full, other) = (cluster.http(0), cluster.http(1));
        let before = other.put(kv("before"), "read on").wait(10).expect(204).await.version();
        let read_before = || async {
            let read = full.get(kv("before")).after(before.clone()).expect(200).await;
            assert_eq!((read.version(), read.text().as_str()), (before.clone(), "read on"));
        };
        read_before().await;
        // Too little for a flush, and enough for what the index has in its own buffers.
        disk.fill_but(8 << 20).expect("the ballast can grow");
        let mut count = 0;
        let unready = loop {
            let answer = full.get("/readyz").ok().await;
            if answer.status != 200 {
                break answer.expect_problem(503, "behind");
            }
            assert!(count < 200, "16 MiB of memory took 100 MiB");
            other.put(kv(format!("big/{count}")), vec![count as u8; 512 << 10]).wait(10).expect(204).await;
            count += 1;
        };
        assert!(unready.text().contains("the disk of this node's index is full"), "{unready}");
        read_before().await;
        let status = full.get("/v1/status").expect(200).await.text();
        assert!(status.contains("disk") && status.contains("problems"), "{status}");
        assert!(full.get("/metrics").expect(200).await.text().contains("duramen_index_waits_for_space 1"));
        // Memory is full, so that what is written from now on cannot be applied. It is no failure, and no older value.
        other.put(kv("late"), "applied once there is room").wait(10).expect(204).await;
        let late = full.get(kv("late")).wait(1).ok().await;
        assert_eq!(late.expect_problem(503, "behind").status, 503);
        disk.free().expect("the ballast can go");
        cluster.wait_serving_ready(0).await;
        let late = full.get(kv("late")).wait(20).expect(200).await;
        assert_eq!(late.text(), "applied once there is room");
        let last = full.get(kv(format!("big/{}", count - 1))).wait(20).expect(200).await;
        assert_eq!(last.body, vec![(count - 1) as u8; 512 << 10]);
        let said = cluster.serving[0].output();
        assert!(!said.contains("wiped"), "{said}");
        let count = |what: &str| said.matches(what).count();
        assert_eq!((count("index's disk is full"), count("has room again")), (1, 1), "each said once: {said}");
        drop((cluster, disk));
    }
}
