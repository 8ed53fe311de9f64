//! To which cluster a serving node belongs, whose name is whose, and what is shown when nobody leads.

use crate::e2e;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::ports::{free_address, free_run};
use duramen_tests::harness::process::{Process, run};
use duramen_tests::harness::{Cluster, until};
use serde_json::Value;
use std::cell::RefCell;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

/// A cluster of one log node.
struct Single {
    process: Process,
    rpc: SocketAddr,
    http: Http,
}

impl Single {
    fn start(folder: &Path, name: &str) -> Single {
        let rpc = free_run(2);
        let http = SocketAddr::new(rpc.ip(), rpc.port() + 1);
        let member = format!("1={rpc}/{}", http.port());
        let data = folder.join(name);
        let args = ["log-node", "--node", "1", "--members", &member, "--partitions", "1", "--segment-mib", "1"];
        let args = args.iter().map(OsString::from).chain(["--data-dir".into(), data.into()]).collect();
        let mut process = Process::new(name, folder, args);
        process.start();
        Single { process, rpc, http: Http::new(http) }
    }

    async fn history(&self) -> String {
        until(&format!("{} to be ready", self.process.name), PATIENCE, || async {
            let answer = self.http.get("/readyz").send().await.map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
        let cluster = self.http.get("/v1/cluster").expect(200).await.json();
        cluster["history"].as_str().expect("a formed cluster").to_owned()
    }
}

fn serving(folder: &Path, data: &str, http: SocketAddr, log_nodes: &[SocketAddr]) -> Process {
    let log_nodes: Vec<String> = log_nodes.iter().map(ToString::to_string).collect();
    let data = folder.join(data);
    let (http, log_nodes) = (http.to_string(), log_nodes.join(","));
    let args = ["serving-node", "--name", "mix", "--http", &http, "--log-nodes", &log_nodes, "--cache-mib", "8"];
    let args = args.iter().map(OsString::from).chain(["--data-dir".into(), data.into()]).collect();
    Process::new("mix", folder, args)
}

/// Runs it until it is ready, does something, and stops it.
async fn served<F: Future<Output = ()>>(mut process: Process, http: &Http, work: F) {
    process.start();
    let process = RefCell::new(process);
    until("the serving node to be ready", PATIENCE, || async {
        process.borrow_mut().check_alive().unwrap_or_else(|ended| panic!("{ended}"));
        let answer = http.get("/readyz").send().await.map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    work.await;
    assert!(process.into_inner().stop(PATIENCE).await.success());
}

/// Runs it until it ends, and gives its last lines.
async fn refused(mut process: Process) -> String {
    process.start();
    let status = process.wait_end(PATIENCE).await;
    let said = process.last_lines(3).join("\n");
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

e2e! {
    /// Goal: to which cluster a serving node belongs never depends on who answers first, and a history that it has is not
    /// left by itself. Method: two clusters of one log node; both in its configuration, in both orders, with an empty
    /// folder and with one of the first cluster; then the other cluster alone: refused, both histories named, nothing wiped.
    /// Without its index it joins the other cluster.
    async fn log_nodes_of_two_clusters_are_refused_by_name(places: 1, seconds: 150) {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (Single::start(folder.path(), "one"), Single::start(folder.path(), "two"));
        let histories = [one.history().await, two.history().await];
        let addr = free_address();
        let http = Http::new(addr);
        let node = |log_nodes: &[SocketAddr]| serving(folder.path(), "mix-data", addr, log_nodes);
        for order in [[one.rpc, two.rpc], [two.rpc, one.rpc]] {
            let said = refused(node(&order)).await;
            assert!(histories.iter().all(|history| said.contains(history)), "{said}");
        }
        served(node(&[one.rpc]), &http, async { drop(http.put(kv("k"), "of-one").expect(204).await) }).await;
        for order in [[one.rpc, two.rpc], [two.rpc, one.rpc]] {
            let said = refused(node(&order)).await;
            assert!(said.contains(&format!("this node's data folder is of {}", histories[0])), "{said}");
        }
        for log_nodes in [&[two.rpc][..], &[two.rpc, free_address()][..]] {
            let said = refused(node(log_nodes)).await;
            assert!(histories.iter().all(|history| said.contains(history)), "{said}");
            assert!(said.contains("delete the folder `index`"), "{said}");
        }
        let kept = node(&[one.rpc]);
        served(kept, &http, async { assert_eq!(http.get(kv("k")).expect(200).await.text(), "of-one") }).await;
        let output = || node(&[]).output();
        assert!(!output().contains("wiped"), "{}", output());
        std::fs::remove_dir_all(folder.path().join("mix-data").join("index")).expect("its index can be deleted");
        served(node(&[two.rpc]), &http, async { drop(http.get(kv("k")).expect(404).await) }).await;
    }
}

e2e! {
    /// Goal: of two serving nodes of one name the second ends, and says where the first is. Method: two processes; the first
    /// goes on, and takes its name again at once after a restart.
    async fn a_second_serving_node_of_a_name_is_refused_by_name(places: 1, seconds: 120) {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Single::start(folder.path(), "log");
        log.history().await;
        let (first, second) = (free_address(), free_address());
        let http = Http::new(first);
        let node = |data: &str, addr: SocketAddr| serving(folder.path(), data, addr, &[log.rpc]);
        served(node("first", first), &http, async {
            let said = refused(node("second", second)).await;
            assert!(said.contains("the name mix is in use") && said.contains(&first.to_string()), "{said}");
            http.put(kv("k"), "1").expect(204).await;
        })
        .await;
        served(node("first", first), &http, async {
            let status = http.get("/v1/status").expect(200).await.json();
            assert_eq!(status["problems"], Value::Null, "{status}");
        })
        .await;
    }
}

e2e! {
    /// Goal: what is shown is what is known now. Method: two of three log nodes are killed; `duramen status` says first, in
    /// words, that nobody leads, and ends with 1; serving nodes and the survivor show no leader. Then they come back.
    async fn nobody_is_shown_as_leader_without_a_majority(places: 1, seconds: 150) {
        let mut cluster = Cluster::five().await;
        let (urls, log_urls) = (cluster.urls().join(","), cluster.log_urls().join(","));
        let status = async |more: &[&str]| {
            let args = [&["status", "--url", &urls, "--log-url", &log_urls], more].concat();
            run(&args, b"").await
        };
        until("every partition to have a leader", PATIENCE, || async {
            let ran = status(&[]).await;
            if ran.code == 0 { Ok(()) } else { Err(ran.stdout) }
        })
        .await;
        cluster.log[0].kill();
        cluster.log[1].kill();
        let said = until("status to say that nobody leads", PATIENCE, || async {
            let ran = status(&[]).await;
            if ran.code == 1 && ran.stdout.starts_with("4 of 4 partitions have no leader") {
                Ok(ran.stdout)
            } else {
                Err(ran.stdout)
            }
        })
        .await;
        assert!(said.contains("log node 1 does not answer") && said.contains("log node 2 does not answer"), "{said}");
        let json: Value = serde_json::from_str(&status(&["--json"]).await.expect_code(1).stdout).expect("JSON");
        assert_eq!(json["leaderless"].as_array().map(Vec::len), Some(4), "{json}");
        let shown = cluster.http(0).get("/v1/status").expect(200).await.json();
        assert_eq!(shown["partitions"][0]["leader"], Value::Null, "{shown}");
        let ready = cluster.log_http(2).get("/readyz").expect(503).await.text();
        assert!(ready.contains("no leader of partitions meta, 0, 1, 2, 3"), "{ready}");
        cluster.start_log(0);
        until("a majority to be well again", PATIENCE, || async {
            let ran = status(&[]).await;
            if ran.code == 0 { Ok(()) } else { Err(ran.stdout) }
        })
        .await;
    }
}
