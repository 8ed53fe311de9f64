//! A serving node is a cache of the log: killed, or its folder deleted, it comes back to the same state.

use crate::e2e;
use duramen_tests::harness::cluster::{PATIENCE, Plan};
use duramen_tests::harness::http::kv;
use duramen_tests::harness::writers::{Writers, check, everything};
use duramen_tests::harness::{Cluster, until};
use serde_json::json;

e2e! {
    /// Goal: whatever moment a serving node is killed at, its data and its applied end belong together.
    /// Method: SIGKILL while it applies under load, eight times; each time it must come back, and its digests, taken at
    /// its own applied end, must equal its sibling's at the same end once the writers have stopped.
    async fn a_serving_node_killed_while_applying_comes_back_with_matching_data(places: 1, seconds: 150) {
        let mut cluster = Cluster::five().await;
        let sibling = [cluster.http(0)];
        let writers = Writers::start(16, &sibling);
        for _ in 0..8 {
            writers.wait_for_more(400, PATIENCE).await;
            cluster.serving[1].kill();
            writers.wait_for_more(50, PATIENCE).await;
            cluster.start_serving(1);
            cluster.wait_serving_ready(1).await;
        }
        let told = writers.finish().await;
        check(&told, &everything(&cluster.http(1), "w").await, "the killed node");
        cluster.wait_same_digests().await;
        // And once more with nothing to apply: what is on disk alone.
        cluster.serving[1].stop(PATIENCE).await;
        cluster.start_serving(1);
        cluster.wait_serving_ready(1).await;
        cluster.wait_same_digests().await;
    }
}

/// Batches of 1,000 puts.
async fn fill(cluster: &Cluster, batches: usize) {
    let http = cluster.http(0);
    for batch in 0..batches {
        let ops: Vec<_> = (0..1000)
            .map(|number| json!({"put": {"key": format!("fill/{batch}/{number}"), "value": format!("{number:-<100}-{batch}")}}))
            .collect();
        let answer = http.post("/v1/batch", &json!({"ops": ops})).expect(200).await;
        let results = answer.json()["results"].as_array().expect("results").clone();
        assert!(results.iter().all(|result| result["status"] == 204), "{answer}");
    }
}

e2e! {
    /// Goal: the index is disposable. Method: its folder is deleted and the node started with a lag on applying, so that
    /// the rebuilding can be watched: it says how far it is, answers `behind` to a token that it has not reached, never
    /// an older state, and ends with its sibling's digests.
    async fn a_serving_node_without_its_folder_rebuilds_by_replay(places: 1, seconds: 120) {
        let mut cluster = Cluster::start(Plan { partitions: 1, ..Plan::default() }).await;
        fill(&cluster, 40).await;
        let last = cluster.http(0).put(kv("fill/last"), "done").expect(204).await.timestamp();
        cluster.serving[1].kill();
        std::fs::remove_dir_all(cluster.serving_data(1)).expect("its folder can be deleted");
        cluster.append_serving_config(1, "lag-ms = 1500");
        cluster.start_serving(1);
        let http = cluster.http(1);
        until("the rebuilding to be told", PATIENCE, || async {
            let answer = http.get(kv("fill/last")).after(&last).wait(0).send().await.map_err(|error| error.to_string())?;
            let _ = answer.expect_problem(503, "behind");
            let status = http.get("/v1/status").send().await.map_err(|error| error.to_string())?.json();
            let progress = &status["partitions"][0]["catching_up"];
            let told = ["records", "records_per_s", "remaining"].iter().all(|name| progress[name].is_number());
            if told { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        let waited = http.get(kv("fill/last")).after(&last).wait(30).expect(200).await;
        assert_eq!(waited.text(), "done");
        cluster.wait_serving_ready(1).await;
        cluster.wait_same_digests().await;
        let said = cluster.serving[1].output();
        assert!(said.lines().any(|line| line.contains("catching up") && line.contains("seconds_left")), "no progress shown: {said}");
    }
}

e2e! {
    /// Goal: an index that does not open is wiped and replayed, and the node says so. Method: every file in the folder of
    /// a stopped serving node is overwritten with noise.
    async fn a_damaged_index_is_wiped_and_replayed(places: 1, seconds: 90) {
        let mut cluster = Cluster::start(Plan { serving_nodes: 2, ..Plan::default() }).await;
        fill(&cluster, 20).await;
        cluster.wait_same_digests().await;
        cluster.serving[1].stop(PATIENCE).await;
        let mut rng = duramen_tests::harness::Rng::of_run(7);
        let mut damaged = 0;
        for file in files_under(&cluster.serving_data(1)) {
            let length = std::fs::metadata(&file).expect("it is there").len().min(1 << 20) as usize;
            std::fs::write(&file, rng.bytes(length)).expect("it can be overwritten");
            damaged += 1;
        }
        assert!(damaged > 0, "there was nothing to damage");
        cluster.start_serving(1);
        cluster.wait_serving_ready(1).await;
        cluster.wait_same_digests().await;
        let said = cluster.serving[1].output();
        assert!(said.to_lowercase().contains("replay"), "it does not say that it replays: {said}");
    }
}

fn files_under(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.file_type().expect("a type").is_dir() {
            true => files.extend(files_under(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}
